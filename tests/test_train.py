"""The loop: resume, selection, records, locks, full disk."""

import json
import resource
import threading

import pandas as pd
import pytest
import torch

from samatch import train
from samatch.config import PROFILES, make_config
from samatch.data import draw_batch
from samatch.errors import InputError
from samatch.profiles import ABLATIONS
from samatch.records import Run
from samatch.task import prepare


def config(method="samatch-fixmatch", **changes):
    return make_config("demo", "phantom", 3, method, "tiny", **changes)


class Killed(Exception):
    pass


def checkpoint(run_config):
    return torch.load(Run(run_config).folder / "checkpoint.pt", weights_only=True)


def test_a_batch_without_any_object_teaches_sam_nothing(tiny_profile):
    run = Run(config("finetune"))
    run.open()
    task = prepare(run.config)
    state = train.TrainingState.start(task, run)
    weight, real = task.method.sam.mask_decoder.iou_token.weight, task.method.labels.clone()
    before = weight.detach().clone()
    task.method.labels.zero_()
    train.train_one(task, state)
    assert torch.equal(weight, before)
    task.method.labels.copy_(real)
    train.train_one(task, state)
    assert not torch.equal(weight, before)


def test_a_killed_and_resumed_training_ends_with_the_same_weights(tiny_profile, monkeypatch, tmp_path):
    """Killed after iteration 5, one past a saved state: student, SAM, log and test results are those of one go."""
    whole = config()
    train.train(whole)
    expected, log = checkpoint(whole), (Run(whole).folder / "train_log.csv").read_text()
    cases = (Run(whole).folder / "per_case.csv").read_text()

    monkeypatch.setenv("SAMATCH_RUNS", str(tmp_path / "second"))
    for parent in train.parent_configs(whole):
        train.train(parent)
    one = train.train_one

    def killed_at_five(task, state):
        if state.iteration == 5:
            raise Killed
        one(task, state)

    monkeypatch.setattr(train, "train_one", killed_at_five)
    with pytest.raises(Killed):
        train.train(whole)
    assert not Run(whole).complete and (Run(whole).partial / "state.pt").exists()
    monkeypatch.setattr(train, "train_one", one)
    train.train(whole)
    found = checkpoint(whole)
    for network in ("student", "sam"):
        for name, value in expected[network].items():
            assert torch.equal(value, found[network][name]), f"{network}.{name}"
    assert (Run(whole).folder / "train_log.csv").read_text() == log
    assert (Run(whole).folder / "per_case.csv").read_text() == cases


def test_a_run_leaves_a_complete_record(tiny_profile):
    record = train.train(config("fixmatch"))
    folder = Run(config("fixmatch")).folder
    assert record == json.loads((folder / "run.json").read_text())
    assert record["status"] == "complete" and record["config"]["parents"] == ["phantom-n3-supervised-s0"]
    for key in ("commit", "versions", "device", "seconds", "manifest_sha256", "splits_sha256", "selection_rule", "config_sha256"):
        assert record[key], key
    cases = pd.read_csv(folder / "per_case.csv")
    assert (cases[cases.split == "test"].groupby("class").size() == 16).all()
    log = pd.read_csv(folder / "train_log.csv")
    assert log.val_dice.iloc[-1] == pytest.approx(record["val_dice"], rel=1e-4)
    assert log.iteration.iloc[-1] == record["selected_iteration"] == 6
    assert not list(folder.parent.glob(".*partial"))


def test_the_whole_sam_can_be_tuned_without_a_cache(tiny_profile):
    """tune=all, as in the paper profile: views are encoded on the fly, in fine-tuning and in joint training."""
    short = {"sam.tune": "all", "train.iterations": 2, "train.val_every": 2, "train.image_size": 64}
    for method in ("finetune", "samatch-fixmatch"):
        run_config = config(method, variant="whole", overrides=short)
        assert train.train(run_config)["status"] == "complete"
        task = prepare(run_config)
        batch = draw_batch(task.data.pool, task.data.n_labeled_slices, run_config, torch.Generator().manual_seed(0), 0, bool(task.data.unlabeled))
        task.method.step(batch).losses["sam"].backward()
        assert task.method.sam.image_encoder[0].weight.grad.abs().sum() > 0


def test_a_second_call_trains_nothing(tiny_profile, monkeypatch):
    train.train(config("supervised"))
    monkeypatch.setattr(train, "prepare", lambda *_: pytest.fail("trained again"))
    assert train.train(config("supervised"))["status"] == "complete"


