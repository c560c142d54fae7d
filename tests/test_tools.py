"""Tools: parameters, notebooks that fail, the linter, the environment, the pages."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import answer_table  # noqa: E402
import check_notebooks  # noqa: E402
import choose_profile  # noqa: E402
import list_runs  # noqa: E402
import pairs_table  # noqa: E402
import run_notebook  # noqa: E402
import write_lock  # noqa: E402
import write_pages  # noqa: E402

from samatch.config.settings import make_config, parent_configs, run_id  # noqa: E402
from samatch.results import audit, folds, report, seed_tables  # noqa: E402
from samatch.results.records import RUN_COLUMNS  # noqa: E402
from samatch.system import paths  # noqa: E402
from samatch.system.errors import InputError  # noqa: E402

PARAMETERS = "\n".join(
    [
        'profile: str = "demo"',
        'dataset: str = "phantom"',
        "n_labeled: int = 3",
        'method: str = "m"',
        'sam: str = "s"',
        "seed: int = 0",
    ]
)


def notebook(path, *code, executed=True):
    cells = [new_markdown_cell("# Title")]
    for number, source in enumerate([PARAMETERS, *code], 1):
        cell = new_code_cell(source, execution_count=number if executed else None)
        if number == 1:
            cell.metadata["tags"] = ["parameters"]
        else:
            cell.outputs = [new_output("stream", name="stdout", text="1\n")]
        cells += [new_markdown_cell("text"), cell]
    nbformat.write(
        new_notebook(
            cells=cells,
            metadata={
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
            },
        ),
        path,
    )
    return path


def run(*words):
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "run_notebook.py", *map(str, words)],
        capture_output=True,
        text=True,
    )


def test_parameters_are_typed_and_unknown_ones_refused(tmp_path):
    source = notebook(tmp_path / "a.ipynb", "print(1)")
    assert run_notebook.checked_parameters(source, ["profile=007", "seed=7"]) == {
        "profile": "007",
        "seed": 7,
    }
    with pytest.raises(SystemExit) as stop:
        run_notebook.checked_parameters(source, ["profil=demo", "seed=many"])
    assert "no parameter 'profil'" in str(stop.value) and "seed of a.ipynb is a int" in str(
        stop.value
    )


def test_a_notebook_is_executed_with_its_parameters_or_leaves_no_target(tmp_path):
    good = notebook(tmp_path / "good.ipynb", "print(seed + 1)")
    done = run(good, tmp_path / "out" / "good.ipynb", "seed=41")
    assert done.returncode == 0, done.stderr
    assert "42" in nbformat.read(tmp_path / "out" / "good.ipynb", 4).cells[-1].outputs[0].text

    bad = notebook(tmp_path / "bad.ipynb", "raise ValueError('broken on purpose')")
    failed = run(bad, tmp_path / "out" / "bad.ipynb")
    assert failed.returncode != 0
    assert (
        "broken on purpose" in failed.stderr
        and "bad.failed.ipynb" in failed.stderr.splitlines()[-1]
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "bad.failed.ipynb",
        "good.ipynb",
    ]


def test_a_killed_kernel_is_one_line_and_leaves_the_notebook_as_far_as_it_ran(tmp_path):
    killed = notebook(tmp_path / "killed.ipynb", "import os; os.kill(os.getpid(), 9)")
    failed = run(killed, tmp_path / "out" / "killed.ipynb")
    *_, what, where = failed.stderr.splitlines()
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert what.startswith("error: killed.ipynb failed since its kernel was killed")
    assert where.endswith("killed.failed.ipynb")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["killed.failed.ipynb"]


def test_a_file_where_the_folder_of_notebooks_belongs_is_one_error(tmp_path):
    (tmp_path / "out").write_text("")
    refused = run(notebook(tmp_path / "a.ipynb", "print(1)"), tmp_path / "out" / "a.ipynb")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert refused.stderr.startswith("error: cannot write to a folder")
    assert "OUT=DIR" in refused.stderr


def test_linter_passes_a_good_notebook(tmp_path):
    assert check_notebooks.notebook_faults(notebook(tmp_path / "a.ipynb", "print(1)")) == []


def test_linter_finds_what_nbval_does_not(tmp_path):
    path = notebook(tmp_path / "a.ipynb", "x = 1\n" * 16, "open('/home/me/data')", executed=False)
    found = nbformat.read(path, 4)
    found.cells[-1].outputs = [new_output("stream", name="stderr", text="warning\n" * 40)]
    found.cells[4:4] = [new_code_cell("print(1)")]
    found.cells[2].source = PARAMETERS.replace("seed: int", "sead: int")
    nbformat.write(found, path)
    faults = "\n".join(check_notebooks.notebook_faults(path))
    for expected in (
        "counts are not 1..n",
        "16 lines",
        "absolute path",
        "stderr",
        "prints 40 lines",
        "no text before it",
        "sead",
    ):
        assert expected in faults
    raw = json.loads(path.read_text())
    raw["cells"][1]["id"] = raw["cells"][0]["id"]
    path.write_text(json.dumps(raw))
    assert "two cells of one id" in "\n".join(check_notebooks.notebook_faults(path))


def test_linter_counts_the_columns_of_code(tmp_path):
    fits, too_long = "x = " + "1" * 84, "x = " + "1" * 85
    path = notebook(tmp_path / "a.ipynb", f"y = 1\n{fits}")
    assert check_notebooks.notebook_faults(path) == []
    faults = check_notebooks.notebook_faults(notebook(path, f"y = 1\n{too_long}"))
    assert faults == ["cell [2] has a line of 89 columns, at most 88 are allowed"]


def test_profile_is_chosen_by_what_is_here():
    assert choose_profile.choose("", "", True, True)[:2] == ("paper", "acdc")
    assert choose_profile.choose("", "", False, True)[:2] == ("demo", "phantom")
    assert choose_profile.choose("", "", True, False)[:2] == ("demo", "phantom")
    assert choose_profile.choose("", "acdc", False, True)[:2] == ("laptop", "acdc")
    assert choose_profile.choose("", "phantom", True, True)[:2] == ("demo", "phantom")
    assert choose_profile.choose("", "busi", True, True)[:2] == ("paper", "busi")
    assert choose_profile.choose("", "busi", True, False)[:2] == ("laptop", "busi")
    assert choose_profile.choose("laptop", "", False, True)[:2] == ("laptop", "acdc")


def test_unknown_profile_ends_with_a_message():
    found = subprocess.run(
        [sys.executable, ROOT / "tools" / "choose_profile.py", "gpu", ""],
        capture_output=True,
        text=True,
    )
    assert found.returncode != 0 and "demo, laptop, paper" in found.stderr


def test_environment_and_lock_come_from_one_source():
    assert (ROOT / "environment.yml").read_text() == write_lock.environment()
    assert set(write_lock.direct_names()) <= set(write_lock.locked())
    assert not [name for name in write_lock.locked() if write_lock.PLATFORM_BOUND.match(name)]


def test_the_lock_with_hashes_has_the_same_pins_and_a_hash_for_each():
    text = (ROOT / "requirements-linux.lock").read_text()
    entries = [" ".join(entry.split()) for entry in re.split(r"\n(?=[\w.-]+==)", text)[1:]]
    pins = {}
    for entry in entries:
        name, version = re.match(r"([\w.-]+)==(\S+)", entry).groups()
        assert "--hash=sha256:" in entry, name
        pins[name.lower().replace("_", "-")] = version
    both = write_lock.locked()
    assert {name: pins.get(name) for name in both} == both


def test_lists_of_runs_are_trainable_and_without_doubles():
    grid, others = (
        list_runs.runs("ablations", "unimatch"),
        list_runs.runs("comparisons", "fixmatch"),
    )
    more = list_runs.runs("seeds", "bcp")
    assert (
        len(grid) == len(set(grid)) == 34 and "--method samatch-unimatch --variant sam_lora" in grid
    )
    assert len(others) == 15 and not any("samatch" in line or "finetune" in line for line in others)
    stages = ("supervised", "fixmatch", "samatch-fixmatch")
    chain = [make_config("laptop", "phantom", 3, stage).train.iterations for stage in stages]
    for line in others:
        _, method, _, variant = line.split()
        alone = make_config("laptop", "phantom", 3, method, variant=variant)
        before = parent_configs(alone)
        assert sum(run.train.iterations for run in (alone, *before)) == sum(chain)
        assert not any(parent.variant for parent in before)
    assert (
        len(more) == len(set(more)) == 14
        and "--method samatch-bcp --variant no_sam --seed 2" in more
        and "--method bcp --variant whole_chain --seed 1" in more
    )
    for line in grid:
        words = line.split()
        make_config("demo", "phantom", 3, words[1], variant=words[3] if len(words) > 2 else "")
    with pytest.raises(InputError, match="list of runs"):
        list_runs.runs("other", "fixmatch")


def test_pages_are_what_the_tracked_results_say():
    stale = [
        page.name
        for page in write_pages.pages()
        if write_pages.filled(page.read_text()) != page.read_text()
    ]
    assert not stale, "run `make pages`"


def test_a_table_of_a_page_is_made_anew_and_an_unknown_one_refused(monkeypatch):
    monkeypatch.setitem(
        write_pages.TABLES,
        "runs",
        lambda profile, dataset: write_pages.markdown({"of": [profile], "set": [dataset]}),
    )
    page = "a\n<!-- table runs laptop/acdc -->\nold\n<!-- end of table -->\nb\n"
    assert (
        write_pages.filled(page) == "a\n<!-- table runs laptop/acdc -->\n"
        "| of | set |\n|---|---|\n| laptop | acdc |\n<!-- end of table -->\nb\n"
    )
    with pytest.raises(InputError, match="unknown kind of table"):
        write_pages.filled(page.replace("table runs", "table rums"))


def test_answer_names_the_gain_over_the_same_training_without_sam():
    """Median over patients of the difference of their means over the seeds on record."""
    row = answer_table.answer_of("laptop", "acdc")
    _, per_case = write_pages.tracked("laptop", "acdc")
    scores = write_pages.tables.stats.unit_scores(per_case)

    def over_seeds(run_id):
        found = [run for run in scores if re.fullmatch(run_id, run)]
        return scores[found].mean(axis=1), len(found)

    guided, seeds = over_seeds(r"acdc-n3-samatch-fixmatch-lite_medsam-s\d")
    continued, _ = over_seeds(r"acdc-n3-samatch-fixmatch-s\d-no_sam")
    gain = 100 * (guided - continued).median()
    assert row["SAM-Match against continued"].startswith(f"{gain:+.1f} (")
    assert row["test units"] == "20 patients" and int(row["seeds"]) == seeds


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
                        row |= {"distance_unit": "mm", "n_pred": 9, "n_ref": 9, "status": "ok"}
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
    default, control = pairs_table._sam_match(), pairs_table._sam_match("no_sam")
    both = pairs_table._sam_match("", pairs_table.BOTH)
    rows = [(default, control), (both, default)]
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


def test_the_audit_covers_the_tables_over_seeds(seeds_on_record):
    outcomes = {outcome.name: outcome for outcome in audit.audit_set("laptop", "chaos")[0]}
    assert outcomes["seeds.csv"].compared == 30 and outcomes["wilcoxon_seeds.csv"].compared == 39
    assert not [fault for outcome in outcomes.values() for fault in outcome.faults]
    for name, column in (("seeds", "dice_sd_over_seeds"), ("wilcoxon_seeds", "median_difference")):
        path = seeds_on_record / f"{name}.csv"
        table = pd.read_csv(path)
        table.loc[0, column] += 0.01
        table.to_csv(path, index=False)
        outcomes = {outcome.name: outcome for outcome in audit.audit_set("laptop", "chaos")[0]}
        (fault,) = outcomes[f"{name}.csv"].faults
        assert f", {column}: " in fault
