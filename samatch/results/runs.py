"""Runs on disk: a folder with one identity, complete or not there.

runs/<profile>/<run_id>/ holds run.json, train_log.csv, per_case.csv, predictions.npz (class maps of
the test volumes), checkpoint.pt and, where one was asked for, film.npz. run.json lists the hashes
of the others and carries one of itself; records made before that list none, and are taken as they
are. While a run is going its folder is called .<run_id>.partial. This module does not import torch.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from samatch.config.profiles import PROFILES
from samatch.config.settings import RunConfig
from samatch.data.manifest import Manifest, load_manifest, manifest_folders
from samatch.system import paths, repro, whole
from samatch.system.errors import InputError, known

PREDICTIONS = "predictions.npz"
FILES = ("train_log.csv", "per_case.csv", PREDICTIONS, "checkpoint.pt")
FILM = "film.npz"  # grows while the run is going, and survives where it is cut off
# What a run leaves in its lock, and seconds in which the run then shows on every machine:
# NFS remembers what was not there for up to a minute.
COMPLETED = "complete"
PATIENCE = 90
POLL_SECONDS = 1.0  # between two looks whether another process has ended
SAY_EVERY = 180.0  # seconds between two lines about it


class Run:
    """One run's folder. Its identity are the settings and the data:
    manifest (with each image's hash) and splits. Raises InputError
    where a complete run of other settings or data has the same name."""

    def __init__(self, config: RunConfig, trial: str = ""):
        self.config, self.trial = config, trial
        self.folder = run_folder(config)
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
        return os.path.exists(self.folder / "run.json")

    def read(self) -> dict:
        """The record (run.json) of a run that has ended."""
        return read_record(self.folder / "run.json")

    def open(self, wait: bool = False) -> None:
        """Makes the partial folder and locks it, so that two processes never write one run;
        `wait` until the other one has ended, which is said at once and every few minutes.

        The lock holds across machines where the file system passes flock on: docs/scale.md.
        """
        paths.make_folder(self.partial, "SAMATCH_RUNS")
        try:
            self._lock = open(self.partial / "lock", "w+")
            # Of the code that starts the run, not that stands at its end.
            self.commit = repro.commit()
            self._take_lock(wait)
            if self._lock.read() == COMPLETED:
                self._until_complete()
            if not self.complete:
                self._refuse_file()
                self._clean()
        except OSError as error:
            raise InputError(
                "cannot write to a run's folder",
                where=self.partial,
                got=whole.reason(error),
                do="get the right to write there, or choose another folder with SAMATCH_RUNS",
            ) from error

    def _take_lock(self, wait: bool) -> None:
        start, said = time.monotonic(), 0
        while True:
            try:
                return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise InputError(
                        "this run is being trained by another process",
                        where=paths.shown(self.partial),
                        do="wait for it, or stop it",
                    ) from None
            except OSError as error:
                raise InputError(
                    "the file system of the runs keeps no locks",
                    where=paths.shown(self.partial),
                    got=whole.reason(error),
                    do="set SAMATCH_RUNS to a folder on one that does",
                ) from error
            waited = time.monotonic() - start
            if waited >= said * SAY_EVERY:
                so_far = f", for {waited / 60:.0f} min so far" if said else ""
                print(
                    f"waiting for {self.config.run_id}, in training elsewhere{so_far}", flush=True
                )
                said += 1
            time.sleep(POLL_SECONDS)

    def _until_complete(self) -> None:
        """Another machine's rename may show here later than the lock that it has let go."""
        until = time.monotonic() + PATIENCE
        while not self.complete and time.monotonic() < until:
            time.sleep(0.5)

    def _refuse_file(self) -> None:
        """Where the run's folder will be there may be a folder that has lost its run.json, which is
        said, and nothing else."""
        if self.folder.is_dir():
            print(
                f"{self.folder.name} has no run.json: it is trained anew, and the folder replaced"
            )
        elif os.path.lexists(self.folder):
            raise InputError(
                "a file lies where a run's folder belongs",
                where=paths.shown(self.folder),
                do="move it away",
            )

    def _clean(self) -> None:
        """Removes what an earlier try wrote at its end: it may be of another iteration than the
        state from which this one goes on."""
        for name in (*FILES, "run.json"):
            (self.partial / name).unlink(missing_ok=True)
        for leftover in (*self._beside(), *self.partial.glob("*.partial*")):
            leftover.unlink()

    def _beside(self) -> list[Path]:
        """Class maps beside the run's own predictions."""
        return sorted(self.partial.glob(predictions_file("*")))

    def close(self) -> None:
        """Of a run that another process has completed meanwhile: leaves nothing behind."""
        shutil.rmtree(self.partial, ignore_errors=True)
        self._lock.close()

    def release(self) -> None:
        """Lets go of the lock, so that the run can be trained again, by this process too."""
        self._lock.close()

    def finish(self, facts: dict, log: pd.DataFrame, per_case: pd.DataFrame) -> None:
        """Writes the records, with the hashes of all files, and gives the folder its name:
        from then on the run is complete."""
        per_case.insert(0, "run_id", self.config.run_id)
        for name, table in (("train_log", log), ("per_case", per_case)):
            text = table.to_csv(index=False, float_format="%.6g")
            whole.write_text(self.partial / f"{name}.csv", text)
        written = [self.partial / name for name in (*FILES, FILM)]
        written = [path for path in (*written, *self._beside()) if path.exists()]
        record = {
            "run_id": self.config.run_id,
            "status": self.status,
            "trial": self.trial,
            "config": self.config.to_dict(),
            **self.identity,
            "commit": self.commit,
            "versions": repro.versions(),
            "machine": repro.machine(),
            "boot": repro.boot(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
            "files_sha256": {path.name: repro.file_sha256(path) for path in written},
        }
        record["sha256"] = _record_sha256(record)
        whole.write_text(self.partial / "run.json", json.dumps(record, indent=1, sort_keys=True))
        if self.folder.exists():  # without a record: it was never complete, or has lost it
            shutil.rmtree(self.folder)
        self.partial.replace(self.folder)
        for leftover in (*self.folder.glob("state*.pt"), self.folder / "lock"):
            leftover.unlink(missing_ok=True)
        self._lock.write(COMPLETED)  # to those who wait for this lock
        self._lock.close()


def run_folder(config: RunConfig) -> Path:
    """Where a run lies when it has ended."""
    return paths.runs_dir(config.profile) / config.run_id


def complete_run(profile: str, run_id: str) -> tuple[Path, dict]:
    """Folder and record of a complete run on this machine. Raises InputError with those that there
    are, on a trial, which is no result, and on an unknown profile."""
    known(profile, PROFILES, "profile")
    found = {path.parent.name: path.parent for path in paths.runs_dir(profile).glob("*/run.json")}
    folder = found[known(run_id, found, f"complete run of profile {profile}")]
    record = read_record(folder / "run.json")
    if record["status"] != "complete":
        raise InputError(
            f"{run_id} is no result",
            where=paths.shown(folder),
            expected="complete",
            got=record["status"],
            do="name a run that was trained without --trial",
        )
    return folder, record


def read_record(path: Path) -> dict:
    """A run.json. Raises InputError where it is not what was written, or cannot be read."""
    record, problem = {}, whole.fault(path)
    if not problem:
        try:
            record = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            problem = f"it is no JSON ({whole.reason(error)})"
    if not problem and not (isinstance(record, dict) and {"status", "config"} <= record.keys()):
        problem = "it is no record of a run"
    if not problem and record.get("sha256", "") not in ("", _record_sha256(record)):
        problem = "it is not what was written (its sha256 is another)"
    if problem:
        raise InputError(
            "a run's record cannot be used",
            where=f"{path.parent.name}/{path.name}",
            got=problem,
            do="restore the file, or delete the run's folder and train it again",
        )
    return record


def classes_of(record: dict) -> tuple[str, ...]:
    """The classes that a run was trained on; those of its set's manifest where an earlier version
    did not record them."""
    return tuple(record.get("classes") or load_manifest(record["config"]["dataset"]).classes)


def refuse_other_data(record: dict, manifest: Manifest | None) -> None:
    """Raises InputError where a run was trained on other images, labels or splits than its set has
    now. Of a set without a manifest here (None), and by a record without hashes, nothing is
    known."""
    if manifest is None:
        return
    todays = {"manifest": manifest.sha256, "splits": manifest.splits_sha256}
    found = {name: record.get(f"{name}_sha256") or todays[name] for name in todays}
    if other := [name for name in todays if found[name] != todays[name]]:
        raise InputError(
            "a run was trained on other data than its set has now",
            where=record["run_id"],
            expected=", ".join(f"{name} {todays[name][:12]}" for name in other),
            got=", ".join(f"{name} {found[name][:12]}" for name in other),
            do="delete the run's folder and train it again",
        )


def manifest_of(dataset: str) -> Manifest | None:
    """The set's manifest, None where this machine has none."""
    return load_manifest(dataset) if dataset in manifest_folders() else None


def _record_sha256(record: dict) -> str:
    """Hash of everything in a record but this hash."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def file_of(folder: Path, name: str) -> Path:
    """The file `name` of a complete run, checked against the hash in the run's record. Raises
    InputError where it is not what was written, or cannot be read."""
    expected = read_record(folder / "run.json").get("files_sha256", {}).get(name, "")
    if problem := whole.fault(folder / name, expected):
        raise _unusable(folder / name, problem)
    return folder / name


def predictions_file(name: str = "") -> str:
    """Where a run keeps its class maps of the test cases: its own, or those of `name`, sam or
    refined, which per_case.csv calls split test_<name>."""
    return f"predictions_{name}.npz" if name else PREDICTIONS


def write_predictions(path: Path, predictions: dict[str, np.ndarray]) -> None:
    """Class maps (D, H, W) by case id, whatever its text, as an .npz file that np.load reads too.

    np.savez takes the ids as keywords and fails on a case that is called `file`.
    """

    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
            for case_id, label in predictions.items():
                with file.open(f"{case_id}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, label, allow_pickle=False)

    whole.write_whole(path, write, "predictions")


def read_predictions(folder: Path) -> dict[str, np.ndarray]:
    """The class maps (D, H, W) uint8 of a complete run's test volumes, by case id. Raises
    InputError where there are none or the file is not what was written."""
    try:
        return whole.arrays(file_of(folder, PREDICTIONS))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise _unusable(folder / PREDICTIONS, str(error)) from error


def _unusable(path: Path, problem: str) -> InputError:
    return InputError(
        "a file of a run cannot be used",
        where=f"{path.parent.name}/{path.name}",
        got=problem,
        do="restore the file, or delete the run's folder and train it again",
    )
