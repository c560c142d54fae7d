"""How SAM's map and the student's become one, by hand: the published arithmetic, gates, shares."""

import dataclasses

import numpy as np
import pytest
import torch

from samatch.config.settings import make_config
from samatch.methods._trust import gate, reliability, trusted_pixels
from samatch.methods.base import PseudoLabel
from samatch.methods.sam_match import combine, merge, replace_as_published
from samatch.sam.answer import class_probs, expected_iou, logits_of_classes


def settings(config, **changes):
    return dataclasses.replace(config, refine=dataclasses.replace(config.refine, **changes))


def test_class_logits_corrected_and_as_published():
    mask_logits = torch.tensor([6.0, -10.0, -10.0]).view(1, 3, 1, 1)
    assert class_probs(mask_logits).argmax() == 1
    assert logits_of_classes(mask_logits, True)[0, 0] == pytest.approx(1 - (-14 / 3))
    # PAPER: with the other two logits at -10 a class wins only above 5.75.
    for logit, wins in ((5.7, False), (5.8, True)):
        mask_logits = torch.tensor([logit, -10.0, -10.0]).view(1, 3, 1, 1)
        assert (class_probs(mask_logits, as_published=True).argmax() == 1).item() is wins
    assert class_probs(torch.full((1, 3, 1, 1), -0.1)).argmax() == 0


def test_published_filter_turns_rejected_pixels_into_background():
    probs = torch.tensor([[0.05, 0.95, 0.0, 0.0], [0.1, 0.4, 0.35, 0.15]]).T.view(1, 4, 1, 2)
    found = replace_as_published(probs, 0.95)
    assert found.label.flatten().tolist() == [1, 0]
    assert found.keep.all()
    norm = np.sqrt(0.1**2 + 0.4**2 + 0.35**2 + 0.15**2)
    assert found.confidence.flatten()[1].item() == pytest.approx(0.4 / norm, abs=1e-6)


def probs_of(*rows):
    return torch.tensor(rows).T.reshape(1, len(rows[0]), 1, len(rows))


def test_ways_to_combine_by_hand(config):
    student = PseudoLabel.from_probs(probs_of([0.04, 0.96], [0.6, 0.4], [0.97, 0.03]), 0.95)
    sam = probs_of([0.1, 0.9], [0.2, 0.8], [0.04, 0.96])
    replaced = combine(
        settings(config, combine="replace", sam_conf_thresh=0.95).refine, student, sam
    )
    assert replaced.label.flatten().tolist() == [1, 1, 1]
    assert replaced.keep.flatten().tolist() == [False, False, True]
    both = combine(settings(config, combine="consensus", sam_conf_thresh=0.75).refine, student, sam)
    assert both.label.flatten().tolist() == [1, 1, 0]
    assert both.keep.flatten().tolist() == [True, False, False]
    assert not both.soft and both.taught is both.label
    soft = combine(settings(config, combine="soft", sam_conf_thresh=0.0).refine, student, sam)
    assert soft.label.flatten().tolist() == [1, 1, 0] and soft.keep.all()
    assert soft.taught[0, 1].flatten().tolist() == pytest.approx([0.93, 0.6, 0.495])
    agree = combine(settings(config, combine="agree").refine, student, sam)
    assert agree.label.flatten().tolist() == [1, 0, 0]
    assert agree.keep.flatten().tolist() == [True, False, False]
    assert combine(settings(config, combine="student").refine, student, sam) is student


@pytest.mark.parametrize("variant, taught", [("", False), ("guided_thresh60", True)])
def test_a_sure_sam_overrules_the_student_only_below_three_quarters(variant, taught):
    """Mean .63 for the class that the student gives .3 and SAM .96: kept from 0.6 on alone."""
    refine = make_config("laptop", "phantom", 3, "samatch-fixmatch", variant=variant).refine
    student = PseudoLabel.from_probs(probs_of([0.7, 0.3]), 0.95)
    both = combine(refine, student, probs_of([0.04, 0.96]))
    assert both.label.item() == 1 and both.keep.item() is taught


