"""Makes a manifest: reads and checks every file of a set, keeps near-duplicates together, splits
the patients with a seed.

Splits that a table gives are taken as they are. A manifest that is there is made anew from today's
files, with the classes that it has and whatever its owner has written into its dataset.yaml.

    samatch manifest --name hearts --csv hearts.csv --classes RV,MYO,LV
    samatch manifest --name hearts --classes RV,MYO,LV          # what lies in <data>/hearts

All faults of all files come in one message; nothing is written until there are none.
"""

import argparse
import dataclasses
from collections import Counter
from pathlib import Path

from samatch.data import splits
from samatch.data.about import about_faults, class_faults, read_about
from samatch.data.duplicates import groups_of, put_together
from samatch.data.findings import left_apart, report, shortened
from samatch.data.listing import from_csv, from_folder
from samatch.data.manifest import (
    Manifest,
    bare_patients,
    load_manifest,
    manifest_faults,
    write_manifest,
)
from samatch.data.reading import entry_faults, read_all
from samatch.data.volumes import Entry, data_folder, reader, reader_names
from samatch.system import paths
from samatch.system.errors import InputError, raise_all
from samatch.system.names import checked_word

FRACTIONS = (0.7, 0.1, 0.2)


def make_manifest(
    name: str,
    entries: list[Entry],
    folder: Path,
    about: dict,
    into: Path,
    *,
    fractions=FRACTIONS,
    seed: int = 0,
    unused=(),
    allow_empty: bool = False,
    join_near: bool = True,
) -> tuple[Manifest, list[str]]:
    """Writes dataset.yaml, cases.csv and splits.csv; returns the manifest and a report.

    Where splits are drawn, patients with the same image become one patient, and with `join_near`
    those of near-duplicate pictures too. Splits that the entries give are never changed. Raises
    InputError with every fault of the set."""
    found = read_all(entries, folder, about, allow_empty)
    faults = entry_faults(entries) + found.faults
    raise_all(f"data set {name}", faults, "correct these files; nothing was written")
    given, digests = (
        given_splits(entries),
        {case.case_id: case.image_sha256 for case in found.cases},
    )
    alike = [] if given else groups_of(digests, found.hashes if join_near else {})
    entries, twins = put_together(entries, alike)
    of = {entry.case_id: entry for entry in entries}
    cases = [
        dataclasses.replace(case, patient_id=of[case.case_id].patient_id) for case in found.cases
    ]
    members = [", ".join(c.case_id for c in cases if c.patient_id == p) for p in twins]
    joined = [f"near-duplicates, taken as one patient: {these}" for these in members]
    drawn = given or _drawn(entries, fractions, seed, unused, joined)
    about = {**about, "budgets": _budgets(about, drawn, bare_patients(entries))}
    rows = [
        {"patient_id": p, "split": s, "labeled_rank": n if s == "train" else ""}
        for s, group in drawn.items()
        for n, p in enumerate(group, 1)
    ]
    remedy = (
        "correct the column split"
        if given
        else "give the splits in a table, or other files or fractions"
    )
    raise_all(f"splits of {name}", manifest_faults(tuple(cases), rows, about["budgets"]), remedy)
    write_manifest(into, about, cases, drawn)
    apart = groups_of(digests, found.hashes) if given or not join_near else []
    lines = report(cases, drawn, about["classes"], found) + shortened(joined)
    return load_manifest(name, into), lines + shortened(left_apart(apart, cases, drawn))


def _drawn(
    entries: list[Entry], fractions, seed: int, unused, joined: list[str]
) -> dict[str, list[str]]:
    """As `draw_splits`; where too few patients are left, the error names the cases that were put
    together."""
    try:
        return draw_splits(entries, fractions, seed, unused)
    except InputError as error:
        facts = dict(error.facts)
        switch = (
            ", or keep near-duplicates apart (CURATE_ARGS=--keep-near-duplicates)" if joined else ""
        )
        what = "\n".join([error.what, *("  " + line for line in shortened(joined))])
        raise InputError(
            what, expected=facts["expected"], got=facts["got"], do=facts["what to do"] + switch
        ) from None


