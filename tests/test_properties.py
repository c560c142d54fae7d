"""What holds for every input that Hypothesis draws: measures, boxes, manifests and tables."""

import csv
import math

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from samatch.config.settings import Refine
from samatch.data.about import about_faults, read_about
from samatch.data.manifest import Case, load_manifest, write_manifest
from samatch.data.sheets import read_rows, sizes, whole
from samatch.results.predictions import distances, overlap
from samatch.sam.prompts import (
    Prompt,
    boxes_of,
    class_masks,
    largest_components,
    prompt_from_probs,
    widen,
)
from samatch.system.errors import InputError
from samatch.system.names import MARKS, MORE_MARKS, file_of, name_fault
from samatch.training.metrics import OK, case_metrics, dice, surface_distances

SIDES = nps.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)
MM = st.floats(0.1, 20, allow_nan=False)
SPACING = st.none() | st.tuples(MM, MM, MM)


@st.composite
def masks(draw):
    """Two masks (D, H, W) of one shape."""
    shape = draw(SIDES)
    return draw(nps.arrays(bool, shape)), draw(nps.arrays(bool, shape))


@given(masks(), SPACING)
def test_measures_of_two_masks(pair, spacing):
    """Bounds, symmetry, identity; equal to SimpleITK's overlap and a search tree's distances."""
    a, b = pair
    assert dice(a, b) == pytest.approx(overlap(a, b), nan_ok=True)
    assert math.isnan(dice(a, b)) if not (a.any() or b.any()) else 0 <= dice(a, b) <= 1
    if not (a.any() and b.any()):
        return
    assert dice(a, b) == dice(b, a) and dice(a, a) == 1
    hd95, asd = surface_distances(a, b, spacing)
    assert (hd95, asd) == pytest.approx(distances(a, b, spacing), rel=1e-5, abs=1e-5)
    assert surface_distances(b, a, spacing)[0] == pytest.approx(hd95)
    assert surface_distances(a, a, spacing) == (0, 0)
    diagonal = np.linalg.norm((np.array(a.shape) - 1) * (spacing or (1, 1, 1)))
    assert 0 <= hd95 <= diagonal * 1.00001 and 0 <= asd <= diagonal * 1.00001


@given(st.data(), SPACING, st.sampled_from(["mm", "voxel"]))
def test_a_row_of_each_class(data, spacing, unit):
    shape = data.draw(SIDES)
    pred, ref = (data.draw(nps.arrays(np.uint8, shape, elements=st.integers(0, 3))) for _ in "ab")
    rows = case_metrics(pred, ref, ("x", "y"), spacing, unit)
    assert [row["class"] for row in rows] == ["x", "y"]
    for value, row in enumerate(rows, 1):
        assert (row["n_pred"], row["n_ref"]) == ((pred == value).sum(), (ref == value).sum())
        assert (row["status"] == OK) == bool(row["n_pred"] and row["n_ref"])
        assert math.isnan(row["hd95"]) == math.isnan(row["asd"]) == (row["status"] != OK)
        assert math.isnan(row["dice"]) == (row["status"] == "both_empty")
        assert math.isnan(row["hd95_mm"]) == (row["status"] != OK or spacing is None)


LABELS = nps.arrays(np.int64, st.just((2, 16, 16)), elements=st.integers(0, 2))


@given(LABELS, st.floats(0, 300))
def test_boxes_lie_in_the_picture_around_their_object(label, margin):
    """xyxy: columns before rows, both ends within; the margin is in pixels of an image of 256."""
    label = torch.from_numpy(label)
    probs = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
    prompt = prompt_from_probs(probs, label, Refine(prompt="box", box_margin_px=margin))
    objects = largest_components(class_masks(label, 3))
    for image in range(2):
        for k in range(2):
            mask, box = objects[image, k].numpy(), prompt.boxes[image, k].numpy()
            assert prompt.present[image, k] == mask.any() == (label[image] == k + 1).any()
            assert 0 <= box.min() and box.max() <= 15
            if mask.any():
                rows, columns = np.nonzero(mask)
                wide = margin * 16 / 256
                expected = [columns.min() - wide, rows.min() - wide]
                expected += [columns.max() + wide, rows.max() + wide]
                assert box == pytest.approx(np.clip(expected, 0, 15), abs=1e-4)


@given(nps.arrays(bool, st.tuples(st.just(1), st.just(1), *[st.integers(2, 20)] * 2)))
def test_an_object_is_a_whole_part_of_its_mask_and_none_is_larger(mask):
    from scipy import ndimage

    found = largest_components(torch.from_numpy(mask))[0, 0].numpy()
    parts, count = ndimage.label(mask[0, 0], np.ones((3, 3)))
    areas = np.bincount(parts.ravel())[1:]
    assert found.sum() == (areas.max() if count else 0)
    assert len(np.unique(parts[found])) == min(count, 1) and not (found & ~mask[0, 0]).any()


BOX = st.tuples(*[st.floats(0, 63, width=32)] * 4).map(
    lambda v: [min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])]
)


@given(BOX, st.sampled_from([32, 64, 96, 256, 1024]), st.floats(0, 99, width=32))
def test_a_box_in_another_size_keeps_its_share_of_the_picture(box, size, margin):
    boxes = torch.tensor([[box]])
    prompt = Prompt(boxes, torch.ones(1, 1, dtype=torch.bool), 64).resized(size)
    there = prompt.resized(64).boxes
    assert torch.allclose(there, boxes, atol=1e-3)
    share = (prompt.boxes + 0.5) / size
    assert torch.allclose(share, (boxes + 0.5) / 64, atol=1e-5)
    wider = widen(boxes, margin, 64)
    assert (wider[..., :2] <= boxes[..., :2]).all() and (wider[..., 2:] >= boxes[..., 2:]).all()
    assert boxes_of(torch.zeros(1, 1, 4, 4, dtype=torch.bool))[1].item() is False