def test_gate_and_fall_back(config):
    present = torch.tensor([[True, True, False]])
    masks = torch.zeros(1, 3, 1, 4, dtype=torch.bool)
    masks[0, 0, 0, :2], masks[0, 1, 0, 2:] = True, True
    student = masks.clone()
    student[0, 1] = torch.tensor(
        [[False, False, False, True]]
    )  # IoU and area ratio .5 with SAM's second object
    iou_pred = torch.tensor([[0.5, 0.9, 0.9]])
    found = {
        name: gate(settings(config, gate=name).refine, present, iou_pred, masks, student).tolist()[
            0
        ]
        for name in ("none", "iou_pred", "agreement", "both")
    }
    assert found == {
        "none": [True, True, False],
        "iou_pred": [False, True, False],
        "agreement": [True, False, False],
        "both": [False, False, False],
    }
    loose = settings(config, gate="agreement", gate_iou=0.4)
    assert gate(loose.refine, present, iou_pred, masks, student).tolist()[0] == [
        True,
        False,
        False,
    ]  # the area ratio refuses
    loose = settings(loose, gate_area_ratio=0.4)
    assert gate(loose.refine, present, iou_pred, masks, student).tolist()[0] == [True, True, False]
    sam_probs, student_probs = (
        probs_of([0.1, 0.9, 0.0], [0.1, 0.0, 0.9]),
        probs_of([0.8, 0.2, 0.0], [0.8, 0.2, 0.0]),
    )
    assert trusted_pixels(
        sam_probs, student_probs, torch.tensor([[True, False]])
    ).flatten().tolist() == [True, False]


def test_what_is_not_trusted_keeps_the_students_map_or_teaches_nothing(config):
    """Two pixels; SAM names class 1 at the first and class 2 at the second, whose promised IoU is
    too low.
    """
    student = PseudoLabel.from_probs(probs_of([0.8, 0.2, 0.0], [0.7, 0.3, 0.0]), 0.5)
    sam_probs, quality = probs_of([0.1, 0.9, 0.0], [0.1, 0.0, 0.9]), torch.tensor([[0.9, 0.2]])
    present = torch.ones(1, 2, dtype=torch.bool)
    chosen = settings(config, combine="replace", gate="iou_pred", sam_conf_thresh=0.5)
    found, accepted = merge(chosen.refine, student, sam_probs, quality, present, 1.0)
    assert accepted.tolist() == [[True, False]]
    assert found.label.flatten().tolist() == [1, 0] and found.keep.all()
    found, _ = merge(
        settings(chosen, rejected="ignore").refine, student, sam_probs, quality, present, 1.0
    )
    assert found.label.flatten().tolist() == [1, 0] and found.keep.flatten().tolist() == [
        True,
        False,
    ]


def test_sams_say_grows_over_the_ramp_up(config):
    student, present = (
        PseudoLabel.from_probs(probs_of([0.9, 0.1]), 0.5),
        torch.ones(1, 1, dtype=torch.bool),
    )
    chosen = settings(
        config, combine="consensus", sam_weight=0.6, sam_rampup=0.5, sam_conf_thresh=0.5
    ).refine
    at = {
        t: merge(chosen, student, probs_of([0.1, 0.9]), torch.ones(1, 1), present, t)[0]
        .probs[0, 1]
        .item()
        for t in (0.0, 0.5, 1.0)
    }
    weight = 0.6 * np.exp(-5)
    assert at[0.0] == pytest.approx(weight * 0.9 + (1 - weight) * 0.1)
    assert at[0.5] == at[1.0] == pytest.approx(0.6 * 0.9 + 0.4 * 0.1)


def test_reliability_is_promised_iou_times_agreement_by_hand():
    sam, student = torch.zeros(2, 1, 2, 2, 4, dtype=torch.bool)
    sam[0, 0, 0, :3], student[0, 0, 0, 1:] = (
        True,
        True,
    )  # class 1: 3 and 3 pixels, 2 in common: (4 + 1) / (6 + 1)
    found = reliability(
        sam, student, torch.tensor([[0.7, 1.0]])
    )  # class 2: neither sees it: agreement 1
    assert found.flatten().tolist() == pytest.approx([(0.7 * 5 / 7 + 1) / 2, 0.7 * 5 / 7, 1.0])


def test_expected_iou_by_hand():
    """Probabilities .9 and .6 inside, .2 and .1 outside: (1.5 + 1) / (2 + .3 + 1)."""
    probs = torch.tensor([0.9, 0.6, 0.2, 0.1]).view(1, 1, 2, 2)
    assert expected_iou(probs.logit()).item() == pytest.approx(2.5 / 3.3)
    assert expected_iou(torch.full((1, 1, 2, 2), -30.0)).item() == pytest.approx(1.0)
