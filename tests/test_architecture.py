"""Rooms, torch-free modules, names, docstrings; lengths of files and lines, the tests' too."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "samatch"
MAX_LINES, MAX_COLUMNS = 400, 100
# Lowest first. A room imports from itself and from those before it; __main__ stands above all.
ROOMS = (
    "system",
    "config",
    "data",
    "networks",
    "sam",
    "methods",
    "results",
    "training",
    "__main__",
)
# Files of a family are found by their name and do not import one another; files that start with _
# hold what several share.
FAMILIES = {"data/readers": (), "sam/models": (), "methods": ("base",)}


def modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """samatch modules that a file imports, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("samatch"):
            found |= (
                {f"samatch.{alias.name}" for alias in node.names}
                if node.module == "samatch"
                else {node.module}
            )
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("samatch")}
    return found


def test_every_file_stands_in_a_room_and_imports_only_from_its_own_or_lower_ones():
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert folders == set(ROOMS) - {"__main__"}
    for path in modules():
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imported(path):
            above = ROOMS.index(name.split(".")[1]) > ROOMS.index(room)
            assert not above, f"{path.relative_to(PACKAGE)} imports {name} from a room above"


def test_the_picture_of_rooms_names_every_file():
    """But the members of families, and methods, which are named by their kind."""
    picture = (ROOT / "docs" / "library.md").read_text().split("```")[1]
    named = set(re.findall(r"\w+", picture))
    for path in modules():
        member = path.parent.relative_to(PACKAGE).as_posix() in ("data/readers", "sam/models")
        if not (member or path.stem == "__init__" or "\nMETHOD = " in path.read_text()):
            assert path.stem in named, path


def test_package_files_hold_a_docstring_and_no_logic():
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert ast.get_docstring(ast.parse(path.read_text())), path
        assert all(
            isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
            for node in body[1:]
        ), path


def test_no_two_modules_share_a_name():
    names = [path.stem for path in modules() if path.stem != "__init__"]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_members_of_a_family_do_not_import_each_other():
    for family, shared in FAMILIES.items():
        package = f"samatch.{family.replace('/', '.')}."
        allowed = tuple(package + name for name in ("_", *shared))
        for path in (PACKAGE / family).glob("*.py"):
            others = [
                name
                for name in imported(path)
                if name.startswith(package) and not name.startswith(allowed)
            ]
            assert not others, path


def test_analysis_does_not_import_torch():
    names = sorted(path.stem for path in (PACKAGE / "results").glob("[a-z]*.py"))
    imports = ", ".join(f"samatch.results.{name}" for name in names)
    code = f"import {imports}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_drawer_for_everything_no_long_file_and_no_long_line():
    faults = []
    for path in (*modules(), *sorted((ROOT / "tests").rglob("*.py"))):
        lines = path.read_text().splitlines()
        if path.stem in ("utils", "helpers", "common", "misc"):
            faults.append(f"{path.relative_to(ROOT)}: a drawer for everything")
        if len(lines) > MAX_LINES:
            faults.append(f"{path.relative_to(ROOT)}: {len(lines)} lines")
        for number, line in enumerate(lines, 1):
            if len(line) > MAX_COLUMNS:
                faults.append(f"{path.relative_to(ROOT)}:{number}: {len(line)} columns")
    assert not faults, "\n".join(faults)


def undocumented(node: ast.Module | ast.ClassDef, prefix: str = "") -> list[str]:
    """Public functions, methods and classes without a docstring, by dotted name.

    Names that start with _, special methods among them, and functions within functions are not
    public.
    """
    found = []
    for child in node.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if child.name.startswith("_"):
            continue
        if not ast.get_docstring(child):
            found.append(prefix + child.name)
        if isinstance(child, ast.ClassDef):
            found += undocumented(child, f"{prefix}{child.name}.")
    return found


def test_public_functions_say_what_they_are_for():
    """Every module, and every public function, method and class in it, has a docstring."""
    faults = []
    for path in modules():
        tree, name = ast.parse(path.read_text()), path.relative_to(ROOT)
        if not ast.get_docstring(tree):
            faults.append(str(name))
        faults += [f"{name}: {missing}" for missing in undocumented(tree)]
    assert not faults, "\n".join(faults)


def test_an_undocumented_method_is_found():
    code = "class A:\n    'a'\n    def f(self): pass\n    def _g(self): pass\ndef h(): pass"
    assert undocumented(ast.parse(code)) == ["A.f", "h"]
