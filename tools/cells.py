"""What the tables of pages are made of: numbers as words."""

import pandas as pd

from samatch.results import stats


def one(values: pd.Series) -> list[str]:
    """Numbers with one decimal; "" for NaN."""
    return ["" if pd.isna(value) else f"{value:.1f}" for value in values]


def probability(values: pd.Series) -> list[str]:
    """p with four decimals; never 0."""
    return ["< 0.0001" if value < 0.0001 else f"{value:.4f}" for value in values]


def interval(median: float, low: float, high: float) -> str:
    """A difference in points and its interval."""
    return f"{median:+.1f} ({low:+.1f} to {high:+.1f})"


def tested(difference: pd.Series) -> str:
    """Median of paired differences of test units (points), its interval, and Wilcoxon's p."""
    test = stats.paired_test(difference.to_numpy())
    low, median, high = (test[key] for key in ("ci_low", "median_difference", "ci_high"))
    return f"{interval(median, low, high)}, p {probability(pd.Series([test['p']]))[0]}"


def with_undefined(distance: float, undefined: int, n_seeds: int = 1) -> str:
    """A mean distance, and how many cases have none, of all seeds together."""
    together = f" in {n_seeds} seeds" if n_seeds > 1 else ""
    return f"{distance:.1f}" + (f" ({undefined} undefined{together})" if undefined else "")


def markdown(columns: dict) -> str:
    """A Markdown table of title -> cells, all of one length."""
    names = list(columns)
    rows = zip(*(columns[name] for name in names), strict=True)
    return "\n".join(
        [
            f"| {' | '.join(names)} |",
            "|---" * len(names) + "|",
            *(f"| {' | '.join(map(str, row))} |" for row in rows),
        ]
    )
