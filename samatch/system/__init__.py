"""The machine: folders, errors, progress, devices, seeds and hashes, downloads and archives."""
