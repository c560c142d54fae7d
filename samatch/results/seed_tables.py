"""Runs that differ in their seed alone, taken together: means, spread, and tests of means."""

import pandas as pd

from samatch.config.profiles import NO_MATCH_STAGE
from samatch.config.settings import GUIDED
from samatch.results import stats, tables


def names_whatever_seed(runs: pd.DataFrame) -> dict[str, str]:
    """run_id -> name of its method; runs that differ in their seed alone share it."""
    return tables.names_of(runs.assign(seed=0))


def scores_over_seeds(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """Table patient x name of Dice on the test split, each the mean over the method's seeds."""
    scores, names = stats.unit_scores(per_case), names_whatever_seed(runs)
    return scores[[run for run in scores if run in names]].T.groupby(names).mean().T


def summary_over_seeds(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """One row a method, columns as `tables.summary`: means over the seeds on record.

    dice_sd: over patients, of their means over seeds; dice_sd_over_seeds: of the test means, NaN of
    one seed. undefined: of all seeds together. seeds: "0 1 2"; n_seeds: how many.
    """
    table, names = tables.summary(runs, per_case), names_whatever_seed(runs)
    table = table.assign(method=table.run_id.map(names))
    means = table.columns.difference(["run_id", "method", "unit", "undefined", "n", "seed"])
    of_method = table.groupby("method", sort=False)
    patients = 100 * scores_over_seeds(runs, per_case)
    found = of_method[list(means)].mean()
    found["dice_sd"] = patients.std()
    found["dice_sd_over_seeds"] = of_method.dice.std()
    found["undefined"], found["n"] = of_method.undefined.sum(), of_method.n.max()
    found["unit"] = of_method.unit.agg(lambda units: " and ".join(sorted(set(units))))
    found["seeds"], found["n_seeds"] = of_method.seed.agg(_words), of_method.seed.nunique()
    return found.reset_index()


def sam_at_test_time_over_seeds(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """`tables.sam_at_test_time` with one row a method: means over the seeds, and their number."""
    table = tables.sam_at_test_time(runs, per_case)
    table = table.assign(method=table.run_id.map(names_whatever_seed(runs)))
    of_method = table.groupby("method", sort=False)
    found = of_method[list(table.columns.difference(["run_id", "method"]))].mean()
    return found.assign(n_seeds=of_method.size()).reset_index()


def several_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """The main table's runs of methods trained with more than one seed; `name` is the method's."""
    named = tables.headline(runs)
    named = tables.in_reading_order(named.assign(name=named.run_id.map(names_whatever_seed(named))))
    return named[named.groupby("name").seed.transform("nunique") > 1]


def seed_table(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """One row a method: seeds, their mean validation and test Dice (%), spread of the test Dice."""
    rows, dice = several_seeds(runs), 100 * stats.unit_scores(per_case).mean()
    rows = rows[rows.run_id.isin(dice.index)]  # SAM with the reference's boxes is not tested
    rows = rows.assign(dice=rows.run_id.map(dice), val_dice=100 * rows.val_dice)
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


def wilcoxon_over_seeds(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """Dice of each SAM-Match of several seeds, and of those that guide from the start, against the
    methods of its budget with the same ones.

    A patient's score is the mean over the seeds. Without such runs the table is empty; a control
    that is still its start is in no family, as in `tables.wilcoxon_table`.
    """
    runs = runs[~runs.run_id.isin(tables.unchanged(runs, per_case))]
    rows, scores = several_seeds(runs), stats.paired_scores(per_case)
    families = []
    references = rows[rows.method.str.startswith(GUIDED) & rows.variant.isin(("", *NO_MATCH_STAGE))]
    for reference, mine in references.groupby("name", sort=False):
        same = (rows.n_labeled == mine.n_labeled.iloc[0]) & rows.seed.isin(mine.seed)
        family = rows[tables.is_comparison(rows) & same]
        family = family[family.groupby("name").seed.transform("nunique") == len(mine)]
        if family.empty:
            continue
        means = pd.DataFrame(
            {
                name: scores[ids].mean(axis=1)
                for name, ids in pd.concat([mine, family]).groupby("name").run_id
            }
        )
        found = stats.wilcoxon_family(means, reference, list(family.name.unique()))
        families.append(
            found.assign(
                reference=reference, metric="dice", unit="patient", seeds=_words(mine.seed)
            )
        )
    return pd.concat(families, ignore_index=True) if families else pd.DataFrame()


def _words(seeds: pd.Series) -> str:
    return " ".join(map(str, sorted(seeds)))


def where_there_are(runs: pd.DataFrame, per_case: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tables by name that only some records allow: over seeds, and of SAM at test time."""
    found = {
        "seeds": seed_table(runs, per_case),
        "wilcoxon_seeds": wilcoxon_over_seeds(runs, per_case),
        "sam_at_test_time": tables.sam_at_test_time(runs, per_case),
    }
    return {name: table for name, table in found.items() if len(table)}
