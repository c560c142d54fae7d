"""The loop: resume, last weights, records, trials, locks, broken weights, full disk."""

import dataclasses
import json
import resource
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
import torch

from samatch.__main__ import main
from samatch.config.profiles import ABLATIONS
from samatch.config.settings import PROFILES, make_config
from samatch.data.batches import draw_batch
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.results import runs
from samatch.results.records import read_table
from samatch.results.runs import Run
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.training import evaluate, metrics, states, train
from samatch.training.optimizers import learning_rate
from samatch.training.task import load_student, prepare
from tests.conftest import shrink_demo
from tests.told import MACHINE, SETTINGS

ROOM = MACHINE


def config(method="samatch-fixmatch", **changes):
    return make_config("demo", "phantom", 3, method, "tiny", **changes)


class Killed(Exception):
    pass


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def differing_pixels(pred, ref, spacing):
    """In the place of surface distances, which take most of
    the time of a short training: changes with every pixel."""
    return float((pred ^ ref).sum()), float(pred.sum())


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Folder of the runs of a complete SAM-Match and its
    parents: trained once, for the tests that only read them."""
    home = tmp_path_factory.mktemp("complete")
    with pytest.MonkeyPatch.context() as patch:
        shrink_demo(patch)
        patch.setenv("SAMATCH_RUNS", str(home))
        patch.setattr(metrics, "surface_distances", differing_pixels)
        torch.set_num_threads(1)
        train.train(config())
    return home / "demo"


def started(run_config, trial=""):
    """A run's task and its first state."""
    run = Run(run_config, trial)
    run.open()
    task = prepare(run_config)
    return task, states.TrainingState.start(task, run), run


def bring_parents(complete, run_config):
    """Copies a run's parents, so that they need not be trained again."""
    for parent in run_config.parents:
        shutil.copytree(complete / parent, paths.runs_dir("demo") / parent)


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("variant, learns", [("box", False), ("", True)])
def test_what_a_batch_without_any_object_teaches_sam(tiny_profile, variant, learns):
    """Asked with boxes nothing, since there is none; asked with nothing, that all is background."""
    task, state, _ = started(config("finetune", variant=variant))
    weight, real = task.method.sam.mask_decoder.iou_token.weight, task.method.labels.clone()
    before = weight.detach().clone()
    task.method.labels.zero_()
    train.train_one(task, state)
    assert torch.equal(weight, before) is not learns
    task.method.labels.copy_(real)
    train.train_one(task, state)
    assert not torch.equal(weight, before)


def test_a_killed_and_resumed_training_ends_with_the_same_weights(
    complete, tiny_profile, monkeypatch
):
    """Killed after iteration 5, one past a saved state:
    student, SAM, log and test results are those of one go."""
    whole = config()
    monkeypatch.setattr(metrics, "surface_distances", differing_pixels)
    bring_parents(complete, whole)
    one = train.train_one

    def killed_at_five(task, state):
        if state.iteration == 5:
            raise Killed
        one(task, state)

    monkeypatch.setattr(train, "train_one", killed_at_five)
    with pytest.raises(Killed):
        train.train(whole)
    run = Run(whole)
    assert (
        not run.complete
        and torch.load(run.partial / "state.pt", weights_only=True)["iteration"] == 4
    )
    monkeypatch.setattr(train, "train_one", one)
    train.train(whole)
    expected, found = checkpoint(complete / whole.run_id), checkpoint(run.folder)
    assert set(expected) == {"student", "sam"} and all(
        equal(expected[name], found[name]) for name in expected
    )
    for name in ("train_log.csv", "per_case.csv"):
        assert (run.folder / name).read_text() == (complete / whole.run_id / name).read_text()


def test_sam_is_tested_as_it_is_asked(complete, tiny_profile):
    """SAM-Match: SAM's own map and the refined one beside the
    student's. SAM alone: without a prompt on the test patients, and
    with the reference's boxes, no prediction, on validation only."""
    splits = {
        method: read_table(complete / config(method).run_id / "per_case.csv")
        .groupby("split")
        .size()
        .to_dict()
        for method in ("samatch-fixmatch", "finetune", "fixmatch")
    }
    val, test = (
        3 * len(load_manifest("phantom").cases_of(load_manifest("phantom").patients(name)))
        for name in ("val", "test")
    )
    assert splits["samatch-fixmatch"] == {
        "val": val,
        "val_sam": val,
        "val_refined": val,
        "test": test,
        "test_sam": test,
        "test_refined": test,
    }
    assert splits["finetune"] == {"val": val, "val_reference_boxes": val, "test": test}
    assert splits["fixmatch"] == {"val": val, "test": test}


def test_a_sam_that_needs_boxes_is_measured_on_validation_alone(tiny_profile):
    record = train.train(config("finetune", variant="box"))
    folder = Run(config("finetune", variant="box")).folder
    assert record["config"]["sam"]["prompt_drop"] == 0
    assert (
        set(read_table(folder / "per_case.csv").split) == {"val"}
        and not (folder / "predictions.npz").exists()
    )


