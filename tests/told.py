"""docs/faults.md: faults and their messages, as the tests that provoke them have seen them.

    with told("an encrypted zip", match="encrypted"):     in the place of pytest.raises(InputError)
        unpack(archive, folder)

The page's row must hold the very message that the test was told, so that each test watches over its
own row and no other. `pytest --write-faults` (`make faults`) writes the rows of the tests that run,
and drops those whose words stand in no test any more.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from samatch.system import paths, whole
from samatch.system.errors import InputError

PAGE = paths.ROOT / "docs" / "faults.md"
BROUGHT, FETCHED, READ_BACK, SETTINGS, MACHINE = "brought", "fetched", "read_back", "set", "machine"
SECTION = re.compile(r"(<!-- faults (\w+) -->\n)(.*?)(<!-- end of faults -->)", re.DOTALL)
HEAD = "| fault | message |\n|---|---|\n"


class Told:
    """What a test was told; `folder` is its own, and stands as FOLDER on the page."""

    def __init__(self, folder: Path, room: str, writes: bool, page: Path = PAGE):
        self.folder, self.room, self.writes, self.page = folder, room, writes, page

    @contextlib.contextmanager
    def __call__(self, what: str, match: str = "", room: str = "") -> Iterator:
        """Within it, `what` must raise an InputError; its message is the row of a room's table."""
        with pytest.raises(InputError, match=match or None) as error:
            yield error
        self.row(what, str(error.value), room or self.room)

    def row(self, what: str, message: str, room: str) -> None:
        """Checks, or writes, the row of `what`."""
        rows, cell = rows_of(self.page.read_text()), cell_of(message, self.folder)
        if self.writes:
            rows[room] = rows[room] | {what: cell}
            whole.write_text(self.page, filled(self.page.read_text(), rows))
        else:
            stale = f"{self.page.name} is stale: run `make faults`"
            assert alike(rows[room].get(what, "")) == alike(cell), stale


def alike(cell: str) -> str:
    """A message but for its numbers: sizes and offsets differ from machine to machine."""
    return re.sub(r"\d+", "0", cell)


def cell_of(message: str, folder: Path) -> str:
    """A message as a cell of a table, one line below the other, without what is of this machine."""
    text = re.sub(re.escape(str(folder.parent)) + r"/[^/\s]+", "FOLDER", message)
    text = text.replace(folder.name, "FOLDER").replace(str(paths.ROOT), "REPOSITORY")
    text = re.sub(r"127\.0\.0\.1:\d+", "HOST", text)
    text = re.sub(r"\b[0-9a-f]{12,64}\b", "HASH", text).replace("|", "\\|")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "<br>".join(f"`` {line} ``" if "`" in line else f"`{line}`" for line in lines)


def rows_of(page: str) -> dict[str, dict[str, str]]:
    """Room -> fault -> message of a page."""
    return {
        room: dict(row[2:-2].split(" | ", 1) for row in text.splitlines() if row[:2] != "|-")
        for _, room, text, _ in SECTION.findall(page.replace(HEAD, ""))
    }


def filled(page: str, rows: dict[str, dict[str, str]]) -> str:
    """The page with these rows, in the order of the tests' text."""

    def section(found: re.Match) -> str:
        start, room, _, end = found.groups()
        known = sorted((place_of(what), what) for what in rows[room] if place_of(what) >= 0)
        return (
            f"{start}{HEAD}{''.join(f'| {w} | {rows[room][w]} |{chr(10)}' for _, w in known)}{end}"
        )

    return SECTION.sub(section, page)


def place_of(what: str) -> int:
    """Where the tests' text has these words as a string of their own; -1: nowhere."""
    return _text_of_tests().find(f'"{what}"')


@functools.cache
def _text_of_tests() -> str:
    return "\n".join(p.read_text() for p in sorted((paths.ROOT / "tests").glob("test_*.py")))
