"""The seam: predict -> propose -> refine -> loss."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from samatch.config.profiles import VARIANTS
from samatch.config.settings import make_config
from samatch.data.batches import SlicePool, draw_batch
from samatch.methods.base import PseudoLabel, method_class, predict_weak, rampup
from samatch.methods.fixmatch import FixMatch
from samatch.methods.sam_match import (
    SamMatch,
    class_probs,
    combine,
    expected_iou,
    gate,
    merge,
    published_logits,
    reliability,
    replace_as_published,
    trusted_pixels,
)
from samatch.networks.unet import UNet
from samatch.sam.model import SamModel, build_sam
from samatch.system.errors import InputError

CLASSES = 4


class EchoSam(torch.nn.Module):
    """Answers with the mask prompt it was given, object for object."""

    def encode(self, image):
        return image

    def decode(self, image_embeddings, prompt):
        return prompt.mask_prompt, torch.ones(prompt.present.shape)


@pytest.fixture
def batch(config):
    generator = torch.Generator().manual_seed(0)
    pool = SlicePool(
        torch.rand(20, 1, 32, 32, generator=generator),
        torch.randint(0, CLASSES, (20, 32, 32), generator=generator),
    )
    return draw_batch(pool, 8, config, generator, iteration=0, unlabeled=True)


def settings(config, **changes):
    return dataclasses.replace(config, refine=dataclasses.replace(config.refine, **changes))


def with_threshold(config, value):
    return dataclasses.replace(
        config,
        refine=dataclasses.replace(config.refine, sam_conf_thresh=value),
        method_settings=(("conf_thresh", value), ("rampup", 0.0)),
    )


def sure_student():
    """A random student whose probabilities spread over (0, 1)."""
    student = UNet(CLASSES)
    with torch.no_grad():
        student.decoder.classifier.weight *= 60
    return student


def student_loss(method, batch):
    torch.manual_seed(1)
    return method.step(batch).losses["student"]


@pytest.mark.parametrize("way", ["replace", "consensus", "agree"])
def test_an_echoing_sam_changes_nothing(config, batch, way):
    config = with_threshold(settings(config, prompt="mask", combine=way), 0.3)
    config = dataclasses.replace(config, sam=dataclasses.replace(config.sam, tune="frozen"))
    fixmatch = FixMatch(sure_student(), config)
    plain = student_loss(fixmatch, batch)
    guided = student_loss(SamMatch(fixmatch, EchoSam(), config), batch)
    assert fixmatch.step(batch).logs["mask_ratio"] > 0.2
    assert torch.equal(plain, guided)


@pytest.mark.parametrize("guided", [False, True])
def test_nothing_kept_makes_the_unlabeled_term_exactly_zero(config, batch, guided):
    config = with_threshold(settings(config, combine="consensus"), 1.0)
    method = FixMatch(UNet(CLASSES), config)
    if guided:
        method = SamMatch(method, build_sam("tiny", image_size=32, num_classes=CLASSES), config)
    output = method.step(batch)
    assert output.logs["mask_ratio"] == 0
    assert output.logs["loss_unsup_s1"] == 0
    assert output.losses["student"] == output.logs["loss_sup"]


def test_no_gradient_reaches_the_pseudo_label(config, batch):
    sam = build_sam("tiny", image_size=32, num_classes=CLASSES)
    method = SamMatch(FixMatch(UNet(CLASSES), config), sam, config)
    predictions = method.predict(batch)
    proposed = method.propose(predictions)
    refined = method.refine(batch, proposed, learns=True).pseudo_label
    for pseudo_label in (proposed, refined):
        assert not any(
            t.requires_grad
            for t in (pseudo_label.probs, pseudo_label.label, pseudo_label.confidence)
        )
    method.step(batch).losses["student"].backward()
    assert all(p.grad is None for p in sam.parameters())
    assert any(p.grad is not None for p in method.student.parameters())


def test_sam_loss_trains_sam_alone(config, batch):
    sam = build_sam("tiny", image_size=32, num_classes=CLASSES)
    method = SamMatch(FixMatch(UNet(CLASSES), config), sam, config)
    method.step(batch).losses["sam"].backward()
    assert all(p.grad is None for p in method.student.parameters())
    assert sam.mask_decoder.iou_token.weight.grad is not None


def test_the_encoder_sees_each_image_once_a_step(config, batch):
    config = dataclasses.replace(config, sam=dataclasses.replace(config.sam, update_every=2))
    sam, seen = build_sam("tiny", image_size=32, num_classes=CLASSES), []
    sam.image_encoder.register_forward_hook(
        lambda module, images, encoded: seen.append((len(encoded), encoded.requires_grad))
    )
    method = SamMatch(FixMatch(UNet(CLASSES), config), sam, config)
    for iteration in (0, 1):
        method.step(dataclasses.replace(batch, iteration=iteration))
    assert seen == [(len(batch.image_w) + len(batch.image_l), True), (len(batch.image_w), False)]


def test_sam_learns_only_every_so_many_iterations(config, batch):
    config = dataclasses.replace(config, sam=dataclasses.replace(config.sam, update_every=3))
    method = SamMatch(
        FixMatch(UNet(CLASSES), config),
        build_sam("tiny", image_size=32, num_classes=CLASSES),
        config,
    )
    learned = [
        "sam" in method.step(dataclasses.replace(batch, iteration=i)).losses for i in range(5)
    ]
    assert learned == [True, False, False, True, False]


def gradients_of_one_step(variant, batch):
    """Of student and SAM, both sure of what they say.

    They agree on background alone: the default, and what stands beside it, keeps pixels from .5 on,
    or no object would be taught at all.
    """
    config = make_config("laptop", "phantom", 3, "samatch-fixmatch", "tiny", variant=variant)
    config = settings(config, sam_conf_thresh=0.5) if config.refine.prompt == "none" else config
    sam, student = build_sam("tiny", image_size=32, num_classes=CLASSES), sure_student()
    with torch.no_grad():
        for head in (sam.mask_decoder.output_hypernetworks_mlps[0], *sam.class_queries.heads):
            head.layers[-1].weight *= 200
    sam.tune(config.sam.tune)
    method = SamMatch(FixMatch(student, config), sam, config)
    with torch.no_grad():
        method.ema.decoder.classifier.weight *= -1  # as far from the student as can be
    sum(method.step(batch).losses.values()).backward()
    return [p.grad for network in (student, sam) for p in network.parameters()]


def one_step_variants():
    """(variant, what it stands beside): the paper's box for its own variants, else the default.

    Without those of a stage before, of the training's length, and of how many answers are asked
    anew, which has tests of its own.
    """
    for variant, stages in VARIANTS.items():
        joint, parent = stages.get("joint", {}), stages.get("finetune", "")
        if isinstance(parent, str) and not set(joint) <= {"train.iterations", "refine.renew"}:
            yield variant, parent


@pytest.mark.parametrize("variant, beside", one_step_variants())
def test_a_variant_of_joint_training_teaches_something_else(batch, variant, beside):
    torch.manual_seed(2)
    default = gradients_of_one_step(beside, batch)
    torch.manual_seed(2)
    changed = gradients_of_one_step(variant, batch)
    assert any(
        (a is None) != (b is None) or a is not None and not torch.allclose(a, b)
        for a, b in zip(default, changed, strict=True)
    )


def test_cached_embeddings_ask_sam_about_the_unaugmented_slice(config):
    """With an echoing SAM and a view turned by 90 degrees, the answer comes back in the view's
    frame.
    """
    config = with_threshold(settings(config, prompt="mask", combine="replace", renew=1.0), 0.0)
    method = SamMatch(
        FixMatch(UNet(CLASSES), config), EchoSam(), config, embeddings=torch.zeros(4, 1, 8, 8)
    )
    label = torch.zeros(1, 32, 32, dtype=torch.long)
    label[0, 4:12, 16:28] = 2
    probs = F.one_hot(label, CLASSES).movedim(-1, 1).float() * 0.97 + 0.0075
    theta = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]])
    batch = method_batch(theta)
    refinement = method.refine(batch, PseudoLabel.from_probs(probs, 0.0))
    assert torch.equal(refinement.sam_label, label)
    target = refinement.target.label
    assert torch.equal(target, label.rot90(1, (1, 2))) or torch.equal(
        target, label.rot90(3, (1, 2))
    )


def method_batch(theta):
    from samatch.data.batches import Batch

    image, index = torch.zeros(1, 1, 32, 32), torch.zeros(1, dtype=torch.long)
    return Batch(
        image, image[:, 0].long(), index, theta, 0, 0.0, image_w=image, index_u=index, theta_u=theta
    )


def test_class_logits_corrected_and_as_published():
    mask_logits = torch.tensor([6.0, -10.0, -10.0]).view(1, 3, 1, 1)
    assert class_probs(mask_logits).argmax() == 1
    assert published_logits(mask_logits, True)[0, 0] == pytest.approx(1 - (-14 / 3))
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
    agree = combine(settings(config, combine="agree").refine, student, sam)
    assert agree.label.flatten().tolist() == [1, 0, 0]
    assert agree.keep.flatten().tolist() == [True, False, False]
    assert combine(settings(config, combine="student").refine, student, sam) is student


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


class AloneSam(torch.nn.Module):
    """Answers every slice with its embedding, whatever is asked, and counts the slices."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def decode_classes(self, image_embeddings):
        self.asked.append(len(image_embeddings))
        return image_embeddings


