"""Figures from records and arrays. Every function returns a matplotlib Figure and draws at most eight panels.

No torch here: arrays come in as numpy.
"""

import textwrap

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from samatch.results.clinical import bias_and_limits

DPI = 100
CLASS_COLORS = (
    sns.color_palette("colorblind", 8).as_hex()[:1]
    + sns.color_palette("colorblind", 8).as_hex()[1:3]
)
MORE_COLORS = sns.color_palette("husl", 12).as_hex()
SOURCE_STYLES = {
    "student": ("#4c72b0", "-", "student"),
    "sam": ("#dd8452", "-", "SAM"),
    "refined": ("#333333", "-", "both together"),
    "student_kept": ("#4c72b0", ":", "student, its kept pixels"),
    "refined_kept": ("#333333", ":", "used: kept pixels of both"),
}


def class_color(index: int) -> str:
    """Colour of foreground class `index` (0 first)."""
    return (
        CLASS_COLORS[index] if index < len(CLASS_COLORS) else MORE_COLORS[index % len(MORE_COLORS)]
    )


def slices_with_contours(
    panels: list[tuple[str, np.ndarray, np.ndarray]], classes: tuple[str, ...], columns: int = 4
) -> Figure:
    """Panels (title, image (H, W), class map (H, W)) with one contour colour a class."""
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.5 * columns, 2.75 * rows),
        dpi=DPI,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image, label) in zip(axes.flat, panels):
        axis.imshow(image, cmap="gray", interpolation="nearest")
        for index in range(len(classes)):
            if (label == index + 1).any():
                axis.contour(
                    label == index + 1, levels=[0.5], colors=[class_color(index)], linewidths=1.4
                )
        axis.set_title(textwrap.fill(title, 30), fontsize=9)
    handles = [
        Line2D([], [], color=class_color(index), label=name) for index, name in enumerate(classes)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(classes), frameon=False)
    return figure


