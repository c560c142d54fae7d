"""Recomputes every tracked number from what it was made from, by other code.

    samatch audit                                     # all tracked sets
    samatch audit --profile laptop --dataset acdc     # one
    samatch audit --dataset acdc --export             # tracks this machine's predictions first

Three steps: the tables from per_case.csv; per_case.csv from the tracked predictions and the labels,
where this machine has the set's files; and of every row of a case, an external test's too, whether
its Dice can be that of masks of its sizes. It fails where a number differs, and says in a line what
could not be audited.
"""

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from samatch.config.profiles import EQUAL_LENGTH
from samatch.data.manifest import Manifest, load_manifest
from samatch.data.volumes import Volume
from samatch.results import overlaps, predictions, recomputed, revoted, votes
from samatch.results.formulae import rounding
from samatch.results.recomputed import Records, Rows, number
from samatch.results.runs import manifest_of
from samatch.system import paths
from samatch.system.errors import InputError, few, raise_all

TOLERANCE = 1e-9  # relative, beyond the rounding to these digits
VAL_TOLERANCE = 2e-6  # of a mean of values that are themselves rounded
NOT_TABLES = ("runs", "per_case", "train_log")  # what the tables are made from
DISTANCES = ("hd95", "asd", "hd95_mm", "asd_mm")
CASE_KEY = ("run_id", "split", "case_id", "class")
TEST_KEY = ("reference", "comparison", "metric", "unit")


@dataclass
class Outcome:
    """What the audit of one file found: numbers compared, the largest differences, faults."""

    name: str
    compared: int = 0
    largest: float = 0.0  # relative; of a file with six digits up to 5e-6
    beyond: float = 0.0  # the same beyond the rounding to six digits
    faults: list[str] = field(default_factory=list)

    def compare(self, where: str, tracked: str, expected, tolerance: float = TOLERANCE) -> None:
        """One cell: a whole number, text or truth must be equal, any other number close."""
        self.compared += 1
        if not isinstance(expected, float):
            if str(tracked) != str(expected):
                self.faults.append(f"{where}: {tracked or 'nothing'}; recomputed {expected}")
            return
        found = number(tracked)
        if math.isnan(found) or math.isnan(expected):
            if math.isnan(found) != math.isnan(expected):
                self.faults.append(f"{where}: {tracked or 'nothing'}; recomputed {expected:.6g}")
            return
        apart, size = abs(found - expected), max(abs(expected), TOLERANCE)
        beyond = max(0.0, apart - rounding(found)) / size
        self.largest, self.beyond = max(self.largest, apart / size), max(self.beyond, beyond)
        if beyond > tolerance:
            self.faults.append(f"{where}: {tracked}; recomputed {expected:.9g}")

    def line(self) -> str:
        """In words, for the printed report."""
        verdict = f"{len(self.faults)} FAULTS" if self.faults else "sound"
        return (
            f"  {self.name:24}{self.compared:6} values  largest relative difference "
            f"{self.largest:.1e}, beyond the written digits {self.beyond:.1e}  {verdict}"
        )


def compare_rows(name: str, key: Iterable[str], tracked: Rows, expected: list[dict]) -> Outcome:
    """Rows of a file against recomputed ones, matched by the columns `key`.

    A column of `expected` that the file lacks is left out; a row that one of both lacks is a fault.
    """
    found, key = Outcome(name), tuple(key)
    by_key = {tuple(row[part] for part in key): row for row in tracked}
    again = {tuple(row[part] for part in key): row for row in expected}
    if len(by_key) != len(tracked):
        found.faults.append(f"{name}: two rows of one {', '.join(key)}")
    found.faults += [f"{name}: {' '.join(k)} has no grounds" for k in by_key if k not in again]
    found.faults += [f"{name}: {' '.join(k)} is missing" for k in again if k not in by_key]
    for k in by_key.keys() & again.keys():
        for column, value in again[k].items():
            if column in by_key[k] and column not in key:
                found.compare(f"{name}: {' '.join(k)}, {column}", by_key[k][column], value)
    return found