def remembering(config, renew, slices=20):
    """SAM-Match with a fixed encoder that asks about a share of a batch; slice i's mask logits are
    all i.
    """
    config = settings(config, prompt="none", renew=renew)
    config = dataclasses.replace(config, sam=dataclasses.replace(config.sam, tune="frozen"))
    embeddings = torch.arange(slices).float().view(-1, 1, 1, 1).expand(-1, CLASSES - 1, 32, 32)
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
        expected = torch.softmax(
            torch.cat(
                [torch.zeros(len(batch.index_u), 1), batch.index_u[:, None].expand(-1, 3).float()],
                1,
            ),
            1,
        )
        assert (
            refinement.sam_label.flatten(1).float().mean(1).tolist() == expected.argmax(1).tolist()
        )
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


def test_sam_asked_with_nothing_does_not_depend_on_the_student(config, batch):
    sam = build_sam("tiny", image_size=32, num_classes=CLASSES)
    torch.nn.init.normal_(sam.class_tokens)
    for prompt, same in (("none", True), ("box", False)):
        chosen = settings(config, prompt=prompt)
        torch.manual_seed(0)
        maps = [SamMatch(FixMatch(sure_student(), chosen), sam, chosen) for _ in range(2)]
        maps = [
            method.refine(batch, method.propose(method.predict(batch))).answer.mask_logits
            for method in maps
        ]
        assert torch.equal(*maps) is same


