"""A run's folder: other data, damage, locks, leftovers, names of every kind."""

import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from samatch.config.settings import make_config
from samatch.data.curate import curate
from samatch.results import examples, runs, stats
from samatch.results.records import collect, collect_trials, read_table
from samatch.results.runs import Run, read_predictions, write_predictions
from samatch.system import paths, repro
from samatch.system.errors import InputError
from samatch.system.whole import write_text
from tests.made import ellipse, png, trained
from tests.told import MACHINE, READ_BACK, SETTINGS

ROOM = READ_BACK


def own_set(name="nums", count=6):
    """Manifest folder of a set of one's own, made of pictures."""
    folder = paths.data_dir() / name
    for number in range(count):
        image, label = ellipse(number)
        png(folder / "images" / f"{number}.png", image)
        png(folder / "masks" / f"{number}.png", label * 255)
    curate(name, None, ["a"])
    return folder / "manifest"


def finished(run):
    run.open()
    run.finish({"val_dice": 0.5}, pd.DataFrame({"iteration": [0]}), pd.DataFrame({"class": ["a"]}))


WHAT = {
    "splits": "a run trained before on other splits",
    "manifest": "a run trained before on other images",
}


@pytest.mark.parametrize("file, word", [("splits.csv", "splits"), ("cases.csv", "manifest")])
def test_a_complete_run_of_other_data_is_refused(file, word, told):
    """Two patients change places in the labeled order; or an image is another one."""
    path, config = own_set() / file, make_config("demo", "nums", 1, "supervised")
    finished(Run(config))
    assert (
        Run(config).complete
        and Run(config).read()["splits_sha256"] == Run(config).identity["splits_sha256"]
    )
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if word == "splits":
        train = table.split == "train"
        table.loc[train, "labeled_rank"] = table.labeled_rank[train].to_numpy()[::-1]
    else:
        table.loc[0, "image_sha256"] = "0" * 64
    table.to_csv(path, index=False)
    with told(WHAT[word], room=SETTINGS, match="exists with other data") as error:
        Run(config)
    assert f"got: {word} " in str(error.value) and "config" not in str(error.value)
    finished(Run(make_config("demo", "nums", 1, "fixmatch")))  # another run is none of its business


@pytest.mark.parametrize("trial, gather", [("", collect), ("does it help?", collect_trials)])
def test_runs_of_other_data_are_not_gathered(trial, gather):
    """The manifest was made anew, and nobody has trained since."""
    path = own_set() / "cases.csv"
    finished(Run(make_config("demo", "nums", 1, "supervised"), trial))
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.assign(label_sha256="0" * 64).to_csv(path, index=False)
    with pytest.raises(InputError, match="trained on other data than its set has now") as error:
        gather("demo", "nums")
    assert "nums-n1-supervised-s0" in str(error.value) and "delete" in str(error.value)


def test_examples_of_patients_with_numbers_for_names(tmp_path):
    """Records of patients 007 and NA lead back to their cases; one
    has an empty label, so that there is no object to cut out."""
    folder = paths.data_dir() / "nums"
    for number, patient in enumerate(("007", "07", "7", "NA")):
        image, label = ellipse(number)
        png(folder / "images" / f"{patient}.png", image)
        png(folder / "masks" / f"{patient}.png", label * 255 * (patient != "NA"))
    curate("nums", None, ["a"], allow_empty=True)
    run = trained("nums-n1-fixmatch-s0", dataset="nums", cases=("007", "NA"))
    np.savez_compressed(
        run / "predictions.npz",
        **{patient: np.full((1, 48, 48), 2, np.uint8) for patient in ("007", "NA")},
    )
    cases = read_table(collect("laptop", "nums") / "per_case.csv")
    patients = list(stats.unit_scores(cases).index)
    panels = examples.panels("laptop", "nums", patients, {"reference": None, "FixMatch": run.name})
    assert [title for title, _, _ in panels] == [  # class 2 is none of this set: nothing is found
        f"{p}\n{name}"
        for p, dice in (("007", "0"), ("NA", "nan"))
        for name in ("reference", f"FixMatch\nDice {dice} %")
    ]
    assert panels[2][1].shape == (48, 48)
    reference, predicted = (label for _, _, label in panels[:2])
    assert set(np.unique(reference)) == {0, 1} and (predicted == 2).all()
    assert reference.shape == predicted.shape


def git(folder, *words):
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words],
        check=True,
        capture_output=True,
    )


def test_a_surrounding_repository_gives_no_commit(tmp_path, monkeypatch):
    project = tmp_path / "home" / "project"
    project.mkdir(parents=True)
    monkeypatch.setattr(paths, "ROOT", project.resolve())
    git(tmp_path / "home", "init", "-q")
    git(tmp_path / "home", "commit", "-q", "--allow-empty", "-m", "dotfiles")
    assert repro.commit() == "unknown"
    monkeypatch.setenv(
        "GIT_DIR", str(tmp_path / "home" / ".git")
    )  # as within a hook of that repository
    assert repro.commit() == "unknown"
    git(project, f"--git-dir={project / '.git'}", "init", "-q")
    git(project, f"--git-dir={project / '.git'}", "commit", "-q", "--allow-empty", "-m", "own")
    own = repro.commit()
    assert len(own) == 12 and own != "unknown"
    (project / "samatch").mkdir()
    (project / "samatch" / "new.py").write_text("")
    assert repro.commit() == f"{own}+"