def audit_tables(folder: Path, records: Records, manifest: Manifest | None) -> list[Outcome]:
    """Every table of a results folder that follows from its per_case.csv."""
    outcomes = []
    makers = {
        "summary": (("run_id",), lambda rows: recomputed.summary(records)),
        "wilcoxon": (TEST_KEY, lambda rows: recomputed.wilcoxon(records, rows)),
        "seeds": (("method",), lambda rows: recomputed.seeds(records, rows)),
        "wilcoxon_seeds": (TEST_KEY, lambda rows: recomputed.wilcoxon(records, rows)),
        "sam_at_test_time": (("run_id",), lambda rows: recomputed.sam_at_test_time(records)),
    }
    if manifest:
        makers["clinical"] = (
            ("run_id", "measure"),
            lambda rows: recomputed.clinical(records, manifest),
        )
        makers["groups"] = (("run_id", "group"), lambda rows: recomputed.groups(records, manifest))
    for name, (key, make) in makers.items():
        if tracked := recomputed.read_rows(folder / f"{name}.csv"):
            outcomes.append(compare_rows(f"{name}.csv", key, tracked, make(tracked)))
            if name == "wilcoxon":
                outcomes[-1].faults += missing_comparisons(records, tracked)
    return outcomes


def missing_comparisons(records: Records, tracked: Rows) -> list[str]:
    """Comparison methods, of a test's budget and seed, that its family leaves out, those of equal
    length too; a control that is the same as its start on every case is not missed."""
    about = {records.names.get(run["run_id"]): run for run in records.runs}
    faults = []
    for (reference, metric, unit, _), names in recomputed.families(tracked).items():
        mine = about.get(reference)
        for name, run in about.items():
            same = mine and all(run[key] == mine[key] for key in ("n_labeled", "seed"))
            plain = not run["method"].startswith("samatch-") and run["method"] != "finetune"
            control = run["variant"] == "no_sam" and mine and not mine["variant"]
            due = control or (plain and run["variant"] in ("", *EQUAL_LENGTH))
            due = due and not (control and repeats_its_start(records, run))
            if same and due and name not in (None, *names):
                faults.append(f"wilcoxon.csv: {reference}, {metric} by {unit}: {name} is left out")
    return faults


def repeats_its_start(records: Records, control: dict[str, str]) -> bool:
    """Whether a training without SAM has the very test Dice of the run it started from."""

    def dice(run_id: str) -> dict[tuple[str, str], str]:
        return {(row["case_id"], row["class"]): row["dice"] for row in records.of(run_id)}

    return dice(control["run_id"]) == dice(control["parents"].split(" ")[0])


def audit_validation(records: Records) -> Outcome:
    """Validation Dice of runs.csv from the validation rows: the mean over classes of the mean."""
    found = Outcome("runs.csv")
    for run in records.runs:
        if rows := records.of(run["run_id"], "val"):
            by_class = recomputed.means_by(rows, "class", "dice").values()
            where = f"runs.csv: {run['run_id']}, val_dice"
            found.compare(where, run["val_dice"], recomputed.mean(by_class), VAL_TOLERANCE)
    return found


def audit_pooled(folder: Path, dataset: str) -> list[Outcome]:
    """results/<profile>/<set>_folds against the records of the folds themselves."""
    folds = {dataset: folder.parent / dataset}
    folds |= {path.name: path for path in sorted(folder.parent.glob(f"{dataset}_fold[0-9]*"))}
    records, own = recomputed.pooled(folds, dataset), Records.read(folder)
    records = Records(records.runs, records.per_case, own.names)
    texts, numbers = ("patient_id", "fold", "distance_unit", "status"), ("dice", *DISTANCES)
    expected = [
        {name: row[name] for name in (*CASE_KEY, *texts)}
        | {name: number(row[name]) for name in numbers}
        for row in records.per_case
    ]
    pooled = compare_rows("per_case.csv", CASE_KEY, own.per_case, expected)
    return [pooled, *audit_tables(folder, records, None)]


