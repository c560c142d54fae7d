"""Runs of one name: trained once, locked, waited for, refused; trials beside results."""

import json
import threading

import pandas as pd
import pytest
import torch

from samatch.results.records import read_table
from samatch.results.runs import Run
from samatch.system.errors import InputError
from samatch.training import states, train
from samatch.training.task import prepare
from tests.hand_made import tiny
from tests.told import MACHINE, SETTINGS

ROOM = MACHINE


def test_a_second_call_trains_nothing(tiny_profile, monkeypatch):
    train.train(tiny("supervised"))
    monkeypatch.setattr(train, "prepare", lambda *_: pytest.fail("trained again"))
    assert train.train(tiny("supervised"))["status"] == "complete"


def test_same_name_other_settings_is_refused(tiny_profile, told):
    train.train(tiny("supervised", variant="x", overrides={"train.lr": 0.02}))
    with told(
        "a run trained before with other settings",
        room=SETTINGS,
        match="exists with other settings",
    ):
        train.train(tiny("supervised", variant="x", overrides={"train.lr": 0.03}))


def test_two_processes_cannot_train_one_run(tiny_profile, told):
    first, second = Run(tiny("supervised")), Run(tiny("supervised"))
    first.open()
    with told("two processes on one run", match="another process"):
        second.open()


def test_a_training_that_failed_can_be_tried_again_while_its_traceback_is_kept(
    tiny_profile, monkeypatch
):
    def fail(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "prepare", fail)
    kept = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt) as error:
            train.train(tiny("supervised"))
        kept.append(error)


def test_a_child_waits_for_the_parent_that_another_process_trains(tiny_profile, monkeypatch):
    parent, child = Run(tiny("supervised")), tiny("fixmatch")
    parent.open()  # the other process
    waiting = threading.Thread(target=train.train, args=(child,), daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive() and not Run(child).partial.exists()
    prepared = prepare(parent.config)
    torch.save(states.network_state(prepared.method), parent.partial / "checkpoint.pt")
    parent.finish(
        {"val_dice": 0.5}, pd.DataFrame({"iteration": [0]}), pd.DataFrame({"class": ["LV"]})
    )
    waiting.join(600)  # as long as a busy machine needs
    assert (
        Run(child).complete
        and Run(parent.config).read()["val_dice"] == 0.5
        and not parent.partial.exists()
    )


def test_a_trial_and_its_parents_never_read_the_test_split(tiny_profile, monkeypatch, told):
    run_config = tiny("fixmatch", variant="asked", overrides={"train.iterations": 2})
    asked, real = [], train.load_cases
    monkeypatch.setattr(train, "load_cases", lambda *words: asked.append(words) or real(*words))
    record = train.train(run_config, trial="does it help?")
    assert record["status"] == "trial" and record["trial"] == "does it help?" and asked == []
    for trial in (run_config, tiny("supervised")):
        folder = Run(trial, "does it help?").folder
        assert (
            set(read_table(folder / "per_case.csv").split) == {"val"}
            and not (folder / "predictions.npz").exists()
        )
        assert json.loads((folder / "run.json").read_text())["status"] == "trial"
    with told("a trial and a result under one name", match="do not share a folder", room=SETTINGS):
        train.train(run_config)


def test_what_another_process_has_completed_meanwhile_is_checked(tiny_profile, monkeypatch):
    """While a result waits for the lock the other process
    ends, and what it has trained is a trial."""
    real = Run.open

    def late(run, wait=False):
        other = Run(run.config, "asks")
        real(other)
        other.finish(
            {"val_dice": 0.5}, pd.DataFrame({"iteration": [0]}), pd.DataFrame({"class": ["LV"]})
        )
        real(run, wait)

    monkeypatch.setattr(Run, "open", late)
    with pytest.raises(InputError, match="trials and results do not share a folder"):
        train.train(tiny("supervised"))
