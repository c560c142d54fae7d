"""Figures that set methods side by side: scores, differences, agreement."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samatch.results.clinical import bias_and_limits
from samatch.results.plots import BLUE, DPI, ORANGE, PALETTE

COLUMNS = (8, 48)  # of the numbers right of an axis, in points from it


def grid(count: int, size: float, extra: float = 0.0, **shared) -> tuple[Figure, np.ndarray]:
    """A figure of `count` panels, `size` inches each, in at most four columns; the rest is off.

    extra: inches of height for titles and legend. The axes come as (rows, columns).
    """
    rows = max(1, -(-count // 4))
    columns = max(1, -(-count // rows))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(size * columns, size * rows + extra),
        dpi=DPI,
        layout="constrained",
        squeeze=False,
        **shared,
    )
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, axes


def dice_boxes(scores: dict[str, np.ndarray], title: str, unit: str) -> Figure:
    """Box plot with every test unit as a dot: method -> scores in percent, mean and median beside.

    unit: one by tables.unit_name. SAM-Match stands out; the axis ends where the data do, or three
    times the quartiles' distance below the lower one: a dot beyond is an arrow at its end. Dots are
    moved up and down by a fixed draw, so that the figure can be made again.
    """
    figure, axis = plt.subplots(
        figsize=(9, 0.45 * len(scores) + 1.5), dpi=DPI, layout="constrained"
    )
    rng = np.random.default_rng(0)
    pooled = np.concatenate(list(scores.values()))
    left, end = around_data(pooled, least=4)
    left = max(left, far_below(pooled))
    for place, (name, values) in enumerate(scores.items()):
        values = values[~np.isnan(values)]
        mine = name.startswith("SAM-Match")
        axis.boxplot(
            values,
            positions=[place],
            orientation="horizontal",
            widths=0.62,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": "#bcd9ea" if mine else "#ececec", "edgecolor": "#555555"},
            medianprops={"color": BLUE if mine else "black", "linewidth": 2.2},
            whiskerprops={"color": "#555555"},
            capprops={"color": "#555555"},
        )
        heights = place + rng.uniform(-0.2, 0.2, len(values))
        look: dict[str, Any] = {
            "color": BLUE if mine else "#555555",
            "alpha": 0.6,
            "linewidths": 0,
            "zorder": 3,
        }
        within = values >= left
        axis.scatter(values[within], heights[within], s=9, **look)
        beyond = np.full((~within).sum(), left + 0.01 * (end - left))
        axis.scatter(beyond, heights[~within], s=22, marker="<", **look)
        numbers = [np.mean(values), np.median(values)] if len(values) else []
        _beside(axis, place, [f"{number:.1f}" for number in numbers])
    _beside(axis, -0.75, ["mean", "median"])
    axis.set_yticks(range(len(scores)), list(scores))
    for tick in axis.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text().startswith("SAM-Match") else "normal")
    axis.set(
        ylim=(len(scores) - 0.5, -0.5), xlabel=f"Dice (%), one dot per {unit}; highest mean last"
    )
    figure.suptitle(title)  # over the whole figure: long names leave the axis little width
    axis.set_xlim(left, end)
    axis.grid(axis="x", alpha=0.3)
    return figure


def _beside(axis: Axes, place: float, texts: list[str]) -> None:
    """Texts right of an axis, at the height `place` of its data."""
    for column, text in zip(COLUMNS, texts, strict=False):
        axis.annotate(
            text,
            (1, place),
            (column, 0),
            axis.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )


def far_below(values: np.ndarray) -> float:
    """Three times the quartiles' distance below the lower quartile of the defined values."""
    values = values[~np.isnan(values)]
    if not len(values):
        return -np.inf
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low - 3 * (high - low))


def around_data(values: np.ndarray, least: float) -> tuple[float, float]:
    """Limits of an axis a little beyond the defined values, and at least `least` apart."""
    values = values[~np.isnan(values)]
    if not len(values):
        return 0.0, least
    margin = max(0.04 * np.ptp(values), (least - np.ptp(values)) / 2)
    return float(values.min() - margin), float(values.max() + margin)


SIGNS = {  # sign of a difference: marker, colour, word
    1: ("^", BLUE, "better"),
    -1: ("v", ORANGE, "worse"),
    0: ("o", "#777777", "the same"),
}


