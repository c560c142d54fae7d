"""The formulae behind the tables, written out plainly: what the audit recomputes them with.

Nothing here is used by the tables themselves, and nothing of scipy or pandas is used here. Records
are lists of rows, dict of column -> text, as the csv module reads them.
"""

import math

import numpy as np

EXACT_UP_TO = 50  # untied differences; above, the normal approximation
TIED_UP_TO = 13  # the same where some are tied
RESAMPLES = 9999
ALPHA = 0.05
DIGITS = 6  # that the CSV files have
DECIMALS = 10  # of a difference: float noise makes no two of them differ


def number(text: str) -> float:
    """A number of a CSV file; NaN where nothing stands there."""
    return float(text) if text not in ("", "nan", "NaN") else math.nan


def rounding(value: float) -> float:
    """Half a unit in the sixth digit of a number."""
    return 0.5 * 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1) if value else 0.0


def mean(values) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def deviation(values) -> float:
    """Standard deviation (of n - 1) of the values that are not NaN; NaN of fewer than two."""
    defined = [value for value in values if not math.isnan(value)]
    if len(defined) < 2:
        return math.nan
    middle = mean(defined)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in defined) / (len(defined) - 1))


def means_by(rows: list[dict], by: str, column: str) -> dict[str, float]:
    """Value of `by` -> mean of `column` over its rows."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(number(row[column]))
    return {name: mean(values) for name, values in groups.items()}


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of their ranks."""
    return np.array(
        [(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values]
    )


def signed_rank_p(difference: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; zeros are dropped, ties have mean ranks.

    Exact, from the number of sign patterns that reach each sum of positive ranks, for at most 50
    untied or 13 tied differences; else by the normal approximation with the correction for ties and
    without one for continuity. 1 where all differences are zero, NaN where there are none.
    """
    moved = difference[difference != 0]
    if not len(difference):
        return math.nan
    if not len(moved):
        return 1.0
    ranks = midranks(np.abs(moved))
    positive = ranks[moved > 0].sum()
    tied = len(set(np.abs(moved))) < len(moved)
    if len(moved) <= (TIED_UP_TO if tied else EXACT_UP_TO):
        return _exact_p(ranks, positive)
    n = len(ranks)
    _, ties = np.unique(np.abs(moved), return_counts=True)
    variance = n * (n + 1) * (2 * n + 1) / 24 - (ties.astype(float) ** 3 - ties).sum() / 48
    return math.erfc(abs(positive - n * (n + 1) / 4) / math.sqrt(2 * variance))


def _exact_p(ranks: np.ndarray, positive: float) -> float:
    """Twice the smaller tail of the sum of positive ranks over all 2^n sign patterns, at most 1."""
    twice = [round(2 * rank) for rank in ranks]  # mean ranks are halves
    patterns = [1] + [0] * sum(twice)  # how many sign patterns have each doubled sum
    for rank in twice:
        for total in range(len(patterns) - 1, rank - 1, -1):
            patterns[total] += patterns[total - rank]
    observed = round(2 * positive)
    tail = min(sum(patterns[: observed + 1]), sum(patterns[observed:]))
    return min(1.0, 2 * tail / 2 ** len(ranks))


def rank_biserial(difference: np.ndarray) -> float:
    """(W+ - W-) / (W+ + W-) of the differences that are not zero; 0 where all are."""
    moved = difference[difference != 0]
    if not len(moved):
        return 0.0 if len(difference) else math.nan
    ranks = midranks(np.abs(moved))
    return float((ranks[moved > 0].sum() - ranks[moved < 0].sum()) / ranks.sum())


def median(values: np.ndarray) -> float:
    """The middle value, or the mean of the two middle ones; NaN without any."""
    if not len(values):
        return math.nan
    ordered, half = np.sort(values), len(values) // 2
    return float(ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2)


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap of the median: 9999 resamples of numpy's generator 0."""
    if len(values) < 2 or (values == values[0]).all():
        return (float(values[0]),) * 2 if len(values) else (math.nan, math.nan)
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    ordered, half = np.sort(values[drawn], axis=1), len(values) // 2
    medians = ordered[:, half]
    if len(values) % 2 == 0:
        medians = (ordered[:, half - 1] + medians) / 2
    medians = np.sort(medians)
    return _quantile(medians, 0.025), _quantile(medians, 0.975)


def _quantile(ordered: np.ndarray, share: float) -> float:
    """Between the two sorted values around place share x (n - 1), in proportion."""
    place = share * (len(ordered) - 1)
    below = min(math.floor(place), len(ordered) - 2)
    return float(ordered[below] + (place - below) * (ordered[below + 1] - ordered[below]))


def bonferroni(p: list[float]) -> list[float]:
    """Each p times their number, at most 1; NaN stay NaN and count."""
    return [value if math.isnan(value) else min(1.0, value * len(p)) for value in p]


def holm(p: list[float]) -> list[float]:
    """From the smallest p up: times how many are left, never below the one before, at most 1."""
    adjusted, before, left = [math.nan] * len(p), 0.0, len(p)
    for place in sorted(range(len(p)), key=lambda i: (math.isnan(p[i]), p[i])):
        if not math.isnan(p[place]):
            before = max(before, min(1.0, p[place] * left))
            adjusted[place] = before
        left -= 1
    return adjusted


def paired(difference: np.ndarray) -> dict:
    """Every column that a paired test of one comparison has, but for the corrected p."""
    defined = np.array([round(float(d), DECIMALS) for d in difference if not math.isnan(d)])
    moved = int((defined != 0).sum())
    low, high = median_interval(defined)
    return {
        "n": len(defined),
        "zeros": len(defined) - moved,
        "undefined": len(difference) - len(defined),
        "median_difference": median(defined),
        "ci_low": low,
        "ci_high": high,
        "rank_biserial": rank_biserial(defined),
        "p": signed_rank_p(defined),
        "smallest_p": 2.0 ** (1 - moved) if moved else 1.0 if len(defined) else math.nan,
    }


def family(differences: dict[str, np.ndarray]) -> list[dict]:
    """Comparison -> paired differences: a row each, with p corrected over the family."""
    rows = [{"comparison": name, **paired(values)} for name, values in differences.items()]
    p = [row["p"] for row in rows]
    for row, of_family, stepped in zip(rows, bonferroni(p), holm(p), strict=True):
        row |= {"p_bonferroni": of_family, "p_holm": stepped, "significant": of_family < ALPHA}
    return rows


def limits_of_agreement(difference: list[float]) -> dict:
    """Bland and Altman: n, undefined, bias, sd, and bias -+ 1.96 sd as low and high."""
    defined = [value for value in difference if not math.isnan(value)]
    bias, sd = mean(defined), deviation(defined)
    return {
        "n": len(defined),
        "undefined": len(difference) - len(defined),
        "bias": bias,
        "sd": sd,
        "low": bias - 1.96 * sd,
        "high": bias + 1.96 * sd,
    }
