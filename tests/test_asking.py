"""SAM asked with the boxes of all classes in one question (`class_boxes`)."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from samatch.methods.base import PseudoLabel
from samatch.methods.finetune import FineTune
from samatch.methods.fixmatch import FixMatch
from samatch.methods.sam_match import SamMatch
from samatch.networks.unet import UNet
from samatch.sam.model import CPU_PROMPTS, build_sam
from samatch.sam.prompts import Prompt
from samatch.training.evaluate import segment_with_reference_boxes

CLASSES, S = 4, 32


class WithinBoxes(torch.nn.Module):
    """Answers with the boxes themselves, as masks, and keeps the prompt."""

    image_size, prompt = S, None

    def decode_classes(self, image_embeddings, prompt):
        self.prompt = prompt
        masks = torch.full((*prompt.present.shape, S, S), -20.0)
        for k, (x0, y0, x1, y1) in enumerate(prompt.boxes[0].round().int().tolist()):
            masks[0, k, y0 : y1 + 1, x0 : x1 + 1] = 20.0 if prompt.present[0, k] else -20.0
        return masks

    def decode(self, image_embeddings, prompt):
        return self.decode_classes(image_embeddings, prompt), torch.ones(prompt.present.shape)


def asked(config, prompt, **sam):
    refine = dataclasses.replace(config.refine, prompt=prompt, box_margin_px=0.0)
    return dataclasses.replace(config, refine=refine, sam=dataclasses.replace(config.sam, **sam))


@pytest.mark.parametrize("prompt, every_class", [("box", False), ("class_boxes", True)])
def test_the_boxes_are_those_of_the_students_map(config, prompt, every_class):
    """The queries answer for a class without a box, too; a box a class is no answer there."""
    probs = torch.zeros(1, CLASSES, S, S)
    probs[0, 1, 4:12, 6:20], probs[0, 3, 28:30, 2:6] = 0.9, 0.8
    probs[0, 0] = 1 - probs[0].sum(0)
    sam, config = WithinBoxes(), asked(config, prompt)
    method = SamMatch(FixMatch(UNet(CLASSES), config), sam, config)
    answer = method.ask(torch.zeros(1, 1, 8, 8), PseudoLabel.from_probs(probs, 0.0))
    assert sam.prompt.boxes[0].tolist() == [[6, 4, 19, 11], [0, 0, 0, 0], [2, 28, 5, 29]]
    assert sam.prompt.present[0].tolist() == [True, False, True]
    assert answer.present[0].tolist() == [True, every_class, True]
    assert torch.equal(answer.mask_logits[0] > 0, probs[0, 1:] > 0.5)


def corners_of(sam, boxes, present):
    """The class map's logits of one random image, asked with boxes (K, 4)."""
    torch.manual_seed(3)
    embeddings = torch.randn(1, sam.mask_decoder.transformer_dim, 8, 8)
    prompt = Prompt(torch.tensor(boxes)[None], torch.tensor(present)[None], S)
    with torch.no_grad():
        return sam.decode_classes(embeddings, prompt)


def test_the_boxes_of_all_classes_are_one_question():
    """An answer depends on whose box is where; a class without a box is not one with a box of 0."""
    sam = build_sam("tiny", image_size=S, num_classes=3)
    torch.nn.init.normal_(sam.prompt_encoder.not_a_point_embed.weight)
    one, other = [2.0, 3.0, 9.0, 8.0], [12.0, 12.0, 30.0, 25.0]
    answer = corners_of(sam, [one, other], [True, True])
    assert torch.equal(answer, corners_of(sam, [one, other], [True, True]))
    for boxes, present in (
        ([other, one], [True, True]),
        ([one, other], [True, False]),
        ([one, [0.0] * 4], [True, True]),
    ):
        assert not torch.allclose(answer, corners_of(sam, boxes, present), atol=1e-4)
    absent = corners_of(sam, [one, other], [True, False])
    assert torch.equal(absent, corners_of(sam, [one, [0.0] * 4], [True, False]))


def test_many_images_asked_with_boxes_at_once_equal_one_after_the_other():
    sam = build_sam("tiny", image_size=S, num_classes=3)
    embeddings = torch.randn(2 * CPU_PROMPTS + 1, sam.mask_decoder.transformer_dim, 8, 8)
    corner, size = torch.rand(len(embeddings), 2, 2) * 15, torch.rand(len(embeddings), 2, 2) * 15
    prompt = Prompt(torch.cat([corner, corner + size], 2), torch.rand(len(embeddings), 2) > 0.3, S)
    with torch.no_grad():
        together = sam.decode_classes(embeddings, prompt)
        for number in range(len(embeddings)):
            some = slice(number, number + 1)
            alone = Prompt(prompt.boxes[some], prompt.present[some], S)
            one = sam.decode_classes(embeddings[some], alone)
            assert torch.allclose(one, together[some], atol=1e-4)


def test_fine_tuning_with_all_boxes_teaches_the_queries(config, batch):
    config = asked(config, "class_boxes", prompt_drop=0.0)
    config = dataclasses.replace(config, method_settings=())
    sam = build_sam("tiny", image_size=S, num_classes=CLASSES)
    output = FineTune(sam, config, CLASSES).step(batch)
    output.losses["sam"].backward()
    assert set(output.logs) == {"loss_sam_boxes"}
    assert all(p.grad is not None for p in sam.class_queries.parameters())
    assert sam.class_tokens.grad is None


def test_the_references_boxes_of_all_classes_at_once():
    """The upper bound of a SAM that is asked so: a stub answers with the boxes themselves."""
    label = np.zeros((1, 64, 64), np.uint8)
    label[0, 10:31, 20:41], label[0, 50:61, 2:13] = 1, 3
    volume, sam = SimpleNamespace(label=label), WithinBoxes()
    maps = segment_with_reference_boxes(sam, volume, torch.zeros(1, 1, 8, 8), CLASSES, at_once=True)
    assert sam.prompt.present[0].tolist() == [True, False, True] and maps.shape == label.shape
    assert {1, 3} == set(np.unique(maps)) - {0}
    assert (maps == label).mean() > 0.95


def test_a_step_with_all_boxes_teaches_the_queries(config, batch):
    config = asked(config, "class_boxes")
    sam = build_sam("tiny", image_size=S, num_classes=CLASSES)
    SamMatch(FixMatch(UNet(CLASSES), config), sam, config).step(batch).losses["sam"].backward()
    assert all(p.grad is not None for p in sam.class_queries.parameters())
    assert (
        sam.class_tokens.grad is None
        and sam.prompt_encoder.point_embeddings[2].weight.grad is not None
    )
