"""Runs on disk: a folder with one identity, complete or not there; and the tables read from them.

runs/<profile>/<run_id>/ holds run.json, train_log.csv, per_case.csv,
predictions.npz (class maps of the test volumes) and checkpoint.pt. While a run is
going its folder is called .<run_id>.partial. This module does not import torch.
"""

import fcntl
import glob
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from samatch.config.settings import RunConfig
from samatch.data.manifest import load_manifest, manifest_folders
from samatch.system import paths, repro
from samatch.system.errors import InputError, known, raise_all

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


class Run:
    """One run's folder. Its identity are the settings and the data:
    manifest (with each image's hash) and splits. Raises InputError
    where a complete run of other settings or data has the same name."""

    def __init__(self, config: RunConfig, trial: str = ""):
        self.config, self.trial = config, trial
        self.folder = run_folder(config)
        self.commit = (
            repro.commit()
        )  # of the code that starts the run, not of what stands there when it ends
        self.partial = self.folder.with_name(f".{config.run_id}.partial")
        manifest = load_manifest(config.dataset)
        self.identity = {
            "config_sha256": config.sha256(),
            "manifest_sha256": manifest.sha256,
            "splits_sha256": manifest.splits_sha256,
        }
        if self.complete:
            self._refuse_other(self.read())

    @property
    def status(self) -> str:
        """What run.json says when the run has ended: complete (a result) or trial."""
        return "trial" if self.trial else "complete"

    def _refuse_other(self, record: dict) -> None:
        if record["status"] != self.status:
            raise InputError(
                "trials and results do not share a folder",
                where=paths.shown(self.folder),
                expected=self.status,
                got=record["status"],
                do="give trials a folder of their own with SAMATCH_RUNS",
            )
        other = {
            key.removesuffix("_sha256"): record.get(key, "")
            for key, value in self.identity.items()
            if record.get(key) != value
        }
        if other:
            raise InputError(
                "a run of this name exists with other "
                + ("settings" if "config" in other else "data"),
                where=paths.shown(self.folder),
                expected=", ".join(f"{key} {self.identity[key + '_sha256'][:12]}" for key in other),
                got=", ".join(f"{key} {value[:12]}" for key, value in other.items()),
                do="delete that folder, or name the variant",
            )

    @property
    def complete(self) -> bool:
        """Whether the run has ended, as a result or as a trial."""
        return (self.folder / "run.json").exists()

    def read(self) -> dict:
        """The record (run.json) of a run that has ended."""
        return json.loads((self.folder / "run.json").read_text())

    def open(self, wait: bool = False) -> None:
        """Makes the partial folder and locks it, so that two processes
        never write one run; `wait` until the other one has ended."""
        self.partial.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.partial / "lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise InputError(
                "this run is being trained by another process",
                where=paths.shown(self.partial),
                do="wait for it, or stop it",
            ) from None

    def close(self) -> None:
        """Of a run that another process has completed meanwhile: leaves nothing behind."""
        shutil.rmtree(self.partial, ignore_errors=True)
        self._lock.close()

    def finish(self, facts: dict, log: pd.DataFrame, per_case: pd.DataFrame) -> None:
        """Writes the records and gives the folder its name: from then on the run is complete."""
        log.to_csv(self.partial / "train_log.csv", index=False, float_format="%.6g")
        per_case.insert(0, "run_id", self.config.run_id)
        per_case.to_csv(self.partial / "per_case.csv", index=False, float_format="%.6g")
        record = {
            "run_id": self.config.run_id,
            "status": self.status,
            "trial": self.trial,
            "config": self.config.to_dict(),
            **self.identity,
            "commit": self.commit,
            "versions": repro.versions(),
            "machine": repro.machine(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
        }
        write_text(self.partial / "run.json", json.dumps(record, indent=1, sort_keys=True))
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.partial.replace(self.folder)
        for leftover in ("state.pt", "lock"):
            (self.folder / leftover).unlink(missing_ok=True)
        self._lock.close()


def run_folder(config: RunConfig) -> Path:
    """Where a run lies when it has ended."""
    return paths.runs_dir(config.profile) / config.run_id


def complete_run(profile: str, run_id: str) -> tuple[Path, dict]:
    """Folder and record of a complete run on this machine.
    Raises InputError with those that there are."""
    found = {path.parent.name: path.parent for path in paths.runs_dir(profile).glob("*/run.json")}
    folder = found[known(run_id, found, f"complete run of profile {profile}")]
    return folder, json.loads((folder / "run.json").read_text())


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(f"{path.name}.partial{os.getpid()}")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            "cannot write a file",
            where=paths.shown(path),
            got=error.strerror,
            do="free some space and run again",
        ) from error


def read_table(path: Path) -> pd.DataFrame:
    """A results CSV: ids, names and hashes as the text that
    stands there, the other columns as numbers.

    Raises InputError where there is no such file.
    """
    if not path.exists():
        raise InputError(
            "a table of results is missing", where=paths.shown(path), do="run `make reproduce`"
        )
    numbers = pd.read_csv(path, nrows=0).columns.difference(TEXT_COLUMNS)
    return pd.read_csv(
        path,
        dtype=dict.fromkeys(TEXT_COLUMNS, str),
        keep_default_na=False,
        na_values=dict.fromkeys(numbers, ["", "nan", "NaN"]),
    )


def collect(profile: str, dataset: str, folder: Path | None = None) -> Path:
    """Gathers the complete runs of a profile and set into
    runs.csv, per_case.csv and train_log.csv, beside each run.json.

    A run that the folder holds already stays there, unless this machine has a run
    of the same name: that one replaces it. Which set a run is of stands in its
    own record: names of sets may begin alike. Trials are no results and stay out.
    """
    folder = folder or paths.output_dir(profile, dataset) / "results"
    named = paths.runs_dir(profile).glob(f"{glob.escape(dataset)}-*/run.json")
    found = [path for path in sorted(named) if _is_result_of(path, dataset)]
    if not found:
        raise InputError(
            f"no complete run of {dataset} in profile {profile}",
            where=paths.shown(paths.runs_dir(profile)),
            do="run `make reproduce`",
        )
    records = [json.loads(path.read_text()) for path in found]
    (folder / "run_json").mkdir(parents=True, exist_ok=True)
    for path, record in zip(found, records, strict=True):
        write_text(folder / "run_json" / f"{record['run_id']}.json", path.read_text())
    logs = [
        read_table(path.with_name("train_log.csv")).assign(run_id=record["run_id"])
        for path, record in zip(found, records, strict=True)
    ]
    fresh = {
        "runs": pd.DataFrame([_row(record) for record in records], columns=RUN_COLUMNS),
        "per_case": pd.concat([read_table(path.with_name("per_case.csv")) for path in found]),
        "train_log": pd.concat(logs),
    }
    left_out = {*fresh["runs"].run_id, *_foreign(folder, dataset)}
    for name, table in fresh.items():
        path = folder / f"{name}.csv"
        kept = [
            old[~old.run_id.isin(left_out)] for old in ([read_table(path)] if path.exists() else [])
        ]
        table = pd.concat([part for part in (*kept, table) if len(part)]).sort_values(
            "run_id", kind="stable"
        )
        write_text(path, table.to_csv(index=False, float_format="%.6g"))
    return folder


def _is_result_of(path: Path, dataset: str) -> bool:
    """Whether a run.json is of a result of this set, and not of a trial."""
    return _dataset_of(path) == dataset and json.loads(path.read_text())["status"] == "complete"


def _dataset_of(path: Path) -> str:
    """The data set of a run.json."""
    return json.loads(path.read_text())["config"]["dataset"]


def _foreign(folder: Path, dataset: str) -> list[str]:
    """Runs of other sets that an earlier version gathered
    into this folder; their copies of run.json go."""
    foreign = [
        path
        for path in sorted((folder / "run_json").glob("*.json"))
        if _dataset_of(path) != dataset
    ]
    for path in foreign:
        path.unlink()
    return [path.stem for path in foreign]


def _row(record: dict) -> dict:
    """A run's row of runs.csv."""
    config = record["config"]
    return {
        **{key: record.get(key, "") for key in RUN_COLUMNS},
        **{key: config[key] for key in ("method", "variant", "n_labeled", "seed")},
        "sam": config["sam_name"],
        "iterations": config["train"]["iterations"],
        "parents": " ".join(config["parents"]),
    }


def collect_trials(profile: str, dataset: str) -> pd.DataFrame:
    """One row per trial of a profile and set on this machine: what it asked, the
    settings in which the trials of its method differ, validation Dice (%) of what
    was trained and, where a SAM took part, of SAM and of the refined map."""
    rows = []
    for path in sorted(paths.runs_dir(profile).glob("*/run.json")):
        record = json.loads(path.read_text())
        if record["status"] != "trial" or record["config"]["dataset"] != dataset:
            continue
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
    found = {}
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
    tables = []
    for name in ("runs.csv", "per_case.csv"):
        if not (folder / name).exists():
            raise InputError(
                f"no results of {dataset} in profile {profile}",
                where=paths.shown(folder / name),
                do="run `make reproduce`",
            )
        tables.append(read_table(folder / name))
    runs, per_case = tables
    runs["manifest_sha256"] = todays(dataset, runs.manifest_sha256)
    raise_all(
        f"results of {dataset}, profile {profile}",
        result_faults(runs, per_case),
        "train the faulty runs again and collect",
    )
    return runs, with_mm(per_case)


def todays(dataset: str, hashes: pd.Series) -> pd.Series:
    """Hashes of cases.csv, today's in the place of earlier
    ones with the same images, labels and patients."""
    if dataset not in manifest_folders():
        return hashes
    manifest = load_manifest(dataset)
    return hashes.mask(hashes.isin(manifest.earlier_sha256), manifest.sha256)


def with_mm(per_case: pd.DataFrame) -> pd.DataFrame:
    """per_case with hd95_mm and asd_mm, which earlier
    records lack: hd95 and asd where these are in mm."""
    if "distance_unit" not in per_case:
        return per_case
    in_mm, none = per_case.distance_unit == "mm", pd.Series(float("nan"), per_case.index)
    found = {
        f"{name}_mm": per_case.get(f"{name}_mm", none).fillna(per_case[name].where(in_mm))
        for name in ("hd95", "asd")
    }
    return per_case.assign(**found)


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
            faults.append(f"runs of {runs[column].nunique()} different manifests ({column})")
    test = per_case[per_case.split == "test"]
    faults += _case_set_faults(
        test.groupby("run_id")[["case_id", "class"]].apply(
            lambda t: frozenset(map(tuple, t.values))
        )
    )
    return faults


def _case_set_faults(sets: Iterable) -> list[str]:
    if not len(sets):
        return []
    everything = frozenset().union(*sets)
    return [
        f"{run} lacks {len(everything - cases)} of {len(everything)} test results"
        for run, cases in sets.items()
        if cases != everything
    ]
