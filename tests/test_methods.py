"""The seam: predict -> propose -> refine -> loss."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from samatch.config.profiles import VARIANTS
from samatch.config.settings import make_config
from samatch.methods.base import PseudoLabel, method_class, predict_weak, rampup
from samatch.methods.fixmatch import FixMatch
from samatch.methods.sam_match import SamMatch
from samatch.networks.unet import UNet
from samatch.sam.model import build_sam
from samatch.system.errors import InputError

CLASSES = 4


class EchoSam(torch.nn.Module):
    """Answers with the mask prompt it was given, object for object."""

    def encode(self, image):
        return image

    def decode(self, image_embeddings, prompt):
        return prompt.mask_prompt, torch.ones(prompt.present.shape)


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

    Without those of a stage before, of the training's length and step size, and of what has tests
    of its own: how many answers are asked anew, and from which probability on a pixel is kept.
    """
    beside = {"train.iterations", "train.lr", "refine.renew", "refine.sam_conf_thresh"}

    def changed(variant):
        joint = VARIANTS[variant].get("joint", {})
        return {key: value for key, value in joint.items() if key not in beside}

    for variant, stages in VARIANTS.items():
        parent = stages.get("finetune", "")
        if changed(variant).get("refine.combine") == "student":
            continue  # no SAM takes part
        if isinstance(parent, str) and changed(variant) not in ({}, changed(parent)):
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
    """With an echoing SAM, whose embeddings are of the slice as it lies, and a view turned by 90
    degrees: what is taught lies as the slice does, what SAM says as the view."""
    config = with_threshold(settings(config, prompt="mask", combine="replace", renew=1.0), 0.0)
    method = SamMatch(
        FixMatch(UNet(CLASSES), config), EchoSam(), config, embeddings=torch.zeros(4, 1, 8, 8)
    )
    lying = torch.zeros(1, 32, 32, dtype=torch.long)
    lying[0, 4:12, 16:28] = 2
    theta = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]])
    label = lying.rot90(1, (1, 2))
    probs = F.one_hot(label, CLASSES).movedim(-1, 1).float() * 0.97 + 0.0075
    batch = method_batch(theta)
    refinement = method.refine(batch, PseudoLabel.from_probs(probs, 0.0))
    assert torch.equal(refinement.sam_label, label)
    assert torch.equal(refinement.target.label, lying)


def method_batch(theta):
    from samatch.data.batches import Batch

    image, index = torch.zeros(1, 1, 32, 32), torch.zeros(1, dtype=torch.long)
    return Batch(
        image, image[:, 0].long(), index, 0, 0.0, image_w=image, index_u=index, theta_u=theta
    )


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
