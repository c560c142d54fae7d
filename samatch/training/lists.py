"""Lists of runs: each line holds the arguments of one `samatch train`."""

import contextlib
import io
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from samatch.config.settings import RunConfig
from samatch.system.errors import InputError
from samatch.training.task import check_names
from samatch.training.train import read_words


def read_list(name: str) -> list[str]:
    """The lines of a list of runs, each the arguments of one `samatch train`; "-" is the standard
    input. Raises InputError where it cannot be read."""
    if name == "-":
        return sys.stdin.read().splitlines()
    try:
        return Path(name).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "cannot read the list of runs",
            where=name or "LIST is not set",
            got=error.strerror if isinstance(error, OSError) else "no text",
            do="make runs LIST=file; tools/list_runs.py prints lists",
        ) from None


def numbered(lines: Iterable[str]) -> list[tuple[int, str]]:
    """The lines that name a run, counted from 1; blank ones and those that begin with a # do not.
    Raises InputError where none does."""
    found = [(n, line) for n, line in enumerate(lines, 1) if line.split("#")[0].strip()]
    if not found:
        raise InputError("the list holds no run", do="write one line of arguments for each run")
    return found


def named(line: str, common: list[str]) -> tuple[list[str], RunConfig, str]:
    """The words of a line behind those that all lines share, the run that they name, and what it
    asks as a trial. Raises InputError where they name none."""
    said = io.StringIO()
    try:
        words = [*common, *shlex.split(line, comments=True)]
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            args = read_words(words)
    except ValueError as error:  # a quotation that does not end
        raise InputError(str(error)) from None
    except SystemExit:  # argparse's way to refuse
        refusal = (said.getvalue().strip().splitlines() or ["no run"])[-1]
        raise InputError(refusal.removeprefix("samatch train: error: ")) from None
    check_names(args.config)
    return words, args.config, args.trial
