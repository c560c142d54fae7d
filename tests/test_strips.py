"""The strip: the rule picks the right slices, and the picture says what the record says."""

import dataclasses
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from samatch.config.settings import make_config, parent_configs
from samatch.data.manifest import Case
from samatch.data.volumes import UNKNOWN, Volume
from samatch.results import strips
from samatch.results.runs import Run
from samatch.results.strips import Chosen, Count, Opinions
from samatch.system.errors import InputError
from samatch.training import walkthrough
from samatch.training.evaluate import student_probs
from samatch.training.states import save_whole


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def square(top, left, side=2, value=1, size=12):
    label = np.zeros((size, size), np.uint8)
    label[top : top + side, left : left + side] = value
    return label


def said(student, sam, both, hidden, boxes=None, keep=None):
    """Opinions of a slice with two classes."""
    size = hidden.shape
    return Opinions(
        image=np.full(size, 0.3),
        hidden=hidden,
        student=student,
        confidence=np.full(size, 0.8),
        sam=sam,
        iou=np.array([0.5, 0.25]),
        both=both,
        keep=np.ones(size, bool) if keep is None else keep,
        boxes=boxes or {},
    )


# Each class has 4 pixels. The student finds half of class 1 and invents as much (Dice 50), and no
# class 2 (0): mean 25. SAM has class 1 whole and no class 2: 50. Both together have all: 100.
HIDDEN = square(2, 2) + square(6, 6, value=2)
HALF = square(2, 3)
MISSED = said(HALF, square(2, 2), HIDDEN, HIDDEN, {0: np.array([2.0, 1.0, 5.0, 4.0])})


def chosen_slices(opinions=MISSED):
    later = dataclasses.replace(opinions, both=opinions.student)
    return [
        Chosen(role, f"patient{n}_frame1", n, n + 1, {"start": opinions, "end": later})
        for n, role in enumerate(strips.ROLES)
    ]


def drawn(rows, times=("start",)):
    """One time and few rows where that will do: a panel takes some hundredths of a second."""
    settings = {"threshold": 0.75, "margin": 2.0, "below": ["Images: made by hand."]}
    return strips.draw(rows, {time: time for time in times}, ("RV", "LV"), **settings)


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def panel(figure, name):
    return next(axis for axis in figure.axes if axis.get_label() == name)


@pytest.mark.parametrize(
    ("gains", "helps", "median", "harms", "rejected"),
    [
        ([1, 5, -3, 2, 0], (1, 1), (0, 3), (2, 5), (4, 4)),
        ([4, 1, 3, 2], (0, 1), (2, 2), (1, 4), (3, 3)),  # the better of both middle ones
        ([7, 7, 7, 7], (0, 1), (1, 2), (3, 4), (2, 3)),  # four slices, not one four times
    ],
)
def test_the_rule_takes_the_greatest_the_median_and_the_least_gain(
    gains, helps, median, harms, rejected
):
    """Of the slices that are left, the last has the fewest pixels that are taught."""
    kept = np.linspace(1.0, 0.5, len(gains))
    assert walkthrough.choose(gains, kept) == {
        "helps": helps,
        "median": median,
        "harms": harms,
        "rejected": rejected,
    }


def test_the_slice_with_the_fewest_taught_pixels_has_a_row_though_it_gains_nothing_special():
    gains, kept = [9, 4, 3, 2, 1, -9], [0.1, 0.9, 0.2, 0.8, 0.3, 0.0]
    assert walkthrough.choose(gains, kept)["rejected"] == (4, 5)  # 0, 2 and 5 have their rows


@pytest.mark.parametrize("gains", [[], [1.0, 2.0, 3.0], [1.0, float("nan"), 2.0, 3.0]])
def test_too_few_slices_or_one_without_a_dice_are_refused(gains):
    with pytest.raises(InputError, match="four slices"):
        walkthrough.choose(gains, np.ones(len(gains)))


def test_dice_and_gain_as_counted_by_hand():
    assert MISSED.dice("student").tolist() == [50, 0]
    assert MISSED.dice("sam").tolist() == [100, 0]
    assert MISSED.dice("both").tolist() == [100, 100]
    assert MISSED.gain == 75
    nowhere = strips.dice_by_class(HALF, square(2, 2), 2)
    assert nowhere[0] == 50 and np.isnan(nowhere[1]) and strips.mean_dice(nowhere) == 50
    assert np.isnan(strips.mean_dice(np.array([np.nan, np.nan])))


