"""Every comparison method trained for as many iterations as SAM-Match's student in all its stages:
what each costs and reaches, and the paired test against SAM-Match."""

import pandas as pd

from samatch.config.profiles import EQUAL_LENGTH, NO_MATCH_STAGE
from samatch.results import seed_tables, stats, tables


def at_equal_length(runs: pd.DataFrame, per_case: pd.DataFrame, reference: str) -> pd.DataFrame:
    """One row per method, the best test Dice first: SAM-Match around the match method of the run
    `reference`, after its match stage and from the start, the same training without SAM, and the
    runs of that budget and seed that have a variant of EQUAL_LENGTH.

    minutes: of the run's training and all of its parents', without SAM's embeddings. dice in
    percent, mean over patients; median_difference, ci_low, ci_high and p_bonferroni: of `reference`
    against the method, as in `tables.wilcoxon_table`, whose family is larger: every comparison
    method of that seed.
    """
    mine = runs.set_index("run_id").loc[reference]
    same = runs[(runs.n_labeled == mine.n_labeled) & (runs.seed == mine.seed)]
    shown_ways = ("", tables.NO_SAM, *NO_MATCH_STAGE)
    chain = (same.method == mine.method) & same.variant.isin(shown_ways)
    shown = same[chain | same.variant.isin(EQUAL_LENGTH)]
    table = tables.summary(shown, per_case)
    table["method"] = table.run_id.map(seed_tables.names_whatever_seed(shown))
    table["minutes"] = [chain_minutes(run_id, runs) for run_id in table.run_id]
    tests = tables.wilcoxon_table(runs, per_case, reference=reference)
    run_ids = {name: run_id for run_id, name in tables.names_of(runs).items()}
    tests = tests.assign(run_id=tests.comparison.map(run_ids)).set_index("run_id")
    for name in (*stats.INTERVAL, "p_bonferroni"):
        table[name] = table.run_id.map(tests[name])
    return table.sort_values("dice", ascending=False, ignore_index=True)


def chain_minutes(run_id: str, runs: pd.DataFrame) -> float:
    """Minutes of training of a run and of all its parents; NaN where one is not on record."""
    rows = runs.set_index("run_id")

    def chain(member: str) -> set[str]:
        parents = rows.parents[member].split() if member in rows.index else []
        return {member}.union(*map(chain, parents))

    return rows.seconds.reindex(sorted(chain(run_id))).sum(skipna=False) / 60
