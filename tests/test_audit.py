"""The audit: its formulae by hand, and that it notices one wrong row, p-value or prediction."""

import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from samatch.config.profiles import WHOLE_CHAIN
from samatch.data.manifest import load_manifest
from samatch.data.volumes import Volume
from samatch.results import audit, formulae, predictions, report, stats
from samatch.results.records import RUN_COLUMNS
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.training import metrics

CLASSES = ("RV", "MYO", "LV")
RUNS = {  # run_id: (method, SAM, variant, Dice that is added to a patient's)
    "phantom-n3-supervised-s0": ("supervised", "", "", 0.0),
    "phantom-n3-fixmatch-s0": ("fixmatch", "", "", 0.05),
    "phantom-n3-samatch-fixmatch-lite_medsam-s0": ("samatch-fixmatch", "lite_medsam", "", 0.1),
    "phantom-n3-samatch-fixmatch-s0-no_sam": ("samatch-fixmatch", "", "no_sam", 0.06),
}


def test_means_leave_out_what_is_undefined():
    rows = [{"p": "a", "d": "1"}, {"p": "a", "d": "2"}, {"p": "a", "d": ""}, {"p": "b", "d": ""}]
    found = formulae.means_by(rows, "p", "d")
    assert found["a"] == 1.5 and np.isnan(found["b"])
    assert formulae.deviation([1, 2, 3, float("nan")]) == 1 and np.isnan(formulae.deviation([1]))


@pytest.mark.parametrize("difference", [[3, -1, 2], [1, 1, -2, 0], [-1, 1, 2, 2, 3, -4]])
def test_the_exact_p_counts_all_sign_patterns(difference):
    """Ties have mean ranks, zeros are dropped: the smaller tail of W+ over all patterns, twice."""
    moved = np.array([d for d in difference if d], float)
    ranks = pd.Series(np.abs(moved)).rank().to_numpy()
    sums = np.array([ranks @ s for s in itertools.product((0, 1), repeat=len(moved))])
    observed = ranks[moved > 0].sum()
    expected = min(1, 2 * min((sums >= observed).mean(), (sums <= observed).mean()))
    assert formulae.signed_rank_p(np.array(difference, float)) == expected


def test_p_by_hand():
    assert formulae.signed_rank_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == 2 / 2**5
    assert formulae.signed_rank_p(np.zeros(3)) == 1
    assert np.isnan(formulae.signed_rank_p(np.array([])))
    many = np.arange(1.0, 61)  # mean 60 * 61 / 4, variance 60 * 61 * 121 / 24
    z = (60 * 61 / 2 - 60 * 61 / 4) / np.sqrt(60 * 61 * 121 / 24)
    assert z == pytest.approx(6.736, abs=1e-3)
    assert formulae.signed_rank_p(many) == pytest.approx(1.63e-11, rel=0.01)


@pytest.mark.parametrize("n, steps", [(9, 0), (9, 3), (30, 0), (30, 5), (80, 0), (80, 9)])
def test_the_tables_have_what_the_formulae_say(n, steps):
    """Exact and approximate, with and without ties and zeros."""
    difference = np.random.default_rng(n).normal(0.3, 1, n)
    difference = np.round(difference * steps) if steps else difference
    difference[0] = np.nan
    expected, found = formulae.paired(difference), stats.paired_test(difference)
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_corrections_by_hand():
    p = [0.04, 0.01, 0.03]
    assert formulae.bonferroni(p) == pytest.approx([0.12, 0.03, 0.09])
    assert formulae.holm(p) == pytest.approx([0.06, 0.03, 0.06])
    with_nan = [float("nan"), 0.5, 0.02]
    assert formulae.holm(with_nan)[1:] == [1.0, 0.06] and np.isnan(formulae.holm(with_nan)[0])
    assert formulae.bonferroni(with_nan)[1:] == [1.0, 0.06]


def test_limits_of_agreement_by_hand():
    found = formulae.limits_of_agreement([10.0, -30.0, 5.0, float("nan")])
    sd = np.sqrt(475)
    assert (found["n"], found["undefined"], found["bias"], found["sd"]) == (3, 1, -5, sd)
    assert (found["low"], found["high"]) == (-5 - 1.96 * sd, -5 + 1.96 * sd)