def paired_differences(
    scores: pd.DataFrame,
    reference: str,
    others: dict[str, str],
    reference_name: str,
    unit: str,
    most: int = 8,
) -> Figure:
    """Each unit's Dice difference in points, reference minus other, sorted; one scale for all.

    scores: unit x run_id in [0, 1]; others: run_id -> name; unit: one by tables.unit_name. Better
    and worse differ in marker and colour. Of more than `most` others those with the smallest mean
    difference are drawn.
    """
    by_run = {run: 100 * (scores[reference] - scores[run]).dropna() for run in others}
    drawn = sorted(others, key=lambda run: abs(by_run[run].mean()))[:most]
    figure, axes = grid(len(drawn), 3.0, extra=0.7, sharey=True)
    limits = around_data(np.concatenate([[0.0], *(by_run[run] for run in drawn)]), least=2)
    for axis, run in zip(axes.flat, [run for run in others if run in drawn], strict=False):
        difference = np.sort(by_run[run].to_numpy())
        place = np.arange(1, len(difference) + 1)
        axis.vlines(place, 0, difference, color="#bbbbbb", linewidth=0.8)
        counts = []
        for sign, (marker, color, word) in SIGNS.items():
            of_sign = np.sign(difference) == sign
            size = 22 if len(difference) <= 40 else 8
            axis.scatter(
                place[of_sign], difference[of_sign], marker=marker, color=color, s=size, zorder=3
            )
            counts += [f"{of_sign.sum()} {word}"] if of_sign.any() else []
        axis.axhline(0, color="black", linewidth=0.8)
        axis.grid(axis="y", alpha=0.3)
        name = textwrap.fill(f"against {others[run]}", 32)
        axis.set_title(f"{name}\n{', '.join(counts)}", fontsize=9.5)
        axis.set(xlabel=f"{unit}s, sorted", ylim=limits)
    for axis in axes[:, 0]:
        axis.set_ylabel("Dice difference (points)")
    few = f"; the {most} with the smallest mean difference, of {len(others)}"
    closest = few if len(others) > most else ""
    figure.suptitle(f"{reference_name} minus another method{closest}", fontsize=10)
    signs = {sign for run in drawn for sign in np.sign(by_run[run])}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", markersize=5, label=word)
        for sign, (marker, color, word) in SIGNS.items()
        if sign in signs
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def bland_altman(panels: dict[str, pd.DataFrame], title: str) -> Figure:
    """Ejection fraction: prediction minus reference over their mean, a panel a method, with 95 %
    limits.

    panels: method -> rows of clinical.measurements of one measure (pred, ref, and group, which
    colours a dot). All panels have the same axes; patients without a value are counted.
    """
    groups = sorted({group for rows in panels.values() for group in rows.get("group", [])} - {""})
    looks = list(zip(PALETTE, "osD^vP*X<>", strict=True))  # colour and marker of a group
    styles = {group: looks[number % len(looks)] for number, group in enumerate(groups)}
    figure, axes = grid(len(panels), 3.1, extra=0.5, sharex=True, sharey=True)
    for axis, (name, rows) in zip(axes.flat, panels.items(), strict=False):
        found = bias_and_limits(rows.pred, rows.ref)
        of_group = rows.get("group", pd.Series("", rows.index))
        for group in ["", *groups]:
            color, marker = styles.get(group, looks[0])
            mine = rows[of_group == group]
            axis.scatter(
                (mine.pred + mine.ref) / 2,
                mine.pred - mine.ref,
                color=color,
                marker=marker,
                s=18,
                zorder=3,
            )
        axis.axhline(0, color="#999999", linewidth=1, linestyle=":")
        axis.axhline(found["bias"], color="#333333", linewidth=1.6)
        for limit in (found["low"], found["high"]):
            axis.axhline(limit, color="#555555", linewidth=1, linestyle="--")
        missed = f", {found['undefined']} undefined" if found["undefined"] else ""
        limits = f"bias {found['bias']:+.1f}, limits {found['low']:+.1f} to {found['high']:+.1f}"
        numbers = limits if found["n"] > 1 else "too few values"
        axis.set_title(
            f"{textwrap.fill(name, 32)}\n{numbers}\nn = {found['n']}{missed}", fontsize=8.5
        )
        axis.grid(alpha=0.3)
    for axis in axes.flat[max(0, len(panels) - axes.shape[1]) : len(panels)]:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("mean of both (%)", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("prediction - reference (points)", fontsize=9)
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", markersize=5, label=group)
        for group, (color, marker) in styles.items()
    ]
    if handles:
        figure.legend(
            handles=handles,
            title="diagnosis",
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
        )
    about = "ejection fraction: mean difference (line), mean ± 1.96 SD (dashed), no error (dotted)"
    figure.suptitle(f"{title}\n{about}", fontsize=10)
    return figure
