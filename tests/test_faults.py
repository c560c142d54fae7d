"""The page of faults: each row is watched by its own test, and written by it alone."""

import pytest

from samatch.system import paths
from samatch.system.errors import InputError
from tests.told import PAGE, SECTION, Told, cell_of, place_of, rows_of


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("# Page\n\n<!-- faults a -->\n<!-- end of faults -->\nsaid\n")
    return path


def meet(told, what, message="no grey values"):
    with told(what):
        raise InputError(message, where=told.folder / "a.png", do="`look` at a|b")


def test_a_row_is_written_checked_and_stale_when_its_message_changes(page, tmp_path):
    writes, checks = (Told(tmp_path, "a", writes, page) for writes in (True, False))
    meet(writes, "an encrypted zip")
    meet(writes, "a named pipe called a.png")
    before = page.read_text()
    row = "`no grey values`<br>`where: FOLDER/a.png`<br>`` what to do: `look` at a\\|b ``"
    assert f"| an encrypted zip | {row} |" in before and before.endswith("-->\nsaid\n")
    meet(writes, "an encrypted zip")
    assert page.read_text() == before
    meet(checks, "an encrypted zip")
    for what, message in (("an encrypted zip", "colours"), ("an archive that is none", "x")):
        with pytest.raises(AssertionError, match="stale"):
            meet(checks, what, message)
    meet(writes, "an encrypted zip", "colours")
    assert "a named pipe" in page.read_text() and "`colours`" in page.read_text()


def test_rows_whose_words_stand_in_no_test_go(page, tmp_path):
    meet(Told(tmp_path, "a", True, page), "nobody " + "provokes this")
    assert rows_of(page.read_text()) == {"a": {}}


def test_a_message_without_this_machine(tmp_path):
    said = f"a\n  where: {tmp_path / 'x' / 'y.png'}, {paths.ROOT}/docs\n  got: {'0a' * 32}"
    said += f"\n  folder {tmp_path.name}, http://127.0.0.1:4711/a, {tmp_path.parent}/made0/z"
    assert cell_of(said, tmp_path).split("<br>") == [
        "`a`",
        "`where: FOLDER/x/y.png, REPOSITORY/docs`",
        "`got: HASH`",
        "`folder FOLDER, http://HOST/a, FOLDER/z`",
    ]


def test_every_row_of_the_page_has_its_test():
    rows = [what for room in rows_of(PAGE.read_text()).values() for what in room]
    assert [what for what in rows if place_of(what) < 0] == []
    assert len(SECTION.findall(PAGE.read_text())) == 5 and len(rows) >= 60
