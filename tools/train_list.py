"""Trains the runs of a list: `make runs LIST=file [LAUNCH="srun --gres=gpu:1"]`, see docs/scale.md.

A line of the list holds the arguments of one `samatch train`. Each run is one job: a process here,
or the same command behind the launcher's words. What a run starts from is trained once, as a job of
its own, before its children. A run that is complete is left alone, so that the same command does
what is missing.
"""

import argparse
import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from samatch.config.settings import RunConfig, parent_configs
from samatch.results.runs import PATIENCE, Run
from samatch.system import paths, whole
from samatch.system.errors import InputError
from samatch.training.lists import named, numbered, read_list

TRAIN = (sys.executable, "-W", "ignore", "-m", "samatch", "train", "--wait")
# What Slurm and the shell add around a training's own words; how Slurm says that a job was ended.
ECHO = re.compile(
    r"srun: error: .*(Exited with exit code|task .*: (Killed|Terminated)|Timed out waiting for job)"
    r"|Submitted batch job|slurmstepd.* CANCELLED|Terminated$|Killed$"
)
CANCELLED = re.compile(r"\*\*\* (?:STEP|JOB) .*CANCELLED AT \S+(?: DUE TO (.+?))? \*\*\*")


@dataclass
class Job:
    """One run of the list, or a parent of one.

    `run` is None where the line names no run, and `fault` says why, or why the training failed.
    `parents` are keys of other jobs; `note` says why a job was not started.
    """

    name: str
    words: list[str] = field(default_factory=list)
    run: Run | None = None
    parents: list[str] = field(default_factory=list)
    fault: str = ""
    note: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> str:
        """complete, failed or missing."""
        if self.fault:
            return "failed"
        return "complete" if self.run.complete else "missing"

    @property
    def log(self) -> Path:
        """What the job has said, in all its attempts."""
        return paths.runs_dir("logs") / self.run.config.profile / f"{self.name}.log"


def jobs_of(lines: Iterable[str], common: list[str]) -> dict[str, Job]:
    """The jobs of a list, parents before children; `common` words stand before those of every line.

    Blank lines and what follows a # are nothing. A line that names no run, or a run that an earlier
    line names with other settings, becomes a failed job: the others can be trained. Raises
    InputError where the list is empty.
    """
    jobs: dict[str, Job] = {}
    for number, line in numbered(lines):
        try:
            words, config, trial = named(line, common)
            _add(jobs, config, trial, words)
        except InputError as error:
            jobs[f"line {number}"] = Job(f"line {number}", fault=error.brief)
    return jobs


def _add(jobs: dict[str, Job], config: RunConfig, trial: str, words: list[str]) -> Job:
    """The job of a run; it and its missing parents join `jobs`."""
    run = Run(config, trial)
    name = config.run_id
    key = f"{config.profile} {name}"
    if key in jobs:
        if (jobs[key].run.identity, jobs[key].run.trial) != (run.identity, trial):
            raise InputError("two lines name one run with different settings", got=name)
        return jobs[key]
    parents = [] if run.complete else parent_configs(config)
    for parent in parents:
        _add(jobs, parent, trial, _words_of(parent, trial))
    names = [f"{parent.profile} {parent.run_id}" for parent in parents]
    jobs[key] = Job(name, words, run, names)
    return jobs[key]


def _words_of(config: RunConfig, trial: str) -> list[str]:
    """Arguments of `samatch train` for a run without overrides, as every parent is."""
    values = {
        "profile": config.profile,
        "dataset": config.dataset,
        "n-labeled": config.n_labeled,
        "method": config.method,
        "sam": config.sam_name,
        "seed": config.seed,
        "variant": config.variant,
        "trial": trial,
    }
    return [f"--{name}={value}" for name, value in values.items() if value != ""]


async def train_all(jobs: dict[str, Job], launch: list[str], at_once: int) -> None:
    """Trains every missing run, its parents before it, `at_once` at a time; returns at the end."""
    slots = asyncio.Semaphore(at_once)
    async with asyncio.TaskGroup() as group:
        for job in jobs.values():
            group.create_task(_follow(job, jobs, launch, slots))


async def _follow(
    job: Job, jobs: dict[str, Job], launch: list[str], slots: asyncio.Semaphore
) -> None:
    try:
        for parent in job.parents:
            await jobs[parent].ended.wait()
        async with slots:
            await _train(job, jobs, launch)
    except (OSError, InputError) as error:  # of this job alone: the others go on
        job.fault = error.brief if isinstance(error, InputError) else whole.reason(error)
        print(f"{job.status:9} {job.name}", flush=True)
    finally:
        job.ended.set()


