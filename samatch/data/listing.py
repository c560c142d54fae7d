"""The cases of a set of your own: from a CSV file, or from what lies in a folder."""

import re
from pathlib import Path

import pandas as pd

from samatch.data.images import stem_of, suffix_of
from samatch.data.manifest import SPLITS
from samatch.data.volumes import Entry
from samatch.system import paths
from samatch.system.errors import InputError, raise_all

REQUIRED, OPTIONAL = ("case_id", "patient_id", "image"), ("label", "split")
# Ends of a label's name, capitals or not, with a number where an image has several. What they miss,
# curate finds by its few values.
LABEL_WORDS = (
    r"gt|ground[-_ ]?truth|labels?|labelmap|lbl|d?seg|segmentations?|masks?|msk|annotations?"
)
LABEL_STEM = re.compile(rf"[-_. ]({LABEL_WORDS})[-_. ]?\d*$", re.IGNORECASE)
LABEL_FOLDERS = {
    "gt",
    "groundtruth",
    "ground_truth",
    "label",
    "labels",
    "labelstr",
    "labelsts",
    "mask",
    "masks",
    "seg",
    "segmentation",
    "segmentations",
    "annotation",
    "annotations",
    "derivatives",
}
BIDS = re.compile(r"^(sub-[A-Za-z0-9]+)((?:_(?:ses|run|acq)-[A-Za-z0-9]+)*)")


def from_csv(path: Path) -> list[Entry]:
    """A table with the columns case_id, patient_id, image, and optionally label (empty: unlabeled)
    and split.

    Commas, semicolons or tabs; with or without a byte order mark. Raises InputError with every
    fault of the table."""
    try:
        table = pd.read_csv(
            path,
            sep=None,
            engine="python",
            encoding="utf-8-sig",
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
        )
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(
            "unreadable table of cases",
            where=paths.shown(path),
            expected="a CSV file in UTF-8",
            got=str(error)[:160],
            do="correct it",
        ) from error
    table.columns = [name.strip() for name in table.columns]
    missing = [name for name in REQUIRED if name not in table]
    raise_all(
        f"{path.name}",
        [f"column {name} is missing; there are {', '.join(table.columns)}" for name in missing],
        f"give the columns {', '.join(REQUIRED)}",
    )
    table = table.apply(lambda column: column.str.strip())
    faults = [
        f"line {line + 2}: {name} is empty"
        for name in REQUIRED
        for line in table.index[table[name] == ""]
    ]
    if "split" in table:
        faults += [
            f"line {line + 2}: unknown split {value!r}"
            for line, value in table.split.items()
            if value not in ("", *SPLITS)
        ]
        if (table.split == "").any() and (table.split != "").any():
            faults.append(
                f"{int((table.split == '').sum())} of {len(table)} cases have no split: give all "
                f"or none"
            )
    raise_all(path.name, faults, "correct these lines")
    columns = [name for name in (*REQUIRED, *OPTIONAL) if name in table]
    return [Entry(**row) for row in table[columns].to_dict("records")]


def from_folder(folder: Path) -> list[Entry]:
    """Images of a folder with their labels: `<id>` beside `<id>_gt` (or another ending of
    LABEL_STEM), `images/` beside `labels/` or `masks/` (or another name of LABEL_FOLDERS), BIDS
    with labels beside the image or in derivatives/. A folder of DICOM files is one series.

    In BIDS the patient is sub-<id>; elsewhere each case counts as a patient of its own. Raises
    InputError where an image has several labels or an id several images."""
    images, labels = {}, {}
    for path in sorted(_candidates(folder)):
        parts = {part.lower() for part in path.relative_to(folder).parts[:-1]}
        is_label = bool(LABEL_STEM.search(stem_of(path)) or parts & LABEL_FOLDERS)
        (labels if is_label else images).setdefault(_case_of(path), []).append(
            str(path.relative_to(folder))
        )
    faults = [
        f"{case}: several images: {', '.join(found)}"
        for case, found in images.items()
        if len(found) > 1
    ]
    faults += [
        f"{case}: several labels: {', '.join(found)}"
        for case, found in labels.items()
        if len(found) > 1
    ]
    faults += [
        f"{found[0]}: a label without an image"
        for case, found in labels.items()
        if case not in images
    ]
    if not images:
        faults.append("no image was found")
    raise_all(
        f"folder {paths.shown(folder)}",
        faults,
        "unite the labels of an image, move the odd files away, or name the cases in a CSV",
    )
    return [
        Entry(case, _patient_of(case), found[0], labels.get(case, [""])[0])
        for case, found in images.items()
    ]


def _candidates(folder: Path) -> list[Path]:
    """Files of known kinds, and folders that hold DICOM files. The set's own manifest is left
    out."""
    files = [
        p
        for p in folder.rglob("*")
        if p.is_file() and "manifest" not in p.relative_to(folder).parts
    ]
    series = {p.parent for p in files if p.suffix.lower() == ".dcm"}
    return [p for p in files if suffix_of(p)] + [p for p in series if p != folder]


def _case_of(path: Path) -> str:
    stem = LABEL_STEM.sub("", stem_of(path))
    if bids := BIDS.match(stem):
        return bids[1] + bids[2]
    return stem


def _patient_of(case: str) -> str:
    bids = BIDS.match(case)
    return bids[1] if bids else case
