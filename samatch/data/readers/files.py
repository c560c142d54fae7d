"""A set of your own: cases.csv of its manifest names the image and label file of every case,
relative to the set's folder.

`make manifest` writes it (samatch/data/curate.py). An empty label makes an unlabeled case. Files
may be NIfTI, h5, pictures, or folders with one DICOM series each."""

import os
from pathlib import Path

from samatch.data.images import check_geometry, read, read_label
from samatch.data.manifest import Case
from samatch.data.volumes import Raw
from samatch.system.errors import InputError


def load(case: Case, folder: Path) -> Raw:
    """Image and label that the manifest names. Raises InputError on a missing or broken file."""
    image = read(inside(folder, case.image))
    if not case.label:
        return Raw(image.array, None, image.spacing, case.image, image.affine, image.doubts)
    label = read_label(inside(folder, case.label))
    check_geometry(image, label)
    doubts = image.doubts + label.doubts
    return Raw(
        image.array, label.array, image.spacing, case.image, image.affine, doubts, label.white
    )


def inside(folder: Path, name: str) -> Path:
    """folder/name. Raises InputError where that leads out of the folder."""
    path = Path(os.path.normpath(folder / name))
    if not name or Path(name).is_absolute() or not path.is_relative_to(os.path.normpath(folder)):
        raise InputError(
            "a path leads out of the data set's folder",
            where=repr(name),
            expected="a path relative to that folder",
            got=repr(name),
            do="put the file into the folder",
        )
    return path
