"""Every method's loss on a hand-made batch against plain numpy."""

import dataclasses

import numpy as np
import pytest
import torch

from samatch.methods._families import TeacherMethod, update_ema
from samatch.methods.adversarial import evidence
from samatch.methods.base import PseudoLabel, method_class, rampup
from samatch.methods.bcp import largest_of_each_class, pair_up
from samatch.methods.cct import channel_drop, feature_drop, feature_noise
from samatch.methods.deep_co_training import adversarial
from tests.hand_made import (
    PLAIN,
    B,
    C,
    S,
    build,
    ce,
    dice,
    h,
    hand_made_batch,
    logits,
    seg,
    softmax,
)

UNLABELED = [name for name in PLAIN if method_class(name).needs_unlabeled]


@pytest.fixture
def batch():
    return hand_made_batch()


def found(method, predictions, batch, pseudo_label=None):
    return {
        name: loss.item()
        for name, loss in method.loss(predictions, batch, pseudo_label).losses.items()
    }


def test_entropy_minimization(batch):
    p = logits("logits_l", "logits_w")
    expected = seg(p["logits_l"], batch.label_l) + 0.1 * rampup(0.25, 1) * h(
        softmax(p["logits_w"])
    ).mean() / np.log(C)
    assert found(build("entropy_minimization"), p, batch)["student"] == pytest.approx(
        expected, rel=1e-5
    )


def test_mean_teacher(batch):
    p = logits("logits_l", "logits_w", "logits_teacher")
    mse = ((softmax(p["logits_w"]) - softmax(p["logits_teacher"])) ** 2).mean()
    assert found(build("mean_teacher", lambda_u=3.0, rampup=0.1), p, batch)[
        "student"
    ] == pytest.approx(seg(p["logits_l"], batch.label_l) + 3 * mse, rel=1e-5)


def test_uamt(batch):
    p = logits("logits_l", "logits_w", "logits_teacher") | {
        "uncertainty": torch.rand(B, S, S, generator=torch.Generator().manual_seed(1)) * np.log(C)
    }
    sure = p["uncertainty"].numpy() < (0.75 + 0.25 * np.exp(-5 * 0.75**2)) * np.log(C)
    distance = ((softmax(p["logits_w"]) - softmax(p["logits_teacher"])) ** 2).sum(1)
    method = build("uamt", lambda_u=2.0)
    expected = seg(p["logits_l"], batch.label_l) + 2 * np.exp(-5 * 0.75**2) * distance[sure].mean()
    assert 0.5 < sure.mean() < 0.95
    assert found(method, p, batch)["student"] == pytest.approx(expected, rel=1e-5)


def test_uamt_uncertainty_is_the_entropy_of_the_mean_over_passes(batch):
    method = build("uamt", passes=3, noise=0.0)
    for module in method.teacher.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    p = method.predict(batch)
    assert torch.allclose(
        p["uncertainty"],
        torch.from_numpy(h(softmax(p["logits_teacher"].numpy()))).float(),
        atol=1e-4,
    )


def test_ict(batch, monkeypatch):
    monkeypatch.setattr(
        torch.distributions.Beta, "sample", lambda self: torch.tensor([0.3, 0.9]).view(B, 1, 1, 1)
    )
    method = build("ict", lambda_u=1.0, rampup=0.0)
    seen = {}
    method.student.register_forward_hook(
        lambda module, inputs, output: seen.update(image=inputs[0][B:])
    )
    p = method.predict(batch)
    w = batch.image_w.numpy()
    assert np.allclose(seen["image"][0], 0.3 * w[0] + 0.7 * w[1], atol=1e-6) and np.allclose(
        seen["image"][1], 0.9 * w[1] + 0.1 * w[0], atol=1e-6
    )
    p = logits("logits_l", "logits_mixed") | {
        "target": torch.from_numpy(softmax(logits("t", seed=3)["t"])).float()
    }
    expected = (
        seg(p["logits_l"], batch.label_l)
        + ((softmax(p["logits_mixed"]) - p["target"].numpy()) ** 2).mean()
    )
    assert found(method, p, batch)["student"] == pytest.approx(expected, rel=1e-5)


