"""A trial asks one question on validation; it is no result."""

import json
import shutil

import pandas as pd
import pytest

from samatch.__main__ import main
from samatch.results.records import (
    collect,
    collect_trials,
    read_table,
)
from samatch.results.runs import complete_run
from samatch.system import paths
from samatch.system.errors import InputError
from tests.made import trained
from tests.told import READ_BACK, SETTINGS

ROOM = READ_BACK


def test_a_trial_is_no_result(tmp_path):
    trained("acdc-n3-a-s0", 0.5)
    trained("acdc-n3-b-s0", 0.6, status="trial")
    found = collect("laptop", "acdc", tmp_path / "out")
    for name in ("runs", "per_case", "train_log"):
        assert read_table(found / f"{name}.csv").run_id.tolist() == ["acdc-n3-a-s0"]
    assert [path.name for path in (found / "run_json").iterdir()] == ["acdc-n3-a-s0.json"]
    shutil.rmtree(paths.runs_dir("laptop") / "acdc-n3-a-s0")
    with pytest.raises(InputError, match="no complete run of acdc"):
        collect("laptop", "acdc", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def trial(name, asks, finished, method="fixmatch", dataset="acdc", more="", **groups):
    """A trial's folder: validation Dice .5 and .7 of two
    classes, and what `more` adds to per_case.csv."""
    folder = paths.runs_dir("laptop") / name
    folder.mkdir(parents=True)
    config = {
        "dataset": dataset,
        "method": method,
        "variant": "x",
        "n_labeled": 3,
        "seed": 0,
        "sam_name": "",
        "parents": [],
        **groups,
    }
    record = {
        "run_id": name,
        "status": "trial",
        "trial": asks,
        "config": config,
        "seconds": 90.0,
        "commit": "c",
        "finished": finished,
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "per_case.csv").write_text(
        "run_id,split,patient_id,case_id,class,dice\n"
        f"{name},val,p,p_1,RV,0.5\n{name},val,p,p_1,LV,0.7\n" + more
    )


def test_trials_say_in_which_settings_they_differ():
    """Two trials of FixMatch differ in lr and in a setting
    that one of them has; the third is of another method."""
    same = {"iterations": 5, "image_size": 64}
    trial("late", "a lower lr?", "2025-01-02", train={"lr": 0.1, **same}, method_settings={})
    trial(
        "early",
        "the default",
        "2025-01-01",
        train={"lr": 0.2, **same},
        method_settings={"lambda_u": 0.5},
    )
    more = "guided,val_sam,p,p_1,RV,0.8\nguided,val_refined,p,p_1,RV,0.9\n"
    trial(
        "guided",
        "with SAM?",
        "2025-01-03",
        "samatch-fixmatch",
        more=more,
        train={"lr": 0.3, **same},
        sam={"lr": 1e-4},
    )
    trial("other", "of another set", "2025-01-01", dataset="busi", train={"lr": 9.0, **same})
    trained("acdc-n3-result-s0")
    table = collect_trials("laptop", "acdc").set_index("run_id")
    assert list(table.index) == ["early", "late", "guided"]
    assert table.settings.tolist() == ["method.lambda_u=0.5 train.lr=0.2", "train.lr=0.1", ""]
    assert table.asks.tolist() == ["the default", "a lower lr?", "with SAM?"] and set(
        table.minutes
    ) == {1.5}
    assert table.val_dice.tolist() == pytest.approx([60] * 3)
    assert table.loc["late", ["val_dice_RV", "val_dice_LV"]].tolist() == pytest.approx([50, 70])
    assert table.loc["guided", ["val_dice_sam", "val_dice_refined"]].tolist() == pytest.approx(
        [80, 90]
    )
    assert table.loc[["early", "late"], "val_dice_sam"].isna().all()


def test_the_table_of_trials_is_written(tmp_path):
    words = [
        "--trials",
        "--profile",
        "laptop",
        "--dataset",
        "acdc",
        "--into",
        str(tmp_path / "into"),
    ]
    with pytest.raises(SystemExit, match="no trial of acdc in profile laptop"):
        main(["tables", *words])
    trial("one", "does it?", "2025-01-01", train={"lr": 0.1})
    main(["tables", *words])
    assert pd.read_csv(tmp_path / "into" / "trials.csv").asks.tolist() == ["does it?"]
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["trials.csv"]


def test_a_trial_is_no_run_to_predict_with(told):
    trained("acdc-n3-a-s0", status="trial")
    with told(
        "predicting with a trial", room=SETTINGS, match="acdc-n3-a-s0 is no result(.|\n)*got: trial"
    ):
        complete_run("laptop", "acdc-n3-a-s0")
    trained("acdc-n3-b-s0")
    assert complete_run("laptop", "acdc-n3-b-s0")[1]["status"] == "complete"
