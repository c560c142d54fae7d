"""Volumes, ejection fraction and groups from voxel counts, against sums by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import yaml

from samatch.data.manifest import Case, load_manifest, write_manifest
from samatch.results import clinical, comparisons
from samatch.results.clinical import agreement, bias_and_limits, by_group, measurements
from samatch.system.errors import InputError

CLINICAL = {"ventricle": "LV", "ed": "frame01", "es": "frame02"}
ABOUT = dict(
    title="t",
    classes=["MYO", "LV"],
    normalisation="n",
    licence="l",
    source="s",
    citation="c",
    known_faults="k",
    budgets=[1],
    clinical=CLINICAL,
)
SPACING = {
    "a": (10.0, 1.0, 1.0),
    "b": (5.0, 2.0, 2.0),
    "c": (10.0, 1.0, 1.0),
}  # 10, 20, 10 microlitres a voxel
GROUP = {"a": "NOR", "b": "NOR", "c": "DCM"}


@pytest.fixture
def manifest(tmp_path):
    cases = [
        Case(f"{p}_{frame}", p, 2, 8, 8, SPACING.get(p), "", "", group=GROUP.get(p, ""))
        for p in "abcxy"
        for frame in ("frame01", "frame02")
    ]
    write_manifest(tmp_path, ABOUT, cases, {"train": ["x"], "val": ["y"], "test": ["a", "b", "c"]})
    return load_manifest("mine", tmp_path)


def rows(counts, run_id="r", split="test"):
    """counts: patient -> voxels of LV at ED and ES, predicted, then true; MYO's do not matter."""
    found = []
    for patient, (ed_pred, es_pred, ed_ref, es_ref) in counts.items():
        for frame, n_pred, n_ref in (("frame01", ed_pred, ed_ref), ("frame02", es_pred, es_ref)):
            for cls, pred, ref in (("MYO", 7, 7), ("LV", n_pred, n_ref)):
                found.append(
                    {
                        "run_id": run_id,
                        "split": split,
                        "patient_id": patient,
                        "case_id": f"{patient}_{frame}",
                        "class": cls,
                        "n_pred": pred,
                        "n_ref": ref,
                        "dice": {"a": 0.9, "b": 0.7, "c": 0.5}.get(patient, 0),
                    }
                )
    return pd.DataFrame(found)


COUNTS = {
    "a": (10_000, 4_000, 12_000, 6_000),
    "b": (5_000, 4_000, 5_000, 2_500),
    "c": (20_000, 15_000, 20_000, 16_000),
}


def test_volumes_and_ejection_fraction_by_hand(manifest):
    table = measurements(rows(COUNTS), manifest).set_index(["measure", "patient_id"])
    assert table.loc["EDV"].pred.to_dict() == {"a": 100, "b": 100, "c": 200}
    assert table.loc["EDV"].ref.to_dict() == {"a": 120, "b": 100, "c": 200}
    assert table.loc["ESV"].pred.to_dict() == {"a": 40, "b": 80, "c": 150}
    assert table.loc["ESV"].ref.to_dict() == {"a": 60, "b": 50, "c": 160}
    assert table.loc["EF"].pred.to_dict() == {"a": 60, "b": pytest.approx(20), "c": 25}
    assert table.loc["EF"].ref.to_dict() == {"a": 50, "b": 50, "c": pytest.approx(20)}
    assert table.loc["EF"].group.to_dict() == GROUP
    assert set(table.loc["EDV"].unit) == {"ml"} and set(table.loc["EF"].unit) == {"%"}


def test_bias_and_limits_by_hand(manifest):
    """EF differences +10, -30, +5: mean -5, squared deviations 225 + 625 + 100, sd sqrt(475)."""
    row = agreement(measurements(rows(COUNTS), manifest)).set_index("measure").loc["EF"]
    sd = np.sqrt(475)
    assert (row.n, row.undefined, row.mean_ref) == (3, 0, pytest.approx(40))
    assert [row.bias, row.sd, row.low, row.high] == pytest.approx(
        [-5, sd, -5 - 1.96 * sd, -5 + 1.96 * sd]
    )


def test_a_missed_ventricle_is_counted(manifest):
    """Missed at ES: that patient's ESV and EF are undefined (not 0 ml, 100 %), EDV is not."""
    counts = COUNTS | {"b": (5_000, 0, 5_000, 2_500)}
    table = agreement(measurements(rows(counts), manifest)).set_index("measure")
    assert table.n.to_dict() == {"EDV": 3, "ESV": 2, "EF": 2}
    assert table.undefined.to_dict() == {"EDV": 0, "ESV": 1, "EF": 1}
    assert table.bias["EF"] == pytest.approx((10 + 5) / 2)
    counts["b"] = (0, 4_000, 5_000, 2_500)
    table = agreement(measurements(rows(counts), manifest)).set_index("measure")
    assert table.undefined.to_dict() == {"EDV": 1, "ESV": 0, "EF": 1}


