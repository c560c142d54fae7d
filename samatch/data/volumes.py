"""Data sets. One file a kind of set; `reader(name)` finds it by its file name.

A file offers `load(case, folder) -> Raw`, and `entries(folder) -> list[Entry]` where manifests are
made from a folder; everything that holds for all sets (normalisation, checks, hashes) happens in
`load_case`."""

import importlib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from samatch.data import prepared, readers
from samatch.data.manifest import Case, Manifest
from samatch.system import paths, repro
from samatch.system.errors import InputError, known, raise_all
from samatch.system.names import checked_word

UNKNOWN = 255  # label value of every voxel of an unlabeled case
TOLERANCE = 0.01  # relative difference of two spacings that are still the same one


SEVERAL = "|"  # between the names of several masks of one image


@dataclass(frozen=True)
class Entry:
    """A case before its files are read: what a manifest is made from. Paths are relative to the
    set's folder."""

    case_id: str
    patient_id: str
    image: str = ""  # "" where the set's reader finds the files by the case's id
    label: str = ""
    split: str = ""  # "" where it is to be drawn
    stratum: str = ""  # patients of a stratum are spread evenly over the splits


@dataclass(frozen=True)
class Raw:
    """One case as read: image and label (D, H, W), spacing (z, y, x) in mm or None, the file it
    came from.

    The label is None for an unlabeled case; one slice is a 2-D image. `doubts`, `white` and
    `colours`: see images.Picture. `label_source` is the label's file, "" where it is the same."""

    image: np.ndarray
    label: np.ndarray | None
    spacing: tuple[float, float, float] | None
    source: str
    doubts: tuple[str, ...] = ()
    white: bool = False
    colours: dict[int, tuple[int, ...]] = field(default_factory=dict)
    label_source: str = ""

    @property
    def of_label(self) -> str:
        """The file that a fault of the label lies in."""
        return self.label_source or self.source


@dataclass(frozen=True)
class Volume:
    """One checked case: image (D, H, W) float32 in [0, 1], label (D, H, W) uint8 (UNKNOWN without
    one).

    spacing (z, y, x) in mm: the file's where it has one, else the manifest's, else None. `small`
    holds (image, label) at prepared.SIZE, where a prepared file had them."""

    case: Case
    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float] | None
    small: tuple[np.ndarray, np.ndarray] | None = None


def reader_names() -> list[str]:
    """Files of samatch/data/readers, each of which reads one kind of set."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(readers.__path__)
        if not module.name.startswith("_")
    )


def reader(name: str):
    """The module of one kind of set. Raises InputError on an unknown name."""
    return importlib.import_module(
        f"{readers.__name__}.{known(name, reader_names(), 'reader of data sets')}"
    )


def data_folder(name: str) -> Path:
    """`<data>/<name>` where it exists, else the data folder itself."""
    folder = paths.data_dir()
    checked_word(name, "data set")
    return folder / name if (folder / name).is_dir() else folder


def normalise(image: np.ndarray) -> np.ndarray:
    """Min-max over the whole volume, to float32 in [0, 1]."""
    image = image.astype(np.float64)
    low, high = image.min(), image.max()
    return ((image - low) / (high - low)).astype(np.float32)


def arrays_of(raw: Raw) -> tuple[np.ndarray, np.ndarray]:
    """Normalised image and uint8 label, UNKNOWN everywhere without one: what is trained on and
    hashed."""
    label = (
        np.full(raw.image.shape, UNKNOWN, np.uint8)
        if raw.label is None
        else raw.label.astype(np.uint8)
    )
    return normalise(raw.image), label


def array_faults(raw: Raw, num_classes: int) -> list[str]:
    """What is wrong with the arrays of one case; the shapes first, since the rest depends on
    them."""
    if raw.image.ndim != 3 or not raw.image.size:
        return [
            f"{raw.source}: image is not a volume; expected (slices, height, width), got shape "
            f"{raw.image.shape}"
        ]
    if raw.label is not None and raw.image.shape != raw.label.shape:
        both = " and ".join(dict.fromkeys([raw.source, raw.of_label]))
        return [f"{both}: image and label differ in shape: {raw.image.shape} and {raw.label.shape}"]
    faults = []
    if not np.isfinite(raw.image).all():
        faults.append(
            f"{raw.source}: image holds {int((~np.isfinite(raw.image)).sum())} NaN or infinite "
            f"values"
        )
    elif raw.image.min() == raw.image.max():
        faults.append(f"{raw.source}: image is constant ({raw.image.min()})")
    elif float(raw.image.max()) / 2 - float(raw.image.min()) / 2 > np.finfo(np.float64).max / 2:
        faults.append(f"{raw.source}: image values from {raw.image.min()} to {raw.image.max()}")
    if raw.white and num_classes > 2:
        faults.append(
            f"{raw.of_label}: a label that is a picture of 0 and 255; which of the "
            f"{num_classes - 1} classes is 255? Expected class numbers"
        )
    values = [] if raw.label is None else np.unique(raw.label).tolist()
    if strange := [v for v in values if v not in range(num_classes)]:
        grey = (
            " (grey values: was a mask resized or saved with loss?)"
            if len(strange) > 5 and max(strange) <= 255
            else ""
        )
        faults.append(
            f"{raw.of_label}: label outside the classes; expected 0 to {num_classes - 1}, got "
            f"{strange[:5]}{grey}"
        )
    return faults


def spacing_faults(raw: Raw, case: Case) -> list[str]:
    """A spacing of the file that differs from the manifest's by more than TOLERANCE on an axis."""
    if (
        not raw.spacing
        or not case.spacing
        or np.allclose(raw.spacing, case.spacing, rtol=TOLERANCE, atol=0)
    ):
        return []
    expected, found = (
        " x ".join(f"{s:g}" for s in spacing) for spacing in (case.spacing, raw.spacing)
    )
    return [f"{raw.source}: another voxel spacing (z y x); expected {expected} mm, got {found} mm"]


