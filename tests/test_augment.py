import dataclasses
import math

import pytest
import torch

from samatch.config.settings import Augment
from samatch.data.augment import (
    cutmix_boxes,
    elastic_field,
    inverse,
    paste_donor,
    random_affine,
    strong_view,
    warp,
    warp_label,
    warp_probs,
)

SETTINGS = Augment(scale=0.15, gamma=0.4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_quarter_turn_is_exact():
    image = torch.rand(1, 1, 16, 16)
    theta = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]])
    turned = warp(image, theta, 16)
    assert torch.allclose(turned, image.rot90(1, (2, 3)), atol=1e-5)
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


def angles_and_determinants(turn_prob):
    settings = Augment(turn_prob=turn_prob, rotation_deg=20.0)
    linear = random_affine(400, settings, generator())[:, :, :2]
    return torch.atan2(linear[:, 1, 0], linear[:, 0, 0]) * 180 / math.pi, torch.linalg.det(linear)


def test_without_turns_nothing_is_flipped_or_turned_far():
    angle, determinant = angles_and_determinants(0.0)
    assert torch.allclose(determinant, torch.ones(400), atol=1e-5) and 19 < angle.abs().max() <= 20
    angle, determinant = angles_and_determinants(1.0)
    assert 0.4 < (determinant < 0).float().mean() < 0.6
    assert ((angle / 90).round() * 90 - angle).abs().max() < 1e-3  # whole quarters alone


def test_elastic_displacements_have_the_stated_deviation_and_are_smooth():
    """On the lattice itself the draws: .02 of the image are .04 in coordinates from -1 to 1."""
    lattice = elastic_field(500, 8, 0.02, generator())
    assert lattice.shape == (500, 8, 8, 2) and lattice.std().item() == pytest.approx(0.04, rel=0.02)
    assert lattice.mean().abs() < 1e-3
    field = elastic_field(20, 64, 0.02, generator(3))
    assert field.shape == (20, 64, 64, 2) and torch.equal(
        field, elastic_field(20, 64, 0.02, generator(3))
    )
    assert not torch.equal(field, elastic_field(20, 64, 0.02, generator(4)))
    assert field.diff(dim=1).abs().mean() < 0.3 * field.std()  # neighbouring pixels move together
    assert torch.allclose(
        field[:, ::9, ::9], elastic_field(20, 8, 0.02, generator(3)), atol=1e-5
    )  # 63 = 7 * 9


def test_a_displacement_of_one_pixel_by_hand():
    """Eight pixels are 2 wide: a quarter in x fetches what stands one pixel to the right."""
    image, still = torch.arange(64.0).view(1, 1, 8, 8), torch.eye(2, 3)[None]
    moved = torch.zeros(1, 8, 8, 2)
    moved[..., 0] = 0.25
    found = warp(image, still, 8, displacement=moved)
    assert (
        torch.allclose(found[..., :-1], image[..., 1:], atol=1e-4) and (found[..., -1] == 0).all()
    )
    label = image[:, 0].long() % 3
    assert torch.equal(warp_label(label, still, 8, moved)[..., :-1], label[..., 1:])


def test_warped_probabilities_sum_to_one_and_are_background_outside():
    probs = torch.rand(6, 4, 16, 16, generator=generator()).softmax(1)
    probs[:, 3] += probs[:, 0]  # no background anywhere
    probs[:, 0] = 0
    theta = random_affine(6, Augment(scale=0.25, shift=0.1), generator())
    warped = warp_probs(probs, theta, 16, elastic_field(6, 16, 0.02, generator()))
    assert torch.allclose(warped.sum(1), torch.ones(6, 16, 16), atol=1e-5) and warped.min() > -1e-5
    far = torch.tensor([[[1.0, 0, 4], [0, 1, 0]]])  # two images to the right
    assert torch.equal(warp_probs(probs[:1], far, 16)[0, :, 0, 0], torch.tensor([1.0, 0, 0, 0]))
    still = warp_probs(probs, torch.eye(2, 3).expand(6, 2, 3), 16)
    assert torch.allclose(still, probs, atol=1e-5)


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
