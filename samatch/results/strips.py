"""A strip of real slices: what the student says, what SAM is asked and says, and their mean.

Draws and records what `samatch.training.walkthrough` has computed. No torch here. Class maps are
(S, S) with 0 for background, in pixels of the student's input; Dice is in percent.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle

from samatch.results.curves import SOURCE_STYLES
from samatch.results.plots import DOUBT, around, class_color, stamp
from samatch.system.whole import write_whole

DPI = 150
# What a row is called at the time of the choice, and later.
ROLES = {
    "helps": ("SAM helps most", "the slice that SAM helped most"),
    "median": ("median slice", "the median slice"),
    "harms": ("SAM harms most", "the slice that SAM harmed most"),
    "rejected": ("most pixels rejected", "the slice of which most was rejected"),
}
MAPS = {"student": "student", "sam": "SAM", "both": "combined"}


@dataclass(frozen=True)
class Opinions:
    """What is said of one slice at one time of the training; all maps (S, S)."""

    image: np.ndarray  # float, [0, 1]
    hidden: np.ndarray  # class map that no training sees
    student: np.ndarray  # class map
    confidence: np.ndarray  # float, the student's highest probability
    sam: np.ndarray  # class map
    iou: np.ndarray  # (K,) of each of SAM's masks, the IoU that its own probabilities promise
    both: np.ndarray  # class map
    keep: np.ndarray  # bool, the pixels of `both` that are taught
    # foreground class, 0 first -> (x_min, y_min, x_max, y_max) of the pixels that it encloses
    boxes: dict[int, np.ndarray]

    def dice(self, name: str) -> np.ndarray:
        """(K,) percent of map `name`, one of MAPS, against the hidden label."""
        return dice_by_class(getattr(self, name), self.hidden, len(self.iou))

    @property
    def gain(self) -> float:
        """Dice of the combined map less the student's, mean over classes, in points."""
        return mean_dice(self.dice("both")) - mean_dice(self.dice("student"))


@dataclass(frozen=True)
class Chosen:
    """A slice that the rule has chosen, and what is said of it at each time of the training."""

    role: str  # one of ROLES
    case_id: str
    slice: int  # from 0
    rank: int  # of its gain at the start, 1 is the greatest
    at: dict[str, Opinions]  # by the name of the time


@dataclass(frozen=True)
class Count:
    """What the rule chose from: the gains of all slices, in points of Dice."""

    gains: np.ndarray  # (N,)
    every: int = 1  # one in so many of all such slices was taken

    @property
    def which(self) -> str:
        """Which slices these are, in words."""
        part = f"one in {self.every} of them, " if self.every > 1 else "all "
        return f"{part}{len(self.gains)} slices,"

    @property
    def sentence(self) -> str:
        """How often the combined map is better, for the line below the figure."""
        better, worse = (round(100 * np.mean(side)) for side in (self.gains > 0, self.gains < 0))
        return (
            f"Over {self.which} the combined map is better than the student's on {better} % and "
            f"worse on {worse} %; gain {signed(np.median(self.gains))} points at the median, "
            f"{signed(self.gains.mean())} in the mean."
        )


def signed(points: float) -> str:
    """One decimal with its sign, a real minus."""
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def dice_by_class(label: np.ndarray, hidden: np.ndarray, num_foreground: int) -> np.ndarray:
    """(K,) Dice in percent of two class maps of one shape; NaN where neither shows a class."""
    found = []
    for value in range(1, num_foreground + 1):
        a, b = label == value, hidden == value
        total = a.sum() + b.sum()
        found.append(200 * (a & b).sum() / total if total else np.nan)
    return np.array(found, dtype=float)


def mean_dice(by_class: np.ndarray) -> float:
    """Mean over the classes that are not NaN; NaN where all are."""
    return float(pd.Series(by_class).mean())


def record(chosen: list[Chosen], count: Count, classes: tuple[str, ...], rule: str) -> pd.DataFrame:
    """One row a time, slice and map: Dice, promised IoU, gain and percent kept, if it has them."""
    rows = []
    for time in chosen[0].at:
        for one in chosen:
            for name, words in MAPS.items():
                rows.append(_row(time, one, name, words, classes))
    table = pd.DataFrame(rows)
    return table.assign(
        slices=len(count.gains),
        every=count.every,
        better=int((count.gains > 0).sum()),
        worse=int((count.gains < 0).sum()),
        gain_median=np.median(count.gains),
        gain_mean=count.gains.mean(),
        rule=rule,
    )


