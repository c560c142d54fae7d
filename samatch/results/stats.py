"""Paired tests between methods: two-sided Wilcoxon signed-rank, Bonferroni (the paper's) and Holm.

The patient is the unit: a patient's score is the mean over their volumes and classes.
`unit="volume"` counts every volume, as the published code does, although two frames of one heart
are not independent.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from samatch.system.errors import InputError, known

UNITS = {"patient": "patient_id", "volume": "case_id"}
ALPHA = 0.05
DECIMALS = 10  # of a paired difference
DISTANCES = ["hd95", "asd"]
INTERVAL = ("median_difference", "ci_low", "ci_high")  # columns of a paired test


def unit_scores(
    per_case: pd.DataFrame, metric: str = "dice", unit: str = "patient"
) -> pd.DataFrame:
    """Table unit x run_id of mean scores on the test split.

    NaN are left out of a mean; a run whose scores are all NaN has a column of NaN. Distances in
    several units are not compared: all of them are NaN.
    """
    column = UNITS[known(unit, UNITS, "unit")]
    return (
        of_one_unit(per_case[per_case.split == "test"])
        .groupby([column, "run_id"])[metric]
        .mean()
        .unstack()
    )


def paired_scores(
    per_case: pd.DataFrame, metric: str = "dice", unit: str = "patient"
) -> pd.DataFrame:
    """`unit_scores` for tests: a run that leaves an absent class empty has Dice 1 there, where
    another run invents an object, which has 0. A mean of one run leaves such a case out; left out
    of a test it would hide what the other run has done wrong.
    """
    absent = per_case.dice.isna()
    about = per_case.assign(there=~absent).groupby(["split", "case_id", "class"]).there
    right = absent & about.transform("any")
    return unit_scores(per_case.assign(dice=per_case.dice.mask(right, 1.0)), metric, unit)


def unit_of(cases: pd.DataFrame) -> str:
    """The unit of the distances, or all of them: "mm", "mm and voxel"."""
    return " and ".join(sorted(cases.distance_unit.unique()))


def of_one_unit(cases: pd.DataFrame) -> pd.DataFrame:
    """The cases; with NaN for distances where these are in several units, which have no mean."""
    distances = cases.columns.intersection(DISTANCES)
    if distances.empty or cases.distance_unit.nunique() < 2:
        return cases
    return cases.assign(**dict.fromkeys(distances, float("nan")))


def wilcoxon_family(scores: pd.DataFrame, reference: str, others: list[str]) -> pd.DataFrame:
    """The reference run against each other run: one row a comparison, corrected over the family.

    scores: table unit x run_id. A difference is reference minus other, so that a positive one
    favours the reference for Dice. Raises InputError where a run is not in the table.
    """
    for run in [reference, *others]:
        known(run, scores.columns, "run")
    if reference in others or not others:
        raise InputError(
            "a family of comparisons needs other runs than the reference",
            got=others,
            do="name at least one other run",
        )
    rows = [
        {"comparison": other, **paired_test((scores[reference] - scores[other]).to_numpy())}
        for other in others
    ]
    table = pd.DataFrame(rows)
    table["p_bonferroni"] = (table.p * len(table)).clip(upper=1)
    table["p_holm"] = holm(table.p.to_numpy())
    table["significant"] = table.p_bonferroni < ALPHA
    return table


def paired_test(difference: np.ndarray) -> dict:
    """Wilcoxon signed-rank test of paired differences, with effect sizes.

    Differences are taken to DECIMALS: what sums of floats add beyond makes no two of them differ.
    p: zeros are dropped; exact for at most 50 untied or 13 tied differences, else by the normal
    approximation, corrected for ties, not for continuity.
    rank_biserial: (W+ - W-) / (W+ + W-), in [-1, 1]; median difference with a 95 % bootstrap
    interval; smallest_p: what n untied differences of one sign would give, 2 / 2^n. Without any
    defined difference p is NaN: nothing was tested.
    """
    dropped = int(np.isnan(difference).sum())
    difference = difference[~np.isnan(difference)].round(DECIMALS)
    moved = difference[difference != 0]
    n, zeros = len(difference), len(difference) - len(moved)
    result = {
        "n": n,
        "zeros": zeros,
        "undefined": dropped,
        "median_difference": float(np.median(difference)) if n else float("nan"),
    }
    low, high = bootstrap_interval(difference, seed=0)
    if not n:
        return result | dict.fromkeys(
            ("ci_low", "ci_high", "rank_biserial", "p", "smallest_p"), float("nan")
        )
    if not len(moved):
        return result | {
            "ci_low": low,
            "ci_high": high,
            "rank_biserial": 0.0,
            "p": 1.0,
            "smallest_p": 1.0,
        }
    ranks = stats.rankdata(np.abs(moved))
    effect = float((ranks * np.sign(moved)).sum() / ranks.sum())
    return result | {
        "ci_low": low,
        "ci_high": high,
        "rank_biserial": effect,
        "p": float(stats.wilcoxon(moved).pvalue),
        "smallest_p": 2.0 ** (1 - len(moved)),
    }


def bootstrap_interval(
    values: np.ndarray, seed: int, statistic: Callable = np.median
) -> tuple[float, float]:
    """95 % percentile bootstrap of the median, or of another statistic that takes an axis; 9999
    resamples; a point where all values are equal.
    """
    if len(values) < 2 or np.ptp(values) == 0:
        point = float(values[0]) if len(values) else float("nan")
        return point, point
    found = stats.bootstrap(
        (values,),
        statistic,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p (Holm, 1979); NaN stay NaN and count in the family's size."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    adjusted = np.empty(len(p))
    adjusted[order] = stepped
    return adjusted
