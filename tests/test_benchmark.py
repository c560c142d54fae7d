"""The benchmark's two sides do the same work: equal losses and gradients on one batch, and short
trainings that end alike.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import cases, scaling
from benchmarks.plain import PlainTrainer
from benchmarks.run import comparable
from benchmarks.scaling import exponents, squares
from samatch.config.settings import make_config
from samatch.data.batches import Batch, SlicePool, draw_batch
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.methods.base import method_class, predict_weak
from samatch.methods.sam_match import SamMatch
from samatch.networks.unet import UNet
from samatch.sam.model import build_sam
from samatch.system import paths
from samatch.training import pace

B, S, CLASSES = 2, 32, 4


@pytest.fixture
def volumes():
    manifest = load_manifest("phantom")
    return load_cases(manifest, manifest.cases_of(manifest.patients("train")[:3]))


@pytest.fixture
def batch(volumes):
    """One batch in both forms, without CutMix: ours, and the plain trainer's."""
    pool, rng = SlicePool.from_volumes(volumes, S), torch.Generator().manual_seed(0)
    image_l, label_l, weak, hidden = (
        pool.image[1:3],
        pool.label_of(torch.arange(1, 3)),
        pool.image[8:10],
        pool.label_of(torch.arange(8, 10)),
    )
    strong = (weak * 1.3 + 0.1 * torch.rand(weak.shape, generator=rng)).clamp(0, 1)
    index, theta = torch.arange(B), torch.eye(2, 3).expand(B, 2, 3)
    ours = Batch(
        image_l,
        label_l,
        index,
        0,
        0.9,
        image_w=weak,
        image_s1=strong,
        cutmix_box1=torch.zeros(B, S, S, dtype=torch.bool),
        index_u=index,
        theta_u=theta,
        hidden_label_u=hidden,
    )
    return ours, [(image_l, image_l, label_l), (weak, strong, hidden)]


def build(method, volumes, monkeypatch):
    """Our method and the plain trainer around copies of the same networks; batch-norm and dropout
    as in evaluation, so that the grouping of images into passes does not matter.
    """
    config = make_config(
        "demo", "phantom", 3, "samatch-fixmatch", "tiny", variant="box"
    )  # what the plain trainer does
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, image_size=S),
        sam=dataclasses.replace(config.sam, tune="all", image_size=S, prompt_drop=0.0),
        refine=dataclasses.replace(config.refine, box_jitter=0.0, box_margin_px=0.0),
    )
    students, sams = [], []
    for _ in range(2):
        torch.manual_seed(3)
        students.append(UNet(CLASSES).eval())
        sams.append(build_sam("tiny", image_size=S, num_classes=CLASSES).eval())
    sams[0].tune("all")
    monkeypatch.setattr(UNet, "train", lambda self, mode=True: self)
    plain = PlainTrainer(
        students[1],
        sams[1],
        volumes,
        volumes,
        CLASSES,
        size=S,
        batch=B,
        workers=0,
        device="cpu",
        margin=0,
    )
    match = method_class("fixmatch")(students[0], config)
    if method == "finetune":
        return method_class("finetune")(
            sams[0], dataclasses.replace(config, method_settings=()), CLASSES
        ), plain
    return (match if method == "fixmatch" else SamMatch(match, sams[0], config)), plain


@pytest.mark.parametrize(
    "method, tolerance", [("fixmatch", 1e-5), ("joint", 1e-4), ("finetune", 1e-4)]
)
def test_fast_and_plain_step_have_the_same_gradients(
    method, tolerance, batch, volumes, monkeypatch
):
    ours, plain = build(method, volumes, monkeypatch)
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: None)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    getattr(plain, f"{method}_step")(batch[1])
    output = ours.step(batch[0])
    sum(output.losses.values()).backward()
    compared = 0
    for mine, other in (
        (getattr(ours, "student", None), plain.student),
        (getattr(ours, "sam", None), plain.sam),
    ):
        for (name, a), b in zip(
            mine.named_parameters() if mine is not None else (), other.parameters(), strict=False
        ):
            if a.grad is not None or b.grad is not None:
                scale = b.grad.abs().max().clamp(min=1e-3)
                assert (a.grad - b.grad).abs().max() <= tolerance * scale, name
                compared += a.grad.abs().sum() > 0
    assert compared > 10


