"""Tables of records by hand: families, seeds, the paper's numbers."""

import numpy as np
import pandas as pd
import pytest

from samatch.results import report, seed_tables, stats, tables
from samatch.results.records import (
    read_table,
)
from samatch.system.errors import InputError
from tests.made import records


def test_sam_match_is_the_default_however_good_the_papers_box_is():
    runs, cases = records()
    assert (
        [tables.default_guided(runs)]
        == tables.all_default_guided(runs)
        == ["acdc-n3-samatch-fixmatch-lite_medsam-s0"]
    )
    assert (
        runs.set_index("variant").val_dice["box"] == runs[runs.method != "finetune"].val_dice.max()
    )


def test_no_guided_run_is_one_error():
    runs, _ = records()
    for lacking in (runs[runs.method == "fixmatch"], runs[runs.variant != ""]):
        with pytest.raises(InputError, match="no SAM-guided run of fixmatch(.|\n)*no variant"):
            tables.default_guided(lacking)


def test_summary_by_hand():
    runs, cases = records()
    row = tables.summary(runs, cases).set_index("run_id").loc["acdc-n3-fixmatch-s0"]
    mine = cases[cases.run_id == "acdc-n3-fixmatch-s0"]
    patients = [mine[mine.patient_id == p].dice.mean() for p in mine.patient_id.unique()]
    assert row.dice == pytest.approx(100 * np.mean(patients)) and row.dice_sd == pytest.approx(
        100 * np.std(patients, ddof=1)
    )
    assert row.n == 6 and row["dice_RV"] == pytest.approx(
        100 * mine[mine["class"] == "RV"].dice.mean()
    )


def test_sam_at_test_time_by_hand():
    runs, cases = records()
    guided = "acdc-n3-samatch-fixmatch-lite_medsam-s0"
    mine = cases[cases.run_id == guided]
    more = [
        mine.assign(split=f"test_{way}", dice=mine.dice + gain)
        for way, gain in (("sam", -0.1), ("refined", 0.02))
    ]
    assert not len(tables.sam_at_test_time(runs, cases))
    (row,) = tables.sam_at_test_time(runs, pd.concat([cases, *more])).itertuples()
    assert (
        row.run_id == guided and row.n == 6 and row.student == pytest.approx(100 * mine.dice.mean())
    )
    assert (row.sam_difference, row.refined_difference) == pytest.approx(
        (-10, 2)
    ) and row.sam == pytest.approx(row.student - 10)


def test_undefined_distances_are_counted_not_averaged():
    runs, cases = records()
    cases.loc[cases.run_id == "acdc-n3-fixmatch-s0", "hd95"] = [np.nan, *[2.0] * 23]
    row = tables.summary(runs, cases).set_index("run_id").loc["acdc-n3-fixmatch-s0"]
    assert row.undefined == 1 and row.hd95 == 2


def test_the_family_holds_every_comparison_method_and_no_sibling():
    found = tables.wilcoxon_table(*records())
    assert set(found.comparison) == {"Supervised", "FixMatch", "FixMatch, continued"}
    assert set(found.reference) == {"SAM-Match (FixMatch)"}


def test_half_a_joint_training_is_compared_with_half_a_training_without_sam(tmp_path):
    runs, cases = records()
    for whole, part in (
        ("samatch-fixmatch-lite_medsam-s0", "half_joint"),
        ("samatch-fixmatch-s0-no_sam", "no_sam_half"),
    ):
        run = runs[runs.run_id == f"acdc-n3-{whole}"].assign(run_id=part, variant=part)
        runs = pd.concat([runs, run], ignore_index=True)
        cases = pd.concat(
            [cases, cases[cases.run_id == f"acdc-n3-{whole}"].assign(run_id=part)],
            ignore_index=True,
        )
    assert set(tables.wilcoxon_table(runs, cases).comparison) == {
        "Supervised",
        "FixMatch",
        "FixMatch, continued",
    }
    found = tables.wilcoxon_table(runs, cases, reference="half_joint")
    assert set(found.comparison) == {
        "Supervised",
        "FixMatch",
        "FixMatch, continued, joint training: half without SAM",
    }
    assert set(found.reference) == {"SAM-Match (FixMatch), joint training: half"}
    for name, table in (("runs", runs), ("per_case", cases)):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    report.write_tables("laptop", "made_up", tmp_path)
    assert set(pd.read_csv(tmp_path / "wilcoxon.csv").reference) == {
        "SAM-Match (FixMatch)",
        *found.reference,
    }


