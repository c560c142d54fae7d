"""A hand-made batch, a small network of every method, tiny trainings, losses in plain numpy."""

import contextlib
import dataclasses
import shutil

import numpy as np
import pytest
import torch

from samatch.config.settings import FINETUNE, GUIDED, make_config
from samatch.data.batches import Batch
from samatch.methods.base import method_class, method_names
from samatch.networks.unet import UNet
from samatch.results.runs import Run
from samatch.system import paths
from samatch.training import train
from samatch.training.states import TrainingState
from samatch.training.task import prepare

B, C, S = 2, 3, 32
PLAIN = [name for name in method_names() if not name.startswith(GUIDED) and name != FINETUNE]


def build(name, **changes):
    config = make_config("demo", "phantom", 3, name)
    config = dataclasses.replace(
        config,
        method_settings=tuple(changes.items()),
        train=dataclasses.replace(
            config.train, image_size=S, batch_labeled=B, batch_unlabeled=B, lr=0.03
        ),
    )
    return method_class(name)(
        UNet(C, channels=(4, 8, 8, 16, 16))
        if name not in ("urpc", "cct", "cps", "deep_co_training")
        else UNet(C),
        config,
    )


def tiny(method="samatch-fixmatch", **changes):
    """A training on phantoms with the tiny SAM; short with the fixture tiny_profile."""
    return make_config("demo", "phantom", 3, method, "tiny", **changes)


def started(run_config, trial=""):
    """A run's task and its first state."""
    run = Run(run_config, trial)
    run.open()
    task = prepare(run_config)
    return task, TrainingState.start(task, run), run


def bring_parents(complete, run_config):
    """Copies a run's parents, so that they need not be trained again."""
    for parent in run_config.parents:
        shutil.copytree(complete / parent, paths.runs_dir("demo") / parent)


class Killed(BaseException):
    """Ends a training as a signal would: nothing in it may catch this."""


@contextlib.contextmanager
def killed_after(iteration):
    """A training within it is killed after so many iterations."""
    one = train.train_one

    def train_one(task, state):
        if state.iteration == iteration:
            raise Killed
        one(task, state)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train, "train_one", train_one)
        yield


def differing_pixels(pred, ref, spacing):
    """In the place of surface distances, which take most of
    the time of a short training: changes with every pixel."""
    return float((pred ^ ref).sum()), float(pred.sum())


def hand_made_batch():
    rng = torch.Generator().manual_seed(5)
    image, label = (
        (lambda: torch.rand(B, 1, S, S, generator=rng)),
        torch.randint(0, C, (B, S, S), generator=rng),
    )
    box = torch.zeros(2, B, S, S, dtype=torch.bool)
    box[0, 0, 3:20, 5:30], box[1, 1, 0:9, 0:9] = True, True
    index, theta = torch.arange(B), torch.eye(2, 3).expand(B, 2, 3)
    return Batch(
        image(),
        label,
        index,
        7,
        0.25,
        image_w=image(),
        image_s1=image(),
        cutmix_box1=box[0],
        image_s2=image(),
        cutmix_box2=box[1],
        index_u=index,
        theta_u=theta,
        hidden_label_u=label,
    )


def logits(*names, seed=0, count=B):
    rng = torch.Generator().manual_seed(seed)
    return {name: 2 * torch.randn(count, C, S, S, generator=rng) for name in names}


def softmax(x, axis=1):
    e = np.exp(np.asarray(x, dtype=np.float64) - np.asarray(x).max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def ce(logits, label, keep=None):
    loss = -np.log(np.take_along_axis(softmax(logits), np.asarray(label)[:, None], 1)[:, 0])
    keep = np.ones(loss.shape, bool) if keep is None else np.asarray(keep)
    return loss[keep].mean() if keep.any() else 0.0


def dice(logits, label, keep=None):
    p, label = softmax(logits), np.asarray(label)
    keep = np.ones(label.shape, bool) if keep is None else np.asarray(keep)
    terms = [
        1
        - (2 * (p[:, c][keep] * (label == c)[keep]).sum() + 1e-5)
        / ((p[:, c][keep] ** 2).sum() + (label == c)[keep].sum() + 1e-5)
        for c in range(C)
    ]
    return np.mean(terms)


def seg(logits, label, keep=None):
    return (ce(logits, label, keep) + dice(logits, label, keep)) / 2


def h(p, axis=1):
    return -(p * np.log(p)).sum(axis)
