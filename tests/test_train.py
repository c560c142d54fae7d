"""The loop: resume, last weights, records, tuning, learning, the ablation grid."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from samatch.config.profiles import ABLATIONS, FROM_START
from samatch.config.settings import PROFILES, make_config
from samatch.data.batches import draw_batch
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.results import predictions, runs
from samatch.results.records import read_table
from samatch.results.runs import Run
from samatch.system import whole
from samatch.training import evaluate, metrics, states, train
from samatch.training.optimizers import learning_rate
from samatch.training.task import load_student, prepare
from tests.hand_made import bring_parents, differing_pixels, killed_after, started, tiny


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("variant, learns", [("box", False), ("", True)])
def test_what_a_batch_without_any_object_teaches_sam(tiny_profile, variant, learns):
    """Asked with boxes nothing, since there is none; asked with nothing, that all is background."""
    task, state, _ = started(tiny("finetune", variant=variant))
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
    whole = tiny()
    monkeypatch.setattr(metrics, "surface_distances", differing_pixels)
    bring_parents(complete, whole)
    with killed_after(5):
        train.train(whole)
    run = Run(whole)
    assert (
        not run.complete
        and torch.load(run.partial / "state.pt", weights_only=True)["iteration"] == 4
    )
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
        method: read_table(complete / tiny(method).run_id / "per_case.csv")
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


@pytest.mark.parametrize("split", predictions.MAPS)
def test_the_maps_that_a_run_keeps_are_those_that_were_measured(complete, split):
    folder, manifest = complete / tiny("samatch-fixmatch").run_id, load_manifest("phantom")
    file = runs.predictions_file(predictions.MAPS[split])
    maps, (labels, _) = whole.arrays(folder / file), predictions.labels_of(manifest)
    cases = read_table(folder / "per_case.csv")
    for row in cases[cases.split == split].to_dict("records"):
        again = predictions.measured(row, maps[row["case_id"]], labels, manifest)
        dice, _ = again["dice"]
        assert row["dice"] == pytest.approx(dice, abs=1e-6, nan_ok=True)
        assert row["n_pred"] == again["n_pred"][0]
    assert file in json.loads((folder / "run.json").read_text())["files_sha256"]


def test_a_sam_that_needs_boxes_is_measured_on_validation_alone(tiny_profile):
    record = train.train(tiny("finetune", variant="box"))
    folder = Run(tiny("finetune", variant="box")).folder
    assert record["config"]["sam"]["prompt_drop"] == 0
    assert (
        set(read_table(folder / "per_case.csv").split) == {"val"}
        and not (folder / "predictions.npz").exists()
    )


def test_the_network_that_is_kept_is_the_one_that_was_tested(complete, tiny_profile, monkeypatch):
    monkeypatch.setenv("SAMATCH_RUNS", str(complete.parent))
    run_config, manifest = tiny("fixmatch"), load_manifest("phantom")
    (volume,) = load_cases(manifest, manifest.cases_of(manifest.patients("test"))[:1])
    kept = np.load(complete / run_config.run_id / "predictions.npz")[volume.case.case_id]
    assert (
        evaluate.segment_with_student(load_student(run_config, 4), volume.image, 32) == kept
    ).all()


def test_the_checkpoint_holds_the_moving_average_as_student(tiny_profile):
    task, state, run = started(tiny("supervised"))
    for _ in range(2):
        train.train_one(task, state)
    kept, method = states.kept_weights(task.method)["student"], task.method
    assert equal(kept, method.ema.state_dict()) and not equal(kept, method.student.state_dict())
    assert set(states.network_state(method)) == {"student", "ema"}
    plain = prepare(tiny("supervised", variant="plain", overrides={"train.ema_decay": 0.0})).method
    assert plain.ema is None and equal(
        states.kept_weights(plain)["student"], plain.student.state_dict()
    )


def test_a_run_leaves_a_complete_record(tiny_profile):
    record = train.train(tiny("fixmatch"))
    folder = Run(tiny("fixmatch")).folder
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
        run_config = tiny(method, variant="whole", overrides=short)
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


def test_learning_rates_by_hand(tiny_profile):
    """Poly decay with power .9 over 100 steps; SAM's rises over 30 first."""
    run_config = tiny(
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
    task, state, run = started(tiny("supervised"))
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


def test_the_student_learns(tiny_profile):
    """Thirty iterations on three phantoms: the loss falls by a third."""
    run_config = tiny(
        "supervised", variant="longer", overrides={"train.iterations": 30, "train.log_every": 5}
    )
    train.train(run_config)
    loss = pd.read_csv(Run(run_config).folder / "train_log.csv").loss_sup.dropna()
    assert loss.iloc[-1] < 0.67 * loss.iloc[0]


def test_every_cell_of_the_ablation_grid_trains_with_its_own_parents(tiny_profile, monkeypatch):
    monkeypatch.setitem(PROFILES["demo"]["all"], "train.iterations", 2)
    monkeypatch.setitem(PROFILES["demo"]["all"], "train.val_every", 2)
    # Evaluation takes most of the time: none at the end, and validation on one volume.
    monkeypatch.setattr(train, "final_evaluation", lambda *_, **__: pd.DataFrame({"split": []}))
    measure = evaluate.dice_by_class
    monkeypatch.setattr(
        evaluate,
        "dice_by_class",
        lambda segment, volumes, classes: measure(segment, volumes[:1], classes),
    )
    trained = {
        variant: train.train(
            make_config("demo", "phantom", 1, "samatch-fixmatch", "tiny", variant=variant)
        )
        for variant in dict.fromkeys(cell.variant for cell in ABLATIONS)
    }
    assert len({record["config_sha256"] for record in trained.values()}) == len(trained) == 30
    sams = {
        variant: [
            parent.partition("finetune-tiny-s0")[2].removeprefix("-")
            for parent in record["config"]["parents"]
            if "finetune" in parent
        ]
        for variant, record in trained.items()
    }
    boxed = (
        "mask",
        "points",
        "margin0",
        "margin10",
        "published_background",
        "published_filter",
        "published_loss",
        "as_published",
    )
    own = ("box", "class_boxes", "sam_untuned", "sam_lora", "sam_all", "sam_random")
    assert {variant for variant, found in sams.items() if found == []} == {"no_sam", "no_sam_half"}
    assert {variant for variant, found in sams.items() if found == ["box"]} == {"box", *boxed}
    assert {
        variant: found for variant, found in sams.items() if found not in ([], [""], ["box"])
    } == {variant: [variant] for variant in own if variant != "box"} | {
        "guided_class_boxes": ["class_boxes"],
        "guided_weight2": ["class_boxes"],
        "guided_soft": ["class_boxes"],
    }
    students = {
        variant: next(run for run in record["config"]["parents"] if "-fixmatch-" in run)
        for variant, record in trained.items()
    }
    for variant in (
        FROM_START,
        "guided_thresh60",
        "guided_class_boxes",
        "guided_weight2",
        "guided_soft",
    ):
        assert students.pop(variant) == f"phantom-n1-fixmatch-s0-{FROM_START}"
    assert set(students.values()) == {"phantom-n1-fixmatch-s0"}
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