def _budgets(about: dict, drawn: dict[str, list[str]], bare: frozenset[str]) -> list[int]:
    """Those of a set that declares how it is drawn, none of an external test, else usual ones."""
    if "drawn" in about or about.get("budgets") == []:
        return about["budgets"]
    return splits.budgets(sum(1 for patient in drawn.get("train", ()) if patient not in bare))


def given_splits(entries: list[Entry]) -> dict[str, list[str]]:
    """The splits that the entries name, in their order; {} where they name none."""
    drawn: dict[str, list[str]] = {}
    bare = bare_patients(entries)
    for entry in sorted(entries, key=lambda e: e.patient_id in bare):
        if entry.split and entry.patient_id not in drawn.setdefault(entry.split, []):
            drawn[entry.split].append(entry.patient_id)
    return drawn


def draw_splits(entries: list[Entry], fractions, seed: int, unused) -> dict[str, list[str]]:
    """A patient's stratum is that of the first case; patients of several pictures get labels last,
    so that a budget counts pictures."""
    pictures = Counter(entry.patient_id for entry in entries)
    by_case = all(
        entry.case_id == entry.patient_id or pictures[entry.patient_id] > 1 for entry in entries
    )
    last = frozenset(p for p, n in pictures.items() if n > 1) if by_case else frozenset()
    return splits.draw(
        {e.patient_id: e.stratum for e in reversed(entries)},
        fractions,
        seed,
        unused=unused,
        last=last,
        only_train=bare_patients(entries),
    )


def about_own(name: str, classes: list[str], kind: str) -> dict:
    """dataset.yaml of a set of one's own; its owner fills in the rest."""
    return {
        "title": name,
        "classes": classes,
        "normalisation": "min-max over the volume",
        "licence": "not stated",
        "source": "not stated",
        "citation": "not stated",
        "known_faults": "not stated",
        "reader": kind,
    }


def curate(
    name: str,
    csv: Path | None,
    classes: list[str],
    into: Path | None = None,
    seed: int = 0,
    allow_empty: bool = False,
    fractions=FRACTIONS,
    join_near: bool = True,
) -> tuple[Manifest, list[str]]:
    """The manifest of the set <data>/<name>: as its dataset.yaml says where it has one, else as
    one's own.

    Raises InputError where that one has other classes, and where the project carries a set of this
    name."""
    folder = data_folder(checked_word(name, "data set"))
    if not into and (paths.MANIFESTS / name / "dataset.yaml").exists():
        raise InputError(
            f"the name {name} is taken: this project carries a set of that name",
            where=paths.shown(paths.MANIFESTS / name),
            do="give your folder another name, and NAME= the same",
        )
    if not into and folder.name != name:
        raise InputError(
            f"no folder {name}",
            where=paths.shown(folder),
            expected=f"a folder {name} in DATA, or DATA that is this folder itself",
            got=f"a folder {folder.name} without it",
            do=f"put the files into {name}/, or give NAME={folder.name}",
        )
    into = into or folder / "manifest"
    about, folder = _about_of(name, classes, into, folder)
    entries = _entries_of(name, csv, about["reader"], folder)
    drawn = about.get("drawn", {})
    return make_manifest(
        name,
        entries,
        folder,
        about,
        into,
        fractions=drawn.get("fractions", fractions),
        seed=drawn.get("seed", seed),
        unused=drawn.get("unused", ()),
        allow_empty=allow_empty or drawn.get("allow_empty", False),
        join_near=join_near,
    )