def test_the_moving_average_follows_the_student_and_is_what_is_evaluated(config, batch):
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, ema_decay=0.5))
    method = FixMatch(UNet(CLASSES), config)
    weight, slow = method.student.encoder[0][0].weight, method.ema.encoder[0][0].weight
    assert method.evaluated is method.ema and method.proposer is method.student
    with torch.no_grad():
        weight += 1
        method.follow(0)
        assert torch.equal(slow, weight)
        before = weight.clone()
        weight += 1
        method.follow(1)
    assert torch.allclose(slow, (before + weight) / 2)
    method.step(batch)
    method.follow(2)
    assert not torch.equal(
        method.ema.encoder[0][1].running_mean, torch.zeros(16)
    )  # batch-norm's statistics follow too
    plain = FixMatch(
        UNet(CLASSES),
        dataclasses.replace(config, train=dataclasses.replace(config.train, ema_decay=0.0)),
    )
    assert plain.evaluated is plain.student


def test_the_moving_average_as_proposer(config, batch):
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, proposer="ema"))
    method = SamMatch(
        FixMatch(UNet(CLASSES), config),
        build_sam("tiny", image_size=32, num_classes=CLASSES),
        config,
    )
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(0.3)
    predictions = method.predict(batch)
    assert torch.equal(predictions["logits_w"], predict_weak(method.ema, batch.image_w))
    assert not torch.equal(predictions["logits_w"], predict_weak(method.student, batch.image_w))