async def _train(job: Job, jobs: dict[str, Job], launch: list[str]) -> None:
    """Trains a run that is missing and has its parents. Interrupted, it ends the process first."""
    if job.status != "missing":
        return
    if lacking := [jobs[name].name for name in job.parents if jobs[name].status != "complete"]:
        job.note = f"not started without {lacking[0]}"
        return
    start = _begin_log(job)
    with open(job.log, "ab") as log:
        process = await asyncio.create_subprocess_exec(
            *launch,
            *TRAIN,
            *job.words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=paths.ROOT,
            env=os.environ | _sbatch_log(job.log),
            start_new_session=True,
        )
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    # srun ends with 0, too, after a job was cancelled that would not stop.
    if status == 0 and not _cancelled(_lines_of(job.log, start)):
        await _until_complete(job)
    if not job.run.complete:
        job.fault = how_it_ended(status, _lines_of(job.log, start))
    print(f"{job.status:9} {job.name}", flush=True)


def _begin_log(job: Job) -> int:
    """Notes a new attempt at the end of the job's log and returns where in the file it begins."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "a") as log:
        log.write(f"# {time.strftime('%Y-%m-%d %H:%M:%S')} samatch train {shlex.join(job.words)}\n")
        return log.tell()


def _sbatch_log(log: Path) -> dict[str, str]:
    """Variables with which a job of sbatch writes to this log too; % begins a pattern there."""
    return {"SBATCH_OUTPUT": str(log).replace("%", "%%"), "SBATCH_OPEN_MODE": "append"}


async def _until_complete(job: Job) -> None:
    until = time.monotonic() + PATIENCE
    while not job.run.complete and time.monotonic() < until:
        await asyncio.sleep(0.5)


def _lines_of(log: Path, start: int) -> list[str]:
    """What an attempt has said that begins at `start`."""
    return log.read_bytes()[start:].decode(errors="replace").splitlines()


def _cancelled(lines: list[str]) -> str:
    """That Slurm has cancelled the job, and why where it says so; "" where it has not."""
    for line in reversed(lines):
        if found := CANCELLED.search(line):
            return f"cancelled ({found[1].lower()})" if found[1] else "cancelled"
    return ""


def how_it_ended(status: int, lines: list[str]) -> str:
    """Of a job without a complete run: cancelled or not, the signal or exit status, and the last
    message of the training, else of the launcher. Further lines of a message are indented."""
    messages = [line for line in lines if line.strip() and not line[0].isspace()]
    own = [line for line in messages if not ECHO.match(line)]
    cancelled, number = _cancelled(lines), -status if status < 0 else status - 128
    if number in set(signal.Signals):
        known = f"ended by {signal.Signals(number).name}"
    else:
        # 1 is Python's after an error, which its message tells.
        known = "" if status == 1 or (cancelled and not status) else f"exit status {status}"
    about = ", ".join(filter(None, [cancelled, known]))
    said = (own or ([] if about else messages) or [""])[-1]
    return ": ".join(filter(None, [about, said])) or f"exit status {status} and nothing said"


def report(jobs: dict[str, Job]) -> str:
    """One row a run: complete, missing, failed with log and last message; then the counts."""
    rows = []
    for status in ("complete", "missing", "failed"):
        for job in jobs.values():
            if job.status == status:
                rows.append(f"{status:9} {job.name}  {job.fault or job.note}".rstrip())
                rows += [f"{'':9} {job.log}"] if job.fault and job.run else []
    counts = [job.status for job in jobs.values()]
    numbers = [f"{counts.count(status)} {status}" for status in ("complete", "failed", "missing")]
    return "\n".join(["", *rows, ", ".join(numbers)])


def main(words: list[str] | None = None) -> int:
    """0 where every run is complete in the end, 1 where one is not, 130 after an interruption."""
    words = sys.argv[1:] if words is None else words
    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="After --: arguments that every line shares."
    )
    parser.add_argument("list", help="file with one line a run, - for standard input")
    parser.add_argument("--launch", default=os.environ.get("LAUNCH", ""), help="default: $LAUNCH")
    parser.add_argument("--side-by-side", type=int, default=2, help="jobs at once")
    args = parser.parse_args(words[:end])
    launch = shlex.split(args.launch)
    if launch and not shutil.which(launch[0], path=os.environ.get("PATH")):
        raise InputError("LAUNCH names no program", got=launch[0])
    if args.side_by_side < 1:
        raise InputError("SIDE_BY_SIDE is impossible", expected="1 or more", got=args.side_by_side)
    jobs = jobs_of(read_list(args.list), words[end + 1 :])
    return _work_off(jobs, launch, args.side_by_side)


def _work_off(jobs: dict[str, Job], launch: list[str], at_once: int) -> int:
    todo = sum(job.status == "missing" for job in jobs.values())
    print(f"{len(jobs)} runs with their parents, {todo} to train", flush=True)
    try:
        asyncio.run(train_all(jobs, launch, at_once))
    except KeyboardInterrupt:
        print(report(jobs))
        return 130
    print(report(jobs))
    return int(any(job.status != "complete" for job in jobs.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