def _row(time: str, one: Chosen, name: str, words: str, classes: tuple[str, ...]) -> dict:
    said, missing = one.at[time], float("nan")
    by_class = said.dice(name)
    row = {"time": time, "role": one.role, "case_id": one.case_id, "slice": one.slice}
    row |= {"rank": one.rank, "map": words, "dice": mean_dice(by_class)}
    row |= {f"dice_{cls}": value for cls, value in zip(classes, by_class, strict=True)}
    promised = said.iou if name == "sam" else [missing] * len(classes)
    row |= {f"promised_iou_{cls}": value for cls, value in zip(classes, promised, strict=True)}
    row["gain"] = said.gain if name == "both" else missing
    row["kept"] = 100 * said.keep.mean() if name == "both" else missing
    return row


# The figure, from here on. Lengths are inches. Pages show it about WIDTH x 100 pixels wide, where
# a letter of 8.5 points is 12 pixels high.
WIDTH, EDGE, GAP = 8.5, 0.06, 0.06
HEAD, TITLE, NAME, LINE, LEGEND = 1.5, 0.36, 0.24, 0.155, 0.34
COLUMNS = ("slice", "student", "confidence", "asked", "sam", "both", "hidden")
PANEL = (WIDTH - 2 * EDGE + GAP) / len(COLUMNS) - GAP
STUDENT, SAM = SOURCE_STYLES["student"][0], SOURCE_STYLES["sam"][0]
NOT_KEPT = "#9a9a9a"
INK = "#333333"


@dataclass(frozen=True)
class Sheet:
    """The figure, with places in inches from its lower left corner."""

    figure: Figure
    width: float
    height: float

    def axes(self, x: float, y: float, width: float, height: float, name: str) -> Axes:
        """New axes without ticks; x, y: their lower left corner."""
        place = (x / self.width, y / self.height, width / self.width, height / self.height)
        axis = self.figure.add_axes(place, label=name)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        return axis

    def text(self, x: float, y: float, words: str, **style) -> None:
        """Words with their lower left corner at x, y unless the style says otherwise."""
        self.figure.text(x / self.width, y / self.height, words, **style)


def draw(
    chosen: list[Chosen],
    times: dict[str, str],
    classes: tuple[str, ...],
    *,
    threshold: float,
    margin: float,
    below: list[str],
) -> Figure:
    """The strip: a block of rows for each time, a row a slice, seven panels each.

    times: name of the time -> title of its block, the time of the choice first; threshold: least
    probability of a kept pixel; margin: pixels of an image 256 wide around the boxes; below:
    paragraphs under the legend.
    """
    lines = [line for text in below for line in textwrap.wrap(text, 140)]
    words = {(time, one.role): _words_under(one.at[time]) for time in times for one in chosen}
    deepest = max(text.count("\n") + 1 for under in words.values() for text in under.values())
    foot, row = LEGEND + 0.14 * len(lines) + 0.24, NAME + PANEL + LINE * deepest + 0.1
    height = HEAD + len(times) * (TITLE + len(chosen) * row) + foot
    sheet = Sheet(plt.figure(figsize=(WIDTH, height), dpi=DPI), WIDTH, height)
    _head(sheet)
    top = height - HEAD
    for time, title in times.items():
        sheet.text(EDGE, top - 0.24, title, fontsize=11, weight="bold")
        top -= TITLE
        for one in chosen:
            _slice_row(sheet, top, one, time, words[time, one.role])
            top -= row
    _legend(sheet, foot, classes, threshold, margin)
    sheet.text(EDGE, 0.2, "\n".join(lines), fontsize=7.5, color=INK, va="bottom", linespacing=1.3)
    return sheet.figure


def save(figure: Figure, path: Path, licence: str) -> None:
    """A PNG, whole or not at all, with the same metadata at every drawing: the images' licence."""
    metadata = {"Software": "samatch", "Copyright": licence}
    stamp(figure, path)
    write_whole(
        path, lambda partial: figure.savefig(partial, format="png", metadata=metadata), "a figure"
    )


def _column(number: float) -> float:
    """Left edge of a column."""
    return EDGE + number * (PANEL + GAP)