def test_cps(batch):
    p = logits("logits_l", "logits_w", "logits_l_2", "logits_w_2")
    one, two = (np.concatenate([p["logits_l" + s], p["logits_w" + s]]) for s in ("", "_2"))
    result = found(build("cps"), p, batch)
    assert result["student"] == pytest.approx(
        seg(p["logits_l"], batch.label_l) + 1.5 * ce(one, two.argmax(1)), rel=1e-5
    )
    assert result["student2"] == pytest.approx(
        seg(p["logits_l_2"], batch.label_l) + 1.5 * ce(two, one.argmax(1)), rel=1e-5
    )


def test_the_two_students_of_cps_start_apart():
    method = build("cps")
    a, b = (network.encoder[0][0].weight for network in (method.student, method.student2))
    assert a.shape == b.shape and not torch.equal(a, b)


def test_cross_teaching(batch):
    p = logits("logits_l", "logits_w", "logits_l_2", "logits_w_2")
    result = found(build("cross_teaching", rampup=0.0, lambda_u=0.5), p, batch)
    assert result["student"] == pytest.approx(
        seg(p["logits_l"], batch.label_l) + 0.5 * dice(p["logits_w"], p["logits_w_2"].argmax(1)),
        rel=1e-5,
    )
    assert result["student2"] == pytest.approx(
        seg(p["logits_l_2"], batch.label_l) + 0.5 * dice(p["logits_w_2"], p["logits_w"].argmax(1)),
        rel=1e-5,
    )


def test_deep_co_training(batch):
    names = ("logits_l", "logits_w", "logits_attacked")
    p = logits(*[name + s for name in names for s in ("", "_2")])
    result = found(build("deep_co_training"), p, batch)
    one, two = softmax(p["logits_w"]), softmax(p["logits_w_2"])
    js = (h((one + two) / 2) - (h(one) + h(two)) / 2).mean()
    withstood = [
        -(target * np.log(softmax(p["logits_attacked" + s]))).sum(1).mean()
        for s, target in (("", two), ("_2", one))
    ]
    sup = seg(p["logits_l"], batch.label_l) + seg(p["logits_l_2"], batch.label_l)
    assert result["student"] + result["student2"] == pytest.approx(
        sup + 10 * js + 0.5 * sum(withstood), rel=1e-5
    )


def test_the_adversarial_image_moves_every_pixel_by_epsilon_and_raises_the_loss(batch):
    network = build("deep_co_training").student.eval()
    attacked = adversarial(network, batch.image_w, 0.02)
    moved = (attacked - batch.image_w).abs()
    assert moved.max() == pytest.approx(0.02, abs=1e-6) and (moved > 0.019).float().mean() > 0.9
    with torch.no_grad():
        label = network(batch.image_w).argmax(1)
        loss = [
            torch.nn.functional.cross_entropy(network(image), label)
            for image in (batch.image_w, attacked)
        ]
    assert loss[1] > loss[0]


def test_r_drop(batch):
    p = logits("logits", "logits_again", count=2 * B)
    one, two = softmax(p["logits"]), softmax(p["logits_again"])
    sup = (seg(p["logits"][:B], batch.label_l) + seg(p["logits_again"][:B], batch.label_l)) / 2
    kl = ((one * np.log(one / two)).sum(1) + (two * np.log(two / one)).sum(1)).mean() / 2
    assert found(build("r_drop"), p, batch)["student"] == pytest.approx(sup + 0.6 * kl, rel=1e-5)


def test_urpc(batch):
    p = {"logits": torch.stack(list(logits("a", "b", "c", "d", count=2 * B).values()))}
    probs = softmax(p["logits"], 2)[:, B:]
    mean = probs.mean(0)
    terms = []
    for scale in probs:
        kl = (scale * np.log(scale / mean)).sum(1)
        weight, distance = np.exp(-kl), ((scale - mean) ** 2).sum(1)
        terms.append((distance * weight).sum() / weight.sum() + kl.mean())
    expected = np.mean([seg(scale[:B], batch.label_l) for scale in p["logits"]]) + np.mean(terms)
    assert found(build("urpc", lambda_u=1.0, rampup=0.0), p, batch)["student"] == pytest.approx(
        expected, rel=1e-5
    )