def test_few_pairs_have_no_limits():
    assert bias_and_limits([np.nan], [1.0])["n"] == 0 and np.isnan(
        bias_and_limits([np.nan], [1.0])["bias"]
    )
    one = bias_and_limits([3.0, np.nan], [1.0, 1.0])
    assert (one["n"], one["undefined"], one["bias"]) == (1, 1, 2)
    assert np.isnan(one["sd"]) and np.isnan(one["low"])


def test_runs_are_kept_apart_and_only_the_test_split_counts(manifest):
    both = pd.concat([rows(COUNTS), rows(COUNTS, "other"), rows({"y": (9, 9, 9, 9)}, split="val")])
    table = agreement(measurements(both, manifest))
    of_run = table.groupby("run_id").measure.apply(set).to_dict()
    assert of_run == dict.fromkeys(("r", "other"), {"EDV", "ESV", "EF"}) and set(table.n) == {3}


def test_what_is_missing_is_named(manifest):
    table = rows(COUNTS | {"x": (1, 1, 1, 1)})
    table = table[table.case_id != "b_frame02"].replace({"case_id": {"c_frame01": "c_frame09"}})
    with pytest.raises(InputError) as error:
        measurements(table, manifest)
    for expected in (
        "case c_frame09 is not in the manifest",
        "case x_frame01 has no spacing",
        "patient b has 0 results of frame02",
        "patient c has 0 results of frame01",
    ):
        assert expected in str(error.value)


def test_dice_by_group(manifest):
    table = by_group(rows(COUNTS), manifest).set_index("group")
    assert table.n.to_dict() == {"NOR": 2, "DCM": 1}
    assert table.dice.to_dict() == {"NOR": pytest.approx(80), "DCM": pytest.approx(50)}
    assert table.dice_sd["NOR"] == pytest.approx(np.sqrt(200)) and np.isnan(table.dice_sd["DCM"])
    with pytest.raises(InputError, match="patient z is not in the manifest"):
        by_group(rows({"z": (1, 1, 1, 1)}), manifest)
    bare = tuple(dataclasses.replace(case, group="") for case in manifest.cases)
    assert by_group(rows(COUNTS), dataclasses.replace(manifest, cases=bare)).empty


def test_a_clinical_entry_that_cannot_be_meant_is_refused(tmp_path, manifest):
    assert manifest.clinical == CLINICAL == load_manifest("acdc").clinical
    assert load_manifest("chaos").clinical == {}
    for wrong in (CLINICAL | {"ventricle": "RV"}, {"ventricle": "LV", "ed": "frame01"}):
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(ABOUT | {"clinical": wrong}))
        with pytest.raises(InputError, match="clinical of dataset.yaml cannot be read"):
            load_manifest("mine", tmp_path)


def test_the_tables_name_the_methods_in_reading_order():
    """Two patients of ACDC's test split, whose spacing and diagnosis the manifest knows."""
    acdc = load_manifest("acdc")
    patients = acdc.patients("test")[:2]
    runs = pd.DataFrame(
        [
            {"run_id": name, "method": name, "sam": "", "variant": "", "n_labeled": 3, "seed": 0}
            for name in ("fixmatch", "supervised")
        ]
    )
    cases = pd.concat(
        [rows(dict.fromkeys(patients, (1000, 500, 1000, 400)), name) for name in runs.run_id]
    )
    found = clinical.patient_tables("acdc", runs, cases)
    assert found["clinical"].method.drop_duplicates().tolist() == ["Supervised", "FixMatch"]
    assert found["clinical"].query("measure == 'EF'").bias.tolist() == [pytest.approx(-10)] * 2
    assert set(found["groups"].group) == {case.group for case in acdc.cases_of(patients)}
    for dataset in ("phantom", "made_up"):
        assert clinical.patient_tables(dataset, runs, cases) == {}


def test_bland_altman_has_a_panel_for_each_method(manifest):
    one = measurements(rows(COUNTS | {"b": (0, 1, 5_000, 2_500)}), manifest)
    one = one[one.measure == "EF"]
    figure = comparisons.bland_altman({f"method {n}": one for n in range(9)}, "made up")
    axes = [axis for axis in figure.axes if axis.get_title()]
    assert len(axes) == 9 and figure.get_suptitle().startswith("made up\n")
    assert "+7.5, limits" in axes[0].get_title() and "n = 2, 1 undefined" in axes[0].get_title()
    lines = sorted(line.get_ydata()[0] for line in axes[0].lines)
    assert lines == pytest.approx(
        sorted([0, 7.5, 7.5 - 1.96 * np.sqrt(12.5), 7.5 + 1.96 * np.sqrt(12.5)])
    )
    empty = comparisons.bland_altman({"method": one.assign(pred=np.nan)}, "made up")
    assert "too few values\nn = 0, 3 undefined" in empty.axes[0].get_title()
