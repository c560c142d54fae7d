"""What the tables of pages are made of: tracked records, and numbers as words."""

import pandas as pd

from samatch.results import folds, stats, tables
from samatch.results.records import read_results
from samatch.system import paths


def records(profile: str, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, per_case) of a tracked set, of its main budget; of <set>_folds, of all folds."""
    if dataset.endswith("_folds"):
        return folds.pooled(profile, dataset.removesuffix("_folds"))[:2]
    runs, per_case = tracked(profile, dataset)
    return tables.main_budget(runs), per_case


def tracked(profile: str, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, per_case) of a tracked set, whatever the budget."""
    return read_results(profile, dataset, paths.TRACKED_RESULTS / profile / dataset)


def scores_of(per_case: pd.DataFrame, split: str) -> pd.DataFrame:
    """Mean Dice of each unit by run, of the rows of `split`, such as SAM's maps at test time."""
    return stats.unit_scores(per_case[per_case.split == split].assign(split="test"))


def paired(first: pd.DataFrame, second: pd.DataFrame) -> tuple[list[int], pd.Series]:
    """Of two tables unit x seed: the seeds that both have, and the difference of each unit that
    both have, of its means over these seeds, to the decimals that tests take."""
    seeds = sorted(set(first) & set(second))
    mine, other = (scores[seeds].mean(axis=1, skipna=False) for scores in (first, second))
    return seeds, (mine - other).dropna().round(stats.DECIMALS)


def one(values: pd.Series) -> list[str]:
    """Numbers with one decimal; "" for NaN."""
    return ["" if pd.isna(value) else f"{value:.1f}" for value in values]


def probability(values: pd.Series) -> list[str]:
    """p with four decimals; never 0."""
    return ["< 0.0001" if value < 0.0001 else f"{value:.4f}" for value in values]


def interval(median: float, low: float, high: float) -> str:
    """A difference in points and its interval."""
    return f"{median:+.1f} ({low:+.1f} to {high:+.1f})"


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
