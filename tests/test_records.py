"""Tables of records: every fault at once, the choice on validation, the paper's numbers."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from samatch.__main__ import main
from samatch.config.settings import make_config, run_id
from samatch.data.curate import curate
from samatch.results import examples, report, runs, seed_tables, stats, tables
from samatch.results.records import (
    RUN_COLUMNS,
    collect,
    collect_trials,
    read_results,
    read_table,
    result_faults,
)
from samatch.results.runs import Run, complete_run, read_predictions, write_predictions
from samatch.system import paths, repro
from samatch.system.errors import InputError
from samatch.system.whole import write_text
from tests.made import ellipse, png
from tests.told import MACHINE, READ_BACK, SETTINGS

ROOM = READ_BACK

SPECS = [
    ("supervised", "", ""),
    ("fixmatch", "", ""),
    ("samatch-fixmatch", "lite_medsam", ""),
    ("samatch-fixmatch", "lite_medsam", "box"),
    ("samatch-fixmatch", "", "no_sam"),
    ("finetune", "lite_medsam", ""),
]
VAL = [0.5, 0.7, 0.72, 0.74, 0.71, 0.9]


def records(dataset="acdc"):
    rng = np.random.default_rng(0)
    runs, cases = [], []
    for (method, sam, variant), val in zip(SPECS, VAL, strict=True):
        name = run_id(dataset, 3, method, sam, 0, variant)
        runs.append(
            {
                **dict.fromkeys(RUN_COLUMNS, ""),
                "run_id": name,
                "method": method,
                "sam": sam,
                "variant": variant,
                "n_labeled": 3,
                "seed": 0,
                "val_dice": val,
                "selected_iteration": 100,
                "manifest_sha256": "m",
                "splits_sha256": "s",
            }
        )
        for patient in (f"p{i}" for i in range(6)):
            cases += [
                {
                    "run_id": name,
                    "split": "val" if method == "finetune" else "test",
                    "patient_id": patient,
                    "case_id": f"{patient}_{f}",
                    "class": c,
                    "dice": val + rng.normal(0, 0.02),
                    "hd95": rng.uniform(1, 9),
                    "asd": 1.0,
                    "distance_unit": "voxel",
                    "status": "ok",
                }
                for f in (1, 2)
                for c in ("RV", "LV")
            ]
    return pd.DataFrame(runs), pd.DataFrame(cases)


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
        "is listed twice",
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


@pytest.fixture
def two_ways(monkeypatch):
    """Two ways to combine that validation chooses among."""
    monkeypatch.setattr(tables, "COMBINE_VARIANTS", ("", "box"))


def test_sam_match_is_the_default_however_good_the_papers_box_is():
    runs, cases = records()
    assert (
        tables.chosen_guided(runs)
        == tables.all_chosen(runs)[0]
        == "acdc-n3-samatch-fixmatch-lite_medsam-s0"
    )
    assert (
        runs.set_index("variant").val_dice["box"] == runs[runs.method != "finetune"].val_dice.max()
    )


def test_among_several_ways_sam_match_is_chosen_on_validation_alone(two_ways):
    runs, cases = records()
    assert tables.chosen_guided(runs) == "acdc-n3-samatch-fixmatch-lite_medsam-s0-box"
    with pytest.raises(InputError, match="no SAM-guided run"):
        tables.chosen_guided(runs[runs.method == "fixmatch"])


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
    assert boxes.difference.tolist() == pytest.approx(3 * [100 * (mine[0] - mine[1])])
    assert cells.loc[("combine", "consensus"), "difference"] == 0
    assert cells.loc[("combine", "student alone"), "run_id"] == "acdc-n3-samatch-fixmatch-s0-no_sam"


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


def test_over_seeds_a_patient_counts_once_with_the_mean(two_ways):
    runs, cases = with_seeds(box=0.2)
    runs = runs[(runs.method != "supervised") | (runs.seed == 0)]
    cases = cases[cases.run_id.isin(runs.run_id)]
    found = seed_tables.wilcoxon_over_seeds(runs, cases).set_index("comparison")
    assert (
        set(found.reference) == {"SAM-Match (FixMatch), the paper's box"}
        and list(found.index) == ["FixMatch", "FixMatch, continued"]
        and set(found.n) == {6}
    )
    by_patient = cases.groupby(["run_id", "patient_id"]).dice.mean()
    mean = {
        tail: (by_patient[f"acdc-n3-{tail.format(0)}"] + by_patient[f"acdc-n3-{tail.format(1)}"])
        / 2
        for tail in ("samatch-fixmatch-lite_medsam-s{}-box", "fixmatch-s{}")
    }
    assert found.median_difference["FixMatch"] == pytest.approx(
        np.median(mean["samatch-fixmatch-lite_medsam-s{}-box"] - mean["fixmatch-s{}"])
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
    assert report.paper_value("acdc", "acdc-n3-samatch-fixmatch-lite_medsam-s0") == "89.36"
    for run in (
        "acdc-n3-fixmatch-s0",
        "acdc-n7-samatch-fixmatch-lite_medsam-s0",
        "acdc-n3-samatch-fixmatch-s0-no_sam",
        "acdc-n3-samatch-fixmatch-lite_medsam-s0-box",
    ):
        assert report.paper_value("acdc", run) == ""
    assert report.paper_value("phantom", "phantom-n3-samatch-fixmatch-lite_medsam-s0") == ""


def test_collect_gathers_complete_runs_only(tmp_path):
    for name, status in (("acdc-n3-fixmatch-s0", "run.json"), ("acdc-n3-other-s0", "none")):
        folder = paths.runs_dir("laptop") / name
        folder.mkdir(parents=True)
        cfg = {
            "dataset": "acdc",
            "method": "fixmatch",
            "variant": "",
            "n_labeled": 3,
            "seed": 0,
            "sam_name": "",
            "train": {"iterations": 5},
            "parents": [],
        }
        if status == "run.json":
            (folder / status).write_text(
                json.dumps({"run_id": name, "status": "complete", "val_dice": 0.5, "config": cfg})
            )
        (folder / "per_case.csv").write_text(
            f"run_id,split,patient_id,case_id,class,dice\n{name},test,p,p_1,RV,0.5\n"
        )
        (folder / "train_log.csv").write_text("iteration,val_dice\n0,0.5\n")
    found = collect("laptop", "acdc", tmp_path / "out")
    assert pd.read_csv(found / "runs.csv").run_id.tolist() == ["acdc-n3-fixmatch-s0"]
    assert [p.name for p in (found / "run_json").iterdir()] == ["acdc-n3-fixmatch-s0.json"]


def trained(name, dice=0.5, dataset="acdc", cases=("p_1",), commit="c", status="complete"):
    """A complete run's folder, or a trial's, written as by hand."""
    folder = paths.runs_dir("laptop") / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "dataset": dataset,
        "method": "fixmatch",
        "variant": "",
        "n_labeled": 3,
        "seed": 0,
        "sam_name": "",
        "train": {"iterations": 5},
        "parents": [],
    }
    (folder / "run.json").write_text(
        json.dumps(
            {"run_id": name, "status": status, "val_dice": dice, "config": config, "commit": commit}
        )
    )
    rows = [f"{name},test,{case.split('_')[0]},{case},RV,{dice}" for case in cases]
    (folder / "per_case.csv").write_text(
        "\n".join(["run_id,split,patient_id,case_id,class,dice", *rows]) + "\n"
    )
    (folder / "train_log.csv").write_text(f"iteration,val_dice\n0,{dice}\n")
    return folder


def test_collect_keeps_what_the_folder_holds(tmp_path):
    """New runs join the records of earlier machines; a run of the same name is replaced."""
    run = trained
    first = run("acdc-n3-a-s0", 0.5)
    run("acdc-n3-b-s0", 0.6)
    collect("laptop", "acdc", tmp_path / "out")
    shutil.rmtree(first)
    run("acdc-n3-b-s0", 0.7)
    found = collect("laptop", "acdc", tmp_path / "out")
    for name, column in (("runs", "val_dice"), ("per_case", "dice"), ("train_log", "val_dice")):
        assert dict(pd.read_csv(found / f"{name}.csv").set_index("run_id")[column]) == {
            "acdc-n3-a-s0": 0.5,
            "acdc-n3-b-s0": 0.7,
        }


def test_sets_whose_names_begin_alike_are_not_mixed(tmp_path):
    """hearts and hearts-2; and a folder that an earlier version had mixed is set right."""
    trained("hearts-n3-fixmatch-s0", dataset="hearts")
    trained("hearts-2-n3-fixmatch-s0", 0.6, dataset="hearts-2")
    trained("hearts-n3-x-n3-fixmatch-s0", 0.7, dataset="hearts-n3-x")
    mixed = collect("laptop", "hearts-2", tmp_path / "out")
    for file in mixed.rglob("*hearts-2*.json"):
        assert json.loads(file.read_text())["config"]["dataset"] == "hearts-2"
    found = collect("laptop", "hearts", tmp_path / "out")
    for name in ("runs", "per_case", "train_log"):
        assert read_table(found / f"{name}.csv").run_id.tolist() == ["hearts-n3-fixmatch-s0"]
    assert [p.name for p in (found / "run_json").iterdir()] == ["hearts-n3-fixmatch-s0.json"]
    with pytest.raises(InputError, match="no complete run of heart "):
        collect("laptop", "heart")


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
        **{patient: np.ones((1, 48, 48), np.uint8) for patient in ("007", "NA")},
    )
    cases = read_table(collect("laptop", "nums") / "per_case.csv")
    patients = list(stats.unit_scores(cases).index)
    panels = examples.panels("laptop", "nums", patients, {"reference": None, "FixMatch": run.name})
    assert [title for title, _, _ in panels] == [
        f"{p}: {name}" for p in ("007", "NA") for name in ("reference", "FixMatch")
    ]
    assert panels[2][1].shape == (48, 48)


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


def test_collect_without_runs_says_what_to_do(told):
    with told("tables without a run", room=SETTINGS, match="make reproduce"):
        collect("demo", "phantom")


def test_write_text_is_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / "a.csv", "x")
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "nowhere" / "a.csv", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


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
    for name, table in tables.patient_tables(dataset, runs, cases).items():
        kept = pd.read_csv(folder / f"{name}.csv")
        assert kept.run_id.tolist() == table.run_id.tolist() and kept.n.tolist() == table.n.tolist()
        column = "bias" if name == "clinical" else "dice"
        assert kept[column].to_numpy() == pytest.approx(
            table[column].to_numpy(), rel=1e-4, abs=1e-4
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


def test_earlier_records_without_millimetres_are_read(folder):
    """Their mm columns are known where the distances are in mm, and NaN elsewhere."""
    _, cases = read_results("laptop", "acdc", folder)
    assert cases.hd95_mm.isna().all() and cases.asd_mm.isna().all()
    table = pd.read_csv(folder / "per_case.csv")
    table.assign(distance_unit="mm", asd_mm=np.nan).to_csv(folder / "per_case.csv", index=False)
    _, cases = read_results("laptop", "acdc", folder)
    assert (cases.hd95_mm == cases.hd95).all() and (cases.asd_mm == 1).all()


def test_runs_of_an_earlier_manifest_with_the_same_data_go_with_todays(folder):
    from samatch.data.manifest import load_manifest

    manifest = load_manifest("acdc")
    runs = pd.read_csv(folder / "runs.csv")
    mixed = [manifest.sha256, *[next(iter(manifest.earlier_sha256))] * (len(runs) - 1)]
    runs.assign(manifest_sha256=mixed).to_csv(folder / "runs.csv", index=False)
    assert set(read_results("laptop", "acdc", folder)[0].manifest_sha256) == {manifest.sha256}
    runs.assign(manifest_sha256=["strange", *mixed[1:]]).to_csv(folder / "runs.csv", index=False)
    with pytest.raises(InputError, match="2 different manifests"):
        read_results("laptop", "acdc", folder)


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


def test_a_trial_is_no_run_to_predict_with(told):
    trained("acdc-n3-a-s0", status="trial")
    with told(
        "predicting with a trial", room=SETTINGS, match="acdc-n3-a-s0 is no result(.|\n)*got: trial"
    ):
        complete_run("laptop", "acdc-n3-a-s0")
    trained("acdc-n3-b-s0")
    assert complete_run("laptop", "acdc-n3-b-s0")[1]["status"] == "complete"


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
