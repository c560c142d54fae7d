"""Figures of what grows: training over iterations, seconds over steps and counts."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samatch.results.plots import BLUE, DPI, ORANGE, PALETTE, class_color

SOURCE_STYLES = {
    "student": (BLUE, "-", "student"),
    "sam": (ORANGE, "--", "SAM"),
    "refined": ("#333333", "-", "combined"),
    "student_kept": (BLUE, ":", "student, its kept pixels"),
    "refined_kept": ("#333333", ":", "combined, its kept pixels"),
}


def training_curves(logs: dict[str, pd.DataFrame], classes: tuple[str, ...]) -> Figure:
    """Validation Dice over iterations: the mean for each run, and the classes of the last one."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.3), dpi=DPI, layout="constrained", sharey=True
    )
    for number, (name, log) in enumerate(logs.items()):
        rows, color = log.dropna(subset=["val_dice"]), PALETTE[number % len(PALETTE)]
        left.plot(rows.iteration, 100 * rows.val_dice, "o-", color=color, markersize=3, label=name)
    for index, cls in enumerate(classes):
        right.plot(
            rows.iteration,
            100 * rows[f"val_dice_{cls}"],
            marker="o",
            markersize=3,
            color=class_color(index),
            label=cls,
        )
    left.set(xlabel="iteration", ylabel="validation Dice (%)", title="mean over classes")
    right.set(xlabel="iteration", title=f"by class: {name}")
    for axis in (left, right):
        axis.legend(fontsize=8, frameon=False)
        axis.grid(alpha=0.3)
    return figure


def pseudo_label_quality(log: pd.DataFrame, classes: tuple[str, ...], title: str = "") -> Figure:
    """Dice of pseudo-labels against the hidden labels of unlabeled slices, one panel a class."""
    width = max(5.5, 3.2 * len(classes))
    figure, axes = plt.subplots(
        1,
        len(classes),
        figsize=(width, 3.8),
        dpi=DPI,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for axis, cls in zip(axes[0], classes, strict=True):
        for source, (color, style, name) in SOURCE_STYLES.items():
            if f"pseudo_dice_{source}_{cls}" not in log:
                continue
            rows = log.dropna(subset=[f"pseudo_dice_{source}_{cls}"])
            axis.plot(
                rows.iteration,
                100 * rows[f"pseudo_dice_{source}_{cls}"],
                color=color,
                linestyle=style,
                label=name,
            )
        if not _has_data(axis):
            axis.text(0.5, 0.5, "no hidden label shows it", transform=axis.transAxes, ha="center")
            axis.set_xticks([])
        axis.set(title=cls, xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("Dice against hidden label (%)")
    if not any(map(_has_data, axes[0])):
        axes[0, 0].set_yticks([])
    if title:
        figure.suptitle(title, fontsize=10)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return figure


def _has_data(axis: Axes) -> bool:
    return any(np.size(line.get_xdata()) for line in axis.lines)


def speed(table: pd.DataFrame, title: str) -> Figure:
    """Seconds per step of the plain reference and of samatch as two dots, the ratio between them.

    table: a row a case, columns case, plain_s, samatch_s, ratio.
    """
    figure, axis = plt.subplots(figsize=(8, 0.6 * len(table) + 1.4), dpi=DPI, layout="constrained")
    place = np.arange(len(table))
    axis.hlines(place, table.samatch_s, table.plain_s, color="#cccccc", linewidth=2)
    for seconds, color, marker, name in (
        (table.plain_s, "#777777", "s", "plain reference, published structure"),
        (table.samatch_s, BLUE, "o", "samatch"),
    ):
        axis.scatter(seconds, place, color=color, marker=marker, s=42, zorder=3, label=name)
    for row in table.reset_index(drop=True).itertuples():
        middle = np.sqrt(row.plain_s * row.samatch_s)  # of a logarithmic axis
        words = (
            (row.plain_s, 8, 0, "left", f"{row.plain_s:.3g} s"),
            (row.samatch_s, -8, 0, "right", f"{row.samatch_s:.3g} s"),
            (middle, 0, 8, "center", f"{row.ratio:.1f} times as fast"),
        )
        for x, right, up, side, text in words:
            axis.annotate(
                text,
                (x, row.Index),
                xytext=(right, up),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8,
            )
    axis.set_yticks(place, table.case)
    axis.set(
        xscale="log",
        xlabel="seconds per step or validation (logarithmic)",
        title=title,
        xlim=(table[["samatch_s", "plain_s"]].min(axis=None) / 2.5, table.plain_s.max() * 2.5),
        ylim=(len(table) - 0.5, -0.7),
    )
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def scaling(table: pd.DataFrame) -> Figure:
    """Seconds over counts on logarithmic axes, one panel a quantity, beside a line of slope 1.

    table: columns quantity, count, seconds, exponent.
    """
    quantities = list(dict.fromkeys(table.quantity))
    figure, axes = plt.subplots(
        1,
        len(quantities),
        figsize=(3.1 * len(quantities), 3.2),
        dpi=DPI,
        layout="constrained",
        squeeze=False,
    )
    for axis, quantity in zip(axes[0], quantities, strict=True):
        rows = table[table.quantity == quantity]
        axis.plot(
            rows["count"],
            rows.seconds.iloc[-1] * rows["count"] / rows["count"].iloc[-1],
            color="#999999",
            linestyle=":",
            label="exponent 1",
        )
        axis.plot(rows["count"], rows.seconds, marker="o", color=BLUE, label="measured")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:.3g}")
        axis.set(xlabel=quantity, title=f"{quantity}: exponent {rows.exponent.iloc[0]:.2f}")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure
