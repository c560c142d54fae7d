import dataclasses

import pytest
import torch

from samatch.augment import cutmix_boxes, inverse, paste_donor, random_affine, strong_view, warp, warp_label
from samatch.config import Augment

SETTINGS = Augment(scale=0.15, gamma=0.4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_quarter_turn_is_exact():
    image = torch.rand(1, 1, 16, 16)
    theta = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]])
    turned = warp(image, theta, 16)
    assert torch.allclose(turned, image.rot90(1, (2, 3)), atol=1e-5) or torch.allclose(turned, image.rot90(3, (2, 3)), atol=1e-5)
    assert torch.allclose(warp(turned, inverse(theta), 16), image, atol=1e-5)


def test_inverse_undoes_random_maps():
    theta = random_affine(50, SETTINGS, generator())
    full = torch.cat([theta, torch.tensor([[[0.0, 0, 1]]]).expand(50, 1, 3)], 1)
    back = torch.cat([inverse(theta), torch.tensor([[[0.0, 0, 1]]]).expand(50, 1, 3)], 1)
    assert torch.allclose(full @ back, torch.eye(3).expand(50, 3, 3), atol=1e-5)


def test_image_and_label_move_together():
    label = torch.zeros(8, 32, 32, dtype=torch.long)
    label[:, 8:20, 10:26] = 2
    theta = random_affine(8, SETTINGS, generator())
    image = warp((label == 2)[:, None].float(), theta, 32)[:, 0] > 0.5
    assert ((warp_label(label, theta, 32) == 2) != image).float().mean() < 0.02


def test_views_follow_the_generator_alone():
    image = torch.rand(4, 1, 16, 16)
    torch.manual_seed(1)
    first = strong_view(image, SETTINGS, generator(5))
    torch.manual_seed(2)
    assert torch.equal(first, strong_view(image, SETTINGS, generator(5)))
    assert not torch.equal(first, strong_view(image, SETTINGS, generator(6)))
    assert first.min() >= 0 and first.max() <= 1
    still = dataclasses.replace(SETTINGS, jitter_prob=0.0)
    assert torch.equal(strong_view(image, still, generator()), image)


def test_cutmix_boxes_have_the_stated_area():
    boxes = cutmix_boxes(500, 64, 1.0, generator())
    area = boxes.flatten(1).float().mean(1)
    assert area.max() <= 0.45 and area.min() >= 0.01 and area.std() > 0.05
    assert not cutmix_boxes(20, 64, 0.0, generator()).any()


@pytest.mark.parametrize("extra", [(), (3,)])
def test_the_donor_is_the_neighbour_before(extra):
    values = torch.arange(3.0).view(3, *[1] * len(extra), 1, 1).expand(3, *extra, 4, 4)
    boxes = torch.zeros(3, 4, 4, dtype=torch.bool)
    boxes[:, :2] = True
    mixed = paste_donor(values, boxes)
    assert mixed[1, ..., 0, 0].flatten().tolist() == [0.0] * max(1, *extra, 1)
    assert (mixed[..., 2:, :] == values[..., 2:, :]).all() and (mixed[0, ..., 0, 0] == 2).all()