def _slice_row(sheet: Sheet, top: float, one: Chosen, time: str, under: dict[str, str]) -> None:
    said, shown = one.at[time], window(list(one.at.values()))
    name = ROLES[one.role][time != next(iter(one.at))]
    words = f"{name}: combined map {signed(said.gain)} Dice points"
    sheet.text(EDGE, top - NAME + 0.06, words, fontsize=9.5, weight="bold")
    where = f"{one.case_id.replace('_', ' ')}, slice {one.slice}"
    sheet.text(WIDTH - EDGE, top - NAME + 0.06, where, fontsize=8.5, ha="right", color=INK)
    bottom = top - NAME - PANEL
    for number, name in enumerate(COLUMNS):
        place = (_column(number), bottom, PANEL, PANEL)
        panel(sheet.axes(*place, name=f"{time} {one.role} {name}"), name, said, shown)
        style = {"fontsize": 8.5, "ha": "center", "va": "top", "linespacing": 1.2}
        sheet.text(_column(number) + PANEL / 2, bottom - 0.04, under.get(name, ""), **style)


def _words_under(said: Opinions) -> dict[str, str]:
    """Column -> what stands under its panel; SAM's IoU in the order of the classes."""
    dice = {name: f"Dice {mean_dice(said.dice(name)):.1f}" for name in MAPS}
    promised = "".join(f" {value:.2f}" for value in said.iou).replace(" 0.", " .")
    return {
        "student": dice["student"],
        "sam": f"{dice['sam']}\n{textwrap.fill('IoU' + promised, 17)}",
        "both": f"{dice['both']}\n{100 * said.keep.mean():.1f} % kept",
    }


def panel(axis: Axes, name: str, said: Opinions, shown: tuple[slice, slice]) -> None:
    """One of COLUMNS on the slice, cut to the rows and columns `shown`."""
    axis.imshow(said.image, cmap="gray", interpolation="nearest")
    num_foreground = len(said.iou)
    if name in ("student", "sam", "both", "hidden"):
        _filled(axis, getattr(said, name), num_foreground)
    if name == "both" and not said.keep.all():
        _not_kept(axis, said.keep)
    if name == "confidence":
        axis.imshow(doubt_shade(said.confidence, num_foreground + 1), interpolation="nearest")
    if name == "asked":
        _boxes(axis, said.boxes)
    rows, columns = shown
    axis.set(
        xlim=(columns.start - 0.5, columns.stop - 0.5), ylim=(rows.stop - 0.5, rows.start - 0.5)
    )


def doubt_shade(confidence: np.ndarray, num_classes: int) -> np.ndarray:
    """(S, S, 4) colour: clear at confidence 1, full pink at the least possible 1 / num_classes."""
    doubt = (1 - confidence) / (1 - 1 / num_classes)
    shade = np.broadcast_to(to_rgb(DOUBT), (*confidence.shape, 3))
    return np.concatenate([shade, doubt.clip(0, 1)[..., None]], axis=2)


def _filled(axis: Axes, label: np.ndarray, num_foreground: int) -> None:
    """Every class that is there, outlined, and filled so that the slice shows through."""
    for index in range(num_foreground):
        mask = label == index + 1
        if mask.any():
            colors = ListedColormap([(0, 0, 0, 0), to_rgba(class_color(index), 0.5)])
            axis.imshow(mask, cmap=colors, vmin=0, vmax=1, interpolation="nearest")
            axis.contour(mask, levels=[0.5], colors=[class_color(index)], linewidths=1.3)


def _not_kept(axis: Axes, keep: np.ndarray) -> None:
    """Grey and hatched; the outlines of the classes stay above it."""
    colors = ListedColormap([(0, 0, 0, 0), to_rgba(NOT_KEPT, 0.8)])
    axis.imshow(~keep, cmap=colors, vmin=0, vmax=1, interpolation="nearest")
    hatched = axis.contourf(~keep, levels=[0.5, 1.5], colors="none", hatches=["//////"])
    hatched.set(edgecolor="white", linewidth=0)


