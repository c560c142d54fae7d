import numpy as np
import pytest
import torch

from samatch.networks.losses import (
    cross_entropy,
    dice_loss,
    sam_loss,
    sam_loss_as_published,
    segmentation_loss,
)


def test_cross_entropy_counts_kept_pixels_only():
    logits = torch.log(torch.tensor([[0.8, 0.3], [0.2, 0.7]])).view(1, 2, 1, 2)
    label = torch.tensor([[[0, 0]]])
    assert cross_entropy(logits, label).item() == pytest.approx((-np.log(0.8) - np.log(0.3)) / 2)
    assert cross_entropy(logits, label, torch.tensor([[[True, False]]])).item() == pytest.approx(
        -np.log(0.8)
    )


def test_dice_loss_by_hand():
    probs = torch.tensor([[0.8, 0.3], [0.2, 0.7]]).view(1, 2, 1, 2)
    label = torch.tensor([[[0, 1]]])
    first = 2 * 0.8 / (0.8**2 + 0.3**2 + 1)
    second = 2 * 0.7 / (0.2**2 + 0.7**2 + 1)
    assert dice_loss(probs, label).item() == pytest.approx(1 - (first + second) / 2, abs=1e-4)


def test_soft_targets_by_hand():
    """One pixel, half of it class 0: -(log .8 + log .2) / 2; Dice with squares of .5 below."""
    probs = torch.tensor([0.8, 0.2]).view(1, 2, 1, 1)
    half = torch.full((1, 2, 1, 1), 0.5)
    assert cross_entropy(probs.log(), half).item() == pytest.approx(
        -(np.log(0.8) + np.log(0.2)) / 2
    )
    first, second = (2 * p * 0.5 / (p**2 + 0.5**2) for p in (0.8, 0.2))
    assert dice_loss(probs, half).item() == pytest.approx(1 - (first + second) / 2, abs=1e-4)


def test_soft_targets_of_one_and_zero_cost_what_the_class_map_costs():
    logits, label = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    one_hot = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
    for keep in (None, torch.rand(2, 6, 6) < 0.5):
        for loss in (
            cross_entropy,
            segmentation_loss,
            lambda a, b, k: dice_loss(a.softmax(1), b, k),
        ):
            assert torch.allclose(loss(logits, one_hot, keep), loss(logits, label, keep), atol=1e-6)


def test_everything_is_zero_where_nothing_is_kept():
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    assert segmentation_loss(logits, label, torch.zeros(2, 4, 4, dtype=torch.bool)) == 0


def test_perfect_prediction_costs_nothing():
    label = torch.randint(0, 3, (2, 8, 8))
    logits = 40 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
    assert segmentation_loss(logits, label).item() == pytest.approx(0, abs=1e-4)


def test_sam_loss_by_hand_and_absent_objects_do_not_count():
    logits = torch.tensor([[[[2.0, -1.0]], [[5.0, 5.0]]]])
    masks = torch.tensor([[[[True, False]], [[False, False]]]])
    p = 1 / (1 + np.exp([-2.0, 1.0]))
    dice = 1 - (2 * p[0] + 1) / (p.sum() + 1 + 1)
    bce = (-np.log(p[0]) - np.log(1 - p[1])) / 2
    found = sam_loss(logits, torch.tensor([[0.6, 0.1]]), masks, torch.tensor([[True, False]]))
    assert found.item() == pytest.approx(2 * (dice + bce) + (0.6 - 1) ** 2, rel=1e-5)
    assert sam_loss(logits, torch.zeros(1, 2), masks, torch.zeros(1, 2, dtype=torch.bool)) == 0


def test_published_loss_applies_softmax_twice():
    """Even a perfect map costs -log(e / (e + 2)) for three classes: the published loss cannot
    become small.
    """
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 50
    assert sam_loss_as_published(logits, label).item() == pytest.approx(
        -np.log(np.e / (np.e + 2)), abs=1e-4
    )
