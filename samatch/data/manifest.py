"""A data set's manifest: every case, its splits with nested label budgets, and the checks on them.

A set's manifest lies in data_manifests/<set>/, or for a set of your own in <data>/<set>/manifest/:

dataset.yaml   classes, normalisation, licence, source, citation
cases.csv      one row a case: sizes, spacing, content hashes, group of the patient
splits.csv     one row a patient: split, and the order in which labels are given out

A set that shares another's files (`files_of` in dataset.yaml) has its own splits.csv and that set's
cases.csv."""

import csv
import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

from samatch.data.about import about_faults, read_about
from samatch.data.sheets import read_rows, sizes, whole
from samatch.system import paths, repro
from samatch.system.errors import InputError, known, raise_all
from samatch.system.names import checked_word, name_fault
from samatch.system.whole import write_text

SPLITS = ("train", "val", "test")
UNUSED = "unused"  # split of patients that belong to the set and take no part
CASE_COLUMNS = (
    "case_id",
    "patient_id",
    "n_slices",
    "height",
    "width",
    "spacing_zyx_mm",
    "image_sha256",
    "label_sha256",
)
SPLIT_COLUMNS = ("patient_id", "split", "labeled_rank")
DISTANCES = ("mm", "voxel")  # units that a set's protocol may count surface distances in


@dataclass(frozen=True)
class Case:
    """One volume of one patient, or one 2-D image. Sizes in voxels, spacing (z, y, x) in mm or
    None."""

    case_id: str
    patient_id: str
    n_slices: int
    height: int
    width: int
    spacing: tuple[float, float, float] | None
    image_sha256: str  # of the normalised float32 image; "" where nothing is to be checked
    label_sha256: str  # of the uint8 label
    image: str = (
        ""  # file, relative to the set's folder; "" where the reader finds it by the case's id
    )
    label: str = ""
    group: str = ""  # of the patient, a diagnosis for example; "" in sets without groups


class Listed(Protocol):
    """What a Case and an Entry (data/volumes.py) share: whose it is, and its files."""

    @property
    def patient_id(self) -> str:
        """Whose case it is."""

    @property
    def image(self) -> str:
        """Its image file."""

    @property
    def label(self) -> str:
        """Its label file."""


def is_bare(case: Listed) -> bool:
    """Whether a case has an image file and no label: it can only be trained on."""
    return bool(case.image and not case.label)


def bare_patients(cases: Iterable[Listed]) -> frozenset[str]:
    """Patients with a case that has no label: they can never be labeled ones."""
    return frozenset(case.patient_id for case in cases if is_bare(case))


@dataclass(frozen=True)
class Manifest:
    """All cases of a data set and its splits.

    `labeled_order` gives the training patients in the order in which they become labeled; a budget
    of n takes the first n, so that budgets are nested by construction."""

    name: str
    title: str
    classes: tuple[str, ...]  # foreground, in label order from 1
    normalisation: str
    licence: str
    source: str
    citation: str
    known_faults: str  # of the data set, told to the reader
    reader: str  # file of samatch/data/readers that reads it
    folder: str  # name of the data's folder; the set's own unless it shares another's files
    budgets: tuple[int, ...]
    cases: tuple[Case, ...]
    split_of: dict[str, str]  # patient_id -> train, val or test
    labeled_order: tuple[str, ...]
    sha256: str
    splits_sha256: str
    distances: str = "mm"  # unit of HD95 and ASD: mm where spacing is known, or always voxel
    clinical: dict[str, str] = field(
        default_factory=dict
    )  # ventricle, ed, es: samatch/results/clinical.py

    @property
    def num_classes(self) -> int:
        """Classes, background counted."""
        return len(self.classes) + 1

    @property
    def credit(self) -> str:
        """What stands below a picture of its images: whose they are, and the licence."""
        told = f"Images: {self.title}. Source: {self.source}. Licence: {self.licence}."
        return told if self.citation == "none" else f"{told} {self.citation}."

    def patients(self, split: str) -> tuple[str, ...]:
        """Patients of train (in labeled order), val or test. Raises InputError on another word."""
        known(split, SPLITS, "split")
        return (
            self.labeled_order
            if split == "train"
            else tuple(p for p, s in self.split_of.items() if s == split)
        )

    @property
    def unlabeled(self) -> frozenset[str]:
        """Training patients with a case that has no label file: they can never be labeled ones."""
        return bare_patients(self.cases)

    def labeled_patients(self, n_labeled: int) -> tuple[str, ...]:
        """The first `n_labeled` training patients. Raises InputError where fewer have labels."""
        bare = self.unlabeled
        most = sum(patient not in bare for patient in self.labeled_order)
        if not 1 <= n_labeled <= most:
            raise InputError(
                "impossible label budget",
                where=self.name,
                expected=f"1 to {most}, usually one of {self.budgets}",
                got=n_labeled,
                do="choose another n_labeled (make ... N=)",
            )
        return self.labeled_order[:n_labeled]

    def cases_of(self, patients) -> tuple[Case, ...]:
        """Cases of the patients, in the patients' order."""
        of: dict[str, list[Case]] = {}
        for case in self.cases:
            of.setdefault(case.patient_id, []).append(case)
        return tuple(case for patient in patients for case in of.get(patient, ()))


