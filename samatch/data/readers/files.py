"""A set of your own: cases.csv of its manifest names the image and label file of every case,
relative to the set's folder.

`make manifest` writes it (samatch/data/curate.py). An empty label makes an unlabeled case. Files
may be NIfTI, h5, pictures, or folders with one DICOM series each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from samatch.data.images import check_geometry, read, read_label
from samatch.data.manifest import Case
from samatch.data.picture import Picture
from samatch.data.volumes import SEVERAL, Raw
from samatch.system.errors import InputError
from samatch.system.names import inside


def load(case: Case, folder: Path) -> Raw:
    """Image and label that the manifest names. Raises InputError on a missing or broken file, and
    where several masks of an image cannot be united."""
    image = _read(read, folder, case.image)
    if not case.label:
        return Raw(image.array, None, image.spacing, case.image, image.doubts)
    labels = [_read(read_label, folder, name) for name in case.label.split(SEVERAL)]
    for label in labels:
        check_geometry(image, label)
    doubts = dict.fromkeys(image.doubts + sum((label.doubts for label in labels), ()))
    return Raw(
        image.array,
        united([label.array for label in labels], case.label),
        image.spacing,
        case.image,
        tuple(doubts),
        any(label.white for label in labels),
        labels[0].colours if len(labels) == 1 else {},
        case.label,
    )


def _read(how: Callable[[Path], Picture], folder: Path, name: str) -> Picture:
    """What `how` reads, or its error with the name as the manifest has it: an image and its label
    may have one file name in two folders."""
    path = _inside(folder, name)
    try:
        return how(path)
    except InputError as error:
        raise error.at(name) from error


def _inside(folder: Path, name: str) -> Path:
    """As `inside`; of a DICOM series every slice lies inside as well."""
    path = inside(folder, name)
    for file in path.iterdir() if path.is_dir() else ():
        inside(folder, f"{name}/{file.name}")
    return path


def united(labels: list[np.ndarray], names: str) -> np.ndarray:
    """One class map of several masks of one class. Raises InputError on masks of several classes or
    sizes."""
    if len(labels) == 1:
        return labels[0]
    values = sorted(set().union(*(np.unique(label).tolist() for label in labels)) - {0})
    shapes = sorted({label.shape for label in labels})
    if len(values) > 1 or len(shapes) > 1:
        got = f"classes {values[:5]}" if len(values) > 1 else f"shapes {shapes}"
        raise InputError(
            "masks of one image that cannot be united",
            where=names.replace(SEVERAL, ", "),
            expected="one class, one size",
            got=got,
            do="unite them yourself, with a number for each class",
        )
    return np.maximum.reduce(labels)
