"""Tables of records: one run's, those gathered from all runs of a set, and the checks on them.

A run's folder is samatch/results/runs.py's. This module does not import torch.
"""

import glob
import os
from pathlib import Path

import pandas as pd

from samatch.config.settings import RunConfig
from samatch.results.runs import file_of, manifest_of, read_record, refuse_other_data
from samatch.system import paths
from samatch.system.errors import InputError, raise_all
from samatch.system.whole import reason, write_text

KEY = ["run_id", "split", "case_id", "class"]
RUN_COLUMNS = [
    "run_id",
    "method",
    "sam",
    "variant",
    "n_labeled",
    "seed",
    "val_dice",
    "selected_iteration",
    "iterations",
    "seconds",
    "device",
    "commit",
    "manifest_sha256",
    "splits_sha256",
    "weights_sha256",
    "parents",
    "config_sha256",
]
# Never numbers and never missing: a patient may be called 007, 1e5 or NA, a commit may consist of
# digits.
TEXT_COLUMNS = (
    "run_id",
    "patient_id",
    "case_id",
    "class",
    "split",
    "method",
    "sam",
    "variant",
    "device",
    "commit",
    "manifest_sha256",
    "splits_sha256",
    "weights_sha256",
    "parents",
    "config_sha256",
    "distance_unit",
    "unit",
    "status",
    "comparison",
    "reference",
)
# Without these columns no table can be made of gathered results.
REQUIRED = {
    "runs": (*RUN_COLUMNS[:7], "manifest_sha256", "splits_sha256"),
    "per_case": (*KEY, "patient_id", "dice", "hd95", "asd", "hd95_mm", "asd_mm", "distance_unit"),
}
# Least and greatest value; a missing one is not defined.
BOUNDS = {"dice": (0, 1), "val_dice": (0, 1), "hd95": (0, 1e9), "asd": (0, 1e9)}


def read_table(path: Path) -> pd.DataFrame:
    """A results CSV: ids, names and hashes as the text that
    stands there, the other columns as numbers.

    Raises InputError where there is no such file, where it is no table, and where it is a run's
    and another one than its record lists.
    """
    if not os.path.exists(path):
        raise InputError(
            "a table of results is missing", where=paths.shown(path), do="run `make reproduce`"
        )
    if os.path.exists(path.with_name("run.json")):
        file_of(path.parent, path.name)
    try:
        numbers = pd.read_csv(path, nrows=0).columns.difference(TEXT_COLUMNS)
        return pd.read_csv(
            path,
            dtype=dict.fromkeys(TEXT_COLUMNS, str),
            keep_default_na=False,
            na_values=dict.fromkeys(numbers, ["", "nan", "NaN"]),
        )
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(
            "a table of results cannot be read",
            where=paths.shown(path),
            got=reason(error),
            do="restore the file, or train the run again and collect",
        ) from error


def collect(profile: str, dataset: str, folder: Path | None = None) -> Path:
    """Gathers the complete runs of a profile and set into
    runs.csv, per_case.csv and train_log.csv, beside each run.json.

    A run that the folder holds already stays there, unless this machine has a run of the same name:
    that one replaces it. Which set a run is of stands in its own record: names of sets may begin
    alike. Trials are no results and stay out. Raises InputError with every damaged file, and every
    run of other data than the set has now, at once.
    """
    folder = folder or paths.output_dir(profile, dataset) / "results"
    fresh, records = _fresh(profile, dataset)
    joined = {
        f"{name}.csv": _joined(folder / f"{name}.csv", table, fresh["runs"].run_id)
        for name, table in fresh.items()
    }
    paths.make_folder(folder / "run_json", "--into, or SAMATCH_OUT")
    for path, record in records.items():
        write_text(folder / "run_json" / f"{record['run_id']}.json", path.read_text())
    for name, table in joined.items():
        write_text(folder / name, table.to_csv(index=False, float_format="%.6g"))
    return folder


def _joined(path: Path, fresh: pd.DataFrame, replaced: pd.Series) -> pd.DataFrame:
    """The table that lies there, without the runs that are replaced, and the fresh rows."""
    if not path.exists():
        return fresh.sort_values("run_id", kind="stable")
    old = read_table(path)
    if "run_id" not in old:
        raise InputError(
            "a table of results is of something else",
            where=paths.shown(path),
            expected="a column run_id",
            got=", ".join(old.columns),
            do="restore the file, or move it away",
        )
    parts = [part for part in (old[~old.run_id.isin(replaced)], fresh) if len(part)] or [fresh]
    return pd.concat(parts).sort_values("run_id", kind="stable")


def _fresh(profile: str, dataset: str) -> tuple[dict[str, pd.DataFrame], dict[Path, dict]]:
    """The three tables of this machine's results of a set, and the record of each run.json."""
    records, rows, logs, cases, faults = {}, [], [], [], []
    manifest = manifest_of(dataset)
    for path in sorted(paths.runs_dir(profile).glob(f"{glob.escape(dataset)}-*/run.json")):
        try:
            record = read_record(path)
            row = _row(record, path)
            if record["config"]["dataset"] != dataset or record["status"] != "complete":
                continue
            refuse_other_data(record, manifest)
            log, of_cases = (
                read_table(path.with_name(f"{n}.csv")) for n in ("train_log", "per_case")
            )
            faults += [
                f"{path.parent.name}/per_case.csv: {fault}"
                for fault in column_faults("per_case", of_cases)
            ]
            logs.append(log.assign(run_id=record["run_id"]))
            cases.append(of_cases)
            rows.append(row)
            records[path] = record
        except InputError as error:
            faults.append(error.brief)
    raise_all(
        f"runs of {dataset} in profile {profile}",
        faults,
        "restore these files, or delete the runs' folders and train them again",
    )
    if not records:
        raise InputError(
            f"no complete run of {dataset} in profile {profile}",
            where=paths.shown(paths.runs_dir(profile)),
            do="run `make reproduce`",
        )
    tables = {
        "runs": pd.DataFrame(rows, columns=RUN_COLUMNS),
        "per_case": pd.concat(cases),
        "train_log": pd.concat(logs),
    }
    return tables, records


def _row(record: dict, path: Path) -> dict:
    """A run's row of runs.csv. Raises InputError on a record of an earlier version, which has no
    hash, that lacks something."""
    try:
        config = record["config"]
        return {
            **{key: record.get(key, "") for key in RUN_COLUMNS},
            **{key: config[key] for key in ("method", "variant", "n_labeled", "seed")},
            "run_id": record["run_id"],
            "sam": config["sam_name"],
            "iterations": config["train"]["iterations"],
            "parents": " ".join(config["parents"]),
        }
    except (KeyError, TypeError) as error:
        raise InputError(
            "a run's record cannot be used",
            where=f"{path.parent.name}/{path.name}",
            got=f"it lacks {error}" if isinstance(error, KeyError) else reason(error),
            do="restore the file, or delete the run's folder and train it again",
        ) from error


def write_csvs(folder: Path, tables: dict[str, pd.DataFrame]) -> list[Path]:
    """Writes tables as `<name>.csv`, six digits; returns the files."""
    files = [folder / f"{name}.csv" for name in tables]
    for path, table in zip(files, tables.values(), strict=True):
        write_text(path, table.to_csv(index=False, float_format="%.6g"))
    return files


def write_table(
    config: RunConfig, name: str, table: pd.DataFrame, into: Path | None = None
) -> Path:
    """Writes <name>.csv of what was drawn of a run, two decimals, to `into` or to this machine's
    results of its set; returns the file."""
    folder = into or paths.output_dir(config.profile, config.dataset) / "results"
    path = paths.make_folder(folder, "--into or SAMATCH_OUT") / f"{name}.csv"
    write_text(path, table.to_csv(index=False, float_format="%.2f"))
    return path


def collect_trials(profile: str, dataset: str) -> pd.DataFrame:
    """One row per trial of a profile and set on this machine: what it asked, the
    settings in which the trials of its method differ, validation Dice (%) of what
    was trained and, where a SAM took part, of SAM and of the refined map."""
    rows, manifest = [], manifest_of(dataset)
    for path in sorted(paths.runs_dir(profile).glob("*/run.json")):
        record = read_record(path)
        if record["status"] != "trial" or record["config"]["dataset"] != dataset:
            continue
        refuse_other_data(record, manifest)
        cases = read_table(path.with_name("per_case.csv"))
        dice = 100 * cases.groupby("split").dice.mean()
        by_class = 100 * cases[cases.split == "val"].groupby("class", sort=False).dice.mean()
        rows.append(
            {
                "run_id": record["run_id"],
                "asks": record["trial"],
                "method": record["config"]["method"],
                "settings": _flat(record["config"]),
                "val_dice": dice.get("val"),
                **by_class.add_prefix("val_dice_"),
                "val_dice_sam": dice.get("val_sam"),
                "val_dice_refined": dice.get("val_refined"),
                "minutes": record["seconds"] / 60,
                "finished": record["finished"],
            }
        )
    if not rows:
        raise InputError(
            f"no trial of {dataset} in profile {profile}",
            where=paths.shown(paths.runs_dir(profile)),
            do="train one with --trial QUESTION",
        )
    table = pd.DataFrame(rows).sort_values("finished", ignore_index=True)
    return table.assign(settings=_differing(table))


