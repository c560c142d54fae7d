"""A training that cannot go on says why: broken weights, full disk, missing data, wrong names."""

import dataclasses
import resource

import numpy as np
import pandas as pd
import pytest
import torch

from samatch.__main__ import main
from samatch.config.settings import make_config
from samatch.data.manifest import load_manifest
from samatch.results import runs
from samatch.results.runs import Run
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.training import states, train
from samatch.training.task import prepare
from tests.hand_made import started, tiny
from tests.told import MACHINE

ROOM = MACHINE


def test_a_full_disk_during_a_checkpoint_leaves_nothing_half_written(tmp_path, told):
    """The limit on a file's size stands for a full disk:
    writing fails in the middle of the file."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "state.pt"
    states.save_whole({"x": torch.zeros(10)}, path)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with told("a full disk while a state is saved", match="cannot write a checkpoint"):
            states.save_whole({"x": torch.zeros(10**6)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert path.read_bytes() == before and list(tmp_path.glob("state*")) == [path]


def test_missing_data_ends_with_a_message_and_no_run(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--profile", "laptop", "--dataset", "acdc", "--method", "supervised"])
    assert "patient099_frame01 is missing" in str(stop.value) and "SAMATCH_DATA" in str(stop.value)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--method", "fixmach"], "unknown method"),
        (["--dataset", "acdcc"], "unknown data set"),
        (["--profile", "gpu"], "unknown profile"),
        (["--sam", "sam9"], "unknown SAM"),
        (["--n-labeled", "99"], "impossible label budget"),
        (["--seed", "-1"], "impossible seed"),
        (["--variant", "x", "--set", "train.lr={a"], "train.lr has no value"),
        (["--variant", "x", "--set", "train.lr=!!python/name:os.system"], "has no value"),
    ],
)
def test_unknown_names_end_with_a_message(tiny_profile, words, message):
    with pytest.raises(SystemExit, match=message):
        main(["train", *words])


def test_a_loss_that_is_not_finite_stops_the_run(tiny_profile, told):
    with told("a loss that is not finite", match="not finite") as error:
        train.train(tiny("supervised", variant="hot", overrides={"train.lr": 1e30}))
    manifest = load_manifest("phantom")
    labeled = [case.case_id for case in manifest.cases_of(manifest.labeled_patients(3))]
    assert any(case_id in str(error.value) for case_id in labeled)


@pytest.mark.parametrize(
    "step, checkpoint_every, kept", [(4, 2, 2), (5, 2, 4), (6, 2, 4), (6, 100, None)]
)
def test_broken_weights_are_never_saved_nor_complete(
    tiny_profile, monkeypatch, step, checkpoint_every, kept
):
    """The step that breaks the weights has a finite loss still,
    and no row of the log looks at the losses before the end."""
    run_config = tiny(
        "supervised",
        variant="broken",
        overrides={
            "train.checkpoint_every": checkpoint_every,
            "train.log_every": 100,
            "train.val_every": 100,
        },
    )
    real, taken = train.descend, []

    def breaking(output, optimizers):
        real(output, optimizers)
        taken.append(output)
        if len(taken) == step:
            with torch.no_grad():
                optimizers["student"].param_groups[0]["params"][3].view(-1)[0] = float("nan")

    monkeypatch.setattr(train, "descend", breaking)
    with pytest.raises(
        InputError, match="is not finite" if step == 5 else "the weights are not finite"
    ) as error:
        train.train(run_config)
    run = Run(run_config)
    assert run_config.run_id in str(error.value) and "learning rate" in str(error.value)
    assert not run.complete and not (run.partial / "checkpoint.pt").exists()
    if kept is None:
        assert not (run.partial / "state.pt").exists()
    else:
        state = torch.load(run.partial / "state.pt", weights_only=True)
        assert state["iteration"] == kept
        assert all(
            value.isfinite().all()
            for network in state["networks"].values()
            for value in network.values()
        )


def test_a_broken_moving_average_is_refused_too(tiny_profile, told):
    task, state, run = started(tiny("supervised"))
    state.save(run)
    next(task.method.ema.parameters()).data.fill_(float("inf"))
    with told("weights that are not finite", match="first ema.encoder.0.0.weight"):
        state.save(run)


def test_a_state_of_other_data_starts_anew_and_says_so(tiny_profile, monkeypatch, capsys):
    task, state, run = started(tiny("supervised"))
    train.train_one(task, state)
    state.save(run)
    assert (
        states.TrainingState.start(prepare(run.config), run).iteration == 1
        and "anew" not in capsys.readouterr().out
    )
    manifest = load_manifest("phantom")
    for changed in ({"splits_sha256": "other"}, {"sha256": "other"}):
        monkeypatch.setattr(
            runs,
            "load_manifest",
            lambda _, other=changed: dataclasses.replace(manifest, **other),
        )
        again = states.TrainingState.start(prepare(run.config), Run(run.config))
        assert again.iteration == 0 and [row["iteration"] for row in again.log] == [0]
        assert (
            f"{run.config.run_id}: the state of an interrupted run is of other settings or data"
            in capsys.readouterr().out
        )


@pytest.mark.parametrize("absent, mean", [((1,), 0.0), ((1, 2, 3), float("nan"))])
def test_a_validation_set_without_a_class_leaves_a_checkpoint(
    tiny_profile, monkeypatch, absent, mean
):
    """Nothing but background is predicted: classes that
    validation has score 0, the others nothing."""
    real = prepare

    def prepared(run_config):
        task = real(run_config)
        task.data.val = [
            dataclasses.replace(
                v, label=np.where(np.isin(v.label, absent), 0, v.label).astype(np.uint8)
            )
            for v in task.data.val
        ]
        task.segment = lambda volume: np.zeros_like(volume.label)
        return task

    monkeypatch.setattr(train, "prepare", prepared)
    run_config = tiny("supervised", variant="absent", overrides={"train.iterations": 1})
    record = train.train(run_config)
    assert record["val_dice"] == pytest.approx(mean, nan_ok=True) and record["status"] == "complete"
    kept = torch.load(Run(run_config).folder / "checkpoint.pt", weights_only=True)
    assert set(kept) == {"student"}
    last = pd.read_csv(Run(run_config).folder / "train_log.csv").iloc[-1]
    assert [np.isnan(last[f"val_dice_{name}"]) for name in ("RV", "MYO", "LV")] == [
        value in absent for value in (1, 2, 3)
    ]


@pytest.mark.parametrize("method", ["fixmatch", "samatch-fixmatch", "mean_teacher"])
def test_a_method_that_needs_unlabeled_images_is_refused_without_any(tiny_profile, method):
    """Before its parents are trained; supervised training and SAM's fine-tuning need none."""
    with pytest.raises(InputError, match="learns from unlabeled images") as error:
        train.train(make_config("demo", "phantom", 16, method, "tiny"))
    assert (
        "all 16 training patients labeled" in str(error.value)
        and not paths.runs_dir("demo").exists()
    )
    for other in ("supervised", "finetune"):
        train.check_names(make_config("demo", "phantom", 16, other, "tiny"))
    train.check_names(make_config("demo", "phantom", 15, method, "tiny"))