def test_how_often_the_combined_map_is_better_is_said_in_words():
    count = Count(np.array([3.0, 1.0, -2.0, 0.0]))
    assert "all 4 slices" in count.sentence
    assert "better than the student's on 50 % and worse on 25 %" in count.sentence
    assert "+0.5 points at the median, +0.5 in the mean" in count.sentence
    assert "one in 3 of them, 4 slices" in Count(count.gains, 3).sentence
    assert strips.signed(-2.04) == "\N{MINUS SIGN}2.0"


def test_every_printed_number_stands_in_the_record():
    keep = np.ones((12, 12), bool)
    keep[0, :6] = False  # 6 of 144 pixels
    rows = chosen_slices(dataclasses.replace(MISSED, keep=keep))
    table = strips.record(rows, Count(np.array([75.0, 0.0, -1.0])), ("RV", "LV"), "a rule")
    assert len(table) == 2 * 4 * 3 and set(table.rule) == {"a rule"} and set(table.slices) == {3}
    start = table[(table.time == "start") & (table.role == "helps")].set_index("map")
    assert start.dice.to_dict() == {"student": 25, "SAM": 50, "combined": 100}
    assert start.dice_RV.to_dict() == {"student": 50, "SAM": 100, "combined": 100}
    assert start.promised_iou_LV["SAM"] == 0.25 and pd.isna(start.promised_iou_LV["student"])
    assert start.gain["combined"] == 75 and start.kept["combined"] == pytest.approx(100 * 138 / 144)
    text = "\n".join(words(drawn(rows[:1], ("start", "end"))))
    for number in (
        "Dice 25.0",
        "Dice 50.0",
        "Dice 100.0",
        "+75.0 Dice",
        "95.8 %",
        "IoU .50 .25",
    ):
        assert number in text
    assert "+0.0 Dice" in text  # at the end both together are the student's


def test_a_map_without_a_class_is_drawn_and_only_what_is_there_is_filled():
    figure = drawn(chosen_slices()[:1])
    assert len([axis for axis in figure.axes if axis.get_label() != "head"]) == 7
    filled = {
        name: len(panel(figure, f"start helps {name}").images) - 1
        for name in ("slice", "student", "sam", "both", "hidden")
    }
    assert filled == {"slice": 0, "student": 1, "sam": 1, "both": 2, "hidden": 2}
    nothing = np.zeros((12, 12), np.uint8)
    empty = said(nothing, nothing, nothing, HIDDEN)
    assert "Dice 0.0" in words(drawn(chosen_slices(empty)[:1]))


def test_a_box_encloses_its_pixels_and_what_is_not_kept_is_hatched():
    keep = np.ones((12, 12), bool)
    keep[3:5, 3:5] = False
    figure = drawn(chosen_slices(dataclasses.replace(MISSED, keep=keep))[:1])
    (box,) = panel(figure, "start helps asked").patches
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((1.5, 0.5), 4, 4)
    assert not panel(figure, "start helps slice").patches
    hatches = [c for c in panel(figure, "start helps both").collections if hasattr(c, "hatches")]
    assert [c.hatches for c in hatches if any(c.hatches)] == [["//////"]]
    assert any("paper's box (+2 px), not sent" in text for text in words(figure))


def test_doubt_is_clear_where_the_student_is_sure():
    shade = strips.doubt_shade(np.array([[1.0, 0.25, 0.625]]), num_classes=4)
    assert shade[0, :, 3].tolist() == [0, 1, 0.5]


@pytest.mark.parametrize("top", [0, 5, 10])
def test_the_window_is_a_square_within_the_image_around_every_map(top):
    stray = said(square(top, 0), square(5, 5), square(5, 5), square(5, 5))
    rows, columns = strips.window([stray], margin=1)
    assert rows.stop - rows.start == columns.stop - columns.start
    assert 0 <= rows.start <= top and top + 2 <= rows.stop <= 12
    assert columns.start == 0 and 7 <= columns.stop <= 12
    nothing = np.zeros((12, 12), np.uint8)
    assert strips.window([said(*[nothing] * 4)]) == (slice(0, 12), slice(0, 12))