def slices_with_boxes(
    panels: list[tuple[str, np.ndarray, np.ndarray, dict[int, np.ndarray]]],
    classes: tuple[str, ...],
    columns: int = 4,
) -> Figure:
    """Panels (title, image, class map, boxes) as `slices_with_contours`; boxes: foreground class (0 first) -> (x_min, y_min,
    x_max, y_max) of the pixels that the box encloses, dashed in the class's colour. Shown is what lies around the objects."""
    figure = slices_with_contours([panel[:3] for panel in panels], classes, columns)
    for axis, (_, image, label, boxes) in zip(figure.axes, panels):
        rows, columns = (
            range(side)[part]
            for side, part in zip(image.shape, around(label > 0, max(image.shape) // 8))
        )
        axis.set(xlim=(columns[0] - 0.5, columns[-1] + 0.5), ylim=(rows[-1] + 0.5, rows[0] - 0.5))
        for index, (x_min, y_min, x_max, y_max) in boxes.items():
            axis.add_patch(
                Rectangle(
                    (x_min - 0.5, y_min - 0.5),
                    x_max - x_min + 1,
                    y_max - y_min + 1,
                    fill=False,
                    edgecolor=class_color(index),
                    linestyle="--",
                    linewidth=1.4,
                )
            )
    return figure


DOUBT = "#ff4fd8"  # no class has it


def refined_slices(rows: list[dict], classes: tuple[str, ...]) -> Figure:
    """What refine makes of at most two slices, a row of four panels each: the hidden label, the student's map, SAM's, and both together.

    A row holds name, image, hidden, student, sam and both (H, W), confidence (H, W) of the student, keep (H, W) bool, and dice:
    name of a map -> its Dice in percent. Pink: where the student is not sure, and what both together do not teach.
    """
    panels, doubts = [], []
    for row in rows:
        window = around(
            np.any([row[name] > 0 for name in ("hidden", "student", "sam", "both")], axis=0),
            margin=6,
        )
        titles = {
            "hidden": f"{row['name']}: hidden label",
            **{
                name: f"{words}, Dice {row['dice'][name]:.0f} %"
                for name, words in (
                    ("student", "student"),
                    ("sam", "SAM"),
                    ("both", "both together"),
                )
            },
        }
        panels += [
            (title, row["image"][window], row[name][window]) for name, title in titles.items()
        ]
        nothing, unsure = np.zeros(row["image"].shape), 1 - row["confidence"]
        doubts += [
            doubt[window]
            for doubt in (nothing, unsure / max(unsure.max(), 1e-6), nothing, ~row["keep"] * 1.0)
        ]
    figure = slices_with_contours(panels, classes)
    for axis, doubt in zip(figure.axes, doubts):
        shade = np.broadcast_to(to_rgb(DOUBT), (*doubt.shape, 3))
        axis.imshow(
            np.concatenate([shade, 0.7 * doubt[..., None]], axis=2), interpolation="nearest"
        )
    handles = [
        Line2D([], [], color=class_color(index), label=name) for index, name in enumerate(classes)
    ]
    figure.legends[0].remove()
    figure.legend(
        handles=[
            *handles,
            Patch(color=DOUBT, alpha=0.7, label="student: not sure; both together: not kept"),
        ],
        loc="outside lower center",
        ncols=len(handles) + 1,
        frameon=False,
    )
    return figure


def around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the mask's box, widened: what is worth looking at. Of an empty mask everything."""
    if not mask.any():
        return slice(None), slice(None)
    return tuple(
        slice(max(0, where.min() - margin), where.max() + margin + 1) for where in np.nonzero(mask)
    )


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
    """Dice of the pseudo-labels against the hidden labels of unlabeled training slices, one panel a class."""
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
    for axis, cls in zip(axes[0], classes):
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
    """Each patient's Dice difference, reference minus other, sorted: above zero favours the reference. Scales differ.

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
    for axis, run in zip(axes.flat, [run for run in others if run in drawn]):
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
    """Prediction minus reference over their mean, a dot a patient, a panel a method, with 95 % limits.

    panels: method -> rows of clinical.measurements of one measure (pred, ref, and group, which colours a
    dot). Of more than `most` methods the first are drawn. All panels have the same axes; patients without a
    value are counted.
    """
    chosen = f"; {most} of {len(panels)} methods" if len(panels) > most else ""
    panels = dict(list(panels.items())[:most])
    groups = sorted({group for rows in panels.values() for group in rows.get("group", [])} - {""})
    colors = dict(zip(groups, sns.color_palette("colorblind", len(groups)).as_hex()))
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
    for axis, (name, rows) in zip(axes.flat, panels.items()):
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
    """Test Dice of every level of every factor (tables.ablation_grid); the default in blue, cells without a run named as
    such."""
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


def speed(table: pd.DataFrame, title: str) -> Figure:
    """Seconds a step of the plain reference and of samatch, one pair of bars a case, with the ratio; columns case, plain_s, samatch_s, ratio."""
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
    for row, (plain, mine, ratio) in enumerate(zip(table.plain_s, table.samatch_s, table.ratio)):
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
    """Seconds over counts on logarithmic axes, one panel a quantity, beside a line of slope 1; columns quantity, count, seconds, exponent."""
    quantities = list(dict.fromkeys(table.quantity))
    figure, axes = plt.subplots(
        1,
        len(quantities),
        figsize=(3.1 * len(quantities), 3.2),
        dpi=DPI,
        layout="constrained",
        squeeze=False,
    )
    for axis, quantity in zip(axes[0], quantities):
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


def split_bars(counts: pd.DataFrame) -> Figure:
    """Stacked voxels a class for each split; index split, columns classes, values percent of all voxels."""
    figure, axis = plt.subplots(figsize=(6.5, 2.4), dpi=DPI, layout="constrained")
    left = np.zeros(len(counts))
    for index, cls in enumerate(counts.columns):
        axis.barh(counts.index, counts[cls], left=left, color=class_color(index), label=cls)
        left += counts[cls].to_numpy()
    axis.invert_yaxis()
    axis.set(xlabel="share of voxels (%)")
    axis.legend(
        frameon=False,
        fontsize=8,
        ncols=len(counts.columns),
        loc="upper center",
        bbox_to_anchor=(0.5, 1.25),
    )
    return figure


def method_figure() -> Figure:
    """predict -> propose -> refine -> loss, and SAM beside the student, as boxes and arrows."""
    figure, axis = plt.subplots(figsize=(10, 5), dpi=DPI, layout="constrained")
    axis.set(xlim=(0, 10), ylim=(0, 5))
    axis.axis("off")
    boxes = {
        "weak": (0.1, 2.2, "unlabeled\nweak view $w$"),
        "strong": (0.1, 0.4, "strong view\n$S(w)$, CutMix"),
        "predict": (2.2, 2.2, "predict\nstudent $f(w)$"),
        "propose": (4.3, 2.2, "propose\nmap and\nconfidence"),
        "sam": (4.3, 3.9, "SAM, no prompt:\nthe slice alone\n$\\rightarrow$ its own map"),
        "refine": (6.4, 2.2, "refine\nmean of both maps,\nsure pixels kept"),
        "student": (2.2, 0.4, "predict\nstudent $f(S(w))$"),
        "loss": (8.4, 0.4, "loss\nCE + Dice on\nkept pixels"),
        "samloss": (8.4, 3.9, "SAM's own loss:\nlabeled slices,\nstudent's map"),
    }
    for name, (x, y, text) in boxes.items():
        color = {
            "sam": "#f6d5b8",
            "samloss": "#f6d5b8",
            "refine": "#eee3c4",
            "loss": "#d5e5d0",
        }.get(name, "#dce6f2")
        axis.add_patch(
            FancyBboxPatch(
                (x, y), 1.5, 0.8, boxstyle="round,pad=0.05", facecolor=color, edgecolor="#444444"
            )
        )
        axis.text(x + 0.75, y + 0.4, text, ha="center", va="center", fontsize=9)
    arrows = [
        ((1.7, 2.6), (2.1, 2.6), 0),
        ((3.8, 2.6), (4.2, 2.6), 0),
        ((5.9, 2.6), (6.3, 2.6), 0),
        ((1.7, 0.8), (2.1, 0.8), 0),
        ((0.85, 3.1), (4.2, 4.3), -0.25),
        ((5.9, 4.1), (7.15, 3.1), -0.3),
        ((5.9, 4.5), (8.3, 4.5), 0),
        ((5.5, 3.05), (8.3, 4.1), 0.12),
        ((8.0, 2.6), (9.15, 1.3), -0.35),
        ((3.8, 0.8), (8.3, 0.8), 0),
    ]
    for start, end, bend in arrows:
        axis.add_patch(
            FancyArrowPatch(
                start,
                end,
                arrowstyle="-|>",
                mutation_scale=12,
                color="#444444",
                connectionstyle=f"arc3,rad={bend}",
            )
        )
    axis.text(9.3, 2.1, "refined\npseudo-label", fontsize=8, ha="center")
    axis.text(
        4.9,
        1.5,
        "no gradient passes through propose and refine;\nlabeled images train the student as usual (not drawn)",
        fontsize=8,
        ha="center",
        color="#555555",
    )
    return figure
