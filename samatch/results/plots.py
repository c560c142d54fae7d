"""Figures of slices and of what a set holds; colours and saving for all figures.

Every function returns a matplotlib Figure of at most eight panels. No torch here: arrays come in as
numpy.
"""

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from samatch.system.whole import write_whole

DPI = 100  # on the screen
SAVED_DPI = 150
PALETTE = sns.color_palette("colorblind", 10).as_hex()
BLUE, ORANGE = PALETTE[:2]
CLASS_COLORS = PALETTE[:3]
MORE_COLORS = sns.color_palette("husl", 12).as_hex()


def class_color(index: int) -> str:
    """Colour of foreground class `index` (0 first)."""
    return (
        CLASS_COLORS[index] if index < len(CLASS_COLORS) else MORE_COLORS[index % len(MORE_COLORS)]
    )


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG file at 150 dots per inch, whole; no version in it, so that bytes repeat.

    A figure of the profile demo says so in its corner: .../demo/<set>/ or .../demo/<set>/figures/.
    """
    stamp(figure, path)
    metadata = {"Software": None}
    write_whole(
        path,
        lambda partial: figure.savefig(partial, format="png", dpi=SAVED_DPI, metadata=metadata),
        "a figure",
    )


def stamp(figure: Figure, path: Path) -> None:
    """Says in the corner of a figure of the profile demo that it is one."""
    if "demo" in path.parts[-4:-2]:
        of_what = "generated phantoms" if "phantom" in path.parts[-3:-1] else "minutes of training"
        figure.text(0.004, 0.004, f"demo: {of_what}", color="#777777", fontsize=7)


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
    )
    # A title belongs to the picture below it.
    figure.set_layout_engine("constrained", h_pad=0.1)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image, label) in zip(axes.flat, panels, strict=False):
        axis.imshow(image, cmap="gray", interpolation="nearest")
        for index in range(len(classes)):
            if (label == index + 1).any():
                axis.contour(
                    label == index + 1, levels=[0.5], colors=[class_color(index)], linewidths=1.4
                )
        lines = [textwrap.fill(line, 30) for line in title.splitlines()]
        axis.set_title("\n".join(lines), fontsize=9)
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
    """Panels (title, image, class map, boxes) as `slices_with_contours`, cut to the objects.

    boxes: foreground class (0 first) -> (x_min, y_min, x_max, y_max) of the pixels that the box
    encloses, dashed in the class's colour.
    """
    figure = slices_with_contours([panel[:3] for panel in panels], classes, columns)
    # A cut that is nearly as wide as its place would push its title over the edge.
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 0.95))
    for axis, (_, image, label, boxes) in zip(figure.axes, panels, strict=False):
        ys, xs = (
            range(side)[part]
            for side, part in zip(
                image.shape, around(label > 0, max(image.shape) // 8), strict=True
            )
        )
        axis.set(xlim=(xs[0] - 0.5, xs[-1] + 0.5), ylim=(ys[-1] + 0.5, ys[0] - 0.5))
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
    """What refine makes of at most two slices: hidden label, student's map, SAM's, the combined.

    A row holds name, image, hidden, student, sam and both (H, W), confidence (H, W) of the student,
    keep (H, W) bool, and dice: name of a map -> its Dice in percent. Pink: where the student is not
    sure, and what the combined map does not teach.
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
                    ("both", "combined"),
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
    for axis, doubt in zip(figure.axes, doubts, strict=True):
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
            Patch(color=DOUBT, alpha=0.7, label="student: not sure; combined: not kept"),
        ],
        loc="outside lower center",
        ncols=len(handles) + 1,
        frameon=False,
    )
    return figure


def around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the mask's box, widened by `margin`; of an empty mask everything."""
    if not mask.any():
        return slice(None), slice(None)
    rows, columns = (
        slice(max(0, where.min() - margin), where.max() + margin + 1) for where in np.nonzero(mask)
    )
    return rows, columns


def split_bars(counts: pd.DataFrame) -> Figure:
    """Stacked voxels of each class; index split, columns classes, values percent of all voxels."""
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
