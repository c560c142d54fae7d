"""A film of one unlabeled slice: what student and SAM say of it while they train together.

    samatch film --profile laptop --dataset acdc

`samatch train --film` records it (`samatch.training.filming`); here it is kept, drawn and tabled.
No torch. Maps and Dice are those of `samatch.results.strips`.
"""

import dataclasses
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from samatch.config.settings import RunConfig
from samatch.config.words import joint_config, joint_run_parser
from samatch.data.manifest import Manifest, load_manifest
from samatch.results import strips
from samatch.results.plots import class_color
from samatch.results.records import write_table
from samatch.results.runs import FILM, file_of, run_folder
from samatch.results.strips import (
    EDGE,
    GAP,
    INK,
    LEGEND,
    LINE,
    MAPS,
    NOT_KEPT,
    SOURCE_STYLES,
    WIDTH,
    Opinions,
    Sheet,
)
from samatch.system import paths, whole
from samatch.system.errors import InputError

RULE = (
    "of the unlabeled training slices whose hidden label shows every class, the one with the "
    "median Dice of the student's map when the film begins"
)
# One array a frame in the file; a boxless Opinions is made of them.
PER_FRAME = {
    "student": np.uint8, "confidence": np.float16, "sam": np.uint8, "iou": np.float32,
    "both": np.uint8, "keep": np.bool_,
}  # fmt: skip
COLORS = {"student": "student", "sam": "sam", "both": "refined"}  # map -> key of SOURCE_STYLES
AT_MOST = 5  # iterations in the strip


@dataclass(frozen=True)
class Film:
    """One slice at some iterations of one training."""

    run_id: str
    case_id: str
    slice: int  # from 0
    slices: int  # how many the rule chose from
    frames: dict[int, Opinions]  # by iteration, in order

    def until(self, iteration: int) -> "Film":
        """The frames before `iteration`: what is behind a training that goes on from there."""
        frames = {at: said for at, said in self.frames.items() if at < iteration}
        return dataclasses.replace(self, frames=frames)

    def dice(self, name: str) -> np.ndarray:
        """(T,) percent of map `name`, mean over classes, at each iteration."""
        return np.array([strips.mean_dice(said.dice(name)) for said in self.frames.values()])


def write(film: Film, path: Path) -> None:
    """The film as one .npz file, whole or not at all; class maps uint8, confidences float16."""
    said = list(film.frames.values())
    arrays = {name: np.stack([getattr(one, name) for one in said]) for name in PER_FRAME}
    arrays = {name: array.astype(PER_FRAME[name]) for name, array in arrays.items()}
    arrays |= {
        "iteration": np.array(list(film.frames)),
        "image": said[0].image.astype(np.float16),
        "hidden": said[0].hidden.astype(np.uint8),
    }
    about = {f.name: np.array(getattr(film, f.name)) for f in dataclasses.fields(film)[:-1]}

    def save(partial: Path) -> None:
        with open(partial, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, **about)

    whole.write_whole(path, save, "a film")


def read(path: Path) -> Film:
    """What `write` wrote. Raises InputError where it is damaged or no film."""
    try:
        return _film_of(whole.arrays(path))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            "a film cannot be used",
            where=f"{path.parent.name}/{path.name}",
            got=error if isinstance(error, ValueError) else f"it is no film ({error})",
            do="restore the file, or delete it: a training that goes on begins a new film there",
        ) from error


def _film_of(arrays: dict[str, np.ndarray]) -> Film:
    image, hidden = arrays["image"].astype(np.float32), arrays["hidden"]
    frames = {}
    for number, iteration in enumerate(arrays["iteration"].tolist()):
        said = {name: arrays[name][number] for name in PER_FRAME}
        frames[iteration] = Opinions(image=image, hidden=hidden, boxes={}, **said)
    return Film(
        str(arrays["run_id"]),
        str(arrays["case_id"]),
        int(arrays["slice"]),
        int(arrays["slices"]),
        frames,
    )


def film_of_run(folder: Path) -> Film:
    """The film in a complete run's folder. Raises InputError where there is none."""
    if not (folder / FILM).exists():
        raise InputError(
            "there is no film of this run",
            where=paths.shown(folder),
            expected=FILM,
            do="train the run with --film, in a folder of its own (SAMATCH_RUNS) if it is complete",
        )
    return read(file_of(folder, FILM))