def test_the_network_that_is_kept_is_the_one_that_was_tested(complete, tiny_profile, monkeypatch):
    monkeypatch.setenv("SAMATCH_RUNS", str(complete.parent))
    run_config, manifest = config("fixmatch"), load_manifest("phantom")
    (volume,) = load_cases(manifest, manifest.cases_of(manifest.patients("test"))[:1])
    kept = np.load(complete / run_config.run_id / "predictions.npz")[volume.case.case_id]
    assert (
        evaluate.segment_with_student(load_student(run_config, 4), volume.image, 32) == kept
    ).all()


def test_the_checkpoint_holds_the_moving_average_as_student(tiny_profile):
    task, state, run = started(config("supervised"))
    for _ in range(2):
        train.train_one(task, state)
    kept, method = states.kept_weights(task.method)["student"], task.method
    assert equal(kept, method.ema.state_dict()) and not equal(kept, method.student.state_dict())
    assert set(states.network_state(method)) == {"student", "ema"}
    plain = prepare(
        config("supervised", variant="plain", overrides={"train.ema_decay": 0.0})
    ).method
    assert plain.ema is None and equal(
        states.kept_weights(plain)["student"], plain.student.state_dict()
    )


def test_a_run_leaves_a_complete_record(tiny_profile):
    record = train.train(config("fixmatch"))
    folder = Run(config("fixmatch")).folder
    assert record == json.loads((folder / "run.json").read_text())
    assert record["status"] == "complete" and record["config"]["parents"] == [
        "phantom-n3-supervised-s0"
    ]
    for key in (
        "commit",
        "versions",
        "device",
        "seconds",
        "manifest_sha256",
        "splits_sha256",
        "selection_rule",
        "config_sha256",
    ):
        assert record[key], key
    cases = pd.read_csv(folder / "per_case.csv")
    assert (cases[cases.split == "test"].groupby("class").size() == 16).all()
    log = pd.read_csv(folder / "train_log.csv")
    assert log.val_dice.iloc[-1] == pytest.approx(record["val_dice"], rel=1e-4)
    assert log.iteration.iloc[-1] == record["selected_iteration"] == 6
    assert not list(folder.parent.glob(".*partial"))


def test_the_whole_sam_can_be_tuned_without_a_cache(complete, tiny_profile, monkeypatch):
    """tune=all, as in the paper profile: views are encoded
    on the fly, in fine-tuning and in joint training."""
    monkeypatch.setattr(metrics, "surface_distances", differing_pixels)
    short = {"sam.tune": "all", "train.iterations": 2, "train.val_every": 2, "train.image_size": 64}
    for method in ("finetune", "samatch-fixmatch"):
        run_config = config(method, variant="whole", overrides=short)
        bring_parents(complete, run_config)
        assert train.train(run_config)["status"] == "complete"
        task = prepare(run_config)
        batch = draw_batch(
            task.data.pool,
            task.data.n_labeled_slices,
            run_config,
            torch.Generator().manual_seed(0),
            0,
            bool(task.data.unlabeled),
        )
        task.method.step(batch).losses["sam"].backward()
        assert task.method.sam.image_encoder[0].weight.grad.abs().sum() > 0


def test_a_second_call_trains_nothing(tiny_profile, monkeypatch):
    train.train(config("supervised"))
    monkeypatch.setattr(train, "prepare", lambda *_: pytest.fail("trained again"))
    assert train.train(config("supervised"))["status"] == "complete"


def test_same_name_other_settings_is_refused(tiny_profile, told):
    train.train(config("supervised", variant="x", overrides={"train.lr": 0.02}))
    with told(
        "a run trained before with other settings",
        room=SETTINGS,
        match="exists with other settings",
    ):
        train.train(config("supervised", variant="x", overrides={"train.lr": 0.03}))


def test_two_processes_cannot_train_one_run(tiny_profile, told):
    first, second = Run(config("supervised")), Run(config("supervised"))
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
            train.train(config("supervised"))
        kept.append(error)


