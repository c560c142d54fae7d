"""One file per kind of data set: `load(case, folder) -> Raw`, and `entries(folder)` where manifests
are made from a folder."""
