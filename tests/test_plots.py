"""Figures: what they draw and say is what the tables hold."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from samatch.results import comparisons, curves, plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words(figure):
    """Every text of a figure."""
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_the_closest_comparisons_are_drawn_with_every_patient():
    scores = pd.DataFrame(
        {"mine": [0.8, 0.7, 0.9], "near": [0.79, 0.72, 0.88], "far": [0.1, 0.2, 0.3]}
    )
    figure = comparisons.paired_differences(
        scores, "mine", {"near": "Near", "far": "Far"}, "Mine", most=1
    )
    drawn = [axis for axis in figure.axes if axis.patches]
    assert len(drawn) == 1 and [bar.get_height() for bar in drawn[0].patches] == pytest.approx(
        [-2, 1, 2]
    )
    assert (
        "against Near" in words(figure)
        and "against Far" not in words(figure)
        and any("the 1 closest of 2" in text for text in words(figure))
    )


def test_a_cell_that_was_not_run_has_a_word_and_no_point():
    grid = pd.DataFrame(
        {
            "factor": ["gate", "gate", "gate"],
            "level": ["none", "both", "one"],
            "default": [True, False, False],
            "status": ["run", "not run", "run"],
            "dice": [80.0, np.nan, 81.5],
        }
    )
    figure = comparisons.ablation_grid(grid, "title")
    points = figure.axes[0].collections[0]
    assert (
        points.get_offsets()[:, 0].tolist() == [80, 81.5]
        and words(figure).count("not run") == 1
        and "80.0" in words(figure)
    )
    default, other = (to_hex(color) for color in points.get_facecolor())
    assert default == "#4c72b0" != other  # the default stands out, and a line leads down from it
    assert figure.axes[0].lines[0].get_xdata() == [80, 80]


def test_speed_says_the_ratio_and_scaling_the_exponent():
    speed = curves.speed(
        pd.DataFrame(
            {
                "case": ["a", "b"],
                "plain_s": [10.0, 6.0],
                "samatch_s": [2.0, 1.5],
                "ratio": [5.0, 4.0],
            }
        ),
        "title",
    )
    assert " 2 s: 5.0 times as fast" in words(speed) and " 1.5 s: 4.0 times as fast" in words(speed)
    scaling = curves.scaling(
        pd.DataFrame(
            {
                "quantity": ["classes"] * 3,
                "count": [1, 2, 4],
                "seconds": [1.0, 1.9, 3.7],
                "exponent": [0.94] * 3,
            }
        )
    )
    linear, measured = scaling.axes[0].lines
    assert "exponent 0.94" in words(scaling) and measured.get_ydata().tolist() == [1.0, 1.9, 3.7]
    assert linear.get_ydata() == pytest.approx([3.7 / 4, 3.7 / 2, 3.7])


def test_one_panel_a_class_and_no_class_without_pixels():
    log = pd.DataFrame(
        {
            "iteration": [50, 100],
            **{
                f"pseudo_dice_{source}_{c}": [0.5, 0.6]
                for source in curves.SOURCE_STYLES
                for c in ("RV", "LV")
            },
        }
    )
    assert [axis.get_title() for axis in curves.pseudo_label_quality(log, ("RV", "LV")).axes] == [
        "RV",
        "LV",
    ]
    label = np.zeros((8, 8), int)
    label[2:5, 2:5] = 2
    figure = plots.slices_with_contours(
        [("slice", np.zeros((8, 8)), label)], ("RV", "LV"), columns=1
    )
    contours = [c for c in figure.axes[0].collections if len(c.get_paths())]
    assert len(contours) == 1 and to_hex(contours[0].get_edgecolor()[0]) == plots.class_color(1)


def test_a_box_encloses_its_pixels():
    label = np.zeros((8, 8), int)
    label[2:5, 1:3] = 1
    figure = plots.slices_with_boxes(
        [("slice", np.zeros((8, 8)), label, {0: (1, 2, 2, 4)})], ("RV", "LV"), columns=1
    )
    (box,) = figure.axes[0].patches
    assert figure.axes[0].get_xlim() == (-0.5, 3.5) and figure.axes[0].get_ylim() == (
        5.5,
        0.5,
    )  # a pixel around the object
    assert box.get_bbox().extents.tolist() == [0.5, 1.5, 2.5, 4.5] and to_hex(
        box.get_edgecolor()
    ) == plots.class_color(0)


def test_refined_slices_shade_doubt_and_what_is_not_kept():
    label, confidence, keep = np.zeros((40, 40), int), np.ones((40, 40)), np.ones((40, 40), bool)
    label[10:20, 12:20], confidence[15, 15], keep[11, 13] = 1, 0.6, False
    row = {
        "name": "slice 1",
        "image": np.zeros((40, 40)),
        **dict.fromkeys(("hidden", "student", "sam", "both"), label),
        "confidence": confidence,
        "keep": keep,
        "dice": {"student": 81.2, "sam": 90.0, "both": 91.4},
    }
    figure = plots.refined_slices([row, row], ("RV",))
    assert len(figure.axes) == 8 and words(figure).count("student, Dice 81 %") == 2
    shades = [axis.images[1].get_array()[..., 3] for axis in figure.axes[:4]]
    assert shades[0].shape == (22, 20)  # the objects' box and 6 pixels around it
    assert [tuple(np.argwhere(shade)[0]) if shade.any() else None for shade in shades] == [
        None,
        (11, 9),
        None,
        (7, 7),
    ]