def load_case(manifest: Manifest, case: Case, folder: Path | None = None) -> Volume:
    """Reads, checks and normalises one case from its source. Raises InputError with every fault of
    the case."""
    folder = folder or data_folder(manifest.folder)
    raw = reader(manifest.reader).load(case, folder)
    raise_all(
        f"case {case.case_id} of {manifest.name}",
        array_faults(raw, manifest.num_classes),
        "restore the file from its source",
    )
    image, label = arrays_of(raw)
    faults = spacing_faults(raw, case)
    for kind, array, expected in (
        ("image", image, case.image_sha256),
        ("label", label, case.label_sha256),
    ):
        source = raw.source if kind == "image" else raw.of_label
        if expected and (found := repro.array_sha256(array)) != expected:
            faults.append(
                f"{source}: {kind} has another content; expected sha256 {expected[:12]}..., "
                f"got {found[:12]}..."
            )
    raise_all(
        f"case {case.case_id} of {manifest.name}",
        faults,
        "get the file again, or give changed data a manifest of its own",
    )
    return Volume(case, image, label, raw.spacing or case.spacing)


def load_cases(manifest: Manifest, cases) -> list[Volume]:
    """All cases, or one InputError that lists the faults of all of them.

    From the prepared file where `make data` has written one for this manifest, each array compared
    with its hash, else from their source."""
    ready = prepared.Prepared.find(manifest)
    volumes, faults = [], []
    for case in cases:
        try:
            volumes.append(from_prepared(ready, case) if ready else load_case(manifest, case))
        except InputError as error:
            faults.append(error.brief)
    raise_all(
        f"data set {manifest.name}",
        faults,
        f"put the data under {paths.shown(data_folder(manifest.folder))}, or set SAMATCH_DATA "
        f"(make ... DATA=DIR)",
    )
    return volumes


def any_case_in(manifest: Manifest, folder: Path) -> bool:
    """Whether the folder holds the set at all: a case that can be read, faulty or not."""
    for case in manifest.cases:
        try:
            load_case(manifest, case, folder)
        except InputError as error:
            if error.what.endswith("is missing"):
                continue
        return True
    return False


def on_this_machine(manifest: Manifest) -> bool:
    """Whether the set's prepared file or one of its files is here."""
    if prepared.Prepared.find(manifest):
        return True
    return any_case_in(manifest, data_folder(manifest.folder))


def from_prepared(ready: prepared.Prepared, case: Case) -> Volume:
    """The case as `make data` wrote it, with its small copy."""
    image, label, spacing, small = ready.read(case.case_id)
    return Volume(case, image, label, spacing, small)
