"""What SAM said about a slice is remembered, slice by slice, and survives a cut-off run."""

import dataclasses

import torch
import torch.nn.functional as F

from samatch.methods.fixmatch import FixMatch
from samatch.methods.sam_match import SamMatch
from samatch.networks.unet import UNet

CLASSES = 4


def settings(config, **changes):
    return dataclasses.replace(config, refine=dataclasses.replace(config.refine, **changes))


class AloneSam(torch.nn.Module):
    """Answers every slice with its embedding, whatever is asked, and counts the slices."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def decode_classes(self, image_embeddings):
        self.asked.append(len(image_embeddings))
        return image_embeddings


def seen(index):
    """The class (1 to 3) of the slices with these numbers."""
    return index % (CLASSES - 1) + 1


def remembering(config, renew, slices=20):
    """SAM-Match with a fixed encoder that asks about a share of a batch; SAM sees class `seen(i)`
    everywhere in slice i."""
    config = settings(config, prompt="none", renew=renew)
    config = dataclasses.replace(config, sam=dataclasses.replace(config.sam, tune="frozen"))
    sure = 10.0 * F.one_hot(seen(torch.arange(slices)) - 1, CLASSES - 1) - 5
    embeddings = sure[:, :, None, None].expand(-1, -1, 32, 32)
    return SamMatch(
        FixMatch(UNet(CLASSES), config),
        AloneSam(),
        config,
        embeddings,
        n_labeled=8,
        n_slices=slices,
    )


def test_answers_are_remembered_slice_by_slice(config, batch):
    """At a share of 0 every slice is asked about once, but for the one that each step asks; the
    answers stay its own.
    """
    torch.manual_seed(0)
    method, batch = (
        remembering(config, 0.0),
        dataclasses.replace(batch, theta_u=torch.eye(2, 3).expand(len(batch.index_u), 2, 3)),
    )
    for _ in range(3):
        predictions = method.predict(batch)
        refinement = method.refine(batch, method.propose(predictions))
        expected = seen(batch.index_u)
        assert torch.equal(refinement.sam_label, expected[:, None, None].expand(-1, 32, 32))
    assert method.sam.asked == [len(batch.index_u), 1, 1]
    every = remembering(config, 1.0)
    for _ in range(2):
        every.refine(batch, every.propose(every.predict(batch)))
    assert every.sam.asked == 2 * [len(batch.index_u)] and every.memory() == {}


def test_what_is_remembered_survives_a_cut_off_run(config, batch):
    first, second = remembering(config, 0.5), remembering(config, 0.5)
    first.refine(batch, first.propose(first.predict(batch)))
    second.recall({name: value.clone() for name, value in first.memory().items()})
    assert first.memory()["known"].sum() == len(set(batch.index_u.tolist()))
    assert all(torch.equal(value, second.memory()[name]) for name, value in first.memory().items())
