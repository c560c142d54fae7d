"""A list of trainings: each once, parents first, failures named, no shell in between."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import train_list  # noqa: E402

from samatch.config.settings import make_config  # noqa: E402
from samatch.results import records, runs  # noqa: E402
from samatch.results.runs import Run  # noqa: E402
from samatch.sam import embeddings  # noqa: E402
from tests.told import MACHINE, SETTINGS  # noqa: E402

ROOM = SETTINGS

COMMON = ["--profile", "demo", "--dataset", "phantom"]
# Stands for Slurm and the training behind it: notes its words in one line, fails for method ict and
# else leaves a complete run of the name that the words give.
LAUNCHER = r"""#!/bin/bash
line=$(printf '%s\037' "$@")
echo "$line" >>"$NOTES"
method= seed=0
while [ $# -gt 0 ]; do
    case "$1" in
        --method) method=$2 ;;
        --method=*) method=${1#*=} ;;
        --seed) seed=$2 ;;
        --seed=*) seed=${1#*=} ;;
    esac
    shift
done
if [ "$method" = ict ]; then
    printf 'Traceback\nValueError: broken on purpose\n  where: here\n'
    printf 'srun: error: n1: task 0: Exited with exit code 1\n'
    exit 1
fi
mkdir -p "$SAMATCH_RUNS/demo/phantom-n3-$method-s$seed"
cp "$RECORDS/$method-$seed" "$SAMATCH_RUNS/demo/phantom-n3-$method-s$seed/run.json"
"""


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """(launcher, function: words of each training that it was asked for since the last look)."""
    script, notes, kept = tmp_path / "launch.sh", tmp_path / "notes", tmp_path / "records"
    script.write_text(LAUNCHER)
    script.chmod(0o755)
    kept.mkdir()
    monkeypatch.setenv("NOTES", str(notes))
    monkeypatch.setenv("RECORDS", str(kept))
    for method in ("supervised", "fixmatch", "cps", "uamt"):
        for seed in (0, 1):
            config = make_config("demo", "phantom", 3, method, seed=seed)
            record = {"status": "complete", "config": {}, **Run(config).identity}
            (kept / f"{method}-{seed}").write_text(json.dumps(record))

    def asked():
        text = notes.read_text() if notes.exists() else ""
        notes.unlink(missing_ok=True)
        found = [line.split("\037")[:-1] for line in text.splitlines()]
        return [words[words.index("--wait") + 1 :] for words in found]

    return str(script), asked


def call(tmp_path, capsys, launcher, *lines, at_once=2):
    """(exit status, printed lines) of a list of these lines."""
    path = tmp_path / "list"
    path.write_text("\n".join(lines))
    words = [str(path), "--launch", launcher, "--side-by-side", str(at_once), "--", *COMMON]
    status = train_list.main(words)
    return status, capsys.readouterr().out.splitlines()


def test_each_line_is_trained_once_after_its_parent_and_a_second_call_trains_nothing(
    tmp_path, capsys, launch
):
    launcher, asked = launch
    lines = ["--method fixmatch", "# a remark", "", "--method cps", "--method fixmatch --seed 1"]
    status, said = call(tmp_path, capsys, launcher, *lines, at_once=5)
    trained = asked()
    assert status == 0 and said[-1] == "5 complete, 0 failed, 0 missing"
    parents = [
        [*(f"--{name}={value}" for name, value in zip(NAMES, values, strict=True))]
        for values in (
            ("demo", "phantom", 3, "supervised", 0),
            ("demo", "phantom", 3, "supervised", 1),
        )
    ]
    children = [COMMON + line.split() for line in (lines[0], lines[3], lines[4])]
    assert sorted(trained) == sorted(parents + children)
    for parent, child in ((0, 0), (0, 1), (1, 2)):
        assert trained.index(parents[parent]) < trained.index(children[child])
    assert call(tmp_path, capsys, launcher, *lines)[0] == 0 and asked() == []


NAMES = ("profile", "dataset", "n-labeled", "method", "seed")


def test_a_failing_line_is_named_stops_no_other_and_alone_is_trained_again(
    tmp_path, capsys, launch
):
    launcher, asked = launch
    lines = ["--method ict", "--method supervised --seed 1", "--method uamt", "--method uamd"]
    status, said = call(tmp_path, capsys, launcher, *lines, "--method 'open")
    assert status == 1 and len(asked()) == 4
    rows = {line.split()[1]: line for line in said if line.startswith("failed    phantom")}
    assert list(rows) == ["phantom-n3-ict-s0"]
    shown = next(number for number, line in enumerate(said) if "ValueError" in line)
    assert said[shown] == "failed    phantom-n3-ict-s0  ValueError: broken on purpose"
    log = Path(said[shown + 1].strip())
    assert log == tmp_path / "runs" / "logs" / "demo" / "phantom-n3-ict-s0.log"
    assert "broken on purpose" in log.read_text()
    assert any("line 4" in line and "unknown method: 'uamd'" in line for line in said)
    assert any("line 5" in line and "No closing quotation" in line for line in said)
    assert said[-1] == "3 complete, 3 failed, 0 missing"
    status, said = call(tmp_path, capsys, launcher, *lines)
    assert status == 1 and [words[-1] for words in asked()] == ["ict"]


def test_a_child_whose_parent_has_failed_is_missing_and_says_so(tmp_path, capsys, launch):
    launcher, asked = launch
    (tmp_path / "records" / "supervised-0").unlink()  # the parent's launch ends with an error
    status, said = call(tmp_path, capsys, launcher, "--method fixmatch")
    assert status == 1 and len(asked()) == 1
    assert "missing   phantom-n3-fixmatch-s0  not started without phantom-n3-supervised-s0" in said
    assert said[-1] == "0 complete, 1 failed, 1 missing"


STEP = "slurmstepd-n1: error: *** STEP 2.0 ON n1 CANCELLED AT 2026-11-28T06:11:53"
OWN = "x: stopped by SIGTERM after iteration 5 of 6"


@pytest.mark.parametrize(
    "status, said, row",
    [
        # As Slurm 22.05 says it: srun of a training that saves its state, and of one that hangs;
        # sbatch; a time limit; killed by the system's want of memory; cancelled while it waits.
        (143, f"{STEP} ***\nsrun: error: n1: task 0: Exited with exit code 143\n{OWN}\nTerminated",
         f"cancelled, ended by SIGTERM: {OWN}"),
        (0, f"begun\n{STEP} ***\nsrun: error: Timed out waiting for job step to complete",
         "cancelled: begun"),
        (1, f"Submitted batch job 4\n{STEP.replace('STEP 2.0', 'JOB 4')} ***", "cancelled"),
        (1, f"{STEP} DUE TO TIME LIMIT ***\n{OWN}", f"cancelled (time limit): {OWN}"),
        (137, "begun\nsrun: error: n1: task 0: Killed", "ended by SIGKILL: begun"),
        (0, "Submitted batch job 3", "exit status 0"),
        # Here: killed, `timeout`, an error, nothing said at all.
        (-9, "begun", "ended by SIGKILL: begun"),
        (124, OWN, f"exit status 124: {OWN}"),
        (1, "error: no such set\n  where: here", "error: no such set"),
        (1, "srun: error: Nodes are busy", "srun: error: Nodes are busy"),
        (1, "", "exit status 1 and nothing said"),
        (3, "", "exit status 3"),
    ],
)  # fmt: skip
def test_how_a_job_ended_is_said(status, said, row):
    assert train_list.how_it_ended(status, said.splitlines()) == row


@pytest.mark.parametrize(
    "ends, row",
    [
        ("kill -TERM $$; sleep 9", "ended by SIGTERM: begun"),
        ("exec timeout 0.1 sleep 9", "exit status 124: begun"),
        (f"echo '{STEP} ***'", "cancelled: begun"),  # at once: srun's status 0 is not waited for
    ],
)
def test_a_launcher_that_is_killed_times_out_or_cancels(tmp_path, capsys, ends, row):
    launcher = tmp_path / "launch.sh"
    launcher.write_text(f"#!/bin/bash\necho begun\n{ends}\n")
    launcher.chmod(0o755)
    status, said = call(tmp_path, capsys, str(launcher), "--method supervised")
    assert status == 1 and f"failed    phantom-n3-supervised-s0  {row}" in said


@pytest.mark.parametrize("place", ["logs", "launcher"])
def test_an_error_of_the_system_fails_one_job_and_the_others_go_on(
    place, tmp_path, capsys, launch, monkeypatch
):
    """A log that cannot be opened, a launcher that cannot be started for one line."""
    launcher, asked = launch
    if place == "logs":
        log = tmp_path / "runs" / "logs" / "demo" / "phantom-n3-supervised-s1.log"
        log.mkdir(parents=True)
        reason = "Is a directory"
    else:
        real, reason = asyncio.create_subprocess_exec, "Argument list too long"

        async def start(*words, **how):
            if "1" in words:
                raise OSError(7, reason)
            return await real(*words, **how)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    lines = ["--method fixmatch --seed 1", "--method supervised --seed 1", "--method uamt"]
    status, said = call(tmp_path, capsys, launcher, *lines)
    if place == "logs":
        assert f"failed    phantom-n3-supervised-s1  {reason}" in said
        assert said[-1] == "2 complete, 1 failed, 1 missing"
    else:
        assert f"failed    phantom-n3-fixmatch-s1  {reason}" in said
        assert said[-1] == "3 complete, 1 failed, 0 missing"
    assert status == 1 and "complete  phantom-n3-uamt-s0" in said


def test_words_of_a_line_reach_the_training_and_no_shell(tmp_path, capsys, launch):
    launcher, asked = launch
    question = f"does `touch {tmp_path}/a`; $(touch {tmp_path}/b) > {tmp_path}/c & 'it' help | * ?"
    line = '--method supervised --trial "' + question.replace("`", "\\`") + '"'
    call(tmp_path, capsys, launcher, line.replace("\\`", "`"))
    assert asked()[0][-1] == question
    assert not [name for name in "abc" if (tmp_path / name).exists()]


def test_one_run_under_two_settings_is_refused_before_it_is_trained(
    tmp_path, capsys, launch, monkeypatch
):
    monkeypatch.setattr(train_list, "PATIENCE", 0.0)  # the launcher leaves no run of a variant
    launcher, asked = launch
    lines = [f"--method supervised --variant x --set train.lr={lr}" for lr in ("0.1", "0.2", "0.1")]
    jobs = train_list.jobs_of(lines, COMMON)
    assert [job.name for job in jobs.values()] == ["phantom-n3-supervised-s0-x", "line 2"]
    assert "two lines name one run" in jobs["line 2"].fault
    status, said = call(tmp_path, capsys, launcher, *lines)
    assert status != 0 and any("two lines name one run" in line for line in said)
    assert all("train.lr=0.2" not in words for words in asked())


@pytest.mark.parametrize(
    "words, message, what",
    [
        (["nowhere"], "cannot read the list", "a list of runs that is not there"),
        (["/dev/null"], "holds no run", "a list without a run"),
        (["/dev/null", "--side-by-side", "0"], "SIDE_BY_SIDE", "SIDE_BY_SIDE=0"),
        (
            ["/dev/null", "--launch", "no_such_program x"],
            "no program",
            "LAUNCH that names no program",
        ),
    ],
)
def test_a_call_that_cannot_work_ends_with_one_message(words, message, what, told):
    with told(what, match=message):
        train_list.main(words)


def test_no_more_run_at_once_than_asked_and_an_interruption_ends_them(tmp_path):
    """Three trainings of a minute, two at once: the third has not begun when they are ended."""
    script = tmp_path / "sleep.sh"
    script.write_text(f"#!/bin/bash\necho $$ >>{tmp_path}/pids\nexec sleep 60\n")
    script.chmod(0o755)
    jobs = train_list.jobs_of([f"--method supervised --seed {n}" for n in (1, 2, 3)], COMMON)

    async def interrupted():
        work = asyncio.create_task(train_list.train_all(jobs, [str(script)], 2))
        while len((tmp_path / "pids").read_text().split() if started() else []) < 2:
            await asyncio.sleep(0.02)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    def started():
        return (tmp_path / "pids").exists()

    asyncio.run(interrupted())
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2 and not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert {job.status for job in jobs.values()} == {"missing"}


def test_one_who_waited_looks_until_the_other_machines_run_shows(monkeypatch):
    """NFS may say for a while that a folder is not there; the lock's content says that it is."""
    config = make_config("demo", "phantom", 3, "supervised")
    first, second = Run(config), Run(config)
    first.open()
    waiting = threading.Thread(target=second.open, args=(True,), daemon=True)
    waiting.start()
    while waiting.is_alive() and not hasattr(second, "_lock"):
        time.sleep(0.01)
    hidden = {"until": float("inf")}
    seen = Run.complete.fget
    monkeypatch.setattr(
        Run, "complete", property(lambda run: time.monotonic() > hidden["until"] and seen(run))
    )
    first.finish({}, pd.DataFrame({"iteration": [0]}), pd.DataFrame({"class": ["LV"]}))
    waiting.join(0.4)
    assert waiting.is_alive()
    hidden["until"] = 0
    waiting.join(60)
    assert not waiting.is_alive() and second.complete


def test_a_file_system_without_locks_is_called_that(monkeypatch, told):
    def unsupported(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(runs.fcntl, "flock", unsupported)
    with told("a file system of runs without locks", room=MACHINE, match="keeps no locks"):
        Run(make_config("demo", "phantom", 3, "supervised")).open()


def test_embeddings_that_another_process_has_mapped_are_not_replaced(tmp_path):
    path = tmp_path / "a.npy"
    embeddings._write(path, np.zeros(3))
    before = path.stat().st_ino
    embeddings._write(path, np.ones(3))
    assert path.stat().st_ino == before and list(tmp_path.iterdir()) == [path]


def test_two_machines_with_one_process_number_write_two_files(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)
    names, real = set(), Path.write_text

    def noted(path, text, **how):
        names.add(path.name)
        return real(path, text, **how)

    monkeypatch.setattr(Path, "write_text", noted)
    records.write_text(tmp_path / "runs.csv", "a")
    records.write_text(tmp_path / "runs.csv", "b")
    assert len(names) == 2 and [path.name for path in tmp_path.iterdir()] == ["runs.csv"]


def test_make_runs_hands_its_words_on(tmp_path):
    """Of the real Makefile: LIST and LAUNCH reach the program as they are, with their quotes."""
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" >{tmp_path}/words\necho "$LAUNCH" >>{tmp_path}/words\n'
    )
    fake.chmod(0o755)
    launch = "srun --comment='two words' --gres=gpu:1"
    subprocess.run(
        ["make", "-C", ROOT, "-o", ".venv/.installed", f"PY={fake}", "runs"]
        + ["LIST=a list", f"LAUNCH={launch}"],
        check=True,
        capture_output=True,
    )
    words = (tmp_path / "words").read_text().splitlines()
    assert words[2:] == ["tools/train_list.py", "--side-by-side", "50", "a list", launch]
