"""Folds: drawn as tracked, every patient tested once; only whole sets of folds are pooled."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from samatch.config.settings import run_id
from samatch.data import splits
from samatch.data.curate import curate
from samatch.data.manifest import SPLITS, load_manifest
from samatch.results import audit, folds
from samatch.results.records import RUN_COLUMNS
from samatch.system import paths
from samatch.system.errors import InputError
from tests.made import pictures

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import answer_table  # noqa: E402
import write_pages  # noqa: E402

NAMES = ["chaos", "chaos_fold2", "chaos_fold3", "chaos_fold4"]
# (method, sam, variant), Dice of every test patient, validation Dice in each fold
SPECS = [
    (("supervised", "", ""), 0.4, [0.4] * 4),
    (("samatch-fixmatch", "lite_medsam", ""), 0.9, [0.8, 0.8, 0.6, 0.6]),
    (("samatch-fixmatch", "lite_medsam", "box"), 0.5, [0.7] * 4),
    (("finetune", "lite_medsam", ""), 0.95, [0.9] * 4),
]


def write_fold(name, specs=SPECS, **wrong):
    """Made-up records of one fold, with its manifest's patients and hashes but for `wrong`."""
    manifest, number = load_manifest(name), NAMES.index(name)
    runs, cases = [], []
    for (method, sam, variant), dice, val in specs:
        run = run_id(name, 3, method, sam, 0, variant)
        runs.append(
            {
                **dict.fromkeys(RUN_COLUMNS, ""),
                "run_id": run,
                "method": method,
                "sam": sam,
                "variant": variant,
                "n_labeled": 3,
                "seed": 0,
                "val_dice": val[number],
                "manifest_sha256": manifest.sha256,
                "splits_sha256": manifest.splits_sha256,
            }
            | wrong
        )
        splits_of_run = ("val", "test") if method != "finetune" else ("val",)
        if method.startswith("samatch") and not variant:
            splits_of_run += ("test_sam", "test_refined")
        for split in splits_of_run:
            cases += [
                {
                    "run_id": run,
                    "split": split,
                    "patient_id": p,
                    "case_id": p,
                    "class": "liver",
                    "dice": dice + 0.001 * i,
                    "hd95": 10.0,
                    "asd": 2.0,
                    "hd95_mm": 10.0,
                    "asd_mm": 2.0,
                    "distance_unit": "mm",
                    "n_pred": 9,
                    "n_ref": 9,
                    "status": "ok",
                }
                for i, p in enumerate(manifest.patients(split.split("_")[0]))
            ]
    folder = paths.TRACKED_RESULTS / "laptop" / name
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(runs).to_csv(folder / "runs.csv", index=False)
    pd.DataFrame(cases).to_csv(folder / "per_case.csv", index=False)


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "TRACKED_RESULTS", tmp_path / "results")
    for name in NAMES:
        write_fold(name)
    return tmp_path / "results" / "laptop" / "chaos_folds"


def test_the_tracked_folds_are_what_the_code_draws(tmp_path):
    assert [folder.name for folder in folds.draw("chaos", tmp_path)] == NAMES[1:]
    for name in NAMES[1:]:
        for file in ("dataset.yaml", "splits.csv"):
            assert (tmp_path / name / file).read_text() == (
                paths.MANIFESTS / name / file
            ).read_text()


def test_every_patient_of_chaos_is_tested_once_and_no_splits_overlap():
    manifests = [load_manifest(name) for name in folds.fold_names("chaos")]
    patients = {case.patient_id for case in manifests[0].cases}
    assert len(patients) == 20
    assert sorted(p for m in manifests for p in m.patients("test")) == sorted(patients)
    for manifest in manifests:
        groups = [manifest.patients(split) for split in SPLITS]
        assert [len(group) for group in groups] == [13, 2, 5] and set().union(*groups) == patients
        assert manifest.budgets == (1, 3, 5, 7) and manifest.reader == manifest.folder == "chaos"
        assert manifest.cases == manifests[0].cases
    assert len({m.labeled_patients(3) for m in manifests}) == 4


def test_folds_of_few_patients_by_hand():
    first = {"train": ["a", "b", "c"], "val": ["d"], "test": ["e"]}
    drawn = splits.folds(first, 3, 0)
    assert drawn[0] == first and [len(fold["test"]) for fold in drawn] == [1, 2, 2]
    assert sorted(p for fold in drawn for p in fold["test"]) == list("abcde")
    for fold in drawn:
        assert (
            sorted(p for group in fold.values() for p in group) == list("abcde")
            and len(fold["val"]) == 1
        )
    assert splits.folds(first, 3, 0) == drawn != splits.folds(first, 3, 1)
    with pytest.raises(InputError, match="expected: 2 to 5"):
        splits.folds(first, 6, 0)


