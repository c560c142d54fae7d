"""Notebook 08, which makes a set of its own: executed with tiny networks, beside trainings that a user has."""

from pathlib import Path

import nbformat
from matplotlib import pyplot as plt

from samatch import paths

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "08_your_own_data.ipynb"


def execute(**parameters) -> dict:
    """Runs every code cell in one namespace, with `parameters` after the cell of that name."""
    namespace = {}
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)
        if "parameters" in cell.metadata.get("tags", []):
            namespace |= parameters
    plt.close("all")
    return namespace


def test_a_users_own_hearts_stay_as_they_are(tiny_profile, tmp_path):
    """Complete and unfinished trainings of a set called hearts, on any profile that the notebook is asked for."""
    theirs = [tmp_path / "runs" / profile / name / "run.json" for profile in ("demo", "laptop")
              for name in ("hearts-n3-fixmatch-s0", ".hearts-n3-supervised-s0.partial", "hearts_of_notebook_08-n1-ict-s0")]
    for file in theirs:
        file.parent.mkdir(parents=True)
        file.write_text("theirs")
    before = sorted(tmp_path.rglob("*"))
    found = execute(profile="laptop", sam="tiny")
    after = [path for path in sorted(tmp_path.rglob("*")) if not path.is_relative_to(tmp_path / "figures")]
    assert after == before and all(file.read_text() == "theirs" for file in theirs)
    assert found["record"]["config"]["method"] == "samatch-fixmatch" and found["record"]["config"]["profile"] == "demo"
    assert not paths.data_dir().is_relative_to(tmp_path)
    found["home"].cleanup()
