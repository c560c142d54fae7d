"""A short training of each method improves on its start."""

import dataclasses

import numpy as np
import pytest
import torch

from samatch.data.batches import SlicePool, draw_batch
from samatch.data.readers import phantom
from tests.hand_made import PLAIN, S, build


@pytest.fixture(scope="module")
def pool():
    volumes = [phantom.generate(seed, False, slices=4, size=64) for seed in range(6)]
    image, label = (torch.from_numpy(np.concatenate(part)) for part in zip(*volumes, strict=True))
    return SlicePool(
        image[:, None].clamp(0, 1), (label.long() > 1).long() + (label.long() == 3).long()
    )


@pytest.mark.parametrize("name", PLAIN)
def test_a_short_training_improves_on_its_start(name, pool):
    """Fifty steps on six phantoms, two of them labeled: cross-entropy of the validated student on
    all slices falls.
    """
    torch.manual_seed(0)
    size = 64 if name == "cross_teaching" else S
    image = torch.nn.functional.interpolate(pool.image, (size, size), mode="area")
    pool = SlicePool(
        image,
        torch.nn.functional.interpolate(pool.label[:, None].float(), (size, size), mode="nearest")[
            :, 0
        ].long(),
    )
    method = build(name)
    config = dataclasses.replace(
        method.config,
        train=dataclasses.replace(method.config.train, image_size=size, iterations=50),
    )
    parameters = [
        p for network in method.networks().values() for p in network.parameters() if p.requires_grad
    ]
    optimizer, generator = (
        torch.optim.SGD(parameters, lr=0.03 if name == "cross_teaching" else 0.05, momentum=0.9),
        torch.Generator().manual_seed(0),
    )

    def score():
        method.student.eval()
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(method.student(pool.image), pool.label).item()

    start = score()
    for iteration in range(50):
        method.train()
        batch = draw_batch(
            pool, 8, config, generator, iteration, method.needs_unlabeled, method.strong_views
        )
        optimizer.zero_grad()
        sum(method.step(batch).losses.values()).backward()
        optimizer.step()
    assert score() < 0.8 * start