def test_distances_by_hand():
    """Single pixels 3 apart; a square of 3 x 3 has 8 surface pixels, its middle is none."""
    one, other = np.zeros((2, 1, 9, 9), bool)
    one[0, 4, 1] = other[0, 4, 4] = True
    assert predictions.distances(one, other, None) == (3, 3)
    assert predictions.distances(one, other, (9.0, 1.0, 0.5)) == (1.5, 1.5)
    assert np.isnan(predictions.distances(one, np.zeros_like(one), None)).all()
    other[0, 3:6, 3:6] = True
    assert predictions.surface(other[0]).sum() == 8 and not predictions.surface(other[0])[4, 4]
    assert predictions.overlap(one, other) == 0 and predictions.overlap(other, other) == 1
    assert np.isnan(predictions.overlap(one & other, one & other))


@pytest.mark.parametrize("spacing", [None, (5.0, 1.5, 1.25)])
@pytest.mark.parametrize("slices", [1, 4])
def test_both_ways_to_measure_agree(slices, spacing):
    rng = np.random.default_rng(slices)
    pred, ref = rng.random((2, slices, 12, 14)) > 0.7
    expected = metrics.surface_distances(pred, ref, spacing)
    assert predictions.distances(pred, ref, spacing) == pytest.approx(expected, rel=1e-6)
    assert predictions.overlap(pred, ref) == pytest.approx(metrics.dice(pred, ref), rel=1e-12)


def test_six_digits_are_no_difference_and_a_seventh_is():
    found = audit.Outcome("table")
    found.compare("here", "0.123457", 0.1234567891)
    assert found.compared == 1 and found.beyond == 0 and not found.faults
    found.compare("there", "0.123458", 0.1234567891)
    assert found.faults == ["there: 0.123458; recomputed 0.123456789"] and found.beyond > 1e-6
    found.compare("count", "5", 6)
    found.compare("gone", "", 0.5)
    assert len(found.faults) == 3
    assert formulae.rounding(0) == 0 and formulae.rounding(123.4) == pytest.approx(0.0005)