def test_write_text_is_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / "a.csv", "x")
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "nowhere" / "a.csv", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_predictions_of_cases_with_any_name():
    """`file` is the name of np.savez's own argument; a.npy and a are two cases."""
    names = ["file", "a", "a.npy", "../b", "c d", "\u00e9"]
    maps = {name: np.full((1, 2, 2), number, np.uint8) for number, name in enumerate(names)}
    folder = trained("acdc-n3-a-s0")
    write_predictions(folder / "predictions.npz", maps)
    found = read_predictions(folder)
    assert list(found) == names and all((found[name] == maps[name]).all() for name in names)
    assert (np.load(folder / "predictions.npz")["c d"] == maps["c d"]).all()
    np.savez_compressed(folder / "predictions.npz", **{"p_1": maps["a"]})  # an earlier version's
    assert (read_predictions(folder)["p_1"] == maps["a"]).all()


def test_damaged_runs_are_listed_all_at_once(tmp_path, told):
    trained("acdc-n3-a-s0")
    (trained("acdc-n3-b-s0") / "run.json").write_text("{")
    (trained("acdc-n3-c-s0") / "per_case.csv").write_bytes(b"\xff\xfe\x00")
    (trained("acdc-n3-d-s0") / "train_log.csv").unlink()
    with told("tables of runs of which three are damaged", match="3 faults") as error:
        collect("laptop", "acdc", tmp_path / "out")
    for word in ("acdc-n3-b-s0/run.json", "cannot be read", "missing"):
        assert word in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_changed_record_is_refused(told):
    config = make_config("demo", "phantom", 3, "supervised")
    finished(Run(config))
    path = Run(config).folder / "run.json"
    path.write_text(path.read_text().replace('"val_dice": 0.5', '"val_dice": 0.9'))
    with told("a run.json that was changed", match="its sha256 is another"):
        Run(config)


FORBIDDEN = {
    "a file": "a file where the folder of runs belongs",
    "no right": "no right to write to the folder of runs",
}


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_folders_that_cannot_be_written_to_are_one_error(kind, tmp_path, monkeypatch, told):
    trained("acdc-n3-a-s0")
    place = tmp_path / "place"
    if kind == "a file":
        place.write_text("")
    else:
        monkeypatch.setattr(paths.os, "access", lambda *_: False)
    monkeypatch.setenv("SAMATCH_OUT", str(place))
    monkeypatch.delenv("SAMATCH_FIGURES")
    uses = {
        "SAMATCH_OUT": lambda: collect("laptop", "acdc"),
        "SAMATCH_FIGURES": lambda: paths.figures_dir("laptop", "acdc"),
    }
    for variable, use in uses.items():
        with pytest.raises(InputError, match="cannot write to a folder") as error:
            use()
        assert variable in str(error.value) and str(place) in str(error.value)
    monkeypatch.setenv("SAMATCH_RUNS", str(place))
    with told(FORBIDDEN[kind], room=MACHINE, match="cannot write to a folder(.|\n)*SAMATCH_RUNS"):
        Run(make_config("demo", "phantom", 3, "supervised")).open()


def test_who_waits_for_a_run_says_so_now_and_then(monkeypatch, capsys):
    """At once, and after every three minutes of a clock that a look moves on by one."""
    config = make_config("demo", "phantom", 3, "supervised")
    first, second = Run(config), Run(config)
    first.open()
    now = [0.0]

    def sleep(_):
        now[0] += 60
        if now[0] == 7 * 60:
            first._lock.close()

    monkeypatch.setattr(repro, "commit", lambda: "c")  # git is waited for by the same clock
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(runs.time, "sleep", sleep)
    second.open(wait=True)
    said = capsys.readouterr().out.splitlines()
    assert all(config.run_id in line for line in said)
    assert [line.partition(", for ")[2] for line in said] == ["", "3 min so far", "6 min so far"]


def test_what_an_earlier_try_wrote_at_its_end_is_removed():
    run = Run(make_config("demo", "phantom", 3, "supervised"))
    run.open()
    run._lock.close()
    for name in ("checkpoint.pt", "predictions.npz", "state.pt", "state.pt.partial7"):
        (run.partial / name).write_bytes(b"x")
    Run(run.config).open()
    assert {path.name for path in run.partial.iterdir()} == {"lock", "state.pt"}


def test_what_lies_where_a_runs_folder_belongs(capsys, told):
    """A folder without its record is said to be trained anew and replaced; a file is refused."""
    run = Run(make_config("demo", "phantom", 3, "supervised"))
    run.folder.mkdir(parents=True)
    finished(run)
    assert "has no run.json: it is trained anew" in capsys.readouterr().out and run.complete
    shutil.rmtree(run.folder)
    run.folder.write_text("")
    with told(
        "a file where a run's folder belongs",
        room=MACHINE,
        match="a file lies where a run's folder belongs",
    ):
        Run(run.config).open()


def test_trials_and_results_do_not_share_a_folder():
    config, other = (make_config("demo", "phantom", n, "supervised") for n in (1, 3))
    finished(Run(config, "does it help?"))
    finished(Run(other))
    assert (
        Run(config, "another question").read()["status"] == "trial"
        and Run(other).read()["status"] == "complete"
    )
    for first, asks, got in ((config, "", "trial"), (other, "does it help?", "complete")):
        with pytest.raises(InputError, match="trials and results do not share a folder") as error:
            Run(first, asks)
        assert f"got: {got}" in str(error.value) and "SAMATCH_RUNS" in str(error.value)


def test_a_record_names_the_start_of_its_machine(tmp_path, monkeypatch):
    run = Run(make_config("demo", "phantom", 1, "supervised"))
    monkeypatch.setattr(repro, "BOOT_ID", tmp_path / "boot_id")
    for text, boot in ((None, ""), ("0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0\n", "0b1c2d3e")):
        if text:
            repro.BOOT_ID.write_text(text)
            shutil.rmtree(run.folder)
        finished(run)
        assert run.read()["boot"] == boot
