"""Slices and batches: soft labels, the share of slices with an object, augmented views."""

import dataclasses

import numpy as np
import pytest
import torch

from samatch.config.settings import Augment, make_config
from samatch.data.batches import (
    SlicePool,
    augmented_views,
    draw_batch,
    draw_labeled,
    resized,
    soft_label,
)
from samatch.data.manifest import Case
from samatch.data.volumes import Volume
from samatch.training.task import sam_views


def volume(label, case_id="a", image=None):
    """A volume whose image is bright where it has a label."""
    label = np.asarray(label, np.uint8)
    image = 0.8 * (label > 0).astype(np.float32) + 0.1 if image is None else image
    return Volume(Case(case_id, case_id, *label.shape, None, "", ""), image, label, None)


def square(first, last, size=32, slices=2):
    label = np.zeros((slices, size, size), np.uint8)
    label[:, first:last, first + 3 : last + 5] = 2
    return label


def test_a_soft_label_is_the_share_of_each_class_by_hand():
    """Four pixels become one: one of class 0, two of class 1, one of class 2."""
    found = soft_label(volume([[[0, 1], [1, 2]]]), 1, 3)
    assert found.shape == (1, 3, 1, 1) and found.flatten().tolist() == pytest.approx(
        [0.25, 0.5, 0.25]
    )


def test_soft_labels_sum_to_one_and_at_their_own_size_are_the_class_map():
    one = volume(square(5, 20))
    assert torch.allclose(soft_label(one, 24, 4).sum(1), torch.ones(2, 24, 24), atol=1e-5)
    own = soft_label(one, 32, 4)
    assert torch.equal(own.argmax(1), torch.from_numpy(one.label).long()) and set(
        own.unique().tolist()
    ) == {0.0, 1.0}


def pool_of(config, soft):
    """Two labeled volumes, whose objects lie apart, and an unlabeled one."""
    volumes = [volume(square(2, 14)), volume(square(8, 25)), volume(square(4, 9))]
    soft = torch.cat([soft_label(one, 32, 4) for one in volumes[:2]]) if soft else None
    return SlicePool.from_volumes(volumes, 32, soft=soft)


def test_class_maps_lie_as_bytes_and_are_whole_numbers_in_a_batch(config):
    pool = pool_of(config, soft=False)
    batch = draw_batch(pool, 4, config, torch.Generator().manual_seed(3), 0, unlabeled=True)
    assert pool.label.dtype == torch.uint8 and pool.label_of(torch.tensor([0])).any()
    assert batch.label_l.dtype == batch.hidden_label_u.dtype == torch.long


def test_what_a_method_asks_for_none_of_has_length_0(config):
    pool, wanted = pool_of(config, soft=False), {"unlabeled": True, "strong_views": 0}
    drawn = draw_batch(pool, 4, config, torch.Generator(), 0, **wanted)
    assert len(drawn.image_w) == config.train.batch_unlabeled and not len(drawn.image_s1)
    labeled = draw_batch(pool, 4, config, torch.Generator(), 0, unlabeled=False)
    assert not any(map(len, (labeled.image_w, labeled.index_u, labeled.hidden_label_u)))


def test_soft_labels_move_as_hard_ones_do(config):
    """The same draws with class maps and with probabilities: one place, one object."""
    config = dataclasses.replace(config, augment=Augment(scale=0.2, shift=0.05, elastic=0.02))
    hard, soft = (
        draw_batch(
            pool_of(config, kind), 4, config, torch.Generator().manual_seed(3), 0, unlabeled=True
        )
        for kind in (False, True)
    )
    assert torch.equal(hard.image_l, soft.image_l) and torch.equal(hard.index_l, soft.index_l)
    assert soft.label_l.shape == (len(hard.label_l), 4, 32, 32) and hard.label_l.shape == (
        len(hard.label_l),
        32,
        32,
    )
    assert (soft.label_l.argmax(1) == hard.label_l).float().mean() > 0.97 and (
        hard.label_l == 2
    ).any()
    assert torch.allclose(soft.label_l.sum(1), torch.ones(len(hard.label_l), 32, 32), atol=1e-5)
    bright = soft.image_l[:, 0] > 0.5
    assert (bright == (soft.label_l[:, 2] > 0.5)).float().mean() > 0.97  # and the image with them