def manifest_folders() -> dict[str, Path]:
    """Data set -> folder of its manifest: the repository's, and those beside a user's own data."""
    data = paths.data_dir()  # or a set's own folder
    homes = [*data.glob("*/manifest/dataset.yaml"), *data.glob("manifest/dataset.yaml")]
    own = {path.parents[1].name: path.parent for path in homes}
    return own | {path.parent.name: path.parent for path in paths.MANIFESTS.glob("*/dataset.yaml")}


def load_manifest(name: str, folder: Path | None = None) -> Manifest:
    """Reads and checks a set's manifest; all faults are raised together."""
    folder = folder or manifest_folders()[known(name, manifest_folders(), "data set")]
    home = folder / "dataset.yaml"
    about = read_about(home) if home.exists() else {}
    shared = checked_word(about.get("files_of", name), "data set")
    case_file = (folder.parent / shared if shared != name else folder) / "cases.csv"
    files = [home, case_file, folder / "splits.csv"]
    raise_all(
        f"manifest of {name} is incomplete",
        [f"{paths.shown(f)} is missing" for f in files if not f.exists()],
        "restore the file",
    )
    cases, case_faults = read_cases(case_file)
    rows, split_faults = read_splits(files[2])
    faults = about_faults(about) + case_faults + split_faults
    # What does not hold together is told once each part can be read.
    faults = faults or manifest_faults(cases, rows, about["budgets"])
    raise_all(f"manifest of {name}", faults, "correct dataset.yaml, splits.csv or cases.csv")
    distances = known(about.get("distances", "mm"), DISTANCES, "unit of distances")
    order = sorted(
        (int(row["labeled_rank"]), row["patient_id"]) for row in rows if row["split"] == "train"
    )
    hashes = [repro.file_sha256(f) for f in files]
    return Manifest(
        name=name,
        classes=tuple(about["classes"]),
        budgets=tuple(about["budgets"]),
        cases=cases,
        split_of={row["patient_id"]: row["split"] for row in rows},
        labeled_order=tuple(p for _, p in order),
        reader=about.get("reader", name),
        folder=shared,
        sha256=hashes[1],
        splits_sha256=hashes[2],
        distances=distances,
        clinical=_clinical(about),
        **{
            key: about[key]
            for key in ("title", "normalisation", "licence", "source", "citation", "known_faults")
        },
    )


def read_cases(path: Path) -> tuple[tuple[Case, ...], list[str]]:
    """The cases of a cases.csv that can be read, and what is wrong with the others."""
    cases, faults = [], []
    for line, row in read_rows(path, CASE_COLUMNS, "list of cases"):
        names = [("case_id", row["case_id"]), ("patient_id", row["patient_id"])]
        wrong = [f"{key} {fault}" for key, name in names if (fault := name_fault(name))]
        try:
            cases.append(_case(row))
        except ValueError as error:
            wrong.append(str(error))
        faults += [f"{path.name}, line {line}: {fault}" for fault in wrong]
    return tuple(cases), faults


