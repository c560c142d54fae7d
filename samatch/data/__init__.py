"""Data sets: manifests and splits, reading and checking files, preparing them, drawing batches."""
