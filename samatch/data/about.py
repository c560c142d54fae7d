"""dataset.yaml: reading it, and everything that is wrong with it."""

from pathlib import Path

import yaml

from samatch.system import paths
from samatch.system.errors import InputError
from samatch.system.names import name_fault

TEXTS = ("title", "normalisation", "licence", "source", "citation", "known_faults")
DEEPEST = MOST_ALIASES = 20


def read_about(path: Path) -> dict:
    """The file as a dict; its values are not checked. Nothing but plain YAML is read.

    Raises InputError on a file that is missing, broken or empty, or that is a list or a text.
    """
    try:
        content = path.read_bytes()
        _check_events(content)
        found = yaml.safe_load(content)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(
            f"unreadable {path.name}",
            where=f"{path.parent.name}/{path.name}",
            expected="plain YAML, as in data_manifests/",
            got=" ".join((getattr(error, "strerror", None) or str(error)).split())[:200],
            do="correct it: a text with a colon in it needs quotes",
        ) from error
    if not isinstance(found, dict):
        raise InputError(
            f"{path.name} says nothing that can be used",
            where=paths.shown(path),
            expected="lines of `key: value`, as in data_manifests/",
            got="nothing" if found is None else type(found).__name__,
            do="restore the file",
        )
    return found


def _check_events(content: bytes) -> None:
    """Raises ValueError on what a few lines can make enormous: deep nesting, many aliases."""
    depth = aliases = 0
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > DEEPEST or aliases > MOST_ALIASES:
            raise ValueError(f"deep nesting or many aliases at line {event.start_mark.line + 1}")


def about_faults(about: dict) -> list[str]:
    """Everything that keeps a dataset.yaml from being a manifest's: lacking keys, other shapes."""
    faults = [
        f"{key} must be a text, got {about.get(key)!r}"
        for key in TEXTS
        if about.get(key) is None or isinstance(about[key], (list, dict))
    ]
    faults += class_faults(about.get("classes"))
    budgets = about.get("budgets")
    if not isinstance(budgets, list) or not all(type(n) is int and n > 0 for n in budgets):
        faults.append(f"budgets must be a list of whole numbers above 0, got {budgets!r}")
    for key in ("files_of", "reader"):
        if key in about and (fault := name_fault(about[key], word=True)):
            faults.append(f"{key}: {fault}")
    for key in ("clinical", "drawn"):
        if not isinstance(about.get(key, {}), dict):
            faults.append(f"{key} must be a mapping")
    faults += _drawn_faults(about.get("drawn"))
    copy = about.get("public_copy", {"url": "", "page": ""})
    if not isinstance(copy, dict) or not all(isinstance(copy.get(k), str) for k in ("url", "page")):
        faults.append("public_copy must have a url and a page")
    return faults


def _drawn_faults(drawn) -> list[str]:
    """What is wrong with how the splits are drawn, where that is declared."""
    if not isinstance(drawn, dict):
        return []
    parts, seed = drawn.get("fractions", [1]), drawn.get("seed", 0)
    faults = []
    if not isinstance(parts, list) or not all(type(x) in (int, float) and x >= 0 for x in parts):
        faults.append(f"drawn: fractions must be numbers of train, val and test, got {parts!r}")
    elif "fractions" in drawn and (len(parts) != 3 or not 0 < sum(parts) < float("inf")):
        faults.append(f"drawn: fractions must be three, of train, val and test, got {parts!r}")
    if type(seed) is not int or seed < 0:
        faults.append(f"drawn: seed must be a whole number not below 0, got {seed!r}")
    if not isinstance(drawn.get("unused", []), list):
        faults.append("drawn: unused must be a list of strata")
    return faults


def class_faults(classes) -> list[str]:
    """What is wrong with a list of foreground classes."""
    if not isinstance(classes, list) or not classes:
        return [f"classes must be a list of names, got {classes!r}"]
    faults = [f"class {fault}" for fault in map(name_fault, classes) if fault]
    faults += [
        f"class {name}: number 0 is the background's, without a name; the first name is class 1's"
        for name in classes
        if str(name).lower() in ("background", "bg")
    ]
    doubles = sorted({str(name) for name in classes if classes.count(name) > 1})
    return faults + [f"class {name} is named twice" for name in doubles]
