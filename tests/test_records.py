"""Records are read with every fault at once, and collected from complete runs."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from samatch.results import clinical, report, stats, tables
from samatch.results.records import (
    collect,
    read_results,
    read_table,
    result_faults,
)
from samatch.results.runs import complete_run
from samatch.system import paths
from samatch.system.errors import InputError
from tests.made import records, trained
from tests.told import READ_BACK, SETTINGS

ROOM = READ_BACK


@pytest.fixture
def folder(tmp_path):
    for name, table in zip(("runs", "per_case"), records(), strict=True):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


def test_results_are_read_back(folder):
    runs, cases = read_results("laptop", "acdc", folder)
    assert len(runs) == 6 and len(cases) == 6 * 24 and set(runs.variant) == {"", "box", "no_sam"}


def test_all_faults_at_once():
    runs, cases = records()
    runs = pd.concat(
        [runs, runs.iloc[[0]], runs.iloc[[0]].assign(run_id="empty", manifest_sha256="other")]
    )
    cases = pd.concat([cases.iloc[3:], cases.iloc[[10]], cases.iloc[[5]].assign(run_id="ghost")])
    faults = "\n".join(result_faults(runs, cases))
    for expected in (
        "acdc-n3-supervised-s0 is listed twice",
        "is listed twice in split",
        "empty has no cases",
        "cases of ghost, but no such run",
        "2 different manifests",
        "acdc-n3-supervised-s0 lacks 3 of 24",
    ):
        assert expected in faults


def test_one_case_may_stand_in_several_splits_of_a_run():
    """SAM at test time and the student alone segment the same cases."""
    runs, cases = records()
    also_sam = cases[cases.split == "test"].assign(split="test_sam")
    assert result_faults(runs, pd.concat([cases, also_sam])) == []
    doubled = "\n".join(result_faults(runs, pd.concat([cases, also_sam, also_sam.iloc[[0]]])))
    assert "listed twice in split test_sam" in doubled


def test_faulty_results_are_refused(folder):
    table = pd.read_csv(folder / "per_case.csv")
    pd.concat([table, table.iloc[[0]]]).to_csv(folder / "per_case.csv", index=False)
    with pytest.raises(InputError, match="1 fault"):
        read_results("laptop", "acdc", folder)
    with pytest.raises(InputError, match="no results"):
        read_results("laptop", "acdc", folder / "nowhere")


def test_collect_gathers_complete_runs_only(tmp_path):
    trained("acdc-n3-fixmatch-s0")
    (trained("acdc-n3-other-s0") / "run.json").unlink()
    found = collect("laptop", "acdc", tmp_path / "out")
    assert pd.read_csv(found / "runs.csv").run_id.tolist() == ["acdc-n3-fixmatch-s0"]
    assert [p.name for p in (found / "run_json").iterdir()] == ["acdc-n3-fixmatch-s0.json"]


def test_collect_keeps_what_the_folder_holds(tmp_path):
    """New runs join the records of earlier machines; a run of the same name is replaced."""
    first = trained("acdc-n3-a-s0", 0.5)
    trained("acdc-n3-b-s0", 0.6)
    collect("laptop", "acdc", tmp_path / "out")
    shutil.rmtree(first)
    trained("acdc-n3-b-s0", 0.7)
    found = collect("laptop", "acdc", tmp_path / "out")
    for name, column in (("runs", "val_dice"), ("per_case", "dice"), ("train_log", "val_dice")):
        assert dict(pd.read_csv(found / f"{name}.csv").set_index("run_id")[column]) == {
            "acdc-n3-a-s0": 0.5,
            "acdc-n3-b-s0": 0.7,
        }


def test_nothing_is_written_beside_a_table_of_something_else(tmp_path):
    trained("acdc-n3-a-s0")
    (tmp_path / "train_log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="of something else(.|\n)*got: a, b"):
        collect("laptop", "acdc", tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == ["train_log.csv"]


def test_sets_whose_names_begin_alike_are_not_mixed(tmp_path):
    """hearts and hearts-2."""
    trained("hearts-n3-fixmatch-s0", dataset="hearts")
    trained("hearts-2-n3-fixmatch-s0", 0.6, dataset="hearts-2")
    trained("hearts-n3-x-n3-fixmatch-s0", 0.7, dataset="hearts-n3-x")
    found = collect("laptop", "hearts", tmp_path / "out")
    for name in ("runs", "per_case", "train_log"):
        assert read_table(found / f"{name}.csv").run_id.tolist() == ["hearts-n3-fixmatch-s0"]
    assert [p.name for p in (found / "run_json").iterdir()] == ["hearts-n3-fixmatch-s0.json"]
    with pytest.raises(InputError, match="no complete run of heart "):
        collect("laptop", "heart")


def test_ids_stay_the_text_that_they_are(tmp_path):
    """Ids that pandas takes for numbers, missing values or equal
    ones; a commit of digits alone, one that reads as 10^8."""
    ids = ["007", "7", "07", "1e3", "NA", "nan", "None", "1_000", " x"]
    trained("acdc-n3-a-s0", cases=[f"{i}_1" for i in ids if "_" not in i], commit="123456789012")
    trained("acdc-n3-b-s0", cases=[f"{i}_1" for i in ids if "_" not in i], commit="1e8")
    for _ in range(2):  # the second time the folder's own tables are read back
        folder = collect("laptop", "acdc", tmp_path / "out")
        runs, cases = read_results("laptop", "acdc", folder)
        assert runs.commit.tolist() == ["123456789012", "1e8"] and runs.sam.tolist() == ["", ""]
        assert cases.patient_id.tolist() == 2 * [
            i for i in ids if "_" not in i
        ] and cases.dice.tolist() == 16 * [0.5]
        assert sorted(stats.unit_scores(cases).index) == sorted(i for i in ids if "_" not in i)
    with pytest.raises(InputError, match="none.csv"):
        read_table(tmp_path / "none.csv")


def test_millimetres_and_voxels_have_no_mean(monkeypatch):
    """One run with cases of both, one run all in mm beside runs
    all in voxels: each mean has the unit of all of its cases."""
    runs, cases = records()
    mixed, metric = "acdc-n3-fixmatch-s0", "acdc-n3-supervised-s0"
    cases.loc[
        (cases.run_id == metric) | (cases.run_id == mixed) & (cases.patient_id == "p0"),
        "distance_unit",
    ] = "mm"
    rows = tables.summary(runs, cases).set_index("run_id")
    assert (
        rows.unit[mixed] == "mm and voxel"
        and np.isnan(rows.hd95[mixed])
        and np.isnan(rows.asd[mixed])
        and rows.undefined[mixed] == 0
    )
    assert rows.unit[metric] == "mm" and rows.hd95[metric] == pytest.approx(
        cases[cases.run_id == metric].groupby("patient_id").hd95.mean().mean()
    )
    assert stats.unit_scores(cases, "hd95").isna().all(axis=None) and not stats.unit_scores(
        cases
    ).isna().any(axis=None)
    monkeypatch.setattr(report, "read_results", lambda *_: (runs, cases))
    shown = report.final_table("laptop", "acdc")["HD95 in its own unit"].tolist()
    assert (
        shown[0] == f"{rows.hd95[metric]:.2f} mm"
        and shown[1] == "undefined (mm and voxel)"
        and shown[2].endswith(" voxel")
    )


def test_collect_without_runs_says_what_to_do(told):
    with told("tables without a run", room=SETTINGS, match="make reproduce"):
        collect("demo", "phantom")


@pytest.mark.parametrize(
    "folder",
    sorted(p.parent for p in paths.TRACKED_RESULTS.glob("*/*/runs.csv")),
    ids=lambda f: "/".join(f.parts[-2:]),
)
def test_tracked_results_are_sound(folder):
    """The repository's own records: no faults, tables that follow from them, complete test sets."""
    from samatch.data.manifest import load_manifest

    profile, dataset = folder.parts[-2:]
    runs, cases = read_results(profile, dataset, folder)
    manifest = load_manifest(dataset)
    assert set(runs.manifest_sha256) == {manifest.sha256} and set(runs.splits_sha256) == {
        manifest.splits_sha256
    }
    expected = {
        (c.case_id, name)
        for c in manifest.cases_of(manifest.patients("test"))
        for name in manifest.classes
    }
    for _, mine in cases[cases.split == "test"].groupby("run_id"):
        assert set(zip(mine.case_id, mine["class"], strict=True)) == expected
    for run in runs.itertuples():
        record = json.loads((folder / "run_json" / f"{run.run_id}.json").read_text())
        assert record["status"] == "complete" and record["config_sha256"] == run.config_sha256
        assert not set(record["config"]["parents"]) - set(runs.run_id)
    kept = pd.read_csv(folder / "summary.csv")
    assert kept.dice.to_numpy() == pytest.approx(
        tables.summary(runs, cases).dice.to_numpy(), rel=1e-4
    )
    for name, table in clinical.patient_tables(dataset, runs, cases).items():
        kept = pd.read_csv(folder / f"{name}.csv")
        assert kept.run_id.tolist() == table.run_id.tolist() and kept.n.tolist() == table.n.tolist()
        column = "bias" if name == "clinical" else "dice"
        assert kept[column].to_numpy() == pytest.approx(
            table[column].to_numpy(), rel=1e-4, abs=1e-4
        )


@pytest.mark.parametrize(
    "words, message",
    [
        (["--profile", "laptp"], "unknown profile(.|\n)*is laptop meant"),
        (["--profile", "../laptop"], "unknown profile"),
        (["--profile", "laptop", "--dataset", "../acdc"], "impossible name of a data set"),
    ],
)
def test_tables_are_written_in_their_own_folder_alone(words, message, tmp_path):
    trained("../acdc-n3-a-s0")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        report.main(["--dataset", "acdc", *words])
    with pytest.raises(InputError, match="unknown profile"):
        complete_run("..", "acdc-n3-a-s0")
    assert sorted(tmp_path.rglob("*")) == before