@pytest.mark.parametrize("side", ["plain", "samatch"])
def test_short_trainings_of_both_end_alike(side, volumes):
    """FixMatch on the same start and the same draws: cross-entropy on all slices falls to the same
    level, .20 to .22 over seeds of either side.
    """
    pool, draws = SlicePool.from_volumes(volumes, S), torch.Generator().manual_seed(0)
    config = make_config(
        "paper",
        "phantom",
        3,
        "fixmatch",
        variant="plain",
        overrides={"method.rampup": 0.0, "method.lambda_u": 0.1, "augment.cutmix_prob": 0.0},
    )
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, image_size=S, batch_labeled=B, batch_unlabeled=B),
    )
    student = UNet(CLASSES)
    method = method_class("fixmatch")(student, config)
    trainer = PlainTrainer(
        student,
        None,
        volumes,
        volumes,
        CLASSES,
        size=S,
        batch=B,
        workers=0,
        device="cpu",
        lambda_u=0.1,
    )
    trainer.optimizer.param_groups[0]["lr"] = 0.03
    for iteration in range(100):
        student.train()
        step = draw_batch(pool, 24, config, draws, iteration, unlabeled=True)
        if side == "plain":
            trainer.fixmatch_step(
                [
                    (step.image_l, step.image_l, step.label_l),
                    (step.image_w, step.image_s1, step.hidden_label_u),
                ]
            )
        else:
            trainer.optimizer.zero_grad()
            sum(method.step(step).losses.values()).backward()
            trainer.optimizer.step()
    assert torch.nn.functional.cross_entropy(
        predict_weak(student, pool.image), pool.label_of(torch.arange(len(pool)))
    ).item() == pytest.approx(0.21, abs=0.05)


@pytest.fixture
def tiny_benchmark(monkeypatch):
    monkeypatch.setattr(cases, "SIZE", 2 * S)  # the transformer's least
    for module in (cases, scaling):
        monkeypatch.setattr(module, "SAM", "tiny")


@pytest.mark.parametrize("case", cases.CASES + cases.ALONE[:2], ids=lambda case: case.name)
def test_each_case_takes_a_step_of_both_sides(case, tiny_benchmark, monkeypatch):
    """What is timed is a training step: the weights of what learns are others afterwards."""
    kept = []
    monkeypatch.setattr(cases.pace, "on_few_patients", watched(pace.on_few_patients, kept))
    step = cases.step_of(case)
    networks = kept[0].method.networks().values()

    def weights():
        return torch.cat(
            [p.detach().flatten() for network in networks for p in network.parameters()]
        )

    before = weights()
    step()
    assert (case.plain == "validate") == torch.equal(before, weights())
    if case.plain:
        assert np.isfinite(cases.plain_of(case)()).all()


def watched(function, kept):
    """The function; what it returns is appended to `kept` as well."""

    def call(*words):
        kept.append(function(*words))
        return kept[-1]

    return call


@pytest.mark.parametrize("quantity", scaling.COUNTS)
def test_what_scales_can_be_called(quantity, tiny_benchmark):
    count = 8 if quantity == "slices" else 2
    scaling.work_of(quantity, count)()


def test_a_table_keeps_only_rows_of_the_same_machine():
    columns = ["case", "samatch_s", "device", "machine", "torch", "size", "batch"]
    here, there = ["CPU", "2 cores", "2.15", 256, "2+2"], ["CPU", "8 cores", "2.15", 256, "2+2"]
    old = pd.DataFrame(
        [["FixMatch", 1.0, *here], ["validation", 2.0, *here], ["urpc", 3.0, *there]],
        columns=columns,
    )
    new = pd.DataFrame([["FixMatch", 0.5, *here]], columns=columns)
    assert comparable(old, new).case.tolist() == ["validation"]


def test_exponents_by_hand():
    """Seconds 3 n, 2 n^2, and 5 whatever n is."""
    table = pd.DataFrame(
        [
            (name, n, cost(n))
            for name, cost in (
                ("line", lambda n: 3.0 * n),
                ("square", lambda n: 2.0 * n**2),
                ("fixed", lambda n: 5.0),
            )
            for n in (1, 2, 4, 8)
        ],
        columns=["quantity", "count", "seconds"],
    )
    assert exponents(table) == pytest.approx({"line": 1, "square": 2, "fixed": 0}, abs=1e-9)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_every_class_is_in_every_image_once_and_of_one_size(count):
    image, label = squares(count)
    sizes = torch.stack([(label == number).sum((1, 2)) for number in range(1, count + 1)])
    assert (
        len(image) == len(label)
        and (sizes == sizes[0, 0]).all()
        and sizes[0, 0] > 100
        and label.max() == count
    )


def test_the_pages_profile_is_the_tracked_one_and_says_what_its_parts_add_up_to():
    page = (paths.ROOT / "docs" / "speed.md").read_text()
    table = page.partition("watched step | plain | samatch |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines()[2:]]
    *parts, (last, *in_all) = rows
    tracked = pd.read_csv(paths.TRACKED_RESULTS / "benchmarks" / "profile_cpu.csv")
    assert last == "in all"
    for column, side in enumerate(("plain_s", "samatch_s")):
        of_parts = sum(float(row[1 + column]) for row in parts)
        assert float(in_all[column]) == round(tracked[side].sum(), 1)
        assert float(in_all[column]) == pytest.approx(of_parts, abs=0.05 * len(parts))
