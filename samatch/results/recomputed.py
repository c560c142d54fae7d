"""Every number of the tracked tables once more, from rows of per_case.csv and plain formulae.

A function a table: it returns rows, dict of column -> value, that ought to stand in the CSV file.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samatch.data.manifest import Manifest
from samatch.results import formulae
from samatch.results.formulae import mean, means_by, number

UNIT_COLUMNS = {"patient": "patient_id", "volume": "case_id"}
DISTANCES = ("hd95", "asd")
WAYS = {"student": "test", "sam": "test_sam", "refined": "test_refined"}
Rows = list[dict[str, str]]


def read_rows(path: Path) -> Rows:
    """Rows of a CSV file, as text; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


@dataclass(frozen=True)
class Records:
    """What a results folder holds, as text: rows of runs.csv and per_case.csv, names of the runs.

    `names` (run_id -> name) is the summary's: the files of tests name their runs in this way.
    """

    runs: Rows
    per_case: Rows
    names: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Records":
        """Of results/<profile>/<set>."""
        rows = read_rows(folder / "per_case.csv")
        names = {row["run_id"]: row["method"] for row in read_rows(folder / "summary.csv")}
        return cls(read_rows(folder / "runs.csv"), rows, names)

    def of(self, run_id: str, split: str = "test") -> Rows:
        """The rows of one run and split."""
        return [row for row in self.per_case if (row["run_id"], row["split"]) == (run_id, split)]

    @property
    def tested(self) -> Rows:
        """The runs that have test results."""
        have = {row["run_id"] for row in self.per_case if row["split"] == "test"}
        return [run for run in self.runs if run["run_id"] in have]


def summary(records: Records) -> list[dict]:
    """Means over patients, each the mean over their cases and classes; Dice in percent."""
    return [_summary_row(run, records.of(run["run_id"])) for run in records.tested]


def _summary_row(run: dict[str, str], rows: Rows) -> dict:
    units = sorted({row["distance_unit"] for row in rows})
    dice = [100 * value for value in means_by(rows, "patient_id", "dice").values()]
    found = {
        "run_id": run["run_id"],
        "val_dice": 100 * number(run["val_dice"]),
        "dice": mean(dice),
        "dice_sd": formulae.deviation(dice),
        "unit": " and ".join(units),
        "undefined": sum(math.isnan(number(row["hd95"])) for row in rows),
        "n": len(dice),
        "seed": run["seed"],
    }
    for name, value in means_by(rows, "class", "dice").items():
        found[f"dice_{name}"] = 100 * value
    for name in DISTANCES:
        by_patient = means_by(rows, "patient_id", name).values()
        found[name] = mean(by_patient) if len(units) == 1 else math.nan
        found[f"{name}_mm"] = mean(means_by(rows, "patient_id", f"{name}_mm").values())
    return found


def scores(records: Records, metric: str, unit: str) -> dict[str, dict[str, float]]:
    """run_id -> patient or volume -> mean score on the test split; NaN where units are mixed."""
    rows = [row for row in records.per_case if row["split"] == "test"]
    mixed = metric in DISTANCES and len({row["distance_unit"] for row in rows}) > 1
    found = {}
    for run in sorted({row["run_id"] for row in rows}):
        mine = means_by(records.of(run), UNIT_COLUMNS[unit], metric)
        found[run] = dict.fromkeys(mine, math.nan) if mixed else mine
    return found


def right_where_absent(records: Records) -> Records:
    """For tests: Dice 1 of a run that leaves an absent class empty, where another run does not."""
    rows = [row for row in records.per_case if row["split"] == "test"]
    invented = {
        (row["case_id"], row["class"]) for row in rows if not math.isnan(number(row["dice"]))
    }
    return Records(
        records.runs,
        [
            row | {"dice": "1"}
            if math.isnan(number(row["dice"])) and (row["case_id"], row["class"]) in invented
            else row
            for row in rows
        ],
        records.names,
    )


def differences(mine: dict[str, float], other: dict[str, float], units: list[str]) -> np.ndarray:
    """Mine minus other for every unit; NaN where one of both has none."""
    return np.array([mine.get(unit, math.nan) - other.get(unit, math.nan) for unit in units])


def wilcoxon(records: Records, tracked: Rows) -> list[dict]:
    """The tests of the families that `tracked` names, over seeds where it has such a column."""
    found = []
    for key, comparisons in families(tracked).items():
        reference, metric, unit, seeds = key
        by_run = scores(right_where_absent(records), metric, unit)
        units = sorted(set().union(*by_run.values()))
        of = {name: _score(records, by_run, name, seeds) for name in (reference, *comparisons)}
        rows = formulae.family(
            {name: differences(of[reference], of[name], units) for name in comparisons}
        )
        about = {"reference": reference, "metric": metric, "unit": unit}
        found += [row | about | ({"seeds": seeds} if seeds else {}) for row in rows]
    return found


def families(tracked: Rows) -> dict[tuple, list[str]]:
    """(reference, metric, unit, seeds) -> names of its comparisons; seeds "" where there is one."""
    found: dict[tuple, list[str]] = {}
    for row in tracked:
        key = (row["reference"], row["metric"], row["unit"], row.get("seeds", ""))
        found.setdefault(key, []).append(row["comparison"])
    return found


def _score(records: Records, by_run: dict, name: str, seeds: str) -> dict[str, float]:
    """Unit -> score of the run of that name, or its mean over the runs of these seeds."""
    if not seeds:
        ids = [run for run, own in records.names.items() if own == name]
    else:
        ids = [runs_by_seed(records, name).get(seed, "") for seed in seeds.split()]
    known = [by_run[run] for run in ids if run in by_run]
    return {unit: mean([run.get(unit, math.nan) for run in known]) for unit in set().union(*known)}