def test_the_picture_is_the_same_at_every_drawing_and_names_the_licence(tmp_path):
    for name in ("first.png", "second.png"):
        strips.save(drawn(chosen_slices()[:1]), tmp_path / name, "CC0")
    first, second = ((tmp_path / name).read_bytes() for name in ("first.png", "second.png"))
    assert first == second and len(list(tmp_path.iterdir())) == 2
    picture = Image.open(tmp_path / "first.png")
    assert picture.text == {"Software": "samatch", "Copyright": "CC0"}


def test_drawing_needs_no_torch():
    code = "import samatch.results.strips, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_slices_with_every_class_are_numbered_over_all_volumes():
    def volume(*labels):
        label = np.stack(labels)
        case = Case("p1_frame1", "p1", *label.shape, None, "", "")
        return Volume(case, np.zeros(label.shape, np.float32), label, None)

    whole, part = HIDDEN, square(2, 2)
    volumes = [volume(part, whole), volume(np.full_like(part, UNKNOWN)), volume(whole, part, whole)]
    found = walkthrough.places_of(volumes, 12, ("RV", "LV"))
    assert [(place.slice, place.number) for place in found] == [(1, 1), (0, 3), (2, 5)]


def tiny(variant=""):
    return make_config("demo", "phantom", 3, "samatch-fixmatch", "tiny", variant=variant)


def finish(config, networks, names):
    """A complete run with weights of its own, which no training has made: quicker."""
    run, weights = Run(config), {}
    run.open()
    for name in names:
        state = networks[name].state_dict()
        weights[name] = {
            key: value * (1 + 0.5 * torch.rand(value.shape)) if value.is_floating_point() else value
            for key, value in state.items()
        }
    save_whole(weights, run.partial / "checkpoint.pt")
    run.finish({}, pd.DataFrame(), pd.DataFrame())


def test_start_and_end_are_drawn_from_the_weights_of_their_own_runs(tiny_profile):
    config = tiny()
    fixmatch, finetune = parent_configs(config)
    pair = walkthrough.read_pair(config)
    networks = pair.method.networks()
    finish(fixmatch, networks, ["student"])
    finish(finetune, networks, ["sam"])
    finish(config, networks, ["student", "sam"])
    chosen, count = walkthrough.walk(config, every=4)
    assert [one.role for one in chosen] == list(strips.ROLES)
    assert chosen[0].at["start"].gain == count.gains.max()
    assert chosen[2].at["start"].gain == count.gains.min()

    volume = next(v for v in pair.data.unlabeled if v.case.case_id == chosen[0].case_id)
    runs = {"start": (fixmatch, finetune), "end": (config, config)}
    for time, (student, sam) in runs.items():
        for name, run in (("student", student), ("sam", sam)):
            weights = torch.load(Run(run).folder / "checkpoint.pt", weights_only=True)
            networks[name].load_state_dict(weights[name])
        opinions, z = chosen[0].at[time], chosen[0].slice
        image = volume.image[z : z + 1]
        probs = student_probs(pair.method.student, image, config.train.image_size)
        with torch.no_grad():
            embedding = pair.method.sam.encode(torch.from_numpy(image)[:, None])
            embedding = embedding.half().float()  # as the cache keeps it
            said = pair.method.refine_slices(probs, embedding)
            both, by_sam = said.both.probs, said.sam_probs
        kept = both.amax(1) >= config.refine.sam_conf_thresh
        assert (opinions.student == probs.argmax(1)[0].numpy()).all()
        assert (opinions.sam == by_sam.argmax(1)[0].numpy()).all()
        first, second = both[0].topk(2, dim=0).values
        clear = (first - second > 0.01).numpy()  # the cache keeps embeddings in half precision
        assert clear.mean() > 0.05
        assert (opinions.both == both.argmax(1)[0].numpy())[clear].all()
        near = (first - config.refine.sam_conf_thresh).abs().numpy() < 0.01
        assert (opinions.keep == kept[0].numpy())[~near].all()


def test_runs_that_are_missing_are_named_and_other_ways_refused(tiny_profile):
    with pytest.raises(InputError, match="missing: .*fixmatch.*finetune.*samatch"):
        walkthrough.walk(tiny())
    for variant in ("box", "replace", "no_sam"):
        with pytest.raises(InputError, match="without a prompt, averaged"):
            walkthrough.walk(tiny(variant))
    with pytest.raises(InputError, match="--every"):
        walkthrough.main(["--every", "0"])