LETTERS = st.characters(categories=["L", "M", "N"], include_characters=MARKS + MORE_MARKS)
NAMES = st.text(LETTERS, min_size=1, max_size=12).filter(lambda name: not name_fault(name))


@st.composite
def sets(draw):
    """(dataset.yaml, cases, splits) of a sound set of your own."""
    patients = draw(st.lists(NAMES, min_size=3, max_size=6, unique=True))
    cut = draw(st.integers(1, len(patients) - 2))
    splits = {"train": patients[:cut], "val": patients[cut : cut + 1], "test": patients[cut + 1 :]}
    cases = [
        Case(
            f"{patient}",
            patient,
            *(draw(st.integers(1, 10**6)) for _ in range(3)),
            draw(SPACING),
            "",
            "",
            draw(NAMES) + ".png",
            "b.png",
            draw(st.just("") | NAMES),
        )
        for patient in patients
    ]
    text = st.text(max_size=20)
    about = {key: draw(text) for key in ("title", "normalisation", "licence", "source")}
    about |= {"citation": draw(text), "known_faults": draw(text), "reader": "files"}
    about |= {"classes": draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))}
    return about | {"budgets": [cut]}, cases, splits


@given(sets())
def test_a_manifest_is_read_as_it_was_written(tmp_path, drawn):
    """Whatever the ids: 007, NA, =1, letters of any script; whatever the texts: colons, quotes."""
    about, cases, splits = drawn
    for path in tmp_path.glob("m/*"):
        path.unlink()
    write_manifest(tmp_path / "m", about, cases, splits)
    found = load_manifest("mine", tmp_path / "m")
    assert {key: getattr(found, key) for key in ("title", "licence", "source", "citation")} == {
        key: about[key] for key in ("title", "licence", "source", "citation")
    }
    assert list(found.classes) == about["classes"] and list(found.labeled_order) == splits["train"]
    assert found.split_of == {p: name for name, group in splits.items() for p in group}
    for mine, case in zip(found.cases, cases, strict=True):
        assert mine.case_id == case.case_id and mine.image == case.image
        assert (mine.n_slices, mine.height, mine.width) == (case.n_slices, case.height, case.width)
        assert (mine.spacing or ()) == pytest.approx(case.spacing or (), rel=1e-5)
        assert mine.group == case.group


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=5,
)
KEYS = "title classes budgets files_of reader clinical drawn distances"


@given(st.sampled_from(KEYS.split()), VALUES, st.sampled_from(["", "ventricle", "fractions"]))
@example("distances", [[]], "")
@example("distances", None, "")
def test_any_value_in_a_dataset_yaml_is_read_or_refused(tmp_path, key, value, inner):
    about = {"title": "t", "classes": ["a"], "normalisation": "n", "licence": "l", "source": "s"}
    about |= {"citation": "c", "known_faults": "k", "budgets": [1], "reader": "files"}
    cases = [Case(p, p, 1, 8, 8, None, "", "", f"{p}.png", "l.png") for p in "abc"]
    splits = {"train": ["a"], "val": ["b"], "test": ["c"]}
    (tmp_path / "m").mkdir(exist_ok=True)
    (tmp_path / "m" / "dataset.yaml").unlink(missing_ok=True)
    write_manifest(tmp_path / "m", about, cases, splits)
    changed = about | {key: {inner: value} if inner else value}
    (tmp_path / "m" / "dataset.yaml").write_text(yaml.safe_dump(changed, allow_unicode=True))
    try:
        found = load_manifest("mine", tmp_path / "m")
        assert found.classes and found.num_classes == len(found.classes) + 1
    except InputError as error:
        assert str(error).strip()


@given(st.text(max_size=60))
@example("a: !!python/name:os.system")
def test_any_text_as_dataset_yaml_is_a_mapping_or_refused(tmp_path, text):
    path = tmp_path / "dataset.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        about_faults(read_about(path))
    except InputError as error:
        assert "dataset.yaml" in str(error)


CELLS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8).map(str.strip)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=4), st.sampled_from(",;\t"), st.booleans())
def test_a_table_is_read_as_a_spreadsheet_wrote_it(tmp_path, rows, separator, mark):
    path = tmp_path / "t.csv"
    with open(path, "w", newline="", encoding="utf-8-sig" if mark else "utf-8") as handle:
        writer = csv.writer(handle, delimiter=separator, quoting=csv.QUOTE_ALL)
        writer.writerows([("a", "b", "c"), *rows])
    found = read_rows(path, ("a", "b", "c"))
    kept = [row for row in rows if any(row)]
    assert [tuple(cells.values()) for _, cells in found] == kept


DIGITS = st.lists(st.floats(-1e3, 1e3) | st.integers(-9, 9), max_size=4)


@given(st.text(max_size=12) | DIGITS.map(lambda numbers: " ".join(map(str, numbers))))
@example("1.5 0.5 0.5")
@example("1 0 1")
@example("1 nan 1")
def test_numbers_of_a_table_are_numbers_or_refused(text):
    for read, sound in ((whole, lambda n: n >= 0), (sizes, lambda mm: not mm or min(mm) > 0)):
        try:
            assert sound(read(text))
        except ValueError as error:
            assert str(error)


@given(st.text(max_size=120) | NAMES)
@example("..")
@example("a/../../b")
def test_a_name_makes_a_file_in_its_folder_or_is_refused(tmp_path, name):
    if name_fault(name):
        with pytest.raises(InputError, match="impossible name"):
            file_of(tmp_path, name, "x_", ".png")
    else:
        assert file_of(tmp_path, name, "x_", ".png").parent == tmp_path
