"""Checks the form of the tracked notebooks, which nbval does not.

usage: check_notebooks.py FOLDER
"""

import itertools
import json
import re
import sys
from pathlib import Path

import nbformat

PARAMETERS = ("profile", "dataset", "n_labeled", "method", "sam", "seed")
MAX_BYTES, MAX_CODE_LINES, MAX_STEP_LINES, MAX_TEXT_LINES = 1_000_000, 15, 30, 30
MAX_COLUMNS = 88  # of a line of code: what GitHub shows without a scroll bar
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/(?:home|root|work|tmp|usr|Users|mnt|opt)/\w")


def notebook_faults(path: Path) -> list[str]:
    """Everything that is wrong with one notebook, as lines."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    faults = []
    if path.stat().st_size > MAX_BYTES:
        faults.append(f"is larger than {MAX_BYTES} bytes")
    if notebook.cells[0].cell_type != "markdown" or not notebook.cells[0].source.startswith("# "):
        faults.append("does not begin with a title")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        faults.append("was not executed top to bottom: counts are not 1..n")
    faults += _parameter_faults(code)
    for before, cell in itertools.pairwise(notebook.cells):
        if cell.cell_type == "code" and before.cell_type != "markdown":
            faults.append(f"cell [{cell.execution_count}] has no text before it")
    for cell in code:
        faults += [f"cell [{cell.execution_count}] {fault}" for fault in _cell_faults(cell)]
    ids = [
        cell.get("id") for cell in json.loads(path.read_text())["cells"]
    ]  # nbformat would mend them while reading
    if len(set(ids)) < len(ids):
        faults.append("has two cells of one id")
    if not any(cell.get("outputs") for cell in code):
        faults.append("has no outputs")
    return faults


def _parameter_faults(code: list) -> list[str]:
    cells = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        return ["needs exactly one cell tagged 'parameters'"]
    names = re.findall(r"^(\w+)\s*(?::\s*\w+\s*)?=", cells[0].source, flags=re.M)
    return (
        []
        if tuple(names) == PARAMETERS
        else [f"declares the parameters {names}, expected {list(PARAMETERS)}"]
    )


def _cell_faults(cell) -> list[str]:
    faults = []
    limit = MAX_STEP_LINES if "training-step" in cell.metadata.get("tags", []) else MAX_CODE_LINES
    if len(cell.source.splitlines()) > limit:
        faults.append(f"has {len(cell.source.splitlines())} lines, at most {limit} are allowed")
    longest = max(map(len, cell.source.splitlines()), default=0)
    if longest > MAX_COLUMNS:
        faults.append(f"has a line of {longest} columns, at most {MAX_COLUMNS} are allowed")
    for output in cell.get("outputs", []):
        text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
        if output.output_type == "error":
            faults.append(f"holds an error: {output.ename}")
        if output.get("name") == "stderr":
            faults.append(f"wrote to stderr: {text[:80]!r}")
        if len(text.splitlines()) > MAX_TEXT_LINES:
            faults.append(
                f"prints {len(text.splitlines())} lines, at most {MAX_TEXT_LINES} are allowed"
            )
        if found := ABSOLUTE_PATH.search(text):
            faults.append(f"prints an absolute path: {found[0]}")
    if ABSOLUTE_PATH.search(cell.source):
        faults.append("holds an absolute path")
    return faults


def main() -> None:
    """Prints every fault of every notebook of the folder; exits with 1 where there is one."""
    paths = sorted(Path(sys.argv[1]).glob("*.ipynb"))
    if not paths:
        raise SystemExit(f"error: no notebooks in {sys.argv[1]}")
    faults = [f"{path.name} {fault}" for path in paths for fault in notebook_faults(path)]
    print("\n".join(faults) or f"{len(paths)} notebooks: no faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