def _boxes(axis: Axes, boxes: dict[int, np.ndarray]) -> None:
    """Dashed, each in its class's colour over a dark line, so that it is seen on bright ground."""
    dark = [patheffects.Stroke(linewidth=2.2, foreground="black"), patheffects.Normal()]
    for index, (x_min, y_min, x_max, y_max) in boxes.items():
        corner, sides = (x_min - 0.5, y_min - 0.5), (x_max - x_min + 1, y_max - y_min + 1)
        box = Rectangle(corner, *sides, fill=False, edgecolor=class_color(index), linewidth=1.1)
        box.set(linestyle="--", path_effects=dark)
        axis.add_patch(box)


def window(opinions: list[Opinions], margin: int = 8) -> tuple[slice, slice]:
    """Rows and columns of the least square around every class map, widened; within the image."""
    shape = opinions[0].hidden.shape
    mask = np.zeros(shape, dtype=bool)
    for said in opinions:
        for label in (said.hidden, said.student, said.sam, said.both):
            mask |= label > 0
    bounds = [
        part.indices(size)[:2] for part, size in zip(around(mask, margin), shape, strict=True)
    ]
    side = max(stop - start for start, stop in bounds)
    found = []
    for (start, stop), size in zip(bounds, shape, strict=True):
        first = min(max(0, (start + stop - side) // 2), max(0, size - side))
        found.append(slice(first, min(first + side, size)))
    rows, columns = found
    return rows, columns


def _head(sheet: Sheet) -> None:
    """Names of the columns, and above them what flows where, student's and SAM's by colour."""
    axis = sheet.axes(0, sheet.height - HEAD, sheet.width, HEAD, "head")
    axis.set(xlim=(0, sheet.width), ylim=(0, HEAD))
    names = {
        "slice": ("slice", "unlabeled"),
        "student": ("student", "its map"),
        "confidence": ("confidence", "student's"),
        "asked": ("SAM is asked", "without prompt"),
        "sam": ("SAM", "its map"),
        "both": ("combined", "mean of both"),
        "hidden": ("hidden label", "for scoring"),
    }
    for number, name in enumerate(COLUMNS):
        x = _column(number) + PANEL / 2
        axis.text(x, 0.25, names[name][0], ha="center", fontsize=9.5, weight="bold")
        axis.text(x, 0.19, names[name][1], ha="center", va="top", fontsize=8.5, color=INK)
    _flow(axis, (0, 0.2), (1, -0.2), 0.65, STUDENT)
    _flow(axis, (0, 0.0), (3, -0.1), 0.92, SAM, "SAM sees the slice alone")
    _flow(axis, (3, 0.2), (4, -0.2), 0.65, SAM)
    _flow(axis, (4, 0.2), (5, -0.2), 0.65, SAM)
    _flow(axis, (1, 0.2), (5, 0.1), 1.2, STUDENT, "averaged with SAM's map")


def _flow(axis: Axes, start, end, level: float, color: str, words: str = "") -> None:
    """An arrow up from a column, along `level` and down to another; start, end: column, offset."""
    x0, x1 = (_column(number) + PANEL / 2 + offset for number, offset in (start, end))
    axis.plot([x0, x0, x1], [0.45, level, level], color=color, linewidth=1.6)
    ends: dict[str, Any] = {"mutation_scale": 10, "color": color, "linewidth": 1.6}
    arrow = FancyArrowPatch((x1, level), (x1, 0.42), arrowstyle="-|>", shrinkA=0, shrinkB=0, **ends)
    axis.add_patch(arrow)
    place = (0.35 * x0 + 0.65 * x1, level + 0.04)
    axis.text(*place, words, ha="center", va="bottom", fontsize=8.5, color=color)


def _legend(
    sheet: Sheet, foot: float, classes: tuple[str, ...], threshold: float, margin: float
) -> None:
    """One legend for all rows."""
    handles: list[Artist] = []
    for index, cls in enumerate(classes):
        color = class_color(index)
        handles.append(Patch(facecolor=to_rgba(color, 0.5), edgecolor=color, label=cls))
    handles += [
        Patch(facecolor=DOUBT, label="not sure"),
        Line2D(
            [], [], color=INK, linestyle="--", linewidth=1.1,
            label=f"the paper's box (+{margin:g} px), not sent",
        ),
        Patch(
            facecolor=NOT_KEPT, edgecolor="white", hatch="//////",
            label=f"below {threshold:g}: not taught",
        ),
    ]  # fmt: skip
    place = (0.5, (foot - LEGEND + 0.02) / sheet.height)
    sheet.figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=place,
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        handlelength=1.5,
        columnspacing=1.2,
    )
