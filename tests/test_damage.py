"""Every file that is read back, damaged in every way: one InputError, or what was there before."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from samatch.config.settings import make_config
from samatch.data import prepared
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.results import runs
from samatch.results.records import read_table
from samatch.results.runs import Run
from samatch.sam.embeddings import EmbeddingCache
from samatch.sam.model import build_sam
from samatch.system import paths, repro, whole
from samatch.system.errors import InputError
from samatch.training import metrics, states, train
from samatch.training.task import prepare, student_in
from tests.conftest import shrink_demo
from tests.hand_made import Killed, killed_after
from tests.told import READ_BACK


def config():
    return make_config("demo", "phantom", 3, "supervised", "tiny")


def two_cases():
    manifest = load_manifest("phantom")
    return manifest, manifest.cases_of(manifest.patients("train"))[:2]


def write_prepared():
    """A prepared file of two cases with other arrays than the phantoms'."""
    manifest, cases = two_cases()
    rng = np.random.default_rng(0)
    found = []
    for case in cases:
        image, label = rng.random((2, 4, 4), np.float32), np.ones((2, 4, 4), np.uint8)
        parts = {"image": image, "label": label, "small_image": image, "small_label": label}
        found.append((case.case_id, parts, (3.0, 1.0, 1.0)))
    return prepared.write(manifest, found)


def small_sam():
    torch.manual_seed(0)
    return build_sam("tiny", image_size=64, num_classes=4).eval()


def embed():
    manifest, cases = two_cases()
    volumes = load_cases(manifest, cases[:1])
    folder = paths.runs_dir("embeddings")
    cache = EmbeddingCache(small_sam(), volumes, folder, bf16=False)
    return cache[torch.arange(len(cache))].tolist()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of an interrupted run and the same complete, of embeddings and of a prepared file."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        shrink_demo(patch)
        patch.setenv("SAMATCH_RUNS", str(home / "runs"))
        patch.setenv("SAMATCH_PREPARED", str(home / "nothing"))
        patch.setattr(metrics, "surface_distances", lambda *_: (1.0, 1.0))
        torch.set_num_threads(1)
        with killed_after(5):
            train.train(config())
        shutil.copytree(Run(config()).partial, home / "interrupted")
        train.train(config())
        embed()
        patch.setenv("SAMATCH_PREPARED", str(home / "prepared"))
        write_prepared()
    return home


@pytest.fixture
def interrupted(made, tiny_profile):
    run = Run(config())
    shutil.copytree(made / "interrupted", run.partial)
    return run


def hashes(arrays):
    return {name: repro.array_sha256(np.asarray(array)) for name, array in arrays.items()}


def resume(run):
    """The weights at the end of an interrupted training, by their hashes."""
    run.open()
    task = prepare(run.config)
    train.train_to_the_end(task, states.TrainingState.start(task, run), run)
    run._lock.close()
    return hashes(states.kept_weights(task.method)["student"])


def read_prepared():
    manifest, cases = two_cases()
    return [
        (
            hashes({"image": v.image, "label": v.label, "small": v.small[0], "map": v.small[1]}),
            v.spacing,
        )
        for v in load_cases(manifest, cases)
    ]


def folder():
    return Run(config()).folder


# file: (where it lies, how it is read back)
READERS = {
    "state.pt": (lambda: Run(config()).partial, lambda: resume(Run(config()))),
    "state_older.pt": (lambda: Run(config()).partial, lambda: resume(Run(config()))),
    "run.json": (folder, lambda: Run(config()).complete and Run(config()).read()),
    "train_log.csv": (folder, lambda: read_table(folder() / "train_log.csv").to_csv()),
    "per_case.csv": (folder, lambda: read_table(folder() / "per_case.csv").to_csv()),
    "predictions.npz": (folder, lambda: hashes(runs.read_predictions(folder()))),
    "checkpoint.pt": (folder, lambda: hashes(student_in(folder(), 4).state_dict())),
    "*.npy": (lambda: next(paths.runs_dir("embeddings").iterdir()), embed),
    "*.safetensors": (paths.prepared_dir, read_prepared),
}