def read_splits(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows of a splits.csv, ranks as whole numbers or "", and what is wrong with the others."""
    rows, faults = [], []
    for line, row in read_rows(path, SPLIT_COLUMNS, "list of splits"):
        try:
            rank = row["labeled_rank"] and str(whole(row["labeled_rank"]))
            rows.append(row | {"labeled_rank": rank})
        except ValueError as error:
            faults.append(f"{path.name}, line {line}: labeled_rank: {error}")
    return rows, faults


def manifest_faults(cases: tuple[Case, ...], rows: list[dict], budgets: list[int]) -> list[str]:
    """Everything wrong with cases and splits: doubles, leaks, unknown or empty splits, lost
    patients, ranks."""
    faults = [
        f"case {case_id} is listed twice" for case_id in _doubles(case.case_id for case in cases)
    ]
    split_of = {row["patient_id"]: row["split"] for row in rows}
    for digest in _doubles(case.image_sha256 for case in cases if case.image_sha256):
        twins = [case for case in cases if case.image_sha256 == digest]
        if len({split_of.get(case.patient_id) for case in twins}) > 1:
            faults.append(
                "the same image in two splits: "
                + ", ".join(f"{c.case_id} ({split_of.get(c.patient_id)})" for c in twins)
            )
    for patient in _doubles(row["patient_id"] for row in rows):
        faults.append(
            f"patient {patient} is in "
            f"{' and '.join(row['split'] for row in rows if row['patient_id'] == patient)}"
        )
    faults += [
        f"patient {row['patient_id']}: unknown split {row['split']!r}"
        for row in rows
        if row["split"] not in (*SPLITS, UNUSED)
    ]
    bare = bare_patients(cases)
    in_cases, in_splits = {case.patient_id for case in cases}, {row["patient_id"] for row in rows}
    groups = {(case.patient_id, case.group) for case in cases}
    faults += [f"patient {p} is of two groups" for p in _doubles(patient for patient, _ in groups)]
    faults += [f"patient {p} has a case but no split" for p in sorted(in_cases - in_splits)]
    faults += [f"patient {p} has a split but no case" for p in sorted(in_splits - in_cases)]
    ranks = sorted(int(row["labeled_rank"] or 0) for row in rows if row["split"] == "train")
    if ranks != list(range(1, len(ranks) + 1)):
        faults.append("labeled_rank of the training patients must count 1, 2, 3, ... without a gap")
    last = max(
        (
            int(row["labeled_rank"] or 0)
            for row in rows
            if row["split"] == "train" and row["patient_id"] not in bare
        ),
        default=0,
    )
    faults += [
        f"patient {row['patient_id']} of {row['split']} has no label"
        for row in rows
        if row["split"] in ("val", "test") and row["patient_id"] in bare
    ]
    faults += [
        f"patient {row['patient_id']} has no label and must come after the labeled ones"
        for row in rows
        if row["split"] == "train"
        and row["patient_id"] in bare
        and int(row["labeled_rank"] or 0) < last
    ]
    in_use = {
        row["split"] for row in rows if row["split"] != "train" or row["patient_id"] not in bare
    }
    faults += [
        f"{split} is empty: no {'labeled ' if split == 'train' else ''}patient is in it"
        for split in (SPLITS if budgets else ("test",))  # without budgets: an external test
        if split not in in_use
    ]
    faults += [
        f"budget {n} exceeds {len(ranks)} training patients" for n in budgets if n > len(ranks)
    ]
    return faults


def write_manifest(
    folder: Path, about: dict, cases: list[Case], splits: dict[str, list[str]]
) -> None:
    """Writes the three files; a dataset.yaml that exists stays but for its budgets, and a set that
    shares another's files has no cases.csv. `splits` maps a split to patients, train in labeled
    order. Raises InputError where the folder cannot be written to."""
    paths.make_folder(folder, "--into or DATA=DIR")
    home = folder / "dataset.yaml"
    kept = read_about(home) if home.exists() else about
    if not home.exists() or kept.get("budgets") != about["budgets"]:
        kept = kept | {"budgets": about["budgets"]}
        text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
        write_text(home, text)
    if "files_of" not in about:
        write_cases(folder / "cases.csv", cases)
    handle = io.StringIO()
    writer = csv.writer(handle, lineterminator="\n")
    writer.writerow(SPLIT_COLUMNS)
    for split in (*SPLITS, UNUSED):
        for rank, patient in enumerate(splits.get(split, ()), 1):
            writer.writerow([patient, split, rank if split == "train" else ""])
    write_text(folder / "splits.csv", handle.getvalue())


def write_cases(path: Path, cases: list[Case]) -> None:
    """cases.csv; with the columns image and label where a case names its files, group where one has
    one."""
    columns = [*CASE_COLUMNS]
    columns += ["image", "label"] if any(case.image for case in cases) else []
    columns += ["group"] if any(case.group for case in cases) else []
    handle = io.StringIO()
    writer = csv.DictWriter(handle, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for case in cases:
        spacing = "" if case.spacing is None else " ".join(f"{s:g}" for s in case.spacing)
        writer.writerow(dataclasses.asdict(case) | {"spacing_zyx_mm": spacing})
    write_text(path, handle.getvalue())


def _clinical(about: dict) -> dict[str, str]:
    """`clinical` of dataset.yaml, {} where it has none."""
    found = about.get("clinical", {})
    if found and (
        set(found) != {"ventricle", "ed", "es"}
        or found["ventricle"] not in about["classes"]
        or not all(isinstance(found[frame], str) for frame in ("ed", "es"))
    ):
        raise InputError(
            "clinical of dataset.yaml cannot be read",
            where=about["title"],
            got=found,
            expected="{ventricle: a class, ed: a frame, es: a frame}",
            do="correct dataset.yaml",
        )
    return found


def _case(row: dict) -> Case:
    """Raises ValueError on numbers that are none."""
    return Case(
        case_id=row["case_id"],
        patient_id=row["patient_id"],
        n_slices=whole(row["n_slices"]),
        height=whole(row["height"]),
        width=whole(row["width"]),
        spacing=sizes(row["spacing_zyx_mm"]),
        image_sha256=row["image_sha256"],
        label_sha256=row["label_sha256"],
        **{key: row.get(key, "") for key in ("image", "label", "group")},
    )


def _doubles(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    doubles: set[str] = set()
    for name in names:
        (doubles if name in seen else seen).add(name)
    return sorted(doubles)