def audit_set(profile: str, dataset: str) -> tuple[list[Outcome], list[str]]:
    """(outcomes, what could not be audited) of one tracked set."""
    folder = paths.TRACKED_RESULTS / profile / dataset
    if not (folder / "per_case.csv").exists():
        raise InputError(
            f"no tracked results of {dataset} in profile {profile}",
            where=paths.shown(folder),
            expected=", ".join("/".join(pair) for pair in paths.tracked_sets()),
            do="name one of these, or collect the runs into that folder",
        )
    try:
        if not (folder / "runs.csv").exists():
            return audit_pooled(folder, dataset.removesuffix("_folds")), []
        return audit_own(folder, dataset)
    except InputError:
        raise
    except (KeyError, ValueError) as error:  # a column that is gone, a word for a number
        raise InputError(
            "tracked tables cannot be read",
            where=paths.shown(folder),
            got=f"{type(error).__name__}: {error}",
            do="restore the files from the repository",
        ) from error


def audit_own(folder: Path, dataset: str) -> tuple[list[Outcome], list[str]]:
    """`audit_set` of a set with runs of its own, not pooled from folds."""
    records = Records.read(folder)
    manifest = manifest_of(dataset)
    outcomes = [audit_validation(records), *audit_tables(folder, records, manifest)]
    tests = sorted(folder.glob("external_*.csv"))
    known = {*NOT_TABLES, *(outcome.name.removesuffix(".csv") for outcome in outcomes)}
    known |= {path.stem for path in tests} | {votes.VOTES, votes.SHARED}
    left = sorted({path.stem for path in folder.glob("*.csv")} - known)
    notes = [f"{name}.csv: what it was made from is not tracked" for name in left]
    if manifest:
        labels, why = predictions.labels_of(manifest)
        found, said = audit_predictions(folder, records, manifest, labels)
        outcomes, notes = outcomes + found, notes + said
        if why and found:
            notes.append(f"per_case.csv: only the predicted sizes, and no votes, since {why}")
        outcomes += audit_votes(folder, records, manifest, labels) if labels else []
        outcomes.append(audit_sizes("per_case.csv, sizes", records.per_case, manifest))
    for path in tests:
        outcome, said = audit_external(path, records)
        outcomes.append(outcome)
        notes += said
    return outcomes, notes


def audit_votes(
    folder: Path, records: Records, manifest: Manifest, labels: dict[str, Volume]
) -> list[Outcome]:
    """votes.csv and shared_errors.csv from the tracked predictions and the labels."""
    key = (*votes.SAME, "seeds", "case_id", "class")
    makers = {
        votes.VOTES: (key, revoted.votes),
        votes.SHARED: (("first", "second"), revoted.shared),
    }
    outcomes = []
    for name, (of, make) in makers.items():
        if tracked := recomputed.read_rows(folder / f"{name}.csv"):
            again = make(folder, records, tracked, manifest, labels)
            outcomes.append(compare_rows(f"{name}.csv", of, tracked, again))
    return outcomes


def row_name(file: str, row: dict[str, str]) -> str:
    """How a fault names a row of a case: the file, then run, split, case and class."""
    return f"{file}: {' '.join(row[part] for part in CASE_KEY)}"


def audit_sizes(name: str, rows: Rows, manifest: Manifest) -> Outcome:
    """Rows of cases by what they say themselves: `overlaps`."""
    found = Outcome(name, compared=len(rows))
    for row in rows:
        if why := overlaps.impossible(row):
            found.faults.append(f"{row_name(name, row)}: {why}")
    faults = overlaps.sizes_apart(rows) + overlaps.incomplete(rows, manifest)
    found.faults += [f"{name}: {fault}" for fault in faults]
    return found