def test_same_name_other_settings_is_refused(tiny_profile):
    train.train(config("supervised", variant="x", overrides={"train.lr": 0.02}))
    with pytest.raises(InputError, match="exists with other settings"):
        train.train(config("supervised", variant="x", overrides={"train.lr": 0.03}))


def test_two_processes_cannot_train_one_run(tiny_profile):
    first, second = Run(config("supervised")), Run(config("supervised"))
    first.open()
    with pytest.raises(InputError, match="another process"):
        second.open()


def test_a_child_waits_for_the_parent_that_another_process_trains(tiny_profile, monkeypatch):
    parent, child = Run(config("supervised")), config("fixmatch")
    parent.open()  # the other process
    waiting = threading.Thread(target=train.train, args=(child,), daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive() and not Run(child).partial.exists()
    prepared = prepare(parent.config)
    torch.save(train.network_state(prepared.method), parent.partial / "checkpoint.pt")
    parent.finish({"val_dice": 0.5}, pd.DataFrame({"iteration": [0]}), pd.DataFrame({"class": ["LV"]}))
    waiting.join(60)
    assert Run(child).complete and Run(parent.config).read()["val_dice"] == 0.5 and not parent.partial.exists()


def test_a_full_disk_during_a_checkpoint_leaves_nothing_half_written(tmp_path):
    """The limit on a file's size stands for a full disk: writing fails in the middle of the file."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "state.pt"
    train.save_whole({"x": torch.zeros(10)}, path)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(InputError, match="cannot write a checkpoint"):
            train.save_whole({"x": torch.zeros(10**6)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert path.read_bytes() == before and list(tmp_path.glob("state*")) == [path]


def test_missing_data_ends_with_a_message_and_no_run(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--profile", "laptop", "--dataset", "acdc", "--method", "supervised"])
    assert "patient099_frame01 is missing" in str(stop.value) and "SAMATCH_DATA" in str(stop.value)


@pytest.mark.parametrize("words, message", [(["--method", "fixmach"], "unknown method"), (["--dataset", "acdcc"], "unknown data set"),
                                            (["--profile", "gpu"], "unknown profile"), (["--sam", "sam9"], "unknown SAM"),
                                            (["--n-labeled", "99"], "impossible label budget")])
def test_unknown_names_end_with_a_message(tiny_profile, words, message):
    with pytest.raises(SystemExit, match=message):
        train.main(words)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_profile):
    with pytest.raises(InputError, match="not finite"):
        train.train(config("supervised", variant="hot", overrides={"train.lr": 1e30}))


def test_the_student_learns(tiny_profile):
    """Thirty iterations on three phantoms: the loss falls by a third."""
    run_config = config("supervised", variant="longer", overrides={"train.iterations": 30, "train.log_every": 5})
    train.train(run_config)
    loss = pd.read_csv(Run(run_config).folder / "train_log.csv").loss_sup.dropna()
    assert loss.iloc[-1] < 0.67 * loss.iloc[0]


def test_every_cell_of_the_ablation_grid_trains_with_its_own_parents(tiny_profile, monkeypatch):
    monkeypatch.setitem(PROFILES["demo"]["all"], "train.iterations", 2)
    monkeypatch.setitem(PROFILES["demo"]["all"], "train.val_every", 2)
    monkeypatch.setattr(train, "final_evaluation", lambda *_, **__: pd.DataFrame({"split": []}))  # surface distances take most of the time
    records = {variant: train.train(make_config("demo", "phantom", 1, "samatch-fixmatch", "tiny", variant=variant))
               for variant in dict.fromkeys(cell.variant for cell in ABLATIONS)}
    assert len({record["config_sha256"] for record in records.values()}) == len(records) == 33
    changed = {variant: [parent for parent in record["config"]["parents"] if parent.endswith(variant)] for variant, record in records.items() if variant}
    assert {variant for variant, parents in changed.items() if parents} == {
        "no_class_token", "sam_half_size", "sam_untuned", "sam_lora", "sam_all", "sam_random", "half_warm_up"}
    counts = {variant: records[variant]["trainable_parameters"]["sam"] for variant in ("", "sam_frozen", "sam_lora", "sam_all")}
    assert counts["sam_frozen"] == 0 < counts[""] <= counts["sam_lora"] < counts["sam_all"]
