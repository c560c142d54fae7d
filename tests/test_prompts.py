import numpy as np
import pytest
import torch
from scipy import ndimage

from samatch.config.checks import prompt_kinds
from samatch.config.settings import Refine
from samatch.sam.prompts import (
    NO_POINT,
    Prompt,
    boxes_of,
    class_masks,
    foreground_logits,
    jitter,
    largest_by_propagation,
    largest_components,
    points_of,
    prompt_from_probs,
    widen,
)


def plain_box(mask):
    """Box of the largest 8-connected component, with numpy and scipy alone."""
    components, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return None
    largest = max(range(1, count + 1), key=lambda i: (components == i).sum())
    ys, xs = np.nonzero(components == largest)
    return [xs.min(), ys.min(), xs.max(), ys.max()]


def cases():
    border, pixel, many, none = (np.zeros((16, 20), bool) for _ in range(4))
    border[0:4, 15:20] = True
    pixel[7, 3] = True
    many[1:3, 1:3], many[8:15, 4:6], many[4, 12:19] = True, True, True
    diagonal = np.eye(16, 20, dtype=bool)
    return {"border": border, "pixel": pixel, "many": many, "none": none, "diagonal": diagonal}


@pytest.mark.parametrize("name", cases())
def test_boxes_equal_the_plain_reference(name):
    mask = cases()[name]
    boxes, present = boxes_of(largest_components(torch.from_numpy(mask)[None, None]))
    expected = plain_box(mask)
    assert present.item() is (expected is not None)
    assert boxes[0, 0].tolist() == (expected or [0, 0, 0, 0])


def test_propagation_on_the_device_equals_scipy():
    rng = np.random.default_rng(0)
    noise = [
        rng.random((24, 24)) < density for density in (0.1, 0.3, 0.4, 0.5, 0.7) for _ in range(8)
    ]
    spiral = np.zeros((24, 24), bool)
    spiral[::4], spiral[2::8, 0], spiral[1::8, 23], spiral[3::8, 23] = True, True, True, True
    masks = torch.from_numpy(
        np.stack(noise + [spiral, np.zeros((24, 24), bool), np.ones((24, 24), bool)])
    )
    assert torch.equal(largest_by_propagation(masks), largest_components(masks))


def plain_points(mask, confidence, box, foreground, background):
    """Point prompts of one object with numpy loops."""
    size = mask.shape[-1]
    padded = np.pad(mask, 1, constant_values=True)
    interior = np.array(
        [[padded[y : y + 3, x : x + 3].all() for x in range(size)] for y in range(size)]
    )
    interior = interior if interior.any() else mask
    around = np.zeros_like(mask)
    if mask.any():
        x0, y0, x1, y1 = (
            int(max(0, v))
            for v in (
                box[0] - size / 8,
                box[1] - size / 8,
                min(size - 1, box[2] + size / 8),
                min(size - 1, box[3] + size / 8),
            )
        )
        around[y0 : y1 + 1, x0 : x1 + 1] = True
    found = []
    for score, allowed, count, label in (
        (confidence, interior, foreground, 1),
        (1 - confidence, around & ~mask, background, 0),
    ):
        free = [(-score[y, x], y, x) for y, x in zip(*np.nonzero(allowed), strict=True)]
        for _ in range(count):
            if not free:
                found.append((0, 0, NO_POINT))
                continue
            _, y, x = min(free)
            found.append((x, y, label))
            free = [p for p in free if max(abs(p[1] - y), abs(p[2] - x)) >= max(1, size // 16)]
    return found


def test_points_equal_the_plain_reference():
    rng = np.random.default_rng(1)
    masks = np.zeros((1, 5, 32, 32), bool)
    masks[0, 0, 5:20, 8:25], masks[0, 1, 0:4, 28:32], masks[0, 2, 9, 9], masks[0, 3] = (
        True,
        True,
        True,
        True,
    )
    confidence = rng.random(masks.shape).astype(np.float32)
    tensors = torch.from_numpy(masks), torch.from_numpy(confidence)
    boxes, _ = boxes_of(tensors[0])
    points, labels = points_of(*tensors, boxes, 4, 3)
    for k in range(5):
        expected = plain_points(masks[0, k], confidence[0, k], boxes[0, k].tolist(), 4, 3)
        found = [
            (*xy, label)
            for xy, label in zip(points[0, k].tolist(), labels[0, k].tolist(), strict=True)
        ]
        assert found == expected, k
    assert (labels[0, 4] == NO_POINT).all()  # nothing there
    assert (labels[0, 3, 4:] == NO_POINT).all()  # no background left
    assert (
        labels[0, 2] == torch.tensor([1, NO_POINT, NO_POINT, NO_POINT, 0, 0, 0])
    ).all()  # one pixel


@pytest.mark.parametrize("kind", prompt_kinds())
def test_every_kind_of_prompt_holds_its_parts(kind):
    probs = torch.rand(2, 4, 32, 32).softmax(1)
    prompt = prompt_from_probs(
        probs, probs.argmax(1), Refine(prompt=kind, points_foreground=2, points_background=2)
    )
    assert (prompt.boxes is not None) is ("box" in kind)
    assert (prompt.mask_prompt is not None) is ("mask" in kind)
    assert (prompt.points is not None) is ("points" in kind)
    if prompt.points is not None:
        assert prompt.points.shape == (2, 3, 4, 2) and prompt.point_labels.shape == (2, 3, 4)


def test_class_masks_leave_background_out():
    label = torch.tensor([[[0, 1], [2, 2]]])
    assert class_masks(label, 4).int().tolist() == [
        [[[0, 1], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [0, 0]]]
    ]


def test_widen_is_cut_at_the_border():
    assert widen(torch.tensor([[[2.0, 3, 30, 31]]]), 5, 32).tolist() == [[[0, 0, 31, 31]]]


def test_margin_is_given_in_pixels_of_a_256_image():
    probs = torch.zeros(1, 2, 64, 64)
    probs[:, 0], probs[0, :, 20:30, 24:40] = 1, torch.tensor([0.0, 1.0]).view(2, 1, 1)
    prompt = prompt_from_probs(probs, probs.argmax(1), Refine(box_margin_px=8.0))
    assert prompt.boxes[0, 0].tolist() == [22, 18, 41, 31]
    assert prompt.mask_prompt is None


def test_jitter_stays_within_its_fraction_and_repeats():
    boxes = torch.tensor([[[50.0, 60, 150, 100]]]).repeat(1000, 1, 1)
    moved = jitter(boxes, 0.1, 256, torch.Generator().manual_seed(3))
    change = (moved - boxes).abs()
    assert change[..., [0, 2]].max() <= 10 and change[..., [1, 3]].max() <= 4
    assert change[..., 0].max() > 9
    assert torch.equal(moved, jitter(boxes, 0.1, 256, torch.Generator().manual_seed(3)))
    assert torch.equal(jitter(boxes, 0.0, 256, torch.Generator()), boxes)


def test_resized_keeps_the_object():
    prompt = Prompt(
        torch.tensor([[[0.0, 0, 31, 31]]]), torch.ones(1, 1, dtype=torch.bool), 32
    ).resized(64)
    assert prompt.boxes.tolist() == [[[0.5, 0.5, 62.5, 62.5]]] and prompt.image_size == 64


def test_foreground_logits_give_the_probabilities_back():
    probs = torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1)
    logits = foreground_logits(probs)
    assert torch.allclose(torch.cat([torch.zeros(1, 1, 1, 1), logits], 1).softmax(1), probs)
