"""Records, tables and models with damage of any kind: what stands there, or one InputError."""

import json
import shutil

import numpy as np
import pytest

from samatch.results import predictions, report
from samatch.results.records import collect, read_results, write_csvs
from samatch.results.runs import write_predictions
from samatch.system import paths
from samatch.training import released
from tests.damages import outcomes, zipped
from tests.made import records, trained
from tests.told import READ_BACK

ROOM = READ_BACK


@pytest.fixture
def results(tmp_path):
    """A results folder of six runs on six patients."""
    runs, cases = records("mine")
    (tmp_path / "results").mkdir()
    write_csvs(tmp_path / "results", {"runs": runs, "per_case": cases})
    return tmp_path / "results"


@pytest.mark.parametrize("name", ["runs.csv", "per_case.csv"])
def test_damaged_tables_of_results(results, name):
    def look(_):
        report.write_tables("laptop", "mine", results)

    assert outcomes(results / name, look) == {"read", "refused"}


def test_a_table_of_other_columns(results, told):
    text = (results / "runs.csv").read_text()
    (results / "runs.csv").write_text(text.replace("sam,", "som,").replace(",0.5,", ",50,"))
    text = (results / "per_case.csv").read_text()
    (results / "per_case.csv").write_text(text.replace(",ok", ",ok", 1).replace("voxel", "mm;", 1))
    with told("tables of results that lack a column and hold a Dice of 50"):
        read_results("laptop", "mine", results)


@pytest.mark.parametrize("name", ["run.json", "per_case.csv", "train_log.csv"])
def test_damaged_files_of_a_run_without_hashes(name):
    """As a run of an earlier version has left them."""
    folder = trained("mine-n3-fixmatch-s0", dataset="mine")
    found = outcomes(folder / name, lambda _: report.write_tables("laptop", "mine", gathered()))
    assert found == {"read", "refused"}


def gathered():
    """A results folder that is collected anew."""
    folder = paths.output_dir("laptop", "mine") / "results"
    shutil.rmtree(folder, ignore_errors=True)
    return collect("laptop", "mine", folder)


def test_damaged_predictions(tmp_path):
    path = tmp_path / "run.npz"
    write_predictions(path, {"a": np.ones((2, 4, 4), np.uint8), "b": np.zeros((1, 3, 3), np.uint8)})
    assert "refused" in outcomes(path, predictions.read)
    np.save(tmp_path / "a.npy", np.ones((2, 4, 4), np.uint8))
    inner = (tmp_path / "a.npy").read_bytes()
    assert "refused" in outcomes(path, predictions.read, whole=inner, seal=zipped("a.npy"))


def test_a_damaged_card_of_a_model(tmp_path, monkeypatch):
    shutil.copytree(paths.MODELS / "acdc", tmp_path / "models" / "acdc")
    monkeypatch.setattr(paths, "MODELS", tmp_path / "models")
    path = tmp_path / "models" / "acdc" / "model.json"
    facts = json.loads(path.read_text())

    def look(_):
        student = released.load("acdc")
        assert student.segment(np.arange(64.0).reshape(1, 8, 8)).shape == (1, 8, 8)

    assert outcomes(path, look, whole=json.dumps(facts).encode()) == {"read", "refused"}
