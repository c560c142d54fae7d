"""Figures that set methods side by side: scores, differences, agreement, the ablation grid."""

import textwrap

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samatch.results.clinical import bias_and_limits
from samatch.results.plots import DPI


def dice_boxes(scores: dict[str, np.ndarray], title: str) -> Figure:
    """Box plot with every unit as a dot: method -> scores in percent."""
    figure, axis = plt.subplots(
        figsize=(7.5, 0.55 * len(scores) + 1.3), dpi=DPI, layout="constrained"
    )
    frame = pd.DataFrame(
        [(name, value) for name, values in scores.items() for value in values],
        columns=["method", "score"],
    )
    sns.boxplot(frame, y="method", x="score", ax=axis, color="#cfd8e6", width=0.6, fliersize=0)
    sns.stripplot(
        frame, y="method", x="score", ax=axis, color="#333333", size=3.2, alpha=0.7, jitter=0.18
    )
    axis.set(xlabel="Dice (%), one dot a patient", ylabel="", title=title)
    axis.grid(axis="x", alpha=0.3)
    return figure


def paired_differences(
    scores: pd.DataFrame, reference: str, others: dict[str, str], reference_name: str, most: int = 8
) -> Figure:
    """Each patient's Dice difference, reference minus other, sorted.

    Of more than `most` others those with the smallest mean difference are drawn.
    """
    by_patient = {run: 100 * (scores[reference] - scores[run]).dropna() for run in others}
    drawn = sorted(others, key=lambda run: abs(by_patient[run].mean()))[:most]
    columns = min(4, len(drawn))
    rows = -(-len(drawn) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(3.0 * columns, 3.0 * rows + 0.2),
        dpi=DPI,
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat[len(drawn) :]:
        axis.axis("off")
    for axis, run in zip(axes.flat, [run for run in others if run in drawn], strict=False):
        difference = np.sort(by_patient[run].to_numpy())
        axis.bar(
            range(1, len(difference) + 1),
            difference,
            color=np.where(difference > 0, "#55a868", "#c44e52"),
        )
        if not difference.any():  # matplotlib's own scale would promise hundredths of a point
            axis.set(ylim=(-1, 1), yticks=[0])
            axis.text(
                0.5,
                0.6,
                "the same on every patient",
                transform=axis.transAxes,
                ha="center",
                fontsize=9,
            )
        axis.grid(axis="y", alpha=0.3)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(f"against {textwrap.fill(others[run], 26)}", fontsize=10)
        axis.set_xlabel("patient, sorted")
    for axis in axes[:, 0]:
        axis.set_ylabel("Dice difference (points)")
    closest = f"; the {most} closest of {len(others)}" if len(others) > most else ""
    figure.suptitle(f"{reference_name}: green where it is better{closest}", fontsize=10)
    return figure


def bland_altman(
    panels: dict[str, pd.DataFrame],
    measure: str = "Ejection fraction",
    unit: str = "points",
    most: int = 8,
) -> Figure:
    """Prediction minus reference over their mean, a panel a method, with 95 % limits.

    panels: method -> rows of clinical.measurements of one measure (pred, ref, and group, which
    colours a dot). Of more than `most` methods the first are drawn. All panels have the same axes;
    patients without a value are counted.
    """
    chosen = f"; {most} of {len(panels)} methods" if len(panels) > most else ""
    panels = dict(list(panels.items())[:most])
    groups = sorted({group for rows in panels.values() for group in rows.get("group", [])} - {""})
    colors = dict(zip(groups, sns.color_palette("colorblind", len(groups)).as_hex(), strict=True))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(3.1 * columns, 3.1 * lines + 0.5),
        dpi=DPI,
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, rows) in zip(axes.flat, panels.items(), strict=False):
        found = bias_and_limits(rows.pred, rows.ref)
        dots = [colors.get(group, "#4c72b0") for group in rows.get("group", [""] * len(rows))]
        axis.scatter((rows.pred + rows.ref) / 2, rows.pred - rows.ref, c=dots, s=16, zorder=3)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.axhline(found["bias"], color="#c44e52", linewidth=1.2)
        for limit in (found["low"], found["high"]):
            axis.axhline(limit, color="#c44e52", linewidth=1, linestyle="--")
        missed = f", {found['undefined']} undefined" if found["undefined"] else ""
        limits = f"{found['bias']:+.1f}, limits {found['low']:+.1f} to {found['high']:+.1f}"
        numbers = limits if found["n"] > 1 else "too few values"
        axis.set_title(
            f"{textwrap.fill(name, 32)}\n{numbers}\nn = {found['n']}{missed}", fontsize=8.5
        )
        axis.grid(alpha=0.3)
    for axis in axes.flat[max(0, len(panels) - columns) : len(panels)]:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel(f"mean of both ({'%' if unit == 'points' else unit})", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"prediction - reference ({unit})", fontsize=9)
    handles = [
        Line2D([], [], color=color, marker="o", linestyle="", markersize=4, label=group)
        for group, color in colors.items()
    ]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), frameon=False
        )
    figure.suptitle(
        f"{measure}: mean difference (line) and its 95 % limits (dashed){chosen}", fontsize=10
    )
    return figure


def ablation_grid(table: pd.DataFrame, title: str) -> Figure:
    """Test Dice of every level of every factor (tables.ablation_grid); the default in blue.

    Cells without a run are named as such.
    """
    factors = list(dict.fromkeys(table.factor))
    starts = {
        factor: sum(0.5 + (table.factor == earlier).sum() for earlier in factors[:number])
        for number, factor in enumerate(factors)
    }
    place = [
        starts[row.factor] + number
        for factor in factors
        for number, row in enumerate(table[table.factor == factor].itertuples())
    ]
    table = pd.concat([table[table.factor == factor] for factor in factors]).assign(place=place)
    run = table[table.status == "run"]
    low, high = (run.dice.min() - 3, run.dice.max() + 3) if len(run) else (0, 100)
    figure, axis = plt.subplots(
        figsize=(8, 0.21 * (table.place.max() + 3)), dpi=DPI, layout="constrained"
    )
    default = run[run.default].dice
    if len(default):
        axis.axvline(default.iloc[0], color="#4c72b0", linewidth=0.8, linestyle=":")
    color = np.where(run.default, "#4c72b0", "#dd8452")
    axis.scatter(run.dice, run.place, color=color, s=26, zorder=3)
    for row in run.itertuples():
        axis.annotate(
            f"{row.dice:.1f}",
            (row.dice, row.place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    for row in table[table.status != "run"].itertuples():
        axis.text(
            low + 0.1,
            row.place,
            row.status,
            va="center",
            fontsize=7.5,
            color="#999999",
            style="italic",
        )
    axis.set_yticks(
        table.place, [f"{row.factor}: {row.level}" for row in table.itertuples()], fontsize=8
    )
    axis.set(
        xlim=(low, high),
        ylim=(table.place.max() + 1, -1),
        xlabel="test Dice (%), mean over patients",
        title=title,
    )
    axis.grid(axis="x", alpha=0.3)
    return figure