def test_a_variant_of_ones_own_has_its_own_name():
    assert tables.label("samatch-fixmatch", "no_sam_slow") == "FixMatch, continued, no_sam_slow"
    assert tables.label("samatch-fixmatch", "slow") == "SAM-Match (FixMatch), slow"
    assert (
        tables.label("finetune") == "SAM alone"
        and tables.label("fixmatch", "slow") == "FixMatch, slow"
    )


def test_sam_alone_stands_in_the_table_where_it_was_tested():
    runs, cases = records()
    assert "SAM alone" not in set(tables.summary(runs, cases).method)
    mine = cases.run_id == "acdc-n3-finetune-lite_medsam-s0"
    table = tables.summary(runs, cases.assign(split=cases.split.mask(mine, "test"))).set_index(
        "method"
    )
    assert table.dice["SAM alone"] == pytest.approx(100 * cases[mine].dice.mean())


def test_ablation_cells_without_a_run_are_missing_not_zero():
    runs, cases = records()
    runs = pd.concat(
        [runs, runs[runs.variant == "box"].assign(run_id="other-seed", variant="mask", seed=1)]
    )
    grid = tables.ablation_grid(runs, cases)
    cells, asked = grid.set_index(["factor", "level"]), "what SAM is asked"
    assert len(grid) == len(tables.ABLATIONS) and set(grid[grid.default].level) >= {
        "nothing",
        "consensus",
        "quarter",
    }
    boxes = grid[grid.run_id == "acdc-n3-samatch-fixmatch-lite_medsam-s0-box"]
    assert list(zip(boxes.factor, boxes.level, strict=True)) == [
        (asked, "box in its place"),
        ("margin of the box, px at 256", "2"),
        ("arithmetic, with boxes", "corrected"),
    ]
    assert cells.loc[(asked, "mask"), "status"] == "not run" and np.isnan(
        cells.loc[(asked, "mask"), "dice"]
    )
    mine = [
        cases[cases.run_id == f"acdc-n3-samatch-fixmatch-lite_medsam-s0{tail}"].dice.mean()
        for tail in ("-box", "")
    ]
    # Against no prompt; the other two factors are of the run with boxes, and begin with it.
    assert boxes.difference.tolist() == pytest.approx([100 * (mine[0] - mine[1]), 0, 0])
    assert boxes.against.tolist() == ["nothing", "2", "corrected"]
    assert cells.loc[("combine", "consensus"), "difference"] == 0
    assert cells.loc[("combine", "no SAM"), "run_id"] == "acdc-n3-samatch-fixmatch-s0-no_sam"


def test_another_sam_has_a_reference_and_a_grid_of_its_own():
    runs, cases = records()
    first = "acdc-n3-samatch-fixmatch-lite_medsam-s0"
    second = first.replace("lite_medsam", "vit_b")
    row = runs[runs.run_id == first].assign(run_id=second, sam="vit_b", val_dice=1.0)
    runs = pd.concat([row, runs])
    cases = pd.concat([cases, cases[cases.run_id == first].assign(run_id=second)])
    assert set(tables.all_default_guided(runs)) == {first, second}
    for sam, mine in (("lite_medsam", first), ("vit_b", second)):
        assert tables.default_guided(runs, sam=sam) == mine
        grid = tables.ablation_grid(runs, cases, sam=sam)
        assert set(grid.run_id[grid.default]) == {mine}
        without = grid[(grid.factor == "combine") & (grid.level == "no SAM")]
        assert without.run_id.tolist() == ["acdc-n3-samatch-fixmatch-s0-no_sam"]


def test_runs_of_other_budgets_and_seeds_are_named_and_not_in_the_family():
    runs, cases = records()
    more = runs[runs.method == "fixmatch"]
    for name, change in (("a", {"n_labeled": 70}), ("b", {"seed": 1})):
        runs = pd.concat([runs, more.assign(run_id=name, **change)], ignore_index=True)
        cases = pd.concat([cases, cases[cases.run_id == more.run_id.iloc[0]].assign(run_id=name)])
    names = tables.names_of(runs)
    assert names["a"] == "FixMatch, 70 labeled" and names["b"] == "FixMatch, seed 1"
    assert len(tables.wilcoxon_table(runs, cases)) == 3


