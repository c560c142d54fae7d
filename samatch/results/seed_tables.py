"""Runs that differ in their seed alone, taken together: means, spread, and tests of means."""

import pandas as pd

from samatch.config.settings import FINETUNE, GUIDED
from samatch.results import stats, tables


def several_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """The main table's runs of methods trained with more than one seed; `name` is the method's."""
    named = tables.headline(runs[runs.method != FINETUNE])
    named = tables.in_reading_order(
        named.assign(name=named.run_id.map(tables.names_of(named.assign(seed=0))))
    )
    return named[named.groupby("name").seed.transform("nunique") > 1]


def seed_table(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """One row a method: seeds, their mean validation and test Dice (%), spread of the test Dice."""
    rows = several_seeds(runs)
    rows = rows.assign(
        dice=rows.run_id.map(100 * stats.unit_scores(per_case).mean()), val_dice=100 * rows.val_dice
    )
    return (
        rows.groupby("name", sort=False)
        .agg(
            seeds=("seed", _words),
            val_dice=("val_dice", "mean"),
            dice=("dice", "mean"),
            dice_sd_over_seeds=("dice", "std"),
            lowest=("dice", "min"),
            highest=("dice", "max"),
        )
        .reset_index(names="method")
    )


def wilcoxon_over_seeds(
    runs: pd.DataFrame, per_case: pd.DataFrame, metric: str = "dice", unit: str = "patient"
) -> pd.DataFrame:
    """Each SAM-Match of several seeds against the methods of its budget with the same ones.

    A patient's score is the mean over the seeds. The way of combining is the one with the best mean
    validation Dice of those with the most seeds. Without such runs the table is empty.
    """
    rows, scores = several_seeds(runs), stats.unit_scores(per_case, metric, unit)
    families = []
    for (_, n_labeled), guided in rows[
        rows.method.str.startswith(GUIDED) & rows.variant.isin(tables.COMBINE_VARIANTS)
    ].groupby(["method", "n_labeled"], sort=False):
        ranked = (
            guided.groupby("name")
            .agg(seeds=("seed", "nunique"), val_dice=("val_dice", "mean"))
            .sort_values(["seeds", "val_dice"])
        )
        mine = guided[guided.name == ranked.index[-1]]
        family = rows[
            tables.is_comparison(rows) & (rows.n_labeled == n_labeled) & rows.seed.isin(mine.seed)
        ]
        family = family[family.groupby("name").seed.transform("nunique") == len(mine)]
        if family.empty:
            continue
        means = pd.DataFrame(
            {
                name: scores[ids].mean(axis=1)
                for name, ids in pd.concat([mine, family]).groupby("name").run_id
            }
        )
        found = stats.wilcoxon_family(means, mine.name.iloc[0], list(family.name.unique()))
        families.append(
            found.assign(
                reference=mine.name.iloc[0], metric=metric, unit=unit, seeds=_words(mine.seed)
            )
        )
    return pd.concat(families, ignore_index=True) if families else pd.DataFrame()


def _words(seeds: pd.Series) -> str:
    return " ".join(map(str, sorted(seeds)))