def audit_external(path: Path, records: Records) -> tuple[Outcome, list[str]]:
    """(outcome, what could not be audited) of an external test: that its runs are the tracked ones,
    its rows complete and possible, and its references the labels', where they are here."""
    rows, about = recomputed.read_rows(path), {run["run_id"]: run for run in records.runs}
    manifest = load_manifest(path.stem.removeprefix(overlaps.EXTERNAL + "_"))
    found = audit_sizes(path.name, rows, manifest)
    labels, why = predictions.labels_of(manifest)
    for row in rows:
        where = row_name(path.name, row)
        if row["run_id"] not in about:
            found.faults.append(f"{where}: there is no such tracked run")
            continue
        for column in ("method", "variant", "seed", "config_sha256"):
            found.compare(f"{where}, {column}", row[column], about[row["run_id"]][column])
        if row["case_id"] in labels:
            value = manifest.classes.index(row["class"]) + 1
            n_ref = int((labels[row["case_id"]].label == value).sum())
            found.compare(f"{where}, n_ref", row["n_ref"], n_ref)
    without = "only whether its Dice and sizes can be, since no predictions are tracked"
    return found, [f"{path.name}: {without}{f'; {why}' if why else ''}"]


def audit_predictions(
    folder: Path, records: Records, manifest: Manifest, labels: dict[str, Volume]
) -> tuple[list[Outcome], list[str]]:
    """per_case.csv's test rows from the tracked predictions, and the labels where they are here."""
    due = {
        predictions.tracked_file(folder, run["run_id"], split): rows
        for run in records.tested
        for split in predictions.MAPS
        if (rows := records.of(run["run_id"], split))
    }
    files = set((folder / "predictions").glob("*.npz"))
    if not files:
        return [], ["per_case.csv: no predictions are tracked"]
    absent = [path.stem for path in due if path not in files]
    notes = [f"per_case.csv: no predictions of {few(absent)} ({len(absent)} in all)"] * bool(absent)
    outcome = Outcome("per_case.csv")
    strangers = sorted(path.name for path in files - set(due))
    outcome.faults += [f"predictions/{name}: there is no such tracked run" for name in strangers]
    for path in sorted(due.keys() & files):
        maps = predictions.read(path)
        if faults := predictions.map_faults(maps, manifest):
            outcome.faults += [f"predictions/{path.name}: {fault}" for fault in faults]
            continue
        for row in due[path]:
            where = f"per_case.csv: {path.stem}, {row['case_id']}, {row['class']}"
            again = predictions.measured(row, maps[row["case_id"]], labels, manifest)
            for column, (value, tolerance) in again.items():
                if column in row:
                    outcome.compare(f"{where}, {column}", row[column], value, tolerance)
    return [outcome], notes


def main(words: list[str] | None = None) -> None:
    """Command `samatch audit`: prints what was compared, raises InputError where numbers differ."""
    parser = argparse.ArgumentParser(prog="samatch audit", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="", help="all profiles without it")
    parser.add_argument("--dataset", default="", help="all tracked sets without it")
    parser.add_argument(
        "--export", action="store_true", help="track the predictions of this machine's runs first"
    )
    args = parser.parse_args(words)
    sets = [
        pair
        for pair in paths.tracked_sets()
        if args.profile in ("", pair[0]) and args.dataset in ("", pair[1])
    ]
    faults, compared = [], 0
    for profile, dataset in sets or [(args.profile or "laptop", args.dataset)]:
        print(f"{profile}/{dataset}")
        if args.export:
            print("\n".join(f"  {line}" for line in predictions.export(profile, dataset)))
        outcomes, notes = audit_set(profile, dataset)
        print("\n".join([outcome.line() for outcome in outcomes]))
        if notes:
            print(f"  not audited: {'; '.join(notes)}")
        compared += sum(outcome.compared for outcome in outcomes)
        faults += [f"{profile}/{dataset} {f}" for outcome in outcomes for f in outcome.faults]
    raise_all(
        "audit of the tracked results",
        faults,
        "restore the files from the repository, or collect the runs and write the tables again",
    )
    print(f"{compared} values recomputed, none differs")
