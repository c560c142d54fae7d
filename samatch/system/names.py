"""Names and paths that users bring: a stated alphabet, and nothing that leads out of a folder.

Whatever makes a file from an id or joins a user's path to a folder goes through `file_of` or
`inside`.
"""

import os
import unicodedata
from pathlib import Path

from samatch.system import paths
from samatch.system.errors import InputError

LONGEST = 100
MARKS = "._-+"
MORE_MARKS = " ()"  # in names of cases, patients and classes, which are no words of a command
WORDS = f"letters and digits of any script and {' '.join(MARKS)}"
ALPHABET = f"{WORDS}, blanks and ( ) between them"


def name_fault(name: str, word: bool = False) -> str:
    """What is wrong with a name, "" where nothing is.

    A name is made of ALPHABET, a `word` (name of a data set or variant) of WORDS. It has at most
    LONGEST characters, no dot or blank in front, no blank at its end, no two dots in a row.
    """
    if not isinstance(name, str):
        return f"{name!r} is no text (put quotes around it)"
    if not name or name != name.strip():
        return f"{name!r} is empty, or has a blank at an end"
    allowed = MARKS if word else MARKS + MORE_MARKS
    strange = [c for c in name if c not in allowed and unicodedata.category(c)[0] not in "LMN"]
    if strange:
        shown = " ".join(dict.fromkeys(map(repr, strange)))
        return f"{name!r} holds {shown}; allowed are {WORDS if word else ALPHABET}"
    if name.startswith(".") or ".." in name:
        return f"{name!r} begins with a dot or holds two in a row"
    if len(name) > LONGEST or len(name.encode()) > 2 * LONGEST:
        return f"{name[:20]!r}... has {len(name)} characters, more than {LONGEST}"
    return ""


def checked_word(name: str, kind: str) -> str:
    """`name` of a data set or variant, or an InputError that says what such names are made of."""
    if fault := name_fault(name, word=True):
        raise InputError(f"impossible name of a {kind}", got=fault, do="give it another name")
    return name


def inside(folder: Path, name: str) -> Path:
    """folder/name, for a relative path that a user wrote.

    Raises InputError where that leads out of the folder, or where a link on its way leads out of
    the data folder.
    """
    home = os.path.normpath(folder)
    path = os.path.normpath(os.path.join(home, _as_stored(home, name)))
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise InputError(
            "a path holds characters that are no text", got=repr(name), do="rename the file"
        )
    if not name or os.path.isabs(name) or not Path(path).is_relative_to(home):
        raise InputError(
            "a path leads out of the data set's folder",
            where=repr(name),
            expected="a path relative to that folder",
            got=repr(name),
            do="put the file into the folder",
        )
    roots = [os.path.realpath(root) for root in (home, paths.data_dir())]
    if not any(Path(os.path.realpath(path)).is_relative_to(root) for root in roots):
        raise InputError(
            "a link leads out of the data folder",
            where=repr(name),
            expected="a file in the folder itself",
            got=f"a link to {os.path.basename(os.path.realpath(path))!r} elsewhere",
            do="put the file itself into the folder, or name the folder it lies in with DATA=DIR",
        )
    return Path(path)


def _as_stored(home: str, name: str) -> str:
    """The name, or, where no such file is there, the same with its accents composed or apart (NFC,
    NFD): a table and a disk may differ in it without anybody seeing it."""
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((form for form in forms if os.path.lexists(os.path.join(home, form))), name)


def found_in(folder: Path, name: str) -> Path:
    """inside(folder, name); where nothing lies there and one sub-folder has it, that one's.

    Archives often hold one folder more than is said. Raises InputError where several sub-folders
    have it.
    """
    path = inside(folder, name)
    if path.exists():
        return path
    below = [sub for sub in sorted(folder.glob("[!.]*/")) if (sub / name).exists()]
    if len(below) > 1:
        raise InputError(
            f"{name} lies in several folders",
            where=paths.shown(folder),
            expected="one of them",
            got=", ".join(sub.name for sub in below),
            do="move the others away, or name the right one with DATA=DIR",
        )
    return inside(folder, f"{below[0].name}/{name}") if below else path


def file_of(folder: Path, case_id: str, before: str = "", after: str = "") -> Path:
    """The file <before><case_id><after> of a folder or of its one sub-folder that has it.

    Raises InputError where the id is none.
    """
    if fault := name_fault(case_id):
        raise InputError("impossible name of a case", got=fault, do="rename the case's files")
    return found_in(folder, f"{before}{case_id}{after}")
