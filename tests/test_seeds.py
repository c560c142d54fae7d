"""Records of several seeds, by hand: README's table, the tables over seeds, pairs, their audit."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import answer_table  # noqa: E402
import pairs_table  # noqa: E402
import write_pages  # noqa: E402

from samatch.config.settings import run_id  # noqa: E402
from samatch.results import across_sets, audit, folds, report, seed_tables, ways  # noqa: E402
from samatch.results.records import RUN_COLUMNS  # noqa: E402
from samatch.system import paths  # noqa: E402
from samatch.system.errors import InputError  # noqa: E402

# (method, SAM, variant): seed -> Dice of two patients
SEEDS = {
    ("supervised", "", ""): {0: (0.5, 0.6), 1: (0.6, 0.7), 2: (0.9, 0.9)},
    ("supervised", "", "all_stages"): {1: (0.66, 0.68)},
    ("fixmatch", "", ""): {0: (0.7, 0.7)},
    ("samatch-fixmatch", "", "no_sam"): {0: (0.8, 0.8), 1: (0.8, 0.8), 2: (0.1, 0.1)},
    ("samatch-fixmatch", "lite_medsam", ""): {0: (0.8, 0.9), 1: (0.94, 0.82)},
    ("samatch-fixmatch", "lite_medsam", "guided_from_start"): {1: (0.92, 0.9)},
    ("fixmatch", "", "whole_chain"): {0: (0.78, 0.78), 1: (0.82, 0.82), 2: (0.1, 0.1)},
    ("finetune", "lite_medsam", ""): {0: (0.4, 0.4), 1: (0.5, 0.5)},
    # Of another SAM than most: no row of README's table, and a pair only where it is named.
    ("samatch-fixmatch", "vit_b", ""): {0: (0.2, 0.3)},
}


@pytest.fixture
def seeds_on_record(tmp_path, monkeypatch):
    """Made-up records of CHAOS with two seeds of SAM-Match, three, one or two of the others."""
    monkeypatch.setattr(paths, "TRACKED_RESULTS", tmp_path / "results")
    runs, cases = [], []
    for (method, sam, variant), by_seed in SEEDS.items():
        for seed, dice in by_seed.items():
            run = run_id("chaos", 3, method, sam, seed, variant)
            about = {"run_id": run, "method": method, "sam": sam, "variant": variant}
            about |= {"n_labeled": 3, "seed": seed, "val_dice": 0.5}
            runs.append(dict.fromkeys(RUN_COLUMNS, "") | about)
            guided = method.startswith("samatch") and sam
            for split, more in (("test", 0), ("test_sam", -0.1), ("test_refined", 0.02)):
                if split == "test" or guided:
                    for patient, value in zip("ab", dice, strict=True):
                        row = {"run_id": run, "split": split, "patient_id": patient}
                        row |= {"case_id": patient, "class": "liver", "dice": value + more}
                        row |= {"hd95": None if value == 0.9 else 4.0 + seed, "asd": 1.0}
                        row |= {"hd95_mm": row["hd95"], "asd_mm": row["asd"]}
                        row |= {
                            "distance_unit": "mm",
                            "n_pred": 1000,
                            "n_ref": 1000,
                            "status": "ok",
                        }
                        cases.append(row)
    folder = tmp_path / "results" / "laptop" / "chaos"
    folder.mkdir(parents=True)
    for name, rows in (("runs", runs), ("per_case", cases)):
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    report.write_tables("laptop", "chaos", folder)
    return folder


def test_the_answer_is_the_mean_over_the_seeds_of_both_sides(seeds_on_record):
    """Seed 2 of one side alone does not count; SAM-Match by patient: .87 and .86, control .80."""
    row = answer_table.answer_of("laptop", "chaos")
    assert (row["test units"], row["seeds"]) == ("2 patients", "2")
    assert (row["SAM-Match"], row["FixMatch, continued"]) == ("86.5", "80.0")
    assert (row["Supervised"], row["FixMatch"]) == ("60.0", "70.0 (1 of 2 seeds)")
    assert (row["both maps of SAM-Match at test time"], row["SAM alone"]) == ("88.5", "45.0")
    assert row["SAM-Match against continued"].startswith("+6.5 (+6.0 to +7.0), p 0.5000")
    assert row["Supervised, at equal length"] == "67.0 (1 of 2 seeds)"
    assert row["FixMatch, at equal length"] == "80.0"
    assert row["SAM-Match, from the start"] == "91.0 (1 of 2 seeds)"
    # Seed 1 alone has both: .92 - .82, .9 - .82.
    started = row["from the start against equal length"]
    assert started == "+9.0 (+8.0 to +10.0), p 0.5000 (1 of 2 seeds)"
    assert row["both maps, from the start"] == "93.0 (1 of 2 seeds)"  # .02 more than the student
    no_ramp = "from the start against equal length, no ramp"
    assert row[no_ramp] == row[f"{no_ramp}, kept from 0.75"] == "-"  # no such runs
    together = row["both maps, from the start, against equal length"]
    assert together == "+11.0 (+10.0 to +12.0), p 0.5000 (1 of 2 seeds)"


def test_tables_over_seeds_by_hand(seeds_on_record):
    runs, cases = write_pages.records("laptop", "chaos")
    table = seed_tables.summary_over_seeds(runs, cases).set_index("method")
    mine = table.loc["SAM-Match (FixMatch)"]
    assert (mine.seeds, mine.n_seeds, mine.n, mine.unit) == ("0 1", 2, 2, "mm")
    assert (mine.dice, mine.dice_liver) == pytest.approx((86.5, 86.5))
    assert mine.dice_sd == pytest.approx(1 / 2**0.5)  # of 87 and 86
    assert mine.dice_sd_over_seeds == pytest.approx(3 / 2**0.5)  # of 85 and 88
    assert (mine.hd95, mine.undefined) == (4.5, 1)  # 4 of one patient and 5 of both
    one = table.loc["FixMatch"]
    assert one.n_seeds == 1 and pd.isna(one.dice_sd_over_seeds)
    scores = seed_tables.scores_over_seeds(runs, cases)
    assert scores["SAM-Match (FixMatch)"].to_dict() == pytest.approx({"a": 0.87, "b": 0.86})


def test_pages_show_the_seeds(seeds_on_record):
    page = write_pages.summary("laptop", "chaos")
    assert page.splitlines()[0].startswith(
        "| method | seeds | validation Dice % | test Dice % | ± over seeds | HD95 (mm) |"
    )
    assert (
        "| SAM-Match (FixMatch) | 2 | 50.0 | 86.5 ± 0.7 | 2.1 | 4.5 (1 undefined in 2 seeds) |"
        in page
    )
    assert "| FixMatch | 1 | 50.0 | 70.0 ± 0.0 |  | 4.0 |" in page
    page = write_pages.seeds("laptop", "chaos")
    assert "| SAM-Match (FixMatch) | 0, 1 | 86.5 | 2.1 | 85.0 | 88.0 |" in page
    assert "| Supervised | 0, 1, 2 | 70.0 |" in page and "| SAM alone | 0, 1 | 45.0 |" in page
    page = write_pages.wilcoxon("laptop", "chaos")
    assert "| SAM-Match (FixMatch) | FixMatch, continued | 2 | 2 | +6.5" in page
    assert "| SAM-Match (FixMatch) | 2 | 86.5 | 76.5 | 88.5 | +2.0 |" in write_pages.test_time(
        "laptop", "chaos"
    )


def test_pairs_are_of_the_units_that_have_both(seeds_on_record, monkeypatch):
    """Means of seeds 0 and 1: .87 and .86 against .80 twice; seed 2 lacks the first run. SAM's part
    is .02 more. A fold without the second run adds nothing to the first pair, and its two patients
    to the second."""
    default, control = ways.sam_match(), ways.sam_match("no_sam")
    both = ways.sam_match("", ways.BOTH)
    rows = [(default, control), (both, default)]
    other_sam = ways.sam_match(sam="vit_b")
    monkeypatch.setattr(pairs_table, "PAIRS", {"chaos": [(other_sam, default)]})
    (row,) = write_pages.pairs("laptop", "chaos").splitlines()[2:]
    assert row.startswith(
        "| SAM-Match (FixMatch), vit_b | SAM-Match (FixMatch) | 0 | 2 | 0 | -60.0"
    )
    monkeypatch.setattr(pairs_table, "PAIRS", {"chaos": rows, "chaos_folds": rows})
    first, second = write_pages.pairs("laptop", "chaos").splitlines()[2:]
    assert first.startswith("| SAM-Match (FixMatch) | FixMatch, continued | 0, 1 | 2 | 2 | +6.5 (")
    assert "maps at test time | SAM-Match (FixMatch) | 0, 1 | 2 | 2 | +2.0 (+2.0 to +2.0)" in second

    fold = seeds_on_record.parent / "chaos_fold2"
    shutil.copytree(seeds_on_record, fold)
    for name in ("runs", "per_case"):
        rows = pd.read_csv(fold / f"{name}.csv", keep_default_na=False)
        rows["run_id"] = rows.run_id.str.replace("chaos", "chaos_fold2")
        if name == "per_case":
            rows["patient_id"] += "2"
        rows[~rows.run_id.str.contains("no_sam")].to_csv(fold / f"{name}.csv", index=False)
    monkeypatch.setattr(folds, "fold_names", lambda whole: [whole, f"{whole}_fold2"])
    first, second = write_pages.pairs("laptop", "chaos_folds").splitlines()[2:]
    assert "| 2 | 2 | +6.5 (" in first and "| 4 | 4 | +2.0 (" in second


def test_what_does_not_stand_is_listed(seeds_on_record):
    """Each family of a single seed, with its size and every comparison of p 0.05 and more."""
    rows = pd.read_csv(seeds_on_record / "wilcoxon.csv")
    rows = rows[(rows.metric == "dice") & (rows.unit == "patient")]
    shown = write_pages.exceptions("laptop", "chaos").splitlines()[2:]
    assert len(shown) == rows.reference.nunique()
    for line, (reference, family) in zip(shown, rows.groupby("reference", sort=False), strict=True):
        assert line.startswith(f"| {reference} | {len(family)} | ")
        for row in family.itertuples():
            assert (f"{row.comparison} (" in line) == (row.p_bonferroni >= 0.05)


def test_a_pair_that_no_seed_has_or_no_record_is_one_error(seeds_on_record, monkeypatch):
    with pytest.raises(InputError, match="unknown set whose pairs are named: 'brats'"):
        pairs_table.pairs("laptop", "brats")
    with pytest.raises(InputError, match="no records of acdc, chaos, busi"):
        answer_table.answer("paper", "all")
    default, missing, other_seed = (
        ways.sam_match(),
        ways.sam_match("box"),
        ways.Way("fixmatch"),
    )
    for pair, got in (
        ((default, missing), r"seeds \[0, 1\] and \[\]"),
        ((ways.sam_match("guided_from_start"), other_seed), r"seeds \[1\] and \[0\]"),
    ):
        monkeypatch.setattr(pairs_table, "PAIRS", {"chaos": [pair]})
        with pytest.raises(InputError, match=f"no seed has both(.|\n)*{got}"):
            pairs_table.pairs("laptop", "chaos")


def test_the_audit_covers_the_tables_over_seeds(seeds_on_record):
    outcomes = {outcome.name: outcome for outcome in audit.audit_set("laptop", "chaos")[0]}
    assert outcomes["seeds.csv"].compared == 30 and outcomes["wilcoxon_seeds.csv"].compared == 39
    (sizes,) = (outcomes.pop(name) for name in list(outcomes) if "sizes" in name)
    assert all("is missing" in fault or "none of it" in fault for fault in sizes.faults)
    assert not [fault for outcome in outcomes.values() for fault in outcome.faults]
    for name, column in (("seeds", "dice_sd_over_seeds"), ("wilcoxon_seeds", "median_difference")):
        path = seeds_on_record / f"{name}.csv"
        table = pd.read_csv(path)
        table.loc[0, column] += 0.01
        table.to_csv(path, index=False)
        outcomes = {outcome.name: outcome for outcome in audit.audit_set("laptop", "chaos")[0]}
        (fault,) = outcomes[f"{name}.csv"].faults
        assert f", {column}: " in fault


def test_every_row_against_fixmatch_at_equal_length(seeds_on_record):
    """Means over seeds of both: .87, .86 of SAM-Match against .80; supervised training at equal
    length and SAM-Match from the start have seed 1 alone, the first .66, .68 against .82."""
    assert (
        across_sets.sets_on_record("laptop") == ["chaos"]
        and across_sets.sets_on_record("demo") == []
    )
    table = across_sets.against_control(across_sets.of_set("laptop", "chaos"))
    shown = table.set_index("name")
    # The control is no row against itself; without a ramp no run is on record.
    assert list(shown.index) == [
        name for name in across_sets.ROWS.values() if "FixMatch, at" not in name
    ]
    assert shown.seeds.to_dict() == dict.fromkeys(shown.index, 2) | dict.fromkeys(
        ("Supervised, at equal length", "SAM-Match, from the start", "both maps, from the start"), 1
    ) | {"FixMatch": 1}
    for name, median, low, high in (
        ("SAM-Match", 6.5, 6.0, 7.0),
        ("Supervised, at equal length", -15.0, -16.0, -14.0),
    ):
        found = shown.loc[name, ["median_difference", "ci_low", "ci_high"]]
        assert found.tolist() == pytest.approx([median, low, high])
    drawing = across_sets.forest({"made up": table, "again": table[table.seeds == 1]}, "title")
    left, right = drawing.axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(shown.index)
    assert left.get_title() == "made up, 1 or 2 seeds" and right.get_title() == "again, 1 seed"
    assert len(right.lines) == 1 + 2 * 4  # zero, and of each row an interval and a median
    # Each mark stands in its row, as far right as its median; beyond the picture it is an arrow.
    marks = [line for line in left.lines[1:] if len(line.get_xydata()) == 1]
    assert len(marks) == len(shown)
    for name, mark, x in (("SAM-Match", ">", 6.0), ("Supervised, at equal length", "<", -5.0)):
        place = list(shown.index).index(name)
        assert marks[place].get_xydata()[0].tolist() == pytest.approx([x, place])
        assert marks[place].get_marker() == mark


def test_an_external_test_is_set_beside_supervised_training_at_equal_length(seeds_on_record):
    """Two pictures: seed 1 of both, .5 and .6 against .7 and .9, with SAM .8 and .9; a method of
    another seed alone."""
    rows = [
        (run_id("chaos", 3, method, sam, seed, variant), seed, split, case, dice)
        for method, sam, variant, seed, split, both in (
            ("supervised", "", "all_stages", 1, "external", (0.7, 0.9)),
            ("samatch-fixmatch", "lite_medsam", "", 1, "external", (0.5, 0.6)),
            ("samatch-fixmatch", "lite_medsam", "", 1, "external_refined", (0.8, 0.9)),
            ("fixmatch", "", "", 0, "external", (0.1, 0.0)),
        )
        for case, dice in zip("ab", both, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["run_id", "seed", "split", "case_id", "dice"])
    table["status"] = np.where(table.dice == 0, "empty_pred", "ok")
    table.to_csv(seeds_on_record / "external_there.csv", index=False)
    page = write_pages.external("laptop", "chaos")
    assert "| Supervised, at equal length | 1 | 2 | 80.0 | 80.0 | 0.0 |  |" in page
    assert "| FixMatch | 1 | 2 | 5.0 | 5.0 | 50.0 |  |" in page
    guided, more = "| SAM-Match (FixMatch)", "0.0 | -25.0 (-30.0 to -20.0), p 0.5000 |"
    assert f"{guided} | 1 | 2 | 55.0 | 55.0 | {more}" in page
    more = "0.0 | +5.0 (+0.0 to +10.0), p 1.0000 |"
    assert f"{guided}: both maps at test time | 1 | 2 | 85.0 | 85.0 | {more}" in page
