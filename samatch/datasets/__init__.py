"""Data sets. One file a kind of set; `reader(name)` finds it by its file name.

A file offers `load(case_id, folder) -> Raw`; everything that holds for all sets (normalisation,
checks, hashes) happens in `load_case`.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from samatch import paths, repro
from samatch.errors import InputError, known, raise_all
from samatch.manifest import Case, Manifest


@dataclass(frozen=True)
class Raw:
    """One case as read: image and label (D, H, W), spacing (z, y, x) in mm or None, and the file it came from."""

    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float] | None
    source: str


@dataclass(frozen=True)
class Volume:
    """One checked case: image (D, H, W) float32 in [0, 1], label (D, H, W) uint8, spacing as in Raw."""

    case: Case
    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float] | None

    @property
    def distance_unit(self) -> str:
        return "mm" if self.spacing else "voxel"


def reader_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def reader(name: str):
    return importlib.import_module(f"samatch.datasets.{known(name, reader_names(), 'reader of data sets')}")


def data_folder(name: str) -> Path:
    """`<data>/<name>` where it exists, else the data folder itself."""
    folder = paths.data_dir()
    return folder / name if (folder / name).is_dir() else folder


def read_nifti_pair(path: Path, label_path: Path) -> Raw:
    """A 3-D NIfTI image and its label as (slices, height, width) arrays, with the image's spacing.

    Raises InputError on a missing, truncated or non-3-D file, and where the two lie differently in space.
    """
    for file in (path, label_path):
        if not file.exists():
            raise InputError("a volume is missing", where=paths.shown(file.parent), expected=file.name, got="no such file",
                             do="get the data set's files again")
    try:
        image, label = nibabel.load(path), nibabel.load(label_path)
        arrays = [np.asarray(volume.dataobj) for volume in (image, label)]
    except Exception as error:  # nibabel, gzip and zlib each raise their own kinds
        raise InputError("unreadable NIfTI volume", where=path.name, expected="a NIfTI image and its label",
                         got=f"{type(error).__name__}: {error}"[:160], do="get the file again") from error
    if any(array.ndim != 3 for array in arrays):
        raise InputError("not a 3-D volume", where=path.name, expected="three axes in image and label",
                         got=" and ".join(str(array.shape) for array in arrays), do="give one file a frame")
    if image.shape == label.shape and not np.allclose(image.affine, label.affine, atol=1e-3):
        raise InputError("image and label lie differently in space", where=path.name, expected="equal affines",
                         got=f"origins {image.affine[:3, 3].round(2)} and {label.affine[:3, 3].round(2)}", do="resample the label to the image")
    spacing = tuple(float(s) for s in image.header.get_zooms()[2::-1])
    return Raw(*(array.transpose(2, 1, 0) for array in arrays), spacing, path.name)


def normalise(image: np.ndarray) -> np.ndarray:
    """Min-max over the whole volume, to float32 in [0, 1]."""
    image = image.astype(np.float64)
    low, high = image.min(), image.max()
    return ((image - low) / (high - low)).astype(np.float32)


def array_faults(raw: Raw, num_classes: int) -> list[str]:
    """What is wrong with the arrays of one case; the shapes first, since the rest depends on them."""
    if raw.image.ndim != 3 or not raw.image.size:
        return [f"{raw.source}: image is not a volume; expected (slices, height, width), got shape {raw.image.shape}"]
    if raw.image.shape != raw.label.shape:
        return [f"{raw.source}: image and label differ in shape: {raw.image.shape} and {raw.label.shape}"]
    faults = []
    if not np.isfinite(raw.image).all():
        faults.append(f"{raw.source}: image holds {int((~np.isfinite(raw.image)).sum())} NaN or infinite values")
    elif raw.image.min() == raw.image.max():
        faults.append(f"{raw.source}: image is constant ({raw.image.min()})")
    values = np.unique(raw.label)
    if strange := [v for v in values.tolist() if v not in range(num_classes)]:
        faults.append(f"{raw.source}: label outside the classes; expected 0 to {num_classes - 1}, got {strange[:5]}")
    return faults


def load_case(manifest: Manifest, case: Case, folder: Path | None = None) -> Volume:
    """Reads, checks and normalises one case. Raises InputError with every fault of the case."""
    folder = folder or data_folder(manifest.name)
    raw = reader(manifest.reader).load(case.case_id, folder)
    raise_all(f"case {case.case_id} of {manifest.name}", array_faults(raw, manifest.num_classes), "restore the file from its source")
    image, label = normalise(raw.image), raw.label.astype(np.uint8)
    faults = []
    for kind, array, expected in (("image", image, case.image_sha256), ("label", label, case.label_sha256)):
        if expected and (found := repro.array_sha256(array)) != expected:
            faults.append(f"{raw.source}: {kind} has another content; expected sha256 {expected[:12]}..., got {found[:12]}...")
    raise_all(f"case {case.case_id} of {manifest.name}", faults, "get the file again, or give changed data a manifest of its own")
    return Volume(case, image, label, raw.spacing)


def load_cases(manifest: Manifest, cases, folder: Path | None = None) -> list[Volume]:
    """All cases, or one InputError that lists the faults of all of them."""
    volumes, faults = [], []
    for case in cases:
        try:
            volumes.append(load_case(manifest, case, folder))
        except InputError as error:
            faults.append(error.brief)
    raise_all(f"data set {manifest.name}", faults, f"put the data under {paths.shown(data_folder(manifest.name))}, or set SAMATCH_DATA (make ... DATA=DIR)")
    return volumes
