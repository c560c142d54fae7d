"""The one kind of error that bad input raises."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class InputError(ValueError):
    """Says what is wrong, where, what was expected, what was found, and what to do."""

    def __init__(
        self,
        what: str,
        *,
        where: Any = None,
        expected: Any = None,
        got: Any = None,
        do: str | None = None,
    ):
        self.what = what
        rows = [("where", where), ("expected", expected), ("got", got), ("what to do", do)]
        self.facts = [(name, value) for name, value in rows if value is not None]
        super().__init__("\n".join([what] + [f"  {name}: {value}" for name, value in self.facts]))

    def at(self, where: Any) -> "InputError":
        """The same error with another `where`."""
        known_facts = dict(self.facts)
        return InputError(
            self.what,
            where=where,
            expected=known_facts.get("expected"),
            got=known_facts.get("got"),
            do=known_facts.get("what to do"),
        )

    @property
    def brief(self) -> str:
        """The error as one line of a list; what to do is said once, below the list."""
        return "; ".join(
            [" ".join(self.what.split())]
            + [f"{name} {value}" for name, value in self.facts if name != "what to do"]
        )


def few(words: Sequence[str], most: int = 5) -> str:
    """The first `most` words, and ... for the others."""
    return ", ".join([*words[:most], *["..."] * (len(words) > most)])


def raise_all(what: str, faults: Iterable[str], do: str) -> None:
    """Raises one InputError that lists every fault; returns quietly when there is none."""
    faults = list(faults)
    if faults:
        lines = [f"  {number}. {fault}" for number, fault in enumerate(faults, 1)]
        raise InputError(
            f"{what}: {len(faults)} fault{'s' if len(faults) > 1 else ''}\n" + "\n".join(lines),
            do=do,
        )


def known(name: str, names: Iterable[str], kind: str) -> str:
    """`name` if it is one of `names`, else an InputError that lists them and names the nearest."""
    names = sorted(names)
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1)  # YAML gives any kind
        raise InputError(
            f"unknown {kind}: {name!r}",
            expected="one of " + ", ".join(filter(None, names)) if any(names) else "there is none",
            got=repr(name),
            do="choose one of these" + (f"; is {near[0]} meant?" if near else ""),
        )
    return name
