"""Kills short demo trainings of all four stages at random moments and compares what they end with.

    python -m tests.kills.run [--kills 6] [--seed 0] [--stages warm-up joint] [--into FILE]

Each stage is trained once without interruption. Then it is trained again and killed, by SIGKILL,
SIGTERM and SIGINT in turn, at a random moment after its folder was opened; the same training is
started until its run is complete, which is compared bit by bit (weights, per_case.csv,
train_log.csv), and begins anew until the stage has had its kills. One row a kill; those of other
stages stay in FILE. Ends with status 1 where a bit differs.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from samatch.config.settings import PROFILES, RunConfig, make_config
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.results.runs import Run
from samatch.system import whole
from samatch.training.train import train
from tests.conftest import shrink_demo
from tests.slurm.compare import equal

STAGES = {
    "warm-up": "supervised",
    "match": "fixmatch",
    "SAM fine-tuning": "finetune",
    "joint": "samatch-fixmatch",
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Processes that begin with the library imported: a kill cuts a training, not an import.
PROCESSES = multiprocessing.get_context("fork")


def settings(method: str) -> RunConfig:
    """Of one stage: the demo at the size of the unit tests, with more iterations."""
    return make_config("demo", "phantom", 3, method, "tiny")


def run_in(runs: Path, method: str) -> Run:
    """The stage's run in a folder of runs, which is that of every later training here."""
    os.environ["SAMATCH_RUNS"] = str(runs)
    return Run(settings(method))


def begin(method: str, run: Run, log: Path) -> tuple[multiprocessing.Process, float]:
    """A training in a process of its own, and when it had its folder or was complete."""
    process = PROCESSES.Process(target=train_into, args=(method, log))
    process.start()
    while process.is_alive() and not (run.partial / "lock").exists():
        time.sleep(0.01)
    return process, time.monotonic()


def train_into(method: str, log: Path) -> None:
    """Trains; what it says goes to the log."""
    with open(log, "ab", 0) as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    train(settings(method))


def reference(method: str, runs: Path, log: Path) -> float:
    """Trains the stage, after its parents, without interruption; seconds from the opening of its
    folder to the end."""
    process, start = begin(method, run_in(runs, method), log)
    finish(process, log)
    return time.monotonic() - start


def finish(process: multiprocessing.Process, log: Path) -> None:
    """Waits for a training that must end well."""
    process.join()
    if process.exitcode:
        raise SystemExit(f"error: a training failed:\n{log.read_text()[-2000:]}")


def saved_iteration(run: Run) -> int:
    """Of the state that the training will go on from; 0 where there is none."""
    path = run.partial / "state.pt"
    return torch.load(path, weights_only=True)["iteration"] if path.exists() else 0


def killed_on_the_way(
    method: str, run: Run, log: Path, moments: list[tuple[signal.Signals, float]]
) -> list[dict]:
    """Trains the stage to its end, with a row for each kill on the way. `moments` (signal, seconds
    after the opening) are used up from the front; one that came too late is set sooner."""
    rows = []
    while not run.complete:
        process, start = begin(method, run, log)
        if not moments:
            finish(process, log)
            continue
        number, seconds = moments[0]
        process.join(max(0.0, start + seconds - time.monotonic()))
        if process.is_alive():
            os.kill(process.pid, number)
            moments.pop(0)
            process.join()
            rows.append({"signal": number.name, "saved_iteration": saved_iteration(run)})
        else:
            moments[0] = number, seconds / 2
        finish_late(process, log, number)
    return rows


def finish_late(process: multiprocessing.Process, log: Path, number: signal.Signals) -> None:
    """A training ends well, by its signal, by SIGTERM's status, or by Python's for Ctrl-C."""
    if process.exitcode not in (0, -number, 128 + number, 1 if number == signal.SIGINT else 0):
        raise SystemExit(f"error: status {process.exitcode}:\n{log.read_text()[-2000:]}")


def stage_rows(stage: str, home: Path, kills: int, draw: random.Random) -> list[dict]:
    """One row for each kill of a stage."""
    method, log = STAGES[stage], home / "log"
    seconds = reference(method, home / "whole", log)
    shutil.copytree(home / "whole", home / "killed")  # with the parents
    uninterrupted = run_in(home / "whole", method).folder
    moments = [(SIGNALS[n % len(SIGNALS)], draw.uniform(0, seconds)) for n in range(kills)]
    rows, number = [], 0
    while moments:
        number += 1
        run = run_in(home / "killed", method)
        shutil.rmtree(run.folder, ignore_errors=True)
        found = killed_on_the_way(method, run, log, moments)
        same = equal(run.folder, uninterrupted)
        rows += [{"stage": stage, "training": number} | row | {"equal": same} for row in found]
        print(f"{stage}: {len(rows)} of {kills} kills, equal: {same}", flush=True)
        draw.shuffle(moments)
    return rows


def main() -> int:
    """Writes the table; 1 where a run that was killed ended with other bits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=6, help="of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--into", type=Path, default=Path("results/robustness/kills.csv"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # before the first fork
    with pytest.MonkeyPatch.context() as patch:
        shrink_demo(patch)
        PROFILES["demo"]["all"].update({"train.iterations": 20, "train.val_every": 10})
        load_cases(manifest := load_manifest("phantom"), manifest.cases)  # once for all
        for stage in args.stages:
            with tempfile.TemporaryDirectory() as home:
                draw = random.Random(f"{stage} {args.seed}")
                write(args.into, stage, stage_rows(stage, Path(home), args.kills, draw))
    table = pd.read_csv(args.into)
    table = table[table.stage.isin(args.stages)]
    print(f"{len(table)} kills, {(~table.equal).sum()} in trainings that ended with other bits")
    return int(not table.equal.all())


def write(into: Path, stage: str, rows: list[dict]) -> None:
    """Replaces the stage's rows of the table."""
    into.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    if into.exists():
        before = pd.read_csv(into)
        table = pd.concat([before[before.stage != stage], table])
    order = {name: number for number, name in enumerate(STAGES)}
    table = table.sort_values("stage", key=lambda names: names.map(order), kind="stable")
    whole.write_text(into, table.to_csv(index=False))


if __name__ == "__main__":
    sys.exit(main())
