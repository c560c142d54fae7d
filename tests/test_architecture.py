"""Floors, torch-free modules, names and file lengths."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "samatch"
FLOORS = [("paths", "config", "profiles", "repro", "devices", "errors", "progress", "download", "archives"),
          ("manifest", "geometry", "images", "splits", "prepared", "prompts", "losses", "metrics", "augment"),
          ("data", "networks", "weights", "sam", "datasets", "listing", "duplicates", "embeddings"),
          ("methods", "evaluate", "records", "clinical", "curate", "provide"),
          ("task", "train", "stats", "tables", "folds", "plots", "examples", "predict")]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
# The package file of a folder, and files that start with _, may be imported by its members; members do not import one another.
FAMILIES = ("methods", "sam", "datasets")


def modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """samatch modules that a file imports, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("samatch"):
            found |= {f"samatch.{alias.name}" for alias in node.names} if node.module == "samatch" else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("samatch")}
    return found


def test_every_module_has_a_floor_and_imports_only_its_own_or_lower_ones():
    for path in modules():
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imported(path):
            assert FLOOR[name.split(".")[1]] <= FLOOR[room], f"{path.name} (floor {FLOOR[room]}) imports {name}"


def test_members_of_a_family_do_not_import_each_other():
    for family in FAMILIES:
        for path in (PACKAGE / family).glob("*.py"):
            others = [name for name in imported(path) if name.startswith(f"samatch.{family}.") and not name.startswith(f"samatch.{family}._")]
            assert not others, path


def test_analysis_does_not_import_torch():
    names = ("records", "clinical", "stats", "tables", "folds", "plots", "examples")
    code = f"import {', '.join(f'samatch.{name}' for name in names)}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_drawer_for_everything_and_no_long_file():
    for path in modules():
        assert path.stem not in ("utils", "helpers", "common", "misc")
        assert len(path.read_text().splitlines()) <= 350, f"{path.name} is long"


def test_public_functions_say_what_they_are_for():
    """Every module has a docstring, and every public class."""
    for path in modules():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