def with_seeds(**change):
    """The records of seed 0, and those of seed 1 with every Dice of `change`'s methods moved."""
    runs, cases = records()
    runs1, cases1 = (
        table.assign(run_id=table.run_id.str.replace("-s0", "-s1")) for table in (runs, cases)
    )
    for method, moved in change.items():
        cases1.loc[cases1.run_id.str.contains(method), "dice"] += moved
    return pd.concat(
        [runs, runs1.assign(seed=1, val_dice=runs1.val_dice + 0.02)], ignore_index=True
    ), pd.concat([cases, cases1], ignore_index=True)


def test_seeds_by_hand():
    runs, cases = with_seeds(supervised=0.1)
    runs = runs[(runs.method != "fixmatch") | (runs.seed == 0)]
    table = seed_tables.seed_table(runs, cases[cases.run_id.isin(runs.run_id)]).set_index("method")
    one = 100 * cases[cases.run_id == "acdc-n3-supervised-s0"].dice.mean()
    assert (
        table.loc["Supervised", "seeds"] == "0 1"
        and "FixMatch" not in table.index
        and "SAM alone" not in table.index
    )
    assert table.loc["Supervised"][
        ["val_dice", "dice", "dice_sd_over_seeds", "lowest", "highest"]
    ].tolist() == pytest.approx([51, one + 5, 10 / 2**0.5, one, one + 10])
    assert (
        seed_tables.seed_table(*records()).empty
        and seed_tables.wilcoxon_over_seeds(*records()).empty
    )


def test_over_seeds_a_patient_counts_once_with_the_mean():
    runs, cases = with_seeds(no_sam=0.2)
    runs = runs[(runs.method != "supervised") | (runs.seed == 0)]
    cases = cases[cases.run_id.isin(runs.run_id)]
    found = seed_tables.wilcoxon_over_seeds(runs, cases).set_index("comparison")
    assert (
        set(found.reference) == {"SAM-Match (FixMatch)"}
        and list(found.index) == ["FixMatch", "FixMatch, continued"]
        and set(found.n) == {6}
    )
    by_patient = cases.groupby(["run_id", "patient_id"]).dice.mean()
    mean = {
        tail: (by_patient[f"acdc-n3-{tail.format(0)}"] + by_patient[f"acdc-n3-{tail.format(1)}"])
        / 2
        for tail in ("samatch-fixmatch-lite_medsam-s{}", "samatch-fixmatch-s{}-no_sam")
    }
    mine, control = mean.values()
    assert found.median_difference["FixMatch, continued"] == pytest.approx(
        np.median(mine - control)
    )


def test_a_control_that_is_still_its_start_is_no_member_of_a_family():
    runs, cases = with_seeds()
    same = cases.run_id == "acdc-n3-samatch-fixmatch-s0-no_sam"
    cases.loc[same, "dice"] = cases[cases.run_id == "acdc-n3-fixmatch-s0"].dice.to_numpy()
    assert tables.unchanged(runs, cases) == ["acdc-n3-samatch-fixmatch-s0-no_sam"]
    by_seed = [
        tables.wilcoxon_table(runs, cases, reference=f"acdc-n3-samatch-fixmatch-lite_medsam-s{n}")
        for n in (0, 1)
    ]
    assert list(by_seed[0].comparison) == ["Supervised", "FixMatch"]
    assert len(by_seed[1]) == 3
    over_seeds = seed_tables.wilcoxon_over_seeds(runs, cases)
    assert set(over_seeds.comparison) == {"Supervised", "FixMatch"}


def test_only_the_papers_method_gets_the_papers_number():
    """Not BCP's or another SAM's SAM-Match, a variant, a second seed or another budget."""
    runs, _ = records()
    mine = runs[runs.run_id == "acdc-n3-samatch-fixmatch-lite_medsam-s0"]
    others = [
        mine.assign(run_id=f"other{number}", **change)
        for number, change in enumerate(
            ({"method": "samatch-bcp"}, {"sam": "vit_b"}, {"seed": 1}, {"n_labeled": 7})
        )
    ]
    runs = pd.concat([*others, runs])
    assert report.papers_dice("acdc", runs) == {mine.run_id.iloc[0]: "89.36"}
    assert report.papers_dice("phantom", runs) == {}


def test_what_is_printed_is_what_was_written_elsewhere(tmp_path, monkeypatch, capsys):
    """`--into` an own folder: not the table of this machine's usual results."""
    runs, cases = records()
    for name, table in (("runs", runs), ("per_case", cases)):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    monkeypatch.setattr(report, "collect", lambda profile, dataset, folder: folder)
    report.main(["--profile", "laptop", "--dataset", "hearts", "--into", str(tmp_path), "--print"])
    printed = capsys.readouterr().out
    dice = tables.summary(runs, cases).dice
    assert all(f"{value:.2f} ±" in printed for value in dice)