def _flat(config: dict) -> dict[str, object]:
    """Dotted name -> value of every setting of a run's groups."""
    groups = {
        "method" if name == "method_settings" else name: group
        for name, group in config.items()
        if isinstance(group, dict)
    }
    return {
        f"{name}.{key}": value for name, group in groups.items() for key, value in group.items()
    }


def _differing(trials: pd.DataFrame) -> list[str]:
    """Of each trial, the settings in which the trials of its method are not all the same."""
    found: dict[str, str] = {}
    for _, group in trials.groupby("method"):
        names = sorted(set().union(*group.settings))
        differ = [
            name
            for name in names
            if len({str(settings.get(name)) for settings in group.settings}) > 1
        ]
        found |= {
            run: " ".join(f"{name}={settings[name]}" for name in differ if name in settings)
            for run, settings in zip(group.run_id, group.settings, strict=True)
        }
    return [found[run] for run in trials.run_id]


def read_results(
    profile: str, dataset: str, folder: Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, per_case) of a results folder, checked. Raises InputError with every fault at once."""
    folder = folder or paths.results_dir(profile, dataset)
    found, faults = {}, []
    for name in REQUIRED:
        path = folder / f"{name}.csv"
        if not path.exists():
            raise InputError(
                f"no results of {dataset} in profile {profile}",
                where=paths.shown(path),
                do="run `make reproduce`",
            )
        found[name] = read_table(path)
        faults += [f"{path.name}: {fault}" for fault in column_faults(name, found[name])]
    raise_all(
        f"results of {dataset}, profile {profile}", faults, "restore the file, or collect again"
    )
    runs, per_case = found.values()
    raise_all(
        f"results of {dataset}, profile {profile}",
        result_faults(runs, per_case),
        "train the faulty runs again and collect",
    )
    return runs, per_case


def column_faults(name: str, table: pd.DataFrame) -> list[str]:
    """Columns that runs or per_case lacks, texts among its numbers, numbers that cannot be."""
    lacking = [f"column {column} is missing" for column in REQUIRED[name] if column not in table]
    numbers = table.drop(columns=table.columns.intersection(TEXT_COLUMNS))
    texts = numbers.columns.difference(numbers.select_dtypes("number").columns)
    faults = lacking + [f"column {column} holds texts" for column in texts]
    for column, (low, high) in BOUNDS.items():
        if column in table and column not in texts:
            strange = numbers[column][(numbers[column] < low) | (numbers[column] > high)]
            faults += [f"{column} {value} cannot be" for value in strange[:1]]
    for column in ("n_labeled", "seed"):
        if column in table and column not in texts and numbers[column].dtype.kind not in "iu":
            faults.append(f"{column} must be whole numbers")
    return faults


def result_faults(runs: pd.DataFrame, per_case: pd.DataFrame) -> list[str]:
    """Duplicate keys, runs without cases, cases without a
    run, different case sets, mixed manifests."""
    faults = [f"run {run} is listed twice" for run in runs.loc[runs.run_id.duplicated(), "run_id"]]
    doubles = per_case[per_case.duplicated(KEY)]
    faults += [
        f"{row.run_id}: case {row.case_id}, class {row['class']} "
        f"is listed twice in split {row.split}"
        for _, row in doubles.iterrows()
    ]
    faults += [
        f"run {run} has no cases: it is incomplete"
        for run in sorted(set(runs.run_id) - set(per_case.run_id))
    ]
    faults += [
        f"cases of {run}, but no such run"
        for run in sorted(set(per_case.run_id) - set(runs.run_id))
    ]
    for column in ("manifest_sha256", "splits_sha256"):
        if runs[column].nunique() > 1:
            of_each = runs.groupby(column, sort=False).run_id.first()
            found = ", ".join(f"{hash[:12]} ({run}, ...)" for hash, run in of_each.items())
            faults.append(f"runs of {len(of_each)} different manifests ({column}): {found}")
    test = per_case[per_case.split == "test"]
    faults += _case_set_faults(
        test.groupby("run_id")[["case_id", "class"]].apply(
            lambda t: frozenset(map(tuple, t.values))
        )
    )
    return faults


def _case_set_faults(sets: pd.Series) -> list[str]:
    if not len(sets):
        return []
    everything = frozenset().union(*sets)
    return [
        f"{run} lacks {len(everything - cases)} of {len(everything)} test results"
        for run, cases in sets.items()
        if cases != everything
    ]
