"""Figures: what they draw and say is what the tables hold."""

import itertools

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from PIL import Image

from samatch.results import comparisons, curves, plots, tables


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
        scores, "mine", {"near": "Near", "far": "Far"}, "Mine", "patient", most=1
    )
    (axis,) = [axis for axis in figure.axes if axis.get_title()]
    better, worse, same = axis.collections[1:]  # after the lines down to zero
    assert better.get_offsets()[:, 1].tolist() == pytest.approx([1, 2])
    assert worse.get_offsets()[:, 1].tolist() == pytest.approx([-2]) and not len(same.get_offsets())
    assert axis.get_title() == "against Near\n2 better, 1 worse"
    assert any("the 1 with the smallest mean difference, of 2" in text for text in words(figure))
    assert "the same" not in words(figure) and "patients, sorted" in words(figure)


def test_paired_differences_share_one_scale_and_differ_without_colour():
    scores = pd.DataFrame({"mine": [0.5, 0.6], "a": [0.4, 0.6], "b": [0.1, 0.9]})
    figure = comparisons.paired_differences(scores, "mine", {"a": "A", "b": "B"}, "Mine", "picture")
    limits = {axis.get_ylim() for axis in figure.axes}
    assert len(limits) == 1 and limits.pop() == pytest.approx((-30 - 2.8, 40 + 2.8))
    shapes = [dots.get_paths()[0].vertices.tolist() for dots in figure.axes[0].collections[1:]]
    assert all(a != b for a, b in itertools.combinations(shapes, 2)) and len(shapes) == 3
    assert figure.axes[0].get_title() == "against A\n1 better, 1 the same"
    assert "pictures, sorted" in words(figure)
    same = comparisons.paired_differences(scores, "mine", {"mine": "It"}, "Mine", "patient")
    assert same.axes[0].get_ylim() == (-1, 1)


def test_boxes_end_where_the_data_do_and_sam_match_stands_out():
    scores = {
        "FixMatch": np.array([80.0, 84, np.nan]),
        "SAM-Match (FixMatch)": np.array([82.0, 90]),
    }
    figure = comparisons.dice_boxes(scores, "title", "picture")
    (axis,) = figure.axes
    assert axis.get_xlim() == pytest.approx((80 - 0.4, 90 + 0.4))
    assert axis.get_xlabel() == "Dice (%), one dot per picture; highest mean last"
    weights = {tick.get_text(): tick.get_fontweight() for tick in axis.get_yticklabels()}
    assert weights == {"FixMatch": "normal", "SAM-Match (FixMatch)": "bold"}
    plain, mine = (to_hex(box.get_facecolor()) for box in axis.patches)
    assert plain != mine and {"82.0", "86.0", "mean", "median"} <= set(words(figure))
    assert [len(dots.get_offsets()) for dots in axis.collections] == [2, 0, 2, 0]


def test_a_failed_unit_is_an_arrow_at_the_end_of_the_axis():
    """Quartiles 81 and 84 of 0, 81, 82, 84, 90: the axis begins at 81 - 3 * 3."""
    scores = {"A": np.array([0.0, 81, 82]), "B": np.array([84.0, 90])}
    (axis,) = comparisons.dice_boxes(scores, "title", "patient").axes
    assert axis.get_xlim() == pytest.approx((72, 90 + 0.04 * 90))
    assert [len(dots.get_offsets()) for dots in axis.collections] == [2, 1, 2, 0]
    assert 72 < axis.collections[1].get_offsets()[0][0] < 73


def test_the_unit_comes_from_the_set():
    """Some of BUSI's pictures are near-duplicates, none of STU-Hospital's."""
    units = {"busi": "test unit", "stu_hospital": "picture", "acdc": "patient", "chaos": "patient"}
    assert {name: tables.unit_name(name) for name in units} == units


def test_a_saved_figure_has_the_same_bytes_again(tmp_path):
    scores = {"A": np.array([80.0, 84, 88]), "B": np.array([82.0, 90, 91])}
    for name in ("one", "two"):
        plots.save(comparisons.dice_boxes(scores, "title", "patient"), tmp_path / f"{name}.png")
    one, two = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "two"))
    assert one == two and b"Software" not in one
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size[0] == 9 * 150


def test_a_figure_of_the_demo_says_so(tmp_path):
    for folder, said in (
        ("demo/phantom", ["demo: generated phantoms"]),
        ("demo/phantom/figures", ["demo: generated phantoms"]),
        ("demo/hearts", ["demo: minutes of training"]),
        ("laptop/acdc/figures", []),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        figure = plt.figure()
        plots.save(figure, tmp_path / folder / "x.png")
        assert [text.get_text() for text in figure.texts] == said
        plt.close(figure)


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
    assert {"2 s", "10 s", "5.0 times as fast", "1.5 s", "4.0 times as fast"} <= set(words(speed))
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
    assert "classes: exponent 0.94" in words(scaling) and measured.get_ydata().tolist() == [
        1.0,
        1.9,
        3.7,
    ]
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
    figure = curves.pseudo_label_quality(log, ("RV", "LV"), "of a run")
    assert [axis.get_title() for axis in figure.axes] == ["RV", "LV"]
    assert figure.get_suptitle() == "of a run"
    none = log.assign(pseudo_dice_sam_LV=np.nan).filter(["iteration", "pseudo_dice_sam_LV"])
    empty = curves.pseudo_label_quality(none, ("RV", "LV"))
    for axis in empty.axes:  # a set of one's own whose unlabeled patients nobody has labeled
        assert [text.get_text() for text in axis.texts] == ["no hidden label shows it"]
        assert not len(axis.get_xticks()) and not len(axis.get_yticks())
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


@pytest.mark.parametrize("cut", [(16, 48, 10, 50), (18, 49, 14, 50), (10, 50, 12, 52)])
def test_titles_above_boxes_stay_on_the_picture(cut):
    top, bottom, left, right = cut
    label = np.zeros((64, 64), int)
    label[top:bottom, left:right] = 1
    panels = [(title, np.zeros((64, 64)), label, {}) for title in ("tight", "2 px", "10 px wider")]
    figure = plots.slices_with_boxes(panels, ("heart",), columns=3)
    figure.canvas.draw()
    edge = figure.bbox.y1
    assert all(axis.title.get_window_extent().y1 < edge for axis in figure.axes)