def runs_by_seed(records: Records, name: str) -> dict[str, str]:
    """Seed -> run_id of the runs whose name is `name` but for the seed."""
    found = {}
    for run in records.runs:
        own = records.names.get(run["run_id"], "").replace(f", seed {run['seed']}", "")
        if own == name:
            found[run["seed"]] = run["run_id"]
    return found


def seeds(records: Records, tracked: Rows) -> list[dict]:
    """Mean and spread over the seeds of every method that `tracked` names."""
    dice = {run: 100 * mean(of.values()) for run, of in scores(records, "dice", "patient").items()}
    val = {run["run_id"]: 100 * number(run["val_dice"]) for run in records.runs}
    found = []
    for name in [row["method"] for row in tracked]:
        of = runs_by_seed(records, name)
        values = [dice[run] for run in of.values()]
        found.append(
            {
                "method": name,
                "seeds": " ".join(sorted(of, key=int)),
                "val_dice": mean([val[run] for run in of.values()]),
                "dice": mean(values),
                "dice_sd_over_seeds": formulae.deviation(values),
                "lowest": min(values, default=math.nan),
                "highest": max(values, default=math.nan),
            }
        )
    return found


def sam_at_test_time(records: Records) -> list[dict]:
    """Test Dice (%) of the student, of SAM, and of both together, for the runs that asked SAM."""
    found = []
    for run in records.tested:
        by_split = {
            way: means_by(records.of(run["run_id"], split), "patient_id", "dice")
            for way, split in WAYS.items()
        }
        if not by_split["sam"]:
            continue
        patients = sorted(set().union(*by_split.values()))
        row = {way: 100 * mean(values.values()) for way, values in by_split.items()}
        for way in ("sam", "refined"):
            gains = differences(by_split[way], by_split["student"], patients)
            row[f"{way}_difference"] = 100 * mean(gains)
        found.append({"run_id": run["run_id"], **row, "n": len(patients)})
    return found


def clinical(records: Records, manifest: Manifest) -> list[dict]:
    """Bland and Altman's numbers of the ventricle's volumes (ml) and ejection fraction (%)."""
    ml = {case.case_id: math.prod(case.spacing) / 1000 for case in manifest.cases if case.spacing}
    found = []
    for run in records.tested:
        volumes: dict[tuple, float] = {}  # (patient, frame, side) -> ml
        for row in records.of(run["run_id"]):
            if row["class"] == manifest.clinical["ventricle"]:
                frame = row["case_id"].rsplit("_", 1)[1]
                for side in ("n_pred", "n_ref"):
                    volume = number(row[side]) * ml[row["case_id"]]
                    volumes[row["patient_id"], frame, side] = volume or math.nan
        found += _agreement(run["run_id"], volumes, manifest)
    return found


def _agreement(run_id: str, volumes: dict[tuple, float], manifest: Manifest) -> list[dict]:
    patients = sorted({patient for patient, _, _ in volumes})
    pairs: dict[str, dict[str, list[float]]] = {}
    for side in ("n_pred", "n_ref"):
        ed, es = (
            [volumes[patient, manifest.clinical[phase], side] for patient in patients]
            for phase in ("ed", "es")
        )
        fraction = [100 * (large - small) / large for large, small in zip(ed, es, strict=True)]
        for measure, values in (("EDV", ed), ("ESV", es), ("EF", fraction)):
            pairs.setdefault(measure, {})[side] = values
    rows = []
    for measure, of in pairs.items():
        gaps = [pred - ref for pred, ref in zip(of["n_pred"], of["n_ref"], strict=True)]
        row = {"run_id": run_id, "measure": measure, "mean_ref": mean(of["n_ref"])}
        rows.append(row | formulae.limits_of_agreement(gaps))
    return rows


def groups(records: Records, manifest: Manifest) -> list[dict]:
    """Mean and deviation of Dice (%) over the patients of every diagnosis."""
    group_of = {case.patient_id: case.group for case in manifest.cases}
    found = []
    for run in records.tested:
        dice = means_by(records.of(run["run_id"]), "patient_id", "dice")
        for group in sorted({group_of[patient] for patient in dice} - {""}):
            mine = [100 * dice[patient] for patient in dice if group_of[patient] == group]
            about = {"run_id": run["run_id"], "group": group, "n": len(mine)}
            found.append(about | {"dice": mean(mine), "dice_sd": formulae.deviation(mine)})
    return found


def pooled(folders: dict[str, Path], dataset: str) -> Records:
    """The test rows of all folds (name -> folder) together, of the runs that every fold has."""
    rows: list[dict] = []
    runs: dict[str, list[dict]] = {}
    for fold, folder in folders.items():
        of_fold = Records.read(folder)
        for run in of_fold.runs:
            run_id = f"{dataset}_folds-{run['run_id'].removeprefix(f'{fold}-')}"
            runs.setdefault(run_id, []).append(run)
            for split in ("test", "test_sam", "test_refined"):
                mine = of_fold.of(run["run_id"], split)
                rows += [row | {"run_id": run_id, "fold": fold} for row in mine]
    whole = {run_id for run_id, parts in runs.items() if len(parts) == len(folders)}
    together = []
    for run_id in sorted(whole):
        val_dice = mean([number(run["val_dice"]) for run in runs[run_id]])
        together.append(runs[run_id][0] | {"run_id": run_id, "val_dice": repr(val_dice)})
    return Records(together, [row for row in rows if row["run_id"] in whole], {})