def record(film: Film, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row an iteration and map: Dice in percent, mean and by class, and percent kept."""
    rows = []
    for iteration, said in film.frames.items():
        for name, words in MAPS.items():
            by_class = dict(zip(classes, said.dice(name), strict=True))
            row = {"run_id": film.run_id, "case_id": film.case_id, "slice": film.slice}
            row |= {"iteration": iteration, "map": words}
            row |= {"dice": strips.mean_dice(said.dice(name))}
            row |= {f"dice_{cls}": value for cls, value in by_class.items()}
            row["kept"] = 100 * said.keep.mean() if name == "both" else float("nan")
            rows.append(row)
    return pd.DataFrame(rows).assign(slices=film.slices, rule=RULE)


def spread(iterations: list[int], count: int = AT_MOST) -> list[int]:
    """At most `count` of the iterations, evenly spread, the first and the last among them."""
    numbers = np.linspace(0, len(iterations) - 1, min(count, len(iterations)))
    return [iterations[round(number)] for number in numbers]


# The figures, as wide as the strip of `samatch.results.strips`. Lengths are inches.
HEAD, NAMES = 0.36, 0.32
PANEL = (WIDTH - 2 * EDGE - NAMES - GAP) / (AT_MOST + 1) - GAP
FRAME_DPI = 100  # a page holds twenty of them


def draw(film: Film, classes: tuple[str, ...], threshold: float, below: list[str]) -> Figure:
    """The film as a strip: columns are iterations, rows the student's map, SAM's and both combined.

    threshold: least probability of a kept pixel; below: paragraphs under the legend. The first
    column has the slice, its hidden label, and the Dice of all frames.
    """
    at = spread(list(film.frames))
    lines = [line for text in below for line in textwrap.wrap(text, 140)]
    under = LINE + 0.08
    foot = LINE + LEGEND + 0.14 * len(lines) + 0.24
    height = HEAD + len(MAPS) * (PANEL + under) + foot
    sheet = Sheet(plt.figure(figsize=(WIDTH, height), dpi=strips.DPI), WIDTH, height)
    shown, first = strips.window(list(film.frames.values())), film.frames[at[0]]
    rows = {name: height - HEAD - n * (PANEL + under) for n, name in enumerate(MAPS)}
    for name, words in (("slice", "unlabeled slice"), ("hidden", "its hidden label")):
        top = rows["student" if name == "slice" else "sam"]
        axis = sheet.axes(EDGE, top - PANEL, PANEL, PANEL, name)
        strips.panel(axis, name, first, shown)
        _centred(sheet, EDGE, top - PANEL - 0.04, words)
    _curves(sheet, film, rows["both"])
    start = EDGE + PANEL + GAP + NAMES
    for name, words in (
        ("student", "student's map"),
        ("sam", "SAM's map"),
        ("both", "combined map"),
    ):
        style = {"fontsize": 10, "weight": "bold", "color": SOURCE_STYLES[COLORS[name]][0]}
        middle = rows[name] - PANEL / 2
        sheet.text(start - 0.1, middle, words, rotation=90, ha="right", va="center", **style)
    for number, iteration in enumerate(at):
        said, x = film.frames[iteration], start + number * (PANEL + GAP)
        _centred(sheet, x, height - 0.12, f"iteration {iteration}", fontsize=10, weight="bold")
        for name, top in rows.items():
            axis = sheet.axes(x, top - PANEL, PANEL, PANEL, f"{iteration} {name}")
            strips.panel(axis, name, said, shown)
            _outline(axis, said.hidden)
            _centred(sheet, x, top - PANEL - 0.04, _under(said, name))
    _legend(sheet, classes, threshold, foot, outline=True)
    style = {"fontsize": 7.5, "color": INK, "va": "bottom", "linespacing": 1.3}
    sheet.text(EDGE, 0.2, "\n".join(lines), **style)
    return sheet.figure


def draw_frame(film: Film, iteration: int, classes: tuple[str, ...], threshold: float) -> Figure:
    """One iteration as one row: the slice, all that is said of it, and its hidden label."""
    said, shown = film.frames[iteration], strips.window(list(film.frames.values()))
    names = {"slice": "unlabeled slice", "student": "student's map", "confidence": "its confidence"}
    names |= {"sam": "SAM's map", "both": "combined map", "hidden": "hidden label"}
    height = 0.66 + PANEL + 2 * LINE + LEGEND + 0.2
    sheet = Sheet(plt.figure(figsize=(WIDTH, height), dpi=FRAME_DPI), WIDTH, height)
    title = f"iteration {iteration} of {max(film.frames)}"
    sheet.text(EDGE, height - 0.24, title, fontsize=10, weight="bold")
    apart = (WIDTH - 2 * EDGE - PANEL) / (len(names) - 1)
    for number, (name, words) in enumerate(names.items()):
        x, top = EDGE + number * apart, height - 0.6
        axis = sheet.axes(x, top - PANEL, PANEL, PANEL, name)
        strips.panel(axis, name, said, shown)
        _centred(sheet, x, top + 0.19, words, fontsize=9.5)
        if name in MAPS:
            _centred(sheet, x, top - PANEL - 0.04, _under(said, name))
    _legend(sheet, classes, threshold, LEGEND + 0.2)
    return sheet.figure


def _centred(sheet: Sheet, x: float, y: float, words: str, **style) -> None:
    """Words in the middle of a panel whose left edge is x, their top at y."""
    sheet.text(x + PANEL / 2, y, words, **{"ha": "center", "va": "top", "fontsize": 8.5} | style)


def _under(said: Opinions, name: str) -> str:
    kept = f"\n{100 * said.keep.mean():.1f} % kept" if name == "both" else ""
    return f"Dice {strips.mean_dice(said.dice(name)):.1f}{kept}"


def _curves(sheet: Sheet, film: Film, top: float) -> None:
    """The Dice of every frame, in the place of a panel."""
    axis = sheet.axes(EDGE + 0.32, top - PANEL + 0.08, PANEL - 0.34, PANEL - 0.32, "curves")
    axis.spines[["left", "bottom"]].set_visible(True)
    for name, key in COLORS.items():
        color, style, _ = SOURCE_STYLES[key]
        axis.plot(list(film.frames), film.dice(name), color=color, linestyle=style, linewidth=1.4)
    axis.set_xticks([0, max(film.frames)])
    axis.yaxis.set_major_locator(plt.MaxNLocator(4, integer=True))
    axis.tick_params(labelsize=8, length=2)
    axis.set_title("Dice (%) by iteration", fontsize=8.5, pad=3, loc="right")


def _outline(axis: Axes, hidden: np.ndarray) -> None:
    """The hidden label's classes as thin white lines."""
    for value in np.unique(hidden[hidden > 0]):
        axis.contour(hidden == value, levels=[0.5], colors="white", linewidths=0.7)


def _legend(
    sheet: Sheet, classes: tuple[str, ...], threshold: float, foot: float, outline: bool = False
) -> None:
    """Of the classes, of what is not taught, and of an outlined hidden label or the doubt."""
    handles: list[Artist] = []
    for index, cls in enumerate(classes):
        color = class_color(index)
        handles.append(Patch(facecolor=color, alpha=0.6, edgecolor=color, label=cls))
    if outline:
        handles.append(_white_line("hidden label"))
    else:
        handles.append(Patch(facecolor=strips.DOUBT, label="not sure"))
    words = f"below {threshold:g}: not taught"
    handles.append(Patch(facecolor=NOT_KEPT, edgecolor="white", hatch="//////", label=words))
    place = (0.5, (foot - LEGEND - 0.12) / sheet.height)
    style = {"ncols": len(handles), "frameon": False, "fontsize": 8.5, "handlelength": 1.5}
    sheet.figure.legend(handles=handles, loc="lower center", bbox_to_anchor=place, **style)


def _white_line(label: str) -> Line2D:
    """A legend's handle for a white line, over a dark one that shows it on white paper."""
    dark = [patheffects.Stroke(linewidth=4, foreground="#666666"), patheffects.Normal()]
    return Line2D([], [], color="white", linewidth=1.4, path_effects=dark, label=label)


def sentences(config: RunConfig, manifest: Manifest, film: Film) -> list[str]:
    """What stands below the strip: the slice and its rule, the run, where the images come from."""
    return [
        f"{film.case_id.replace('_', ' ')}, slice {film.slice} (from 0), chosen by a rule: {RULE} "
        f"(of {film.slices}). Dice in percent, mean over the classes, of the whole map against "
        "the hidden label, which no training reads.",
        f"Run {film.run_id}, profile {config.profile}: the whole slice at "
        f"{config.train.image_size} x {config.train.image_size} pixels without augmentation, cut "
        "to the organ for display; the student is its moving average.",
        manifest.credit,
    ]


def save_film(config: RunConfig, film: Film, into: Path | None = None) -> list[Path]:
    """Writes film.png, a small picture of every frame (film/00050.png ...) and film.csv.

    into: folder of film.csv, by default this machine's results. Returns the paths written.
    """
    manifest, threshold = load_manifest(config.dataset), config.refine.sam_conf_thresh
    pictures = paths.figures_dir(config.profile, config.dataset)
    figure = draw(film, manifest.classes, threshold, sentences(config, manifest, film))
    strips.save(figure, pictures / "film.png", manifest.licence)
    plt.close(figure)
    frames = paths.make_folder(pictures / "film", "SAMATCH_FIGURES or SAMATCH_OUT")
    for old in frames.glob("*.png"):
        old.unlink()
    for iteration in film.frames:
        figure = draw_frame(film, iteration, manifest.classes, threshold)
        strips.save(figure, frames / f"{iteration:05}.png", manifest.licence)
        plt.close(figure)
    table = write_table(config, "film", record(film, manifest.classes), into)
    return [pictures / "film.png", *sorted(frames.glob("*.png")), table]


def main(words: list[str] | None = None) -> None:
    """Draws the film of a complete run."""
    parser = joint_run_parser(
        "samatch film",
        "One unlabeled slice over a joint training that was run with --film.",
        "film.csv",
    )
    args = parser.parse_args(words)
    config = joint_config(args)
    written = save_film(config, film_of_run(run_folder(config)), args.into)
    for path in (written[0], written[-1]):
        print(f"written: {paths.shown(path)}")
    print(f"and {len(written) - 2} pictures, one a frame, in {paths.shown(written[1].parent)}")