@pytest.mark.parametrize("share, expected", [(0.0, 0.1), (0.5, 0.55), (1.0, 1.0)])
def test_the_share_of_slices_with_an_object_by_hand(config, share, expected):
    """One labeled slice in ten has an object: 1/10 of the rest of the draws are of it as well."""
    label = torch.zeros(14, 4, 4, dtype=torch.long)
    label[7, 1, 1] = label[10:] = 1  # the last four are unlabeled
    config = dataclasses.replace(
        config,
        augment=Augment(foreground=share),
        train=dataclasses.replace(config.train, batch_labeled=4000),
    )
    pool, generator = SlicePool(torch.zeros(14, 1, 4, 4), label), torch.Generator().manual_seed(0)
    drawn = draw_labeled(pool, 10, config, generator)
    assert drawn.shape == (4000,) and drawn.max() < 10
    assert (drawn == 7).float().mean().item() == pytest.approx(expected, abs=0.03)
    empty = dataclasses.replace(pool, label=torch.zeros_like(label))
    assert set(draw_labeled(empty, 10, config, generator).tolist()) == set(range(10))


def test_augmented_views_by_number_and_with_their_labels():
    volumes = [volume(square(2, 14), "a"), volume(square(8, 25), "b")]
    plain = Augment(scale=0.2, jitter_prob=0.0)
    views = augmented_views(volumes, 3, 32, plain, seed=0)
    assert [view.case.case_id for view in views] == [
        f"{name}|view{n}" for n in (1, 2, 3) for name in "ab"
    ]
    for view in views:
        assert view.image.shape == view.label.shape == (2, 32, 32) and view.label.dtype == np.uint8
        assert set(np.unique(view.label)) == {0, 2}
        assert ((view.image > 0.5) == (view.label == 2)).mean() > 0.97
    first = views[0]
    assert (first.label != volumes[0].label).any() and (first.label != views[2].label).any()
    again = augmented_views(volumes, 3, 32, plain, seed=0)
    assert all(
        (a.image == b.image).all() and (a.label == b.label).all()
        for a, b in zip(views, again, strict=True)
    )
    assert (augmented_views(volumes, 1, 32, plain, seed=1)[0].label != first.label).any()
    assert augmented_views(volumes, 0, 32, plain, seed=0) == []


def test_views_have_the_asked_size_and_another_brightness():
    view = augmented_views([volume(square(8, 25))], 1, 64, Augment(jitter_prob=1.0), seed=0)[0]
    assert view.image.shape == (2, 64, 64) and 0 <= view.image.min() <= view.image.max() <= 1
    inside = view.image[view.label == 2]
    assert abs(np.median(inside) - 0.9) > 0.02


def test_every_seed_of_a_training_has_the_same_views():
    """Their embeddings are shared; a SAM whose encoder learns has none."""
    volumes = [volume(square(8, 25))]
    views = [
        sam_views(make_config("demo", "phantom", 3, "finetune", "tiny", seed), volumes)
        for seed in (0, 1)
    ]
    assert len(views[0]) == 3
    assert all(
        (a.image == b.image).all() and (a.label == b.label).all()
        for a, b in zip(*views, strict=True)
    )
    assert (
        sam_views(make_config("demo", "phantom", 3, "finetune", "tiny", variant="sam_all"), volumes)
        == []
    )


def test_resizing_keeps_classes_as_numbers():
    image, label = resized(volume(square(8, 25)), 16)
    assert (
        image.shape == (2, 1, 16, 16)
        and label.dtype == torch.uint8
        and set(label.unique().tolist()) == {0, 2}
    )