def test_cct(batch):
    p = logits("logits_l", "logits_w") | {
        "logits_perturbed": torch.stack(list(logits("a", "b", "c", seed=2).values()))
    }
    mse = np.mean(
        [((softmax(x) - softmax(p["logits_w"])) ** 2).mean() for x in p["logits_perturbed"]]
    )
    assert found(build("cct", lambda_u=1.0, rampup=0.0), p, batch)["student"] == pytest.approx(
        seg(p["logits_l"], batch.label_l) + mse, rel=1e-5
    )


def test_perturbations_of_cct():
    x = torch.rand(4, 6, 8, 8) + 0.5
    assert ((feature_noise(x) / x - 1).abs() <= 0.3 + 1e-5).all() and not torch.equal(
        feature_noise(x), x
    )
    dropped = (feature_drop(x) == 0).all(1)
    activity = x.mean(1)
    for b in range(4):  # the most active positions are gone, the least active stay
        assert (
            dropped[b].flatten()[activity[b].argmax()]
            and not dropped[b].flatten()[activity[b].argmin()]
        )
    gone = (channel_drop(x) == 0).flatten(2)
    assert (gone.all(2) | ~gone.any(2)).all() and gone.any()


@pytest.mark.parametrize("jittered", [True, False])
def test_adversarial(batch, jittered):
    """Unlabeled images are judged in the kind of view that the labeled ones have."""
    method = build("adversarial", lambda_u=1.0, rampup=0.0)
    augment = dataclasses.replace(method.config.augment, jitter_labeled=jittered)
    config = dataclasses.replace(method.config, augment=augment)
    method = type(method)(method.student, config)
    assert method.strong_views == jittered
    method.eval()  # the discriminator's batch-norm then gives each call the same answer
    p = logits("logits_l", "logits_u")
    view = batch.image_s1 if jittered else batch.image_w
    with torch.no_grad():
        labeled, unlabeled = (
            method.discriminator(evidence(image, x))[-1].numpy().astype(np.float64)
            for image, x in ((batch.image_l, p["logits_l"]), (view, p["logits_u"]))
        )
        seen = method.predict(batch)["logits_u"]
        assert torch.equal(seen, method.student(torch.cat([batch.image_l, view]))[B:])
    result = found(method, p, batch)
    assert result["student"] == pytest.approx(
        seg(p["logits_l"], batch.label_l) + np.log1p(np.exp(-unlabeled)).mean(), rel=1e-4
    )
    assert result["discriminator"] == pytest.approx(
        np.log1p(np.exp(-labeled)).mean() + np.log1p(np.exp(unlabeled)).mean(), rel=1e-4
    )


def test_the_students_loss_does_not_train_the_discriminator(batch):
    method = build("adversarial", lambda_u=1.0, rampup=0.0)
    method.step(batch).losses["student"].backward()
    assert all(p.grad is None for p in method.discriminator.parameters())
    assert method.student.encoder[0][0].weight.grad is not None


def test_unimatch(batch):
    p = logits("logits_l", "logits_w", "logits_s1", "logits_s2", "logits_fp")
    method = build("unimatch", conf_thresh=0.6)
    weak = softmax(p["logits_w"])
    label, keep = weak.argmax(1), weak.max(1) >= 0.6
    terms = {}
    for name, box in (
        ("s1", batch.cutmix_box1.numpy()),
        ("s2", batch.cutmix_box2.numpy()),
        ("fp", np.zeros((B, S, S), bool)),
    ):
        steps = 1 if name == "s1" else 2
        terms[name] = dice(
            p[f"logits_{name}"],
            np.where(box, np.roll(label, steps, 0), label),
            np.where(box, np.roll(keep, steps, 0), keep),
        )
    expected = (
        seg(p["logits_l"], batch.label_l) + terms["s1"] / 4 + terms["s2"] / 4 + terms["fp"] / 2
    ) / 2
    assert found(method, p, batch, method.propose(p))["student"] == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("name", ["fixmatch", "unimatch", "bcp"])
