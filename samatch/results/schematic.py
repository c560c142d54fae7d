"""The method as boxes and arrows."""

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from samatch.results.plots import DPI


def method_figure() -> Figure:
    """predict -> propose -> refine -> loss, and SAM beside the student, as boxes and arrows."""
    figure, axis = plt.subplots(figsize=(10, 7), dpi=DPI, layout="constrained")
    axis.set(xlim=(0, 10), ylim=(-1.5, 6.4))
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
        "samloss": (8.4, 3.9, "SAM's own loss:\nlabels, and the\nstudent's map"),
        "labeled": (0.1, -1.3, "labeled slice\nand its label"),
        "supervised": (2.2, -1.3, "predict\nstudent $f(x)$"),
        "labeled_sam": (4.3, 5.4, "labeled slice\nand its label"),
    }
    for name, (x, y, text) in boxes.items():
        color = {
            "sam": "#f6d5b8",
            "samloss": "#f6d5b8",
            "refine": "#eee3c4",
            "loss": "#d5e5d0",
            "labeled": "#e6e6e6",
            "labeled_sam": "#e6e6e6",
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
        ((5.5, 3.1), (8.3, 4.1), 0.12),
        ((8.0, 2.6), (9.15, 1.3), -0.35),
        ((3.8, 0.8), (8.3, 0.8), 0),
        ((0.85, 2.1), (0.85, 1.3), 0),  # the strong view is made of the weak one
        ((1.7, -0.9), (2.1, -0.9), 0),
        ((3.8, -0.9), (9.15, 0.3), 0.25),
        ((5.05, 5.3), (5.05, 4.8), 0),
        ((5.9, 5.8), (9.15, 4.8), -0.25),
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
    notes = {
        (9.3, 2.1): "refined\npseudo-label",
        (7.7, -1.05): "with its label",
        (8.7, 5.75): "with its label",
        (5.6, 1.6): "no gradient passes through propose and refine",
    }
    for (x, y), words in notes.items():
        axis.text(x, y, words, fontsize=8, ha="center", color="#444444")
    return figure