def test_a_child_waits_for_the_parent_that_another_process_trains(tiny_profile, monkeypatch):
    parent, child = Run(config("supervised")), config("fixmatch")
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
        train.train(config("supervised", variant="hot", overrides={"train.lr": 1e30}))
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
    run_config = config(
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
    task, state, run = started(config("supervised"))
    state.save(run)
    next(task.method.ema.parameters()).data.fill_(float("inf"))
    with told("weights that are not finite", match="first ema.encoder.0.0.weight"):
        state.save(run)


def test_learning_rates_by_hand(tiny_profile):
    """Poly decay with power .9 over 100 steps; SAM's rises over 30 first."""
    run_config = config(
        variant="x", overrides={"train.iterations": 100, "train.lr": 0.01, "sam.lr": 0.003}
    )
    student, sam = (
        {t: learning_rate(run_config, name, t) for t in (0, 14, 29, 50, 75)}
        for name in ("student", "sam")
    )
    assert student[0] == 0.01 and student[50] == pytest.approx(0.01 * 0.535887, rel=1e-5)
    assert student[75] == pytest.approx(0.01 * 0.287175, rel=1e-5)
    assert sam[0] == pytest.approx(0.003 / 30) and sam[14] == pytest.approx(0.003 / 2 * 0.86**0.9)
    assert sam[29] == pytest.approx(0.003 * 0.71**0.9) and sam[75] == pytest.approx(
        0.003 * 0.287175, rel=1e-5
    )


def test_every_generator_goes_on_where_it_was(tiny_profile, monkeypatch):
    """The device's generators are saved beside the CPU's and
    the run's own; a second CPU generator stands in for one."""
    task, state, run = started(config("supervised"))
    second = torch.Generator().manual_seed(11)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [second.get_state()])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: second.set_state(states[0]))

    def draws():
        return [torch.rand(3, generator=generator) for generator in (None, state.generator, second)]

    draws()
    state.save(run)
    expected = draws()
    draws()
    state.load(torch.load(run.partial / "state.pt", weights_only=True), torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(draws(), expected, strict=True))


def test_a_state_of_other_data_starts_anew_and_says_so(tiny_profile, monkeypatch, capsys):
    task, state, run = started(config("supervised"))
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
    run_config = config("supervised", variant="absent", overrides={"train.iterations": 1})
    record = train.train(run_config)
    assert record["val_dice"] == pytest.approx(mean, nan_ok=True) and record["status"] == "complete"
    assert set(checkpoint(Run(run_config).folder)) == {"student"}
    last = pd.read_csv(Run(run_config).folder / "train_log.csv").iloc[-1]
    assert [np.isnan(last[f"val_dice_{name}"]) for name in ("RV", "MYO", "LV")] == [
        value in absent for value in (1, 2, 3)
    ]


def test_a_trial_and_its_parents_never_read_the_test_split(tiny_profile, monkeypatch, told):
    run_config = config("fixmatch", variant="asked", overrides={"train.iterations": 2})
    asked, real = [], train.load_cases
    monkeypatch.setattr(train, "load_cases", lambda *words: asked.append(words) or real(*words))
    record = train.train(run_config, trial="does it help?")
    assert record["status"] == "trial" and record["trial"] == "does it help?" and asked == []
    for trial in (run_config, config("supervised")):
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
        train.train(config("supervised"))


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


def test_the_student_learns(tiny_profile):
    """Thirty iterations on three phantoms: the loss falls by a third."""
    run_config = config(
        "supervised", variant="longer", overrides={"train.iterations": 30, "train.log_every": 5}
    )
    train.train(run_config)
    loss = pd.read_csv(Run(run_config).folder / "train_log.csv").loss_sup.dropna()
    assert loss.iloc[-1] < 0.67 * loss.iloc[0]


def test_every_cell_of_the_ablation_grid_trains_with_its_own_parents(tiny_profile, monkeypatch):
    monkeypatch.setitem(PROFILES["demo"]["all"], "train.iterations", 2)
    monkeypatch.setitem(PROFILES["demo"]["all"], "train.val_every", 2)
    monkeypatch.setattr(
        train, "final_evaluation", lambda *_, **__: pd.DataFrame({"split": []})
    )  # surface distances take most of the time
    trained = {
        variant: train.train(
            make_config("demo", "phantom", 1, "samatch-fixmatch", "tiny", variant=variant)
        )
        for variant in dict.fromkeys(cell.variant for cell in ABLATIONS)
    }
    assert len({record["config_sha256"] for record in trained.values()}) == len(trained) == 27
    sams = {
        variant: [
            parent.partition("finetune-tiny-s0")[2].removeprefix("-")
            for parent in record["config"]["parents"]
            if "finetune" in parent
        ]
        for variant, record in trained.items()
    }
    boxed = (
        "box_consensus",
        "mask",
        "points",
        "margin0",
        "margin10",
        "published_background",
        "published_filter",
        "published_loss",
        "as_published",
    )
    own = ("box", "sam_untuned", "sam_lora", "sam_all", "sam_random")
    assert {variant for variant, found in sams.items() if found == []} == {"no_sam", "no_sam_half"}
    assert {variant for variant, found in sams.items() if found == ["box"]} == {"box", *boxed}
    assert {
        variant: found for variant, found in sams.items() if found not in ([], [""], ["box"])
    } == {variant: [variant] for variant in own if variant != "box"}
    assert all(
        "phantom-n1-fixmatch-s0" in record["config"]["parents"] for record in trained.values()
    )
    assert [
        trained[variant]["selected_iteration"] for variant in ("", "half_joint", "no_sam_half")
    ] == [2, 1, 1]
    counts = {
        variant: trained[variant]["trainable_parameters"]["sam"]
        for variant in ("", "sam_frozen", "sam_untuned", "sam_lora", "sam_all")
    }
    assert (
        counts["sam_frozen"]
        == counts["sam_untuned"]
        == 0
        < counts[""]
        <= counts["sam_lora"]
        < counts["sam_all"]
    )