def whole_dice(row):
    """The Dice nearest to the row's that masks of its sizes can have."""
    both = row["n_pred"] + row["n_ref"]
    return 2 * round(row["dice"] * both / 2) / both


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """Made-up records of the phantom's test split, tables and predictions that belong to them."""
    monkeypatch.setattr(paths, "TRACKED_RESULTS", tmp_path / "results")
    monkeypatch.setattr(predictions, "labels_of", lambda manifest: ({}, "no labels are here"))
    folder, manifest = tmp_path / "results" / "laptop" / "phantom", load_manifest("phantom")
    folder.mkdir(parents=True)
    rng, cases, runs = np.random.default_rng(0), [], []
    easy = {p: rng.uniform(0.5, 0.8) for p in manifest.patients("test")}
    for run, (method, sam, variant, gain) in RUNS.items():
        about = {"method": method, "sam": sam, "variant": variant, "n_labeled": 3, "seed": 0}
        home, maps = paths.runs_dir("laptop") / run, {}
        for case in manifest.cases_of(manifest.patients("test")):
            shape = (case.n_slices, case.height, case.width)
            maps[case.case_id] = rng.integers(0, 4, shape).astype(np.uint8)
            for value, name in enumerate(CLASSES, 1):
                row = {"run_id": run, "split": "test", "patient_id": case.patient_id}
                row |= {"case_id": case.case_id, "class": name, "distance_unit": "mm"}
                row |= {"dice": easy[case.patient_id] + gain + rng.normal(0, 0.02)}
                row |= {"hd95": rng.uniform(2, 9), "asd": rng.uniform(1, 2), "status": "ok"}
                row |= {"hd95_mm": row["hd95"], "asd_mm": row["asd"]}
                row |= {"n_pred": int((maps[case.case_id] == value).sum())}
                row |= {"n_ref": maps[case.case_id].size // 4}  # a class of four, as predicted
                row["dice"] = whole_dice(row)
                cases.append(row)
        home.mkdir(parents=True)
        np.savez_compressed(home / "predictions.npz", **maps)
        (home / "run.json").write_text(json.dumps({"config_sha256": f"of {run}"}))
        about |= {"run_id": run, "val_dice": 0.5, "config_sha256": f"of {run}"}
        about |= {"manifest_sha256": manifest.sha256, "splits_sha256": manifest.splits_sha256}
        runs.append(dict.fromkeys(RUN_COLUMNS, "") | about)
    for name, rows in (("runs", runs), ("per_case", cases)):
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    report.write_tables("laptop", "phantom", folder)
    return folder


def edit(path, change):
    """Reads a CSV file as text, lets `change` alter the table, writes it back."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table)
    table.to_csv(path, index=False)


def test_sound_records_pass_and_say_what_was_compared(tracked, capsys):
    audit.main(["--profile", "laptop", "--dataset", "phantom", "--export"])
    printed = capsys.readouterr().out
    assert "phantom-n3-fixmatch-s0: " in printed and "cases" in printed and "kB" in printed
    for name in ("summary.csv", "wilcoxon.csv", "per_case.csv"):
        assert f"  {name}" in printed
    assert printed.count("sound") == 5 and "FAULT" not in printed
    assert printed.splitlines()[-1].endswith("values recomputed, none differs")
    assert "per_case.csv: only the predicted sizes, and no votes, since no labels" in printed


def test_one_changed_row_of_a_case_is_noticed(tracked):
    def change(table):
        table.loc[5, "dice"] = f"{float(table.dice[5]) + 0.3:.6g}"

    edit(tracked / "per_case.csv", change)
    with pytest.raises(InputError) as error:
        audit.main([])
    assert "laptop/phantom summary.csv: phantom-n3-supervised-s0, dice" in str(error.value)
    assert "laptop/phantom wilcoxon.csv: SAM-Match (FixMatch) Supervised dice" in str(error.value)


@pytest.mark.parametrize("column", ["p", "p_bonferroni", "p_holm", "ci_low", "rank_biserial", "n"])
def test_one_changed_number_of_a_test_is_noticed(tracked, column):
    def change(table):
        table.loc[0, column] = f"{float(table[column][0]) * 1.01 + 0.001:.6g}"

    edit(tracked / "wilcoxon.csv", change)
    with pytest.raises(InputError) as error:
        audit.main(["--profile", "laptop"])
    assert "1 fault\n" in str(error.value) and f"patient, {column}: " in str(error.value)


@pytest.mark.parametrize("row, name", [(0, "Supervised"), (2, "FixMatch, continued")])
def test_a_comparison_that_was_dropped_is_noticed(tracked, row, name):
    """Fewer comparisons make Bonferroni's factor smaller: the family is what the runs say."""
    edit(tracked / "wilcoxon.csv", lambda table: table.drop(index=row, inplace=True))
    with pytest.raises(InputError, match=f"dice by patient: {name} is left out"):
        audit.main([])


def test_a_dice_that_no_masks_have_is_noticed_without_predictions(tracked):
    """In a split that no table and no prediction covers."""

    def change(table):
        mine = table.run_id == "phantom-n3-fixmatch-s0"
        table["split"] = table.split.mask(mine, "test_refined")
        table.loc[mine.idxmax(), "n_pred"] = str(int(table.n_pred[mine.idxmax()]) + 1)

    edit(tracked / "per_case.csv", change)
    found = audit.audit_sizes(
        "sizes", audit.Records.read(tracked).per_case, load_manifest("phantom")
    )
    (fault,) = found.faults
    assert "fixmatch-s0 test_refined" in fault and "no whole number" in fault
    assert found.compared == len(pd.read_csv(tracked / "per_case.csv"))


def test_an_external_test_is_audited(tracked, monkeypatch):
    """Its runs are the tracked ones, its rows the set's test cases, its references the labels'."""
    rows = pd.read_csv(tracked / "per_case.csv", dtype=str).assign(split="external")
    facts = {
        run: (method, variant, "0", f"of {run}") for run, (method, _, variant, _) in RUNS.items()
    }
    for place, column in enumerate(("method", "variant", "seed", "config_sha256")):
        rows[column] = rows.run_id.map(lambda run, place=place: facts[run][place])
    rows.to_csv(tracked / "external_phantom.csv", index=False)
    audit.main([])
    edit(tracked / "external_phantom.csv", lambda table: table.drop(index=0, inplace=True))
    with pytest.raises(InputError, match="external_phantom.csv: phantom-n3.* is missing"):
        audit.main([])
    rows.assign(seed="1", run_id=rows.run_id.replace("phantom-n3-fixmatch-s0", "x")).to_csv(
        tracked / "external_phantom.csv", index=False
    )
    manifest = load_manifest("phantom")
    cases = manifest.cases_of(manifest.patients("test"))
    empty = {
        case.case_id: Volume(case, *2 * [np.zeros((case.n_slices, case.height, case.width))], None)
        for case in cases
    }
    monkeypatch.setattr(predictions, "labels_of", lambda manifest: (empty, ""))
    outcome, _ = audit.audit_external(tracked / "external_phantom.csv", audit.Records.read(tracked))
    told = "\n".join(outcome.faults)
    assert told.count("there is no such tracked run") == len(rows) // 4
    assert told.count(", seed: 1; recomputed 0") == told.count("n_ref") == 3 * len(rows) // 4


def test_a_family_without_its_methods_of_equal_length_is_noticed(tracked):
    """And p recomputed over what is left, so that nothing else differs."""
    runs = {"runs": "variant", "per_case": ""}
    for name, column in runs.items():
        table = pd.read_csv(tracked / f"{name}.csv", dtype=str, keep_default_na=False)
        more = table[table.run_id == "phantom-n3-fixmatch-s0"].assign(run_id="longer")
        if column:
            more[column] = WHOLE_CHAIN
        pd.concat([table, more]).to_csv(tracked / f"{name}.csv", index=False)
    kept = pd.read_csv(tracked / "wilcoxon.csv", dtype=str, keep_default_na=False)
    report.write_tables("laptop", "phantom", tracked)
    audit.main([])
    kept.to_csv(tracked / "wilcoxon.csv", index=False)
    with pytest.raises(InputError, match="patient: FixMatch, at equal length is left out"):
        audit.main([])


def test_a_row_too_many_and_one_too_few_are_noticed(tracked):
    edit(tracked / "summary.csv", lambda table: table.drop(index=3, inplace=True))
    with pytest.raises(InputError, match="summary.csv: phantom-.* is missing"):
        audit.main([])
    rows = [{"a": "x", "b": "1"}, {"a": "y", "b": "2"}]
    found = audit.compare_rows("t", ["a"], rows, [{"a": "x", "b": 1}])
    assert found.faults == ["t: y has no grounds"]


def test_one_changed_prediction_is_noticed(tracked):
    assert len(predictions.export("laptop", "phantom")) == 4
    path = predictions.tracked_file(tracked, "phantom-n3-fixmatch-s0")
    maps = predictions.read(path)
    first = next(iter(maps))
    place = tuple(np.argwhere(maps[first] == 2)[0])
    maps[first][place] = 3
    np.savez_compressed(path, **maps)
    with pytest.raises(InputError) as error:
        audit.main([])
    for name in ("MYO", "LV"):
        assert f"phantom-n3-fixmatch-s0, {first}, {name}, n_pred" in str(error.value)
    assert "2 faults" in str(error.value)
    del maps[first]
    np.savez_compressed(path, **maps)
    np.savez_compressed(path.with_name("other.npz"), **maps)
    with pytest.raises(InputError, match="predictions/other.npz: there is no such tracked run"):
        audit.main([])
    with pytest.raises(InputError, match=f"fixmatch-s0.npz: case {first} is missing"):
        audit.main([])


def test_maps_of_sam_are_audited_as_the_students_are(tracked):
    run = "phantom-n3-fixmatch-s0"
    home, table = paths.runs_dir("laptop") / run, pd.read_csv(tracked / "per_case.csv")
    sams = table[table.run_id == run].assign(split="test_sam")
    pd.concat([table, sams]).to_csv(tracked / "per_case.csv", index=False, float_format="%.6g")
    _, notes = audit.audit_own(tracked, "phantom")
    assert notes[0] == "per_case.csv: no predictions are tracked"
    shutil.copy(home / "predictions.npz", home / "predictions_sam.npz")
    assert len(predictions.export("laptop", "phantom")) == 5
    path = predictions.tracked_file(tracked, run, "test_sam")
    assert path.name == f"{run}.sam.npz"

    def of_cases():
        outcomes, _ = audit.audit_own(tracked, "phantom")
        return next(outcome for outcome in outcomes if outcome.name == "per_case.csv")

    assert not of_cases().faults
    maps = predictions.read(path)
    first = next(iter(maps))
    maps[first][tuple(np.argwhere(maps[first] == 2)[0])] = 3
    np.savez_compressed(path, **maps)
    myo, lv = of_cases().faults
    assert f"{run}.sam, {first}, MYO, n_pred" in myo and f"{run}.sam, {first}, LV, n_pred" in lv
    path.unlink()
    assert f"no predictions of {run}.sam" in "".join(audit.audit_own(tracked, "phantom")[1])


def test_predictions_are_audited_against_the_labels(monkeypatch):
    """Where the label is known: a case that metrics.py measured agrees, another map does not."""
    manifest = load_manifest("phantom")
    case = manifest.cases_of(manifest.patients("test"))[0]
    ref = np.zeros((3, 16, 16), np.uint8)
    ref[:, 4:10, 4:10] = 1
    pred = np.roll(ref, 2, axis=2)
    (row, *_) = metrics.case_metrics(pred, ref, CLASSES, (5.0, 1.5, 1.5), manifest.distances)
    row |= {"case_id": case.case_id}
    volume = predictions.Volume(case, np.zeros(ref.shape), ref, (5.0, 1.5, 1.5))
    for label_map, faults in ((pred, 0), (ref, 5)):
        outcome = audit.Outcome("per_case.csv")
        again = predictions.measured(row, label_map, {case.case_id: volume}, manifest)
        assert set(again) <= set(row)
        for column, (value, tolerance) in again.items():
            outcome.compare(column, str(row[column]), value, tolerance)
        assert len(outcome.faults) == faults and outcome.compared == 7


def test_only_the_tracked_runs_own_predictions_are_exported(tracked):
    home = paths.runs_dir("laptop") / "phantom-n3-fixmatch-s0"
    maps = predictions.read(home / "predictions.npz")
    first, second, *_ = maps
    wrong = maps | {first: maps[first] + 9, "stranger": maps[first]}
    del wrong[second]
    np.savez_compressed(home / "predictions.npz", **wrong)
    (home / "run.json").write_text(json.dumps({"config_sha256": "another"}))
    with pytest.raises(InputError) as error:
        predictions.export("laptop", "phantom")
    for expected in (
        "4 faults",
        "other settings than the tracked one",
        f"case {second} is missing",
        "case stranger is none of the test split",
        f"case {first}: expected uint8",
    ):
        assert expected in str(error.value)
    assert not (tracked / "predictions").exists()
    (home / "predictions.npz").unlink()
    assert "fixmatch-s0: no predictions on this machine" in "\n".join(
        predictions.export("laptop", "phantom")
    )


def test_an_unknown_set_and_a_broken_file_say_so(tracked):
    with pytest.raises(InputError, match="no tracked results of hearts"):
        audit.main(["--dataset", "hearts"])
    path = predictions.tracked_file(tracked, "phantom-n3-fixmatch-s0")
    path.parent.mkdir()
    path.write_bytes(b"PK broken")
    with pytest.raises(InputError, match="predictions cannot be read"):
        audit.main([])
    edit(tracked / "summary.csv", lambda table: table.drop(columns="method", inplace=True))
    with pytest.raises(InputError, match="tracked tables cannot be read(.|\\n)*KeyError: 'method'"):
        audit.main([])