def flipped(path, share):
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def folder_in_place(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "garbage": lambda path: path.write_bytes(b"\x93garbage\n" * (path.stat().st_size // 9)),
    "first byte": lambda path: flipped(path, 0),
    "a byte": lambda path: flipped(path, 0.4),
    "another byte": lambda path: flipped(path, 0.77),
    "last byte": lambda path: flipped(path, 1),
    "deleted": lambda path: path.unlink(),
    "forbidden": lambda path: None,
    "folder": folder_in_place,
}


def forbid(path, monkeypatch):
    """As without the right to read: root has it always."""

    def refusing(name, *words):
        if name == path:
            raise PermissionError(13, "Permission denied")
        return open(name, *words)

    monkeypatch.setattr(whole, "open", refusing, raising=False)


def student_weights(made):
    path = made / "runs" / "demo" / config().run_id / "checkpoint.pt"
    return hashes(torch.load(path, weights_only=True)["student"])


TOLD = {
    ("run.json", "empty"): "an empty run.json",
    ("run.json", "forbidden"): "a run.json of another user",
    ("run.json", "folder"): "a folder called run.json",
    ("train_log.csv", "a byte"): "a train_log.csv with one flipped byte",
    ("per_case.csv", "a byte"): "a per_case.csv with one flipped byte",
    ("per_case.csv", "deleted"): "a run without its per_case.csv",
    ("predictions.npz", "a byte"): "a predictions.npz with one flipped byte",
    ("predictions.npz", "cut"): "a predictions.npz that is cut",
    ("checkpoint.pt", "a byte"): "a checkpoint.pt with one flipped byte",
    ("checkpoint.pt", "cut"): "a checkpoint.pt that is cut",
    ("checkpoint.pt", "empty"): "an empty checkpoint.pt",
    ("checkpoint.pt", "deleted"): "a run without its checkpoint.pt",
    ("*.safetensors", "a byte"): "a prepared file with one flipped byte",
    ("*.safetensors", "cut"): "a prepared file that is cut",
    ("state.pt", "folder"): "a folder called state.pt",
}
RECOVERS = ("state.pt", "state_older.pt", "*.npy")  # trained on, or made again
# Without its prepared file a set is read from its source.
CASES = [(n, d) for n in READERS for d in DAMAGES if (n, d) != ("*.safetensors", "deleted")]


@pytest.mark.parametrize("name, damage", CASES)
def test_damage_is_one_error_or_changes_nothing(
    name, damage, made, tiny_profile, monkeypatch, told
):
    if name.startswith("state"):
        shutil.copytree(made / "interrupted", Run(config()).partial)
    else:
        shutil.copytree(made / "runs", paths.runs_dir("demo").parent)
    if name == "*.safetensors":
        shutil.copytree(made / "prepared", paths.prepared_dir())
    where, read = READERS[name]
    (path,) = where().glob(name)
    expected = student_weights(made) if name.startswith("state") else read()
    DAMAGES[damage](path)
    if damage == "forbidden":
        forbid(path, monkeypatch)
    if name in RECOVERS and damage != "folder":
        assert read() == expected
    elif (name, damage) == ("run.json", "deleted"):
        assert not read()  # the run is trained anew
    else:
        with pytest.raises(InputError) as error:
            read()
        assert len(str(error.value).splitlines()) <= 5
        if what := TOLD.get((name, damage)):
            told.row(what, str(error.value), READ_BACK)


def test_a_changed_digit_of_a_record_is_told(made, tiny_profile, told):
    """Still JSON: where a flipped byte of a record lies decides whether it is."""
    shutil.copytree(made / "runs", paths.runs_dir("demo").parent)
    where, read = READERS["run.json"]
    path = where() / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    with pytest.raises(InputError) as error:
        read()
    told.row("a run.json with one changed digit", str(error.value), READ_BACK)


def test_a_damaged_state_is_said_in_one_line_and_the_older_one_goes_on(interrupted, capsys):
    flipped(interrupted.partial / "state.pt", 0.5)
    assert states.read_state(interrupted)["iteration"] == 2
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "going on from iteration 2" in said and "state.pt" in said
    assert [path.name for path in interrupted.partial.glob("*.pt")] == ["state.pt"]
    flipped(interrupted.partial / "state.pt", 0.5)
    assert states.read_state(interrupted) is None
    assert "training starts anew" in capsys.readouterr().out


def test_both_states_lost_end_with_the_same_weights(interrupted, made):
    for name in ("state.pt", "state_older.pt"):
        (interrupted.partial / name).write_bytes(b"")
    assert resume(interrupted) == student_weights(made)


def killed(*_):
    raise Killed


def test_a_kill_before_the_checkpoint_leaves_the_last_state_alone(interrupted, made, monkeypatch):
    """The checkpoint is written from the last state, also where that one is lost again."""
    monkeypatch.setattr(metrics, "surface_distances", lambda *_: (1.0, 1.0))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train, "save_whole", killed)
        train.train(config())
    left = interrupted.partial
    assert not (left / "checkpoint.pt").exists()
    kept = [torch.load(left / name, weights_only=True) for name in ("state.pt", "state_older.pt")]
    assert [state["iteration"] for state in kept] == [6, 4]
    (left / "checkpoint.pt").write_bytes(b"of another iteration")
    flipped(left / "state.pt", 0.5)
    train.train(config())
    assert hashes(student_in(interrupted.folder, 4).state_dict()) == student_weights(made)
    assert {path.name for path in interrupted.folder.iterdir()} == {*runs.FILES, "run.json"}


def test_sigterm_saves_one_state_and_ends_with_143(interrupted, made, monkeypatch, capsys):
    one = train.train_one

    def terminated(task, state):
        if state.iteration == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        one(task, state)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(train, "train_one", terminated)
        train.train(config())
    assert end.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert "stopped by SIGTERM after iteration 5 of 6" in capsys.readouterr().out
    del end  # its traceback holds the run's lock
    assert states.read_state(interrupted)["iteration"] == 5
    assert resume(interrupted) == student_weights(made)


def test_a_run_recorded_before_the_hashes_is_accepted(made, tiny_profile):
    shutil.copytree(made / "runs", paths.runs_dir("demo").parent)
    path = folder() / "run.json"
    record = json.loads(path.read_text())
    assert set(record.pop("files_sha256")) == set(runs.FILES) and record.pop("sha256")
    path.write_text(json.dumps(record))
    for name, (where, read) in READERS.items():
        if where is folder:
            assert read(), name
    flipped(folder() / "checkpoint.pt", 0.5)  # its own checksums tell
    with pytest.raises(InputError, match="damaged"):
        student_in(folder(), 4)


def test_embeddings_without_a_hash_are_made_again(made, tiny_profile, capsys):
    shutil.copytree(made / "runs", paths.runs_dir("demo").parent)
    expected = embed()
    (path,) = paths.runs_dir("embeddings").glob("*/*.npy")
    path.write_bytes(path.read_bytes()[:-32])  # as an earlier version wrote them
    spoiled = np.load(path, mmap_mode="r+")
    spoiled[0] += 1
    spoiled.flush()
    assert embed() == expected
    assert "1 files of cached embeddings were made again" in capsys.readouterr().out
    assert embed() == expected and not capsys.readouterr().out


def test_a_prepared_file_without_hashes_is_refused():
    path = write_prepared()
    manifest, cases = two_cases()
    assert all(volume.small for volume in load_cases(manifest, cases))
    arrays = load_file(path)
    with safe_open(path, framework="np") as file:
        about = {key: file.metadata()[key] for key in ("cases_sha256", "spacing")}
    save_file(arrays, path, metadata=about)
    with pytest.raises(InputError, match="not what was written"):
        load_cases(manifest, cases)
