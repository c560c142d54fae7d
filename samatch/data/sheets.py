"""Tables that users bring, as spreadsheets save them: CSV in UTF-8 with or without a byte order
mark, commas, semicolons or tabs, a separator at the end of the rows, 1.0 for 1."""

import csv
import io
import re
from pathlib import Path

from samatch.system import paths
from samatch.system.errors import InputError, raise_all
from samatch.system.whole import reason as file_reason

SEPARATORS = ",;\t"

Row = tuple[int, dict[str, str]]  # number of the line, column -> text without blanks at its ends


def read_rows(path: Path, required: tuple[str, ...], what: str = "table") -> list[Row]:
    """The rows of a table that hold anything; a cell that is not there is "".

    Raises InputError where the file cannot be read, a required column is missing, or a row has
    more cells than there are columns, with every such row.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("NUL bytes")
        header = text.partition("\n")[0]
        separator = max(SEPARATORS, key=header.count)
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
        )
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"unreadable {what}",
            where=paths.shown(path),
            expected="a CSV file in UTF-8",
            got=file_reason(error),
            do="correct it, or save it again as CSV UTF-8",
        ) from error
    names = lines[0][1] if lines else []
    while names and not names[-1]:
        names.pop()
    faults = [
        f"column {name} is missing; there are {', '.join(names) or 'none'}"
        for name in required
        if name not in names
    ]
    faults += [f"column {name} is there twice" for name in set(names) if names.count(name) > 1]
    faults += [
        f"line {number}: more cells than columns"
        for number, cells in lines[1:]
        if any(cells[len(names) :])
    ]
    raise_all(path.name, faults, f"give the columns {', '.join(required)}, and a cell for each")
    empty = dict.fromkeys(names, "")
    return [
        (number, empty | dict(zip(names, cells, strict=False)))
        for number, cells in lines[1:]
        if any(cells)
    ]


def whole(text: str) -> int:
    """A whole number not below 0; 3.0 and 3,0 are 3. Raises ValueError on anything else."""
    found = re.fullmatch(r"(\d{1,9})([.,]0*)?", text)
    if not found:
        raise ValueError(f"{text!r} is not a whole number")
    return int(found[1])


def sizes(text: str) -> tuple[float, float, float] | None:
    """Three lengths in mm with blanks between, None for "". Raises ValueError on anything else."""
    if not text:
        return None
    if not re.fullmatch(r"\S+ +\S+ +\S+", text):
        raise ValueError(f"spacing {text!r} is not three numbers with blanks between")
    z, y, x = (float(word) for word in text.split())
    if not all(0 < mm < float("inf") for mm in (z, y, x)):
        raise ValueError(f"spacing {text!r} is not positive")
    return z, y, x