def _about_of(name: str, classes: list[str], into: Path, folder: Path) -> tuple[dict, Path]:
    """(about, folder of the files) of a set: as `into` has them, else those of one's own. Raises
    InputError on what cannot be, and where the set has other classes."""
    if (into / "dataset.yaml").exists():
        about = read_about(into / "dataset.yaml")
        raise_all(f"dataset.yaml of {name}", about_faults(about), "correct or delete it")
        about.setdefault("reader", name)
        folder = data_folder(about.get("files_of", name))
        check_classes(classes, about["classes"], into)
    else:
        about = about_own(name, classes, name if name in reader_names() else "files")
    if not about["classes"]:
        raise InputError(
            "no classes are named",
            where=name,
            expected="names of the foreground classes, in label order from 1",
            got="none",
            do="give CLASSES=first,second",
        )
    raise_all(f"classes of {name}", class_faults(about["classes"]), "give CLASSES=first,second")
    return about, folder


def _entries_of(name: str, csv: Path | None, kind: str, folder: Path) -> list[Entry]:
    """The cases that a table names, or that lie in the folder. Raises InputError where there are
    none, and where files of this kind cannot be listed."""
    if csv:
        return from_csv(csv)
    listing = from_folder if kind == "files" else getattr(reader(kind), "entries", None)
    if not listing:
        raise InputError(
            f"cases of the reader {kind} cannot be listed from a folder",
            where=name,
            expected="a table of cases, or a set of files that are read as they lie",
            do="give --csv, or another reader in dataset.yaml",
        )
    if entries := listing(folder):
        return entries
    raise InputError(
        f"no files of {name}",
        where=paths.shown(folder),
        expected="the layout of data_manifests/README.md",
        got="nothing",
        do="set DATA=DIR",
    )


def check_classes(asked: list[str], there: list[str], home: Path) -> None:
    """Raises InputError where other classes are asked for than the manifest has, whose order
    trained runs know."""
    if asked and asked != there:
        words = ",".join(there)
        raise InputError(
            "this set has a manifest with other classes",
            where=f"{home.parent.name}/{home.name}",
            expected=words,
            got=",".join(asked),
            do=f"give CLASSES={words}, or delete that folder and train anew what was trained on it",
        )


def three_numbers(text: str) -> list[float]:
    """Fractions of train, val and test. Raises InputError on anything else."""
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if len(found) != 3 or not 0 <= min(found) <= max(found) < float("inf") or sum(found) <= 0:
        raise InputError(
            "impossible fractions",
            expected="three numbers, of train, val and test",
            got=repr(text),
            do="for example 0.7,0.1,0.2",
        )
    return found


def main(words: list[str] | None = None) -> None:
    """`samatch manifest`: writes a manifest and prints its report. Raises InputError."""
    parser = argparse.ArgumentParser(
        prog="samatch manifest", description="Check the files of a set and write its manifest."
    )
    parser.add_argument("--name", required=True, help="the set's folder under the data folder")
    parser.add_argument(
        "--csv",
        type=Path,
        help="table with case_id, patient_id, image, label, split; without it the folder is "
        "searched",
    )
    parser.add_argument(
        "--classes", default="", help="foreground classes in label order, comma-separated"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the drawn splits")
    parser.add_argument(
        "--fractions", default=",".join(map(str, FRACTIONS)), help="of train, val and test"
    )
    parser.add_argument(
        "--allow-empty", action="store_true", help="labels without any foreground are meant"
    )
    parser.add_argument(
        "--keep-near-duplicates",
        action="store_true",
        help="report near-duplicate pictures instead of taking them as one patient",
    )
    parser.add_argument(
        "--into", type=Path, help="folder of the manifest; default <data>/<name>/manifest"
    )
    args = parser.parse_args(words)
    classes = [c.strip() for c in args.classes.split(",") if c.strip()]
    manifest, lines = curate(
        args.name,
        args.csv,
        classes,
        args.into,
        args.seed,
        args.allow_empty,
        three_numbers(args.fractions),
        join_near=not args.keep_near_duplicates,
    )
    warnings = sum(line.startswith("warning") for line in lines)
    print(
        "\n".join(
            [
                f"manifest of {manifest.name}: 0 faults, {warnings} warnings",
                *lines,
                f"label budgets: {', '.join(map(str, manifest.budgets))}",
            ]
        )
    )
