import numpy as np
import pytest
import torch
from scipy import ndimage

from samatch.config import Refine
from samatch.prompts import Prompt, boxes_of, class_masks, foreground_logits, jitter, largest_components, prompt_from_probs, widen


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


def test_class_masks_leave_background_out():
    label = torch.tensor([[[0, 1], [2, 2]]])
    assert class_masks(label, 4).int().tolist() == [[[[0, 1], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [0, 0]]]]


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
    prompt = Prompt(torch.tensor([[[0.0, 0, 31, 31]]]), torch.ones(1, 1, dtype=torch.bool), 32).resized(64)
    assert prompt.boxes.tolist() == [[[0.5, 0.5, 62.5, 62.5]]] and prompt.image_size == 64


def test_foreground_logits_give_the_probabilities_back():
    probs = torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1)
    logits = foreground_logits(probs)
    assert torch.allclose(torch.cat([torch.zeros(1, 1, 1, 1), logits], 1).softmax(1), probs)