@pytest.mark.parametrize("count, seed", [("four", 0), (3.0, 0), (3, "x"), (-1, 0), (True, 0)])
def test_folds_are_whole_numbers(tmp_path, monkeypatch, count, seed):
    shutil.copytree(paths.MANIFESTS / "chaos", tmp_path / "chaos")
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path)
    about = yaml.safe_load((tmp_path / "chaos" / "dataset.yaml").read_text())
    about["folds"] = {"count": count, "seed": seed}
    (tmp_path / "chaos" / "dataset.yaml").write_text(yaml.safe_dump(about))
    with pytest.raises(InputError, match="chaos has no folds"):
        folds.draw("chaos", tmp_path)


def test_folds_of_a_set_of_ones_own_need_its_manifest_in_the_repository():
    pictures(paths.data_dir() / "lesions")
    curate("lesions", None, ["lesion"])
    with pytest.raises(InputError, match="cannot share its files(.|\n)*copy it to"):
        folds.draw("lesions")


def test_a_set_without_folds_says_so():
    with pytest.raises(InputError, match="phantom has no folds"):
        folds.fold_names("phantom")


def test_twenty_patients_are_pooled(tracked):
    written, left_out = folds.write_pooled("laptop", "chaos")
    names = ("per_case", "summary", "wilcoxon", "sam_at_test_time")
    assert written == [tracked / f"{name}.csv" for name in names]
    cases, table = (pd.read_csv(path) for path in written[:2])
    assert set(cases.split) == {"test", "test_sam", "test_refined"}
    assert set(cases.groupby("run_id").patient_id.nunique()) == {20}
    assert set(table.n) == {20} and set(cases.fold) == set(NAMES)
    assert left_out == []
    table = table.set_index("run_id")
    assert table.dice["chaos_folds-n3-supervised-s0"] == pytest.approx(100 * (0.4 + 0.002))
    assert table.val_dice["chaos_folds-n3-samatch-fixmatch-lite_medsam-s0"] == pytest.approx(70)
    tests = pd.read_csv(tracked / "wilcoxon.csv", keep_default_na=False)
    tests = tests[(tests.metric == "dice") & (tests.unit == "patient")]
    assert tests.comparison.tolist() == ["Supervised"] and tests.n.astype(int).tolist() == [20]
    assert tests.smallest_p.astype(float).tolist() == [pytest.approx(2 / 2**20, rel=1e-4)]


def test_guiding_from_the_start_is_a_family_of_its_own(tracked):
    started = (("samatch-fixmatch", "lite_medsam", "guided_from_start"), 0.7, [0.9] * 4)
    for name in NAMES:
        write_fold(name, [*SPECS, started])
    folds.write_pooled("laptop", "chaos")
    tests = pd.read_csv(tracked / "wilcoxon.csv", keep_default_na=False)
    tests = tests[(tests.metric == "dice") & (tests.unit == "patient")].set_index("reference")
    assert tests.comparison.tolist() == ["Supervised", "Supervised"]
    difference = tests.median_difference.astype(float)
    assert difference["SAM-Match (FixMatch)"] == pytest.approx(0.5)
    assert difference["SAM-Match (FixMatch), from the start"] == pytest.approx(0.3)


def test_missing_folds_are_named_and_nothing_is_pooled(tracked):
    for name in NAMES[1:3]:
        (tracked.parent / name / "runs.csv").unlink()
    with pytest.raises(InputError) as error:
        folds.write_pooled("laptop", "chaos")
    for expected in ("2 faults", "chaos_fold2 has no records", "chaos_fold3 has no records"):
        assert expected in str(error.value)
    assert not tracked.exists()


def test_results_of_this_machine_are_pooled_where_it_has_all_folds(tracked, capsys):
    """Into its own folder; what is tracked stays."""
    for name in NAMES:
        write_fold(name, [(("supervised", "", ""), 0.7, [0.7] * 4)])
        own = paths.output_dir("laptop", name) / "results"
        shutil.move(tracked.parent / name, own)
        write_fold(name)
    folds.main(["pool"])
    pooled = paths.output_dir("laptop", "chaos_folds") / "results"
    assert pd.read_csv(pooled / "summary.csv").method.tolist() == ["Supervised"]
    assert "summary.csv" in capsys.readouterr().out and not tracked.exists()
    shutil.rmtree(paths.output_dir("laptop", "chaos_fold3"))
    with pytest.raises(InputError, match="some folds(.|\n)*none of chaos_fold3"):
        folds.main(["pool"])
    for name in ("chaos", "chaos_fold2", "chaos_fold4"):
        shutil.rmtree(paths.output_dir("laptop", name))
    folds.main(["pool"])
    assert len(pd.read_csv(tracked / "summary.csv")) > 1


