"""Figures of what grows: training over iterations, seconds over steps and counts."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from samatch.results.plots import DPI, class_color

SOURCE_STYLES = {
    "student": ("#4c72b0", "-", "student"),
    "sam": ("#dd8452", "-", "SAM"),
    "refined": ("#333333", "-", "both together"),
    "student_kept": ("#4c72b0", ":", "student, its kept pixels"),
    "refined_kept": ("#333333", ":", "used: kept pixels of both"),
}


def training_curves(logs: dict[str, pd.DataFrame], classes: tuple[str, ...]) -> Figure:
    """Validation Dice over iterations: the mean for each run, and the classes of the last one."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.3), dpi=DPI, layout="constrained", sharey=True
    )
    for name, log in logs.items():
        rows = log.dropna(subset=["val_dice"])
        left.plot(rows.iteration, 100 * rows.val_dice, marker="o", markersize=3, label=name)
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


def pseudo_label_quality(log: pd.DataFrame, classes: tuple[str, ...]) -> Figure:
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
        axis.set(title=cls, xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("Dice against hidden label (%)")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return figure


def speed(table: pd.DataFrame, title: str) -> Figure:
    """Seconds a step of the plain reference and of samatch, with the ratio.

    table: a row a case, columns case, plain_s, samatch_s, ratio.
    """
    figure, axis = plt.subplots(figsize=(8, 0.7 * len(table) + 1.2), dpi=DPI, layout="constrained")
    place = np.arange(len(table))
    axis.barh(
        place - 0.19,
        table.plain_s,
        height=0.36,
        color="#bbbbbb",
        label="plain reference, published structure",
    )
    axis.barh(place + 0.19, table.samatch_s, height=0.36, color="#4c72b0", label="samatch")
    for row, (plain, mine, ratio) in enumerate(
        zip(table.plain_s, table.samatch_s, table.ratio, strict=True)
    ):
        axis.text(plain, row - 0.19, f" {plain:.3g} s", va="center", fontsize=8)
        axis.text(
            mine, row + 0.19, f" {mine:.3g} s: {ratio:.1f} times as fast", va="center", fontsize=8
        )
    axis.set_yticks(place, table.case)
    axis.invert_yaxis()
    axis.set(
        xscale="log",
        xlabel="seconds a step or validation (log scale)",
        title=title,
        xlim=(table.samatch_s.min() / 2, table.plain_s.max() * 4),
    )
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
            label="linear",
        )
        axis.plot(rows["count"], rows.seconds, marker="o", color="#4c72b0", label="measured")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:.3g}")
        axis.set(xlabel=quantity, title=f"exponent {rows.exponent.iloc[0]:.2f}")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure
