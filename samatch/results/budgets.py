"""Dice against the number of labeled patients: the table and the label-efficiency figure."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from samatch.config.profiles import FROM_START, WHOLE_CHAIN
from samatch.results import seed_tables, stats, tables
from samatch.results.comparisons import around_data
from samatch.results.plots import BLUE, DPI, PALETTE
from samatch.results.ways import FIXMATCH, Way, sam_match

BESIDE = (Way(FIXMATCH, WHOLE_CHAIN), sam_match(FROM_START))


def with_several(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """The tested runs of the main table's methods that have several budgets, and those of BESIDE,
    whose one point stands beside the others; method: its name. Empty where no method has several.
    """
    shown = tables.in_reading_order(tables.headline(runs))
    beside = pd.Series(
        [Way(*way) in BESIDE for way in zip(shown.method, shown.variant, strict=True)], shown.index
    )
    names = seed_tables.names_whatever_seed(shown.assign(n_labeled=0))
    shown = shown.assign(method=shown.run_id.map(names))
    shown = shown[shown.run_id.isin(stats.unit_scores(per_case))]
    several = shown.groupby("method").n_labeled.transform("nunique") > 1
    return shown[(several | beside[shown.index]) & several.any()]


def by_budget(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """One row per method and budget, of the runs of `with_several`.

    dice: mean over test units (%), each the mean over the seeds of that budget; low and high: the
    95 % bootstrap interval of that mean over units; seeds: how many; n: units. A method trained
    with every label there is has no unlabeled image left: supervised training alone reaches there.
    """
    shown, scores = with_several(runs, per_case), 100 * stats.unit_scores(per_case)
    rows = []
    for (method, n_labeled), same in shown.groupby(["method", "n_labeled"], sort=False):
        units = scores[list(same.run_id)].mean(axis=1).dropna().to_numpy()
        low, high = stats.bootstrap_interval(units, seed=0, statistic=np.mean)
        rows.append(
            {
                "method": method,
                "n_labeled": n_labeled,
                "seeds": same.seed.nunique(),
                "dice": units.mean(),
                "low": low,
                "high": high,
                "n": len(units),
            }
        )
    columns = ["method", "n_labeled", "seeds", "dice", "low", "high", "n"]
    order = {name: place for place, name in enumerate(dict.fromkeys(shown.method))}
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["method", "n_labeled"],
        key=lambda column: column.map(order) if column.name == "method" else column,
        ignore_index=True,
    )


def figure(table: pd.DataFrame, title: str, unit: str) -> Figure:
    """Mean test Dice (%) of each method over the budgets of `by_budget`, with its intervals.

    The budgets stand side by side at equal distances; unit: "patient", "picture" or "test unit".
    """
    drawing, axis = plt.subplots(figsize=(7.5, 4.2), dpi=DPI, layout="constrained")
    budgets = sorted(table.n_labeled.unique())
    place = {budget: number for number, budget in enumerate(budgets)}
    methods = list(dict.fromkeys(table.method))
    for number, name in enumerate(methods):
        rows, mine = table[table.method == name], name.startswith("SAM-Match (FixMatch)")
        beside = 0.07 * (number - (len(methods) - 1) / 2)
        axis.errorbar(
            rows.n_labeled.map(place) + beside,
            rows.dice,
            yerr=(rows.dice - rows.low, rows.high - rows.dice),
            marker="osD^vPX"[number % 7],
            color=BLUE if mine else [c for c in PALETTE if c != BLUE][number % (len(PALETTE) - 1)],
            linestyle=":",  # nothing was measured between
            linewidth=2.4 if mine else 1.3,
            elinewidth=1,
            capsize=2,
            label=name,
        )
    axis.set_xticks(range(len(budgets)), budgets)
    axis.set(
        xlabel=f"labeled {unit}s (points of one number stand side by side)",
        ylabel=f"test Dice (%), 95 % interval over {unit}s",
        title=title,
        ylim=around_data(table[["low", "high"]].to_numpy().ravel(), least=4),
    )
    axis.grid(axis="y", alpha=0.3)
    axis.legend(frameon=False, fontsize=8.5)
    return drawing
