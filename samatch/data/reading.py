"""Reading every file of a set before it has a manifest: content hashes, sizes, faults, doubts."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from samatch.data.duplicates import perceptual_hash
from samatch.data.images import HDF5
from samatch.data.manifest import Case
from samatch.data.volumes import SEVERAL, UNKNOWN, Entry, Raw, array_faults, arrays_of, reader
from samatch.system import repro
from samatch.system.errors import InputError, few
from samatch.system.names import name_fault
from samatch.system.progress import Progress

# An image of so few values, or of as many as there are classes, looks like a label.
LABEL_LEVELS = 8
KINDS = ("case", "patient")


@dataclass
class Reading:
    """What reading the files of a set found."""

    cases: list[Case] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    hashes: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # case -> perceptual hash, of 2-D images
    shown: dict[str, set[int]] = field(default_factory=dict)  # case -> numbers of the classes in it
    doubts: dict[str, list[str]] = field(default_factory=dict)  # kind of doubt -> cases
    colours: dict[int, dict[tuple, list[str]]] = field(
        default_factory=dict
    )  # class number -> colour of a label's palette -> cases


def read_all(entries: list[Entry], folder: Path, about: dict, allow_empty: bool) -> Reading:
    """Every file once: content hashes, sizes, faults."""
    load, found, progress = (
        reader(about["reader"]).load,
        Reading(),
        Progress(f"reading {folder.name}", len(entries)),
    )
    for number, entry in enumerate(entries, 1):
        case = Case(
            entry.case_id, entry.patient_id, 0, 0, 0, None, "", "", entry.image, entry.label
        )
        if SEVERAL in entry.label and len(about["classes"]) > 1:
            found.faults.append(
                f"{entry.case_id}: several masks in a set of several classes: {entry.label}"
            )
            continue
        try:
            raw = load(case, folder)
            if faults := array_faults(raw, len(about["classes"]) + 1):
                found.faults += [f"{entry.case_id}: {fault}" for fault in faults]
            else:
                _take(found, case, raw, allow_empty, len(about["classes"]) + 1)
        except InputError as error:
            found.faults.append(f"{entry.case_id}: {error.brief}")
        progress(number)
    found.faults += palette_faults(found.colours)
    return found


def palette_faults(colours: dict[int, dict[tuple, list[str]]]) -> list[str]:
    """Class numbers to which the palettes of a set's label pictures give several colours: each file
    was numbered by itself, and one number would be two classes."""
    return [
        f"class number {number} has several colours in the labels' palettes: "
        + "; ".join(f"{colour} in {few(cases, most=3)}" for colour, cases in list(of.items())[:3])
        + "; save the labels as grey values, with one number for each class"
        for number, of in sorted(colours.items())
        if len(of) > 1
    ]


def _take(found: Reading, case: Case, raw: Raw, allow_empty: bool, num_classes: int) -> None:
    image, label = arrays_of(raw)
    levels = len(np.unique(image))
    like_a_label = levels <= max(num_classes, LABEL_LEVELS)
    if like_a_label and raw.label is None:
        found.faults.append(
            f"{case.case_id}: {raw.source}: an unlabeled image of {levels} values looks "
            "like a label; name it as the label of its image"
        )
    swapped = "an image of hardly more values than a label has: are image and label swapped?"
    filled = "a label without any background: is it a mask?"
    shown = set(np.unique(label).tolist())
    for doubt in dict.fromkeys(
        [*raw.doubts, *[swapped] * like_a_label, *[filled] * (not shown & {0, UNKNOWN})]
    ):
        found.doubts.setdefault(doubt, []).append(case.case_id)
    for number, colour in raw.colours.items():
        found.colours.setdefault(number, {}).setdefault(colour, []).append(case.case_id)
    values = shown - {0, UNKNOWN}
    if raw.label is not None and not values and not allow_empty:
        found.faults.append(
            f"{case.case_id}: {raw.of_label}: the label is empty; leave its file out if the case "
            f"is unlabeled, or allow empty labels"
        )
    found.shown[case.case_id] = values
    found.cases.append(
        dataclasses.replace(
            case,
            n_slices=image.shape[0],
            height=image.shape[1],
            width=image.shape[2],
            spacing=raw.spacing,
            image_sha256=repro.array_sha256(image),
            label_sha256=repro.array_sha256(label),
        )
    )
    if len(image) == 1:
        found.hashes[case.case_id] = perceptual_hash(image[0])


def entry_faults(entries: list[Entry]) -> list[str]:
    """Cases and files listed twice, images that are labels too, labels of two patients, patients in
    two splits."""
    ids = {(kind, e.case_id if kind == "case" else e.patient_id) for e in entries for kind in KINDS}
    faults = [f"{kind} {fault}" for kind, name in sorted(ids) if (fault := name_fault(name))]
    faults += [
        f"case {name} is listed {n} times"
        for name, n in Counter(e.case_id for e in entries).items()
        if n > 1
    ]
    faults += [
        f"image {name} belongs to {n} cases"
        for name, n in Counter(e.image for e in entries if e.image).items()
        if n > 1
    ]
    images = {e.image: e.case_id for e in entries if e.image}
    owners: dict[str, set[str]] = {}
    for entry in entries:
        for name in entry.label.split(SEVERAL):
            owners.setdefault(name, set()).add(entry.patient_id)
            if name in images and not (entry.image == name and name.lower().endswith(HDF5)):
                faults.append(f"{name} is an image and a label")
    faults += [
        f"label {name} belongs to several patients: {', '.join(sorted(found))}"
        for name, found in owners.items()
        if name and len(found) > 1
    ]
    of: dict[str, set[str]] = {}
    for entry in entries:
        of.setdefault(entry.patient_id, set()).add(entry.split)
    return faults + [
        f"patient {patient} is in {' and '.join(sorted(found))}"
        for patient, found in of.items()
        if len(found) > 1
    ]
