"""The cases of a set of your own: from a CSV file, or from what lies in a folder."""

import re
from pathlib import Path

from samatch.data.dicom import is_slice
from samatch.data.images import h5_keys, stem_of, suffix_of
from samatch.data.manifest import SPLITS
from samatch.data.sheets import read_rows
from samatch.data.volumes import SEVERAL, Entry
from samatch.system import paths
from samatch.system.errors import InputError, raise_all
from samatch.system.names import name_fault

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
NNUNET_TEST = ("imagesTs", "labelsTs")  # beside imagesTr and labelsTr
VOLUMES = "volumes.csv"  # of masks that `samatch predict` wrote; with these columns
VOLUME_COLUMNS = ("image", "class", "voxels", "volume_ml")
REMEDY = "unite the labels of an image, move or rename the odd files, or name the cases in a CSV"
BIDS = re.compile(r"^(sub-[A-Za-z0-9]+)((?:_(?:ses|run|acq)-[A-Za-z0-9]+)*)")


def from_csv(path: Path) -> list[Entry]:
    """A table with the columns case_id, patient_id, image, and optionally label (empty: unlabeled)
    and split.

    Commas, semicolons or tabs; with or without a byte order mark. Raises InputError with every
    fault of the table."""
    if not path.exists():
        raise InputError(
            "no such table of cases",
            where=paths.shown(path),
            got=f"no file {path.name} in {paths.shown(path.absolute().parent)}",
            do="give its path from the folder that you are in, or the whole path",
        )
    rows = read_rows(path, REQUIRED, "table of cases")
    faults = [
        f"line {line}: {name} is empty" for name in REQUIRED for line, row in rows if not row[name]
    ]
    splits = [(line, row.get("split", "")) for line, row in rows]
    faults += [
        f"line {line}: unknown split {value!r}"
        for line, value in splits
        if value not in ("", *SPLITS)
    ]
    without = sum(not value for _, value in splits)
    if 0 < without < len(rows):
        faults.append(f"{without} of {len(rows)} cases have no split: give all or none")
    raise_all(path.name, faults, "correct these lines")
    columns = (*REQUIRED, *OPTIONAL)
    return [Entry(**{name: row.get(name, "") for name in columns}) for _, row in rows]


def from_folder(
    folder: Path, aside: frozenset[Path] = frozenset(), do: str = REMEDY
) -> list[Entry]:
    """Images of a folder with their labels: `<id>` beside `<id>_gt` (or another ending of
    LABEL_STEM), `images/` beside `labels/` or `masks/` (or another name of LABEL_FOLDERS), BIDS
    with labels beside the image or in derivatives/, nnU-Net's imagesTr/ and labelsTr/, h5 files
    that hold both. A folder of DICOM files, `folder` itself among them, is one series.

    In BIDS the patient is sub-<id>; elsewhere each case counts as a patient of its own. Numbered
    masks of an image (`<id>_mask`, `<id>_mask_1`) are named together, to be united. Folders
    `aside` are left out. Raises InputError, which ends with `do`, where an image has labels of
    several kinds, an id several images, a name is none of system/names.py, a link leads to a folder
    or to nothing, or `samatch predict` wrote a folder: its overlays are no images, and its masks no
    labels unless someone says so.
    """
    images: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    predicted = predicted_in(folder)
    for path in sorted(_candidates(folder, predicted | aside)):
        parts = {part.lower() for part in path.relative_to(folder).parts[:-1]}
        is_label = path != folder and bool(
            LABEL_STEM.search(stem_of(path)) or parts & LABEL_FOLDERS
        )
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
        if not _alike(found)
    ]
    faults += [
        f"{found[0]}: a label without an image"
        for case, found in labels.items()
        if case not in images
    ]
    faults += [f"{images[case][0]}: {fault}" for case in images if (fault := name_fault(case))]
    faults += [
        f"{path.relative_to(folder)}/: masks and overlays that `samatch predict` wrote; where they "
        f"are labels now, delete the overlays, contact_sheet.png and {VOLUMES}"
        for path in sorted(predicted - aside)
    ]
    faults += link_faults(folder)
    if not images:
        faults.append("no image was found")
    raise_all(f"folder {paths.shown(folder)}", faults, do)
    both = {name for (name, *_) in images.values() if h5_keys(folder / name) >= {"image", "label"}}
    return [
        Entry(
            case, _patient_of(case), name, SEVERAL.join(labels.get(case, [name] * (name in both)))
        )
        for case, (name, *_) in images.items()
    ]


def link_faults(folder: Path) -> list[str]:
    """Links below a folder that a search does not follow, and whose images would be left out."""
    links = (path for path in folder.rglob("*") if path.is_symlink())
    return [
        f"{path.relative_to(folder)}: a link to {'a folder' if path.is_dir() else 'nothing'}; put "
        f"the files themselves there"
        for path in sorted(links)
        if not path.is_file() and not _aside(path.relative_to(folder))
    ]


def predicted_in(folder: Path) -> frozenset[Path]:
    """The folders that `samatch predict` wrote, or began to; `folder` may be one itself."""
    return frozenset(path.parent for path in folder.rglob(VOLUMES) if is_predicted(path.parent))


def is_predicted(folder: Path) -> bool:
    """Whether `samatch predict` wrote this folder: by the columns of its table of volumes."""
    table, head = folder / VOLUMES, ",".join(VOLUME_COLUMNS).encode()
    return table.is_file() and table.read_bytes().startswith(head)


def _alike(labels: list[str]) -> bool:
    """Whether labels of an image are one, or differ by nothing but a number after one word."""
    found = [(LABEL_STEM.search(stem_of(Path(name))), Path(name)) for name in labels]
    kinds = {(word and word[1].lower(), path.parent, suffix_of(path)) for word, path in found}
    return len(labels) == 1 or (len(kinds) == 1 and all(word for word, _ in found))


def _candidates(folder: Path, aside: frozenset[Path]) -> list[Path]:
    """Files of known kinds, and folders that hold DICOM files.

    Left out are folders `aside`, the set's own manifest, hidden files (macOS's ._x.nii.gz among
    them) and what nnU-Net keeps for its own test.
    """
    files = [p for p in folder.rglob("*") if p.is_file() and not _aside(p.relative_to(folder))]
    files = [p for p in files if p.parent == folder or not _of_nnunets_test(p)]
    files = [p for p in files if p.parent not in aside]
    known = [p for p in files if suffix_of(p)]
    return known + list({p.parent for p in files if not suffix_of(p) and is_slice(p)})


def _aside(path: Path) -> bool:
    return any(part.startswith(".") or part in ("manifest", "__MACOSX") for part in path.parts)


def _of_nnunets_test(path: Path) -> bool:
    return path.parent.name in NNUNET_TEST and _is_nnunet(path.parent.parent)


def _is_nnunet(folder: Path) -> bool:
    return (folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir()


def _case_of(path: Path) -> str:
    stem = LABEL_STEM.sub("", stem_of(path))
    if bids := BIDS.match(stem):
        return bids[1] + bids[2]
    if path.parent.name == "imagesTr" and _is_nnunet(path.parent.parent):
        return re.sub(r"_\d{4}$", "", stem)  # number of the channel
    return stem


def _patient_of(case: str) -> str:
    bids = BIDS.match(case)
    return bids[1] if bids else case
