"""Tools: parameters, notebooks that fail, the linter, the environment, the pages."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import answer_table  # noqa: E402
import check_notebooks  # noqa: E402
import choose_profile  # noqa: E402
import list_runs  # noqa: E402
import run_notebook  # noqa: E402
import write_lock  # noqa: E402
import write_pages  # noqa: E402

from samatch.config.settings import make_config, parent_configs  # noqa: E402
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
    wanted = (("ablations", "unimatch"), ("comparisons", "fixmatch"), ("seeds", "bcp"))
    grid, others, more = (list_runs.runs(*words) for words in wanted)
    assert len(grid) == len(set(grid)) == 30
    assert "--method samatch-unimatch --variant sam_lora" in grid
    lacking = {line.replace("unimatch", "bcp") for line in grid} - set(
        list_runs.runs("ablations", "bcp")
    )
    assert lacking == {"--method samatch-bcp --variant guided_weight2"}  # BCP has no such weight
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
    no_ramp, kept_lower = "whole_chain_no_ramp", "whole_chain_no_ramp_75"
    controls = {"fixmatch": [no_ramp, kept_lower], "unimatch": [kept_lower], "bcp": []}
    for match, variants in controls.items():
        found = [line for line in list_runs.runs("seeds", match) if "no_ramp" in line]
        lines = [f"--method {match} --variant {variant}" for variant in variants]
        assert found == [f"{line} --seed {seed}" for line in lines for seed in (1, 2)]
        for variant in variants:
            make_config("laptop", "phantom", 3, match, variant=variant)
    with pytest.raises(InputError, match="list of runs"):
        list_runs.runs("other", "fixmatch")
    for line in grid:
        words = line.split()
        make_config("demo", "phantom", 3, words[1], variant=words[3] if len(words) > 2 else "")


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
