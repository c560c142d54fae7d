"""What notebooks must not do: read ids as numbers, or touch a user's trainings (08, executed with
tiny networks).
"""

from pathlib import Path

import nbformat
from matplotlib import pyplot as plt

from samatch.system import paths

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def execute(**parameters) -> dict:
    """Runs every code cell in one namespace, with `parameters` after the cell of that name."""
    namespace = {}
    for cell in nbformat.read(NOTEBOOKS / "08_your_own_data.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)
        if "parameters" in cell.metadata.get("tags", []):
            namespace |= parameters
    plt.close("all")
    return namespace


def test_a_users_own_hearts_stay_as_they_are(tiny_profile, tmp_path):
    """Complete and unfinished trainings of a set called hearts, on any profile that the notebook is
    asked for.
    """
    theirs = [
        tmp_path / "runs" / profile / name / "run.json"
        for profile in ("demo", "laptop")
        for name in (
            "hearts-n3-fixmatch-s0",
            ".hearts-n3-supervised-s0.partial",
            "hearts_of_notebook_08-n1-ict-s0",
        )
    ]
    for file in theirs:
        file.parent.mkdir(parents=True)
        file.write_text("theirs")
    before = sorted(tmp_path.rglob("*"))
    found = execute(profile="laptop", sam="tiny")
    after = [
        path
        for path in sorted(tmp_path.rglob("*"))
        if not path.is_relative_to(tmp_path / "figures")
    ]
    assert after == before and all(file.read_text() == "theirs" for file in theirs)
    assert (
        found["record"]["config"]["method"] == "samatch-fixmatch"
        and found["record"]["config"]["profile"] == "demo"
    )
    assert not paths.data_dir().is_relative_to(tmp_path)
    found["home"].cleanup()


def test_results_are_read_in_one_place():
    """pandas alone takes patient 007 for 7 and patient NA for a missing one; paper.csv holds no
    ids.
    """
    lines = [
        (path.name, line)
        for path in sorted(NOTEBOOKS.glob("*.ipynb"))
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == "code"
        for line in cell.source.splitlines()
    ]
    assert [path for path, line in lines if "read_csv(" in line and "paper.csv" not in line] == []
    assert len({path for path, line in lines if "read_table(" in line}) >= 5