def test_running_statistics_are_those_of_clean_images_without_dropout(config, batch):
    method = FixMatch(UNet(CLASSES), config)
    norm = method.student.encoder[0][1]
    before = norm.running_mean.clone()
    with torch.no_grad():
        expected = 0.9 * before + 0.1 * method.student.encoder[0][0](batch.image_w).mean((0, 2, 3))
    method.step(batch)
    assert torch.allclose(norm.running_mean, expected, atol=1e-5)
    assert (
        norm.momentum == 0.1
        and method.student.training
        and all(m.training for m in method.student.modules())
    )


def test_weak_predictions_are_without_dropout(batch):
    student = UNet(CLASSES)
    assert torch.equal(predict_weak(student, batch.image_w), predict_weak(student, batch.image_w))
    assert not torch.equal(student(batch.image_w), student(batch.image_w))


def test_rampup():
    assert rampup(0.5, 0.4) == 1
    assert rampup(0.0, 0.4) == pytest.approx(np.exp(-5))
    assert rampup(0.0, 0.0) == 1


def test_fixmatch_loss_against_plain_numpy(config, batch):
    """The unlabeled term of one batch, worked out pixel by pixel with numpy."""
    config = with_threshold(config, 0.4)
    rng = np.random.default_rng(0)
    logits = {
        name: torch.from_numpy(rng.normal(size=(len(batch.image_w), CLASSES, 32, 32))).float()
        for name in ("logits_l", "logits_w", "logits_s1")
    }
    method = FixMatch(torch.nn.Identity(), config)
    output = method.loss(logits, batch, method.propose(logits))

    def softmax(x):
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    weak, strong = softmax(logits["logits_w"].numpy()), softmax(logits["logits_s1"].numpy())
    label, keep = weak.argmax(1), weak.max(1) >= 0.4
    box = batch.cutmix_box1.numpy()
    label, keep = (
        np.where(box, np.roll(label, 1, 0), label),
        np.where(box, np.roll(keep, 1, 0), keep),
    )
    chosen = np.take_along_axis(strong, label[:, None], 1)[:, 0]
    ce = -np.log(chosen)[keep].mean()
    dice = []
    for c in range(CLASSES):
        p, y = strong[:, c][keep], (label == c)[keep]
        dice.append(1 - (2 * (p * y).sum() + 1e-5) / ((p**2 + y).sum() + 1e-5))
    assert output.logs["loss_unsup_s1"].item() == pytest.approx((ce + np.mean(dice)) / 2, rel=1e-4)


def test_unknown_method_lists_what_exists():
    with pytest.raises(InputError, match="fixmatch.*supervised"):
        method_class("fixmach")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"conf_tresh": 0.5}, "conf_thresh, lambda_u, rampup"),
        ({"conf_thresh": 1.5}, "impossible"),
        ({"lambda_u": "much"}, "wrong type"),
    ],
)
def test_a_methods_own_settings_are_checked(changes, message):
    with pytest.raises(InputError, match=message):
        FixMatch.Settings.of(changes)


def test_sam_model_is_what_the_tests_use():
    assert isinstance(build_sam("tiny", image_size=32, num_classes=CLASSES), SamModel)