def test_probabilities_are_taught_where_they_are_meant(name, batch):
    """Sure ones as their class map is, unsure ones otherwise."""
    views = ("l", "w", "s1", "s2", "fp", "in", "out")
    p = logits(*(f"logits_{view}" for view in views)) | {"inside": batch.cutmix_box1}
    sure = torch.nn.functional.one_hot(p["logits_w"].argmax(1), C).movedim(-1, 1).float()

    def loss(probs, soft):
        taught = dataclasses.replace(PseudoLabel.from_probs(probs, 0.0), soft=soft)
        return found(build(name), p, batch, taught)["student"]

    unsure = 0.8 * sure + 0.2 / C
    assert loss(sure, soft=True) == pytest.approx(loss(sure, soft=False), rel=1e-5)
    assert loss(unsure, soft=False) == loss(sure, soft=False)
    assert abs(loss(unsure, soft=True) - loss(sure, soft=True)) > 1e-3


def test_bcp(batch):
    p = logits("logits_in", "logits_out", "logits_w")
    inside = torch.zeros(B, S, S, dtype=torch.bool)
    inside[:, 4:25, 8:29] = True
    method = build("bcp")
    pseudo_label = method.propose(p)
    y_u, m = pseudo_label.label.numpy(), inside.numpy()
    expected = (
        seg(p["logits_in"], batch.label_l, ~m)
        + 0.5 * seg(p["logits_in"], y_u, m)
        + seg(p["logits_out"], batch.label_l, m)
        + 0.5 * seg(p["logits_out"], y_u, ~m)
    )
    assert found(method, p | {"inside": inside}, batch, pseudo_label)["student"] == pytest.approx(
        expected, rel=1e-5
    )


def test_bcp_mixes_images_within_one_rectangle_of_two_thirds(batch):
    method = build("bcp")
    seen = {}
    method.student.register_forward_hook(
        lambda module, inputs, output: seen.update(image=inputs[0])
    )
    inside = method.predict(batch)["inside"]
    assert (inside.sum((1, 2)) == round(S * 2 / 3) ** 2).all()
    assert torch.equal(
        seen["image"],
        torch.cat(
            [
                torch.where(inside[:, None], batch.image_w, batch.image_l),
                torch.where(inside[:, None], batch.image_l, batch.image_w),
            ]
        ),
    )
    assert pair_up(batch, 1.0)[2].all()


def test_bcp_keeps_the_largest_component_of_each_class():
    label = torch.zeros(1, 8, 8, dtype=torch.long)
    label[0, :3, :3], label[0, 6, 6], label[0, 5, 0], label[0, 7, 2:5] = 1, 1, 2, 2
    kept = largest_of_each_class(label, C)
    assert (kept == 1).sum() == 9 and (kept == 2).sum() == 3


def test_the_teacher_is_the_moving_average_of_the_student():
    teacher, student = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    weights = [4.0, 8.0, 2.0, 6.0]
    expected, decay = None, 0.6
    for iteration, weight in enumerate(weights):
        student.weight.data.fill_(weight)
        update_ema(teacher, student, decay, iteration)
        a = min(1 - 1 / (iteration + 1), decay)
        expected = weight if expected is None else a * expected + (1 - a) * weight
        assert teacher.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "name", [name for name in PLAIN if issubclass(method_class(name), TeacherMethod)]
)
def test_no_gradient_reaches_a_teacher(name, batch):
    method = build(name)
    sum(method.step(batch).losses.values()).backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert method.student.encoder[0][0].weight.grad is not None


@pytest.mark.parametrize("name", UNLABELED)
def test_no_method_reads_the_hidden_labels(name, batch):
    if name == "cross_teaching":  # instance norm needs more than one pixel at stride 32
        batch = larger(batch)
    results = []
    for hidden in (batch.hidden_label_u, None):
        torch.manual_seed(3)
        results.append(
            build(name).step(dataclasses.replace(batch, hidden_label_u=hidden)).losses["student"]
        )
    assert torch.equal(*results)


def larger(batch):
    scale = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    grown = {
        name: value.repeat_interleave(2, -1).repeat_interleave(2, -2)
        for name, value in scale.items()
        if isinstance(value, torch.Tensor) and value.ndim >= 3 and value.shape[-1] == S
    }
    return dataclasses.replace(batch, **grown)