def undefined_distances(cases, run, **change):
    """As samatch.metrics writes a run whose predictions are all background."""
    where = cases.run_id == run
    return cases.assign(
        **{name: cases[name].mask(where) for name in stats.DISTANCES},
        status=cases.status.mask(where, "empty_pred"),
        **change,
    )


def test_a_run_without_any_distance_leaves_every_table_possible(tmp_path, monkeypatch):
    runs, cases = records()
    cases = undefined_distances(cases, "acdc-n3-supervised-s0")
    for name, table in (("runs", runs), ("per_case", cases)):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    report.write_tables("laptop", "hearts", tmp_path)
    tests = (
        read_table(tmp_path / "wilcoxon.csv")
        .query("metric == 'hd95' and unit == 'patient'")
        .set_index("comparison")
    )
    assert (
        tests.n.to_dict() == {"Supervised": 0, "FixMatch": 6, "FixMatch, continued": 6}
        and tests.undefined["Supervised"] == 6
    )
    assert (
        np.isnan(tests.p["Supervised"])
        and np.isnan(tests.p_holm["Supervised"])
        and not tests.significant["Supervised"]
    )
    assert tests.p_bonferroni["FixMatch"] == pytest.approx(
        min(1, 3 * tests.p["FixMatch"])
    )  # the family stays as large as it was named
    monkeypatch.setattr(report, "read_results", lambda *_: (runs, cases))
    shown = report.final_table("laptop", "acdc")
    assert (
        shown["HD95 voxel"].tolist()[0] == "undefined"
        and "undefined" not in shown["HD95 voxel"].tolist()[1:]
    )


def test_no_dice_at_all_leaves_the_grid_possible():
    runs, cases = records()
    cases.loc[cases.run_id == "acdc-n3-samatch-fixmatch-lite_medsam-s0-box", "dice"] = np.nan
    grid = tables.ablation_grid(runs, cases).set_index(["factor", "level"])
    box = "what SAM is asked", "box in its place"
    assert (
        np.isnan(grid.dice[box])
        and grid.status[box] == "run"
        and not np.isnan(grid.dice["combine", "consensus"])
    )


@pytest.mark.parametrize(
    "seeds, expected",
    [(1, {"summary", "wilcoxon"}), (2, {"summary", "wilcoxon", "seeds", "wilcoxon_seeds"})],
)
def test_tables_over_seeds_are_written_where_there_are_several(tmp_path, seeds, expected):
    found = records() if seeds == 1 else with_seeds()
    for name, table in zip(("runs", "per_case"), found, strict=True):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    assert {path.stem for path in report.write_tables("laptop", "made_up", tmp_path)} == expected


def test_without_a_test_result_there_is_no_table(tmp_path):
    """A SAM that waits for boxes is measured on validation patients alone."""
    runs, cases = records()
    tuned = runs[runs.method == "finetune"]
    for name, table in (("runs", tuned), ("per_case", cases[cases.run_id.isin(tuned.run_id)])):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    for work in (report.write_tables, report.final_table):
        with pytest.raises(InputError, match="no run has test results"):
            work("laptop", "acdc", tmp_path)
    assert not (tmp_path / "summary.csv").exists()


def test_a_guided_run_alone_has_a_row_and_no_test(tmp_path):
    runs, cases = records()
    alone = runs[runs.method.str.startswith("samatch") & (runs.variant == "")]
    for name, table in (("runs", alone), ("per_case", cases[cases.run_id.isin(alone.run_id)])):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    written = report.write_tables("laptop", "made_up", tmp_path)
    assert [path.name for path in written] == ["summary.csv"]


def test_millimetres_stand_beside_voxels_where_they_are_known():
    runs, cases = records()
    assert "hd95_mm" not in tables.summary(runs, cases)
    cases = cases.assign(hd95_mm=3 * cases.hd95, asd_mm=np.nan)
    cases.loc[cases.run_id == "acdc-n3-supervised-s0", "hd95_mm"] = (
        np.nan
    )  # a run of earlier records
    table = tables.summary(runs, cases).set_index("run_id")
    assert np.isnan(table.hd95_mm["acdc-n3-supervised-s0"]) and "asd_mm" not in table
    assert table.hd95_mm["acdc-n3-fixmatch-s0"] == pytest.approx(
        3 * table.hd95["acdc-n3-fixmatch-s0"]
    )
    assert "hd95_mm" not in tables.summary(runs, cases.assign(distance_unit="mm"))