def test_a_run_that_a_fold_lacks_is_left_out_by_name(tracked):
    write_fold("chaos_fold3", SPECS[:2])
    runs, _, left_out = folds.pooled("laptop", "chaos")
    assert set(runs.method) == {"supervised", "samatch-fixmatch"} and set(runs.variant) == {""}
    assert "n3-samatch-fixmatch-lite_medsam-s0-box: not in chaos_fold3" in left_out
    for name in NAMES[1:]:
        write_fold(name, [(("fixmatch", "", ""), 0.5, [0.5] * 4)])
    with pytest.raises(InputError, match="no run is in every fold"):
        folds.pooled("laptop", "chaos")


def test_records_of_other_splits_are_refused(tracked):
    write_fold("chaos_fold2", splits_sha256="other")
    path, moved = (
        tracked.parent / "chaos_fold4" / "per_case.csv",
        load_manifest("chaos_fold4").patients("test")[0],
    )
    pd.read_csv(path).replace({"patient_id": {moved: "stranger"}}).to_csv(path, index=False)
    with pytest.raises(InputError) as error:
        folds.pooled("laptop", "chaos")
    assert "chaos_fold2: its runs have other splits" in str(error.value)
    assert "chaos_fold4: its runs were tested on other patients" in str(error.value)


def test_undefined_distances_survive_pooling(tracked):
    path = tracked.parent / "chaos_fold2" / "per_case.csv"
    table = pd.read_csv(path)
    first = table.index[(table.split == "test") & table.run_id.str.contains("supervised")][0]
    table.loc[first, ["dice", "hd95", "asd", "hd95_mm", "asd_mm"]] = [0, *[np.nan] * 4]
    table.to_csv(path, index=False)
    summary = pd.read_csv(folds.write_pooled("laptop", "chaos")[0][1]).set_index("method")
    assert summary.undefined["Supervised"] == 1 and summary.n["Supervised"] == 20


WITH_CONTROL = [*SPECS, (("samatch-fixmatch", "", "no_sam"), 0.85, [0.5] * 4)]


def test_the_answer_is_of_all_patients_once_the_folds_are_pooled(tracked):
    for name in NAMES:
        write_fold(name, WITH_CONTROL)
    assert answer_table.answer_of("laptop", "chaos")["test units"] == "5 patients"
    folds.write_pooled("laptop", "chaos")
    row = answer_table.answer_of("laptop", "chaos")
    assert (row["test units"], row["seeds"]) == ("20 patients, 4 folds", "1")
    assert (row["Supervised"], row["SAM-Match"], row["FixMatch, continued"]) == (
        "40.2",
        "90.2",
        "85.2",
    )
    assert row["both maps of SAM-Match at test time"] == "90.2" and row["SAM alone"] == "-"
    assert row["SAM-Match against continued"] == "+5.0 (+5.0 to +5.0), p < 0.0001"
    assert row["from the start against equal length"] == "-"
    page = write_pages.summary("laptop", "chaos_folds")
    assert "| SAM-Match (FixMatch) | 70.0 | 90.2 ± 0.1 | 10.0 |" in page
    assert "| SAM-Match (FixMatch) | Supervised | 20 | +50.0" in write_pages.wilcoxon(
        "laptop", "chaos_folds"
    )


def test_the_audit_of_pooled_folds_goes_back_to_the_folds(tracked):
    for name in NAMES:
        write_fold(name, WITH_CONTROL)
    folds.write_pooled("laptop", "chaos")
    outcomes, _ = audit.audit_set("laptop", "chaos_folds")
    assert [outcome.name for outcome in outcomes] == [
        "per_case.csv",
        "summary.csv",
        "wilcoxon.csv",
        "sam_at_test_time.csv",
    ]
    assert not [fault for outcome in outcomes for fault in outcome.faults]
    path = tracked.parent / "chaos_fold3" / "per_case.csv"
    table = pd.read_csv(path)
    table.loc[table.index[table.split == "test"][0], "dice"] = 0.1
    table.to_csv(path, index=False)
    faults = [f for outcome in audit.audit_set("laptop", "chaos_folds")[0] for f in outcome.faults]
    assert any(fault.startswith("per_case.csv: chaos_folds-n3-supervised-s0") for fault in faults)
    assert any(fault.startswith("summary.csv: chaos_folds-n3-supervised-s0") for fault in faults)
