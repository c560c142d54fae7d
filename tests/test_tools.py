"""Tools: parameters are checked, a failing notebook leaves no target, the linter finds faults, the environment agrees."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import check_notebooks  # noqa: E402
import choose_profile  # noqa: E402
import list_runs  # noqa: E402
import run_notebook  # noqa: E402
import write_lock  # noqa: E402
import write_pages  # noqa: E402

from samatch.config.settings import make_config  # noqa: E402
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


def test_lists_of_runs_are_trainable_and_without_doubles():
    grid, others = (
        list_runs.runs("ablations", "unimatch"),
        list_runs.runs("comparisons", "fixmatch"),
    )
    more = list_runs.runs("seeds", "bcp")
    assert (
        len(grid) == len(set(grid)) == 27 and "--method samatch-unimatch --variant sam_lora" in grid
    )
    assert len(others) == 13 and not any(
        "samatch" in line or "finetune" in line or "supervised" in line for line in others
    )
    assert (
        len(more) == len(set(more)) == 6
        and "--method samatch-bcp --variant no_sam --seed 2" in more
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
        write_pages.filled(page)
        == "a\n<!-- table runs laptop/acdc -->\n| of | set |\n|---|---|\n| laptop | acdc |\n<!-- end of table -->\nb\n"
    )
    with pytest.raises(InputError, match="unknown kind of table"):
        write_pages.filled(page.replace("table runs", "table rums"))


def test_answer_names_the_gain_over_the_same_training_without_sam():
    row = write_pages.answer_row("laptop", "acdc")
    scores = write_pages.tables.stats.unit_scores(
        write_pages.read_results(
            "laptop", "acdc", write_pages.paths.TRACKED_RESULTS / "laptop" / "acdc"
        )[1]
    )
    gain = (
        100
        * (
            scores["acdc-n3-samatch-fixmatch-lite_medsam-s0"]
            - scores["acdc-n3-samatch-fixmatch-s0-no_sam"]
        ).median()
    )
    assert (
        row["SAM-Match against continued"].startswith(f"{gain:+.1f} (")
        and row["test units"] == "20"
    )
