"""The first table of README.md: what came out, one column per set."""

import pandas as pd
from cells import markdown, tested

from samatch.config.profiles import FROM_START
from samatch.results import folds, tables
from samatch.results.across_sets import (
    AT_ONCE,
    AT_ONCE_75,
    CONTINUED,
    CONTROL,
    ROWS,
    SETS,
    are_pooled,
    of_set,
    sets_on_record,
)
from samatch.results.ways import BOTH, paired, sam_match
from samatch.system import paths
from samatch.system.errors import InputError

NOT_TRAINED = "-"
# SAM-Match, how a row calls it, the control without SAM that it is set against.
AGAINST = (
    (sam_match(), "SAM-Match", CONTINUED),
    (sam_match(FROM_START), "from the start", CONTROL),
    (sam_match(FROM_START), "from the start", AT_ONCE),
    (sam_match(FROM_START), "from the start", AT_ONCE_75),
    (sam_match(FROM_START, BOTH), "both maps, from the start,", CONTROL),
)


def answer(profile: str, _: str) -> str:
    """One column per set: test Dice of the default methods, SAM-Match against training without
    SAM."""
    columns = {SETS[name]: answer_of(profile, name) for name in sets_on_record(profile)}
    if not columns:
        raise InputError(f"no records of {', '.join(SETS)}", where=paths.TRACKED_RESULTS / profile)
    rows = next(iter(columns.values()))
    return markdown(
        {"": list(rows)} | {name: list(cells.values()) for name, cells in columns.items()}
    )


def answer_of(profile: str, dataset: str) -> dict[str, str]:
    """Row -> cell of the answer's column of one set.

    Where the set's folds are pooled, of all of their patients. Every number is the mean over the
    seeds that SAM-Match and continued training have; a cell with fewer says so.
    """
    found = of_set(profile, dataset)
    pooled = are_pooled(profile, dataset)
    fold_count = f", {len(folds.fold_names(dataset))} folds" if pooled else ""
    cells = {
        "labeled": str(found.n_labeled),
        "test units": units_of(found.per_case, dataset) + fold_count,
        "seeds": str(len(found.seeds)),
    }
    for way, title in ROWS.items():
        cells[title] = over_seeds(found.scores[way], found.seeds)
    for mine, name, other in AGAINST:
        control = ROWS[other].removeprefix("FixMatch, ").removeprefix("at ")
        gained = gain(found.scores[mine], found.scores[other], found.seeds)
        cells[f"{name} against {control}"] = gained
    return cells


def units_of(per_case: pd.DataFrame, dataset: str) -> str:
    """How many test units, and how many pictures where a unit may be a group of them."""
    test, name = per_case[per_case.split == "test"], tables.unit_name(dataset)
    units, cases = test.patient_id.nunique(), test.case_id.nunique()
    return f"{units} units ({cases} pictures)" if name == "test unit" else f"{units} {name}s"


def over_seeds(scores: pd.DataFrame, seeds: list[int]) -> str:
    """Mean over test units of their mean over the seeds; a dash where no run has been tested."""
    if scores.empty:
        return NOT_TRAINED
    return f"{scores.mean(axis=1).mean():.1f}{fewer(list(scores), seeds)}"


def fewer(found: list, seeds: list[int]) -> str:
    """Says of how many seeds a cell is, where others are of more."""
    return f" ({len(found)} of {len(seeds)} seeds)" if len(found) < len(seeds) else ""


def gain(guided: pd.DataFrame, control: pd.DataFrame, seeds: list[int]) -> str:
    """Median paired difference of SAM-Match to its control over the seeds that both have, in
    points, interval and p; a dash where no seed has both."""
    shared, difference = paired(guided, control)
    if not shared:
        return NOT_TRAINED
    return tested(difference) + fewer(shared, seeds)
