"""SAM asked twice (`none>box`): without a prompt, then with the boxes of the mean of both maps."""

import dataclasses

import pytest
import torch

from samatch.methods.base import PseudoLabel
from samatch.methods.fixmatch import FixMatch
from samatch.methods.sam_match import SamMatch
from samatch.networks.unet import UNet
from samatch.sam.model import build_sam

CLASSES, S = 4, 32


class TwoAnswers(torch.nn.Module):
    """A sure answer without a prompt, and one within the boxes that it is asked with, on record."""

    def __init__(self, alone):
        super().__init__()
        self.alone, self.boxes, self.present = alone, None, None

    def decode_classes(self, image_embeddings):
        return torch.where(self.alone, 20.0, -20.0)

    def decode(self, image_embeddings, prompt):
        self.boxes, self.present = prompt.boxes, prompt.present
        masks = torch.full((*prompt.present.shape, S, S), -20.0)
        for k, (x0, y0, x1, y1) in enumerate(prompt.boxes[0].int().tolist()):
            masks[0, k, y0 : y1 + 1, x0 : x1 + 1] = 20.0 if prompt.present[0, k] else -20.0
        return masks, torch.ones(prompt.present.shape)


def twice(config, prompt="none>box", **sam):
    refine = dataclasses.replace(
        config.refine, prompt=prompt, combine="consensus", box_margin_px=0.0
    )
    return dataclasses.replace(config, refine=refine, sam=dataclasses.replace(config.sam, **sam))


def two_opinions():
    """Class 1: both see it, SAM larger, the student in doubt there. Class 2: SAM alone sees it, the
    student all but excludes it. Class 3: the student alone, and unsure."""
    alone = torch.zeros(1, 3, S, S, dtype=torch.bool)
    alone[0, 0, 4:12, 4:20] = True
    alone[0, 1, 20:24, 20:24] = True
    probs = torch.zeros(1, CLASSES, S, S)
    probs[0, 1, 4:12, 4:12] = 0.9
    probs[0, 1, 4:12, 12:20] = 0.2
    probs[0, 2, 20:24, 20:24] = 0.001
    probs[0, 3, 28:30, 2:6] = 0.8
    probs[0, 0] = 1 - probs[0].sum(0)
    return alone, probs


def test_the_boxes_are_those_of_the_mean_of_both_maps(config):
    alone, probs = two_opinions()
    sam, config = TwoAnswers(alone), twice(config)
    answer = SamMatch(FixMatch(UNet(CLASSES), config), sam, config).ask(
        torch.zeros(1, 1, 8, 8), PseudoLabel.from_probs(probs, 0.0)
    )
    assert sam.boxes[0, 0].tolist() == [4, 4, 19, 11]  # the mean has .6 where the student has .2
    assert sam.present[0].tolist() == [True, True, False]  # .5005 against .4995; .4 against .6
    assert sam.boxes[0, 1].tolist() == [20, 20, 23, 23]
    assert torch.equal(answer.alone > 0, alone)
    assert torch.equal(answer.mask_logits[0, 0] > 0, alone[0, 0])


def test_asked_once_the_boxes_are_those_of_the_students_map(config):
    alone, probs = two_opinions()
    sam, config = TwoAnswers(alone), twice(config, "box")
    answer = SamMatch(FixMatch(UNet(CLASSES), config), sam, config).ask(
        torch.zeros(1, 1, 8, 8), PseudoLabel.from_probs(probs, 0.0)
    )
    assert answer.alone is None and sam.present[0].tolist() == [True, False, True]
    assert sam.boxes[0, 0].tolist() == [4, 4, 11, 11]


@pytest.mark.parametrize(
    "drop, learns, rests", [(1.0, "queries", "tokens"), (0.0, "tokens", "queries")]
)
def test_a_step_teaches_sam_the_way_that_was_drawn(config, batch, drop, learns, rests):
    """What one way alone uses has a gradient, what the other alone uses has none."""
    config = twice(config, prompt_drop=drop)
    sam = build_sam("tiny", image_size=S, num_classes=CLASSES)
    SamMatch(FixMatch(UNet(CLASSES), config), sam, config).step(batch).losses["sam"].backward()
    own = {"queries": list(sam.class_queries.parameters()), "tokens": [sam.class_tokens]}
    assert all(p.grad is not None for p in own[learns])
    assert all(p.grad is None for p in own[rests])
