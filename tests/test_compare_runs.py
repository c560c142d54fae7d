"""The same runs trained twice, by hand."""

import sys

import pandas as pd
import pytest

from samatch.system.errors import InputError
from tools import compare_runs
from tools.compare_runs import compared


def folder(path, dice, settings="s", variant=""):
    path.mkdir()
    ids = ["acdc-n3-supervised-s0" + variant, "acdc-n3-fixmatch-s0"]
    runs = pd.DataFrame({"run_id": ids, "config_sha256": settings, "val_dice": [0.5, 0.6]})
    runs.to_csv(path / "runs.csv", index=False)
    cases = [
        {"run_id": run, "split": "test", "patient_id": patient, "case_id": patient, "dice": value}
        for run, values in zip(ids, dice, strict=True)
        for patient, value in zip(("p0", "p1"), values, strict=True)
    ]
    pd.DataFrame(cases).assign(**{"class": "LV"}).to_csv(path / "per_case.csv", index=False)
    return path


def test_differences_are_per_unit_and_absolute(tmp_path):
    a = folder(tmp_path / "a", [(0.5, 0.7), (0.8, 0.8)])
    b = folder(tmp_path / "b", [(0.6, 0.6), (0.8, 0.8)])
    table = compared(a, b, "another machine")
    assert table.dice_a.tolist() == pytest.approx([60, 80])
    assert table.dice_b.tolist() == pytest.approx([60, 80])
    assert table.mean_apart.tolist() == pytest.approx([10, 0])  # the means alone would hide it
    assert table.largest_apart.tolist() == pytest.approx([10, 0])
    assert set(table.changed) == {"another machine"}


def test_runs_with_other_settings_are_not_the_same(tmp_path):
    a = folder(tmp_path / "a", [(0.5, 0.7), (0.8, 0.8)])
    b = folder(tmp_path / "b", [(0.5, 0.7), (0.8, 0.8)], settings="other")
    with pytest.raises(InputError, match="no run is in both folders"):
        compared(a, b, "settings")


def test_a_variant_of_a_run_may_have_another_setting(tmp_path):
    a = folder(tmp_path / "a", [(0.5, 0.7), (0.8, 0.8)])
    b = folder(tmp_path / "b", [(0.6, 0.6), (0.9, 0.9)], settings="other", variant="-threads2")
    table = compared(a, b, "two threads", "threads2")
    assert table.run_id.tolist() == ["acdc-n3-supervised-s0"]  # the other is no such variant
    assert table.mean_apart.tolist() == pytest.approx([10])
    with pytest.raises(InputError, match="no run is in both folders"):
        compared(a, b, "four threads", "threads4")


def test_rows_of_other_changes_and_other_runs_stay(tmp_path, monkeypatch):
    a = folder(tmp_path / "a", [(0.5, 0.7), (0.8, 0.8)])
    b = folder(tmp_path / "b", [(0.6, 0.6), (0.8, 0.8)])
    into = tmp_path / "all.csv"
    kept = compared(a, b, "elsewhere").assign(mean_apart=-1.0)
    other = kept.head(1).assign(run_id="acdc-n3-bcp-s0", changed="again")
    pd.concat([kept, other, kept.assign(changed="again")]).to_csv(into, index=False)
    monkeypatch.setattr(
        sys, "argv", ["compare_runs.py", str(a), str(b), "--changed", "again", "--into", str(into)]
    )
    compare_runs.main()
    found = pd.read_csv(into).groupby("changed").mean_apart.apply(sorted)
    assert found["elsewhere"] == [-1, -1] and found["again"] == pytest.approx([-1, 0, 10])
