"""What a method is: predict -> propose -> loss, and SAM's refine between the last two.

One file a method; a method is a `Method`. Methods do not import each other; `_families` holds what
several share.
"""

import contextlib
import copy
import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from samatch import methods
from samatch.config.checks import checked
from samatch.config.settings import GUIDED, RunConfig, stage_of, variant_settings
from samatch.data.batches import Batch
from samatch.data.volumes import UNKNOWN
from samatch.sam.prompts import class_masks
from samatch.system.errors import known


@dataclass(frozen=True)
class PseudoLabel:
    """What unlabeled images are taught. Carries no gradient.

    probs (B, C, H, W), label (B, H, W) int64, confidence (B, H, W), keep (B, H, W) bool; soft:
    whether the probabilities are taught and not the class map.
    """

    probs: Tensor
    label: Tensor
    confidence: Tensor
    keep: Tensor
    soft: bool = False

    @property
    def taught(self) -> Tensor:
        """What the student learns on the kept pixels: the class map, or the probabilities."""
        return self.probs if self.soft else self.label

    @classmethod
    def from_probs(cls, probs: Tensor, conf_thresh: float) -> "PseudoLabel":
        """The most probable class, kept where its probability reaches the threshold."""
        probs = probs.detach()
        confidence, label = probs.max(dim=1)
        return cls(probs, label, confidence, confidence >= conf_thresh)

    def __getitem__(self, index: Tensor) -> "PseudoLabel":
        """Of the images index (n,) alone."""
        probs, label, confidence = self.probs[index], self.label[index], self.confidence[index]
        return PseudoLabel(probs, label, confidence, self.keep[index], self.soft)


@dataclass(frozen=True)
class StepOutput:
    """One step's result.

    losses: a scalar for each optimiser by its name; logs: scalars, averaged over iterations;
    ratios: (K, 2) sums a class, whose quotient over many iterations is logged: for a Dice [2|A and
    B|, |A| + |B|].
    """

    losses: dict[str, Tensor]
    logs: dict[str, Tensor]
    ratios: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """Settings of a method of its own; each method's defaults are its source's."""

    @classmethod
    def of(cls, changes: dict) -> Self:
        """The defaults with some changed.

        Raises InputError on an unknown name, a wrong type or an impossible value.
        """
        defaults = {f.name: f.default for f in dataclasses.fields(cls)}
        for name in changes:
            known(name, defaults, f"setting of {cls.__qualname__.removesuffix('Settings')}")
        return cls(
            **{
                name: checked(f"method.{name}", defaults[name], value)
                for name, value in changes.items()
            }
        )


class Method(nn.Module):
    """A training method around a student network.

    Validation and test segment with the student's moving average `ema`, or with the student itself
    where there is none. needs_unlabeled: whether it draws unlabeled images; strong_views: how many
    strong views of them (0 to 2); proposes: whether it makes pseudo-labels that a SAM can refine.
    """

    Settings: type[Settings] = Settings
    needs_unlabeled = True
    strong_views = 0
    proposes = False

    def __init__(self, student: nn.Module, config: RunConfig):
        super().__init__()
        self.student = student
        self.config = config
        self.settings: Settings = self.Settings.of(dict(config.method_settings))
        self.ema = copy.deepcopy(student).requires_grad_(False) if config.train.ema_decay else None

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated, tested and kept."""
        return self.student if self.ema is None else self.ema

    @property
    def proposer(self) -> nn.Module:
        """The network that makes pseudo-labels on weak views."""
        if self.proposes and self.ema is not None and self.config.train.proposer == "ema":
            return self.ema
        return self.student

    def predict_weak(self, image: Tensor) -> Tensor:
        """The proposer's logits, see `predict_weak`."""
        return predict_weak(self.proposer, image)

    def follow(self, iteration: int) -> None:
        """The moving average takes in the student's last step.

        A proposer has batch-norm statistics of its own.
        """
        if self.ema is not None:
            update_ema(
                self.ema,
                self.student,
                self.config.train.ema_decay,
                iteration,
                buffers=self.proposer is not self.ema,
            )

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Every forward pass of the student, once: logits by name."""
        raise NotImplementedError

    def propose(self, predictions: dict[str, Tensor]) -> PseudoLabel | None:
        """The pseudo-label of the unlabeled weak views; None where the method has none."""
        raise NotImplementedError

    def loss(
        self, predictions: dict[str, Tensor], batch: Batch, pseudo_label: PseudoLabel | None
    ) -> StepOutput:
        """The loss of each optimiser and what is logged; see `StepOutput`."""
        raise NotImplementedError

    def step(self, batch: Batch) -> StepOutput:
        """One iteration from batch to losses. Backward and optimisers are the training loop's."""
        predictions = self.predict(batch)
        return self.loss(predictions, batch, self.propose(predictions))

    def memory(self) -> dict[str, Tensor]:
        """What it remembers between steps besides its networks, for a run that is resumed."""
        return {}

    def recall(self, memory: dict[str, Tensor]) -> None:
        """Takes back what `memory` gave."""

    def networks(self) -> dict[str, nn.Module]:
        """What a checkpoint holds and what each optimiser trains, by its name.

        A teacher learns by no optimiser.
        """
        return {"student": self.student}


@torch.no_grad()
def update_ema(
    teacher: nn.Module, student: nn.Module, decay: float, iteration: int, buffers: bool = False
) -> None:
    """teacher = a teacher + (1 - a) student, a = min(1 - 1 / (iteration + 1), decay), in place.

    A copy at iteration 0. buffers: whether batch-norm's running statistics follow too, and not at
    the start alone.
    """
    rate = 1 - min(1 - 1 / (iteration + 1), decay)
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=True))
    if buffers or iteration == 0:
        pairs += zip(teacher.buffers(), student.buffers(), strict=True)
    for slow, fast in pairs:
        slow.lerp_(fast, rate) if slow.is_floating_point() else slow.copy_(fast)


@torch.no_grad()
def predict_weak(student: nn.Module, image: Tensor) -> Tensor:
    """Logits (B, C, H, W) float32 for pseudo-labels of images (B, 1, H, W), without gradient.

    Without dropout, with the batch's own batch-norm statistics. Only these passes enter
    batch-norm's running statistics (see `frozen_statistics`), so that they describe clean images
    without dropout, as at test time. Those of jittered images under dropout mislead the student of
    a few labeled patients on the images it is tested on.
    """
    modes = [(module, module.training) for module in student.modules()]
    student.train()
    for module, _ in modes:
        if isinstance(module, nn.Dropout):
            module.eval()
    logits = student(image).float()
    for module, mode in modes:
        module.training = mode
    return logits


@contextlib.contextmanager
def frozen_statistics(student: nn.Module) -> Iterator[None]:
    """Within it, batch-norm normalises as always but leaves its running statistics alone."""
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def rampup(progress: float, length: float) -> float:
    """exp(-5 (1 - t)^2) over the first `length` of training, then 1 (Laine & Aila, ICLR 2017)."""
    return 1.0 if progress >= length else math.exp(-5 * (1 - progress / length) ** 2)


def overlap(pred: Tensor, ref: Tensor, num_classes: int, keep: Tensor | None = None) -> Tensor:
    """Class maps (B, H, W) -> (K, 2) sums for StepOutput.ratios.

    Over the pixels that keep (B, H, W) bool holds, if given, and whose reference is known.
    """
    known_here = ref != UNKNOWN if keep is None else keep & (ref != UNKNOWN)
    a, b = (class_masks(label, num_classes) & known_here[:, None] for label in (pred, ref))
    sums = [(a & b).sum(dim=(0, 2, 3)) * 2, a.sum(dim=(0, 2, 3)) + b.sum(dim=(0, 2, 3))]
    return torch.stack(sums, dim=1).double()


def _files() -> list[str]:
    """Files of methods; one that starts with _ holds what several share."""
    found = (module.name for module in pkgutil.iter_modules(methods.__path__))
    return [
        name for name in found if name not in ("base", "sam_match") and not name.startswith("_")
    ]


def method_names() -> list[str]:
    """All methods, and the SAM-guided twins of those that propose pseudo-labels."""
    plain = _files()
    return plain + [GUIDED + name for name in plain if method_class(name).proposes]


def method_class(name: str) -> type[Method]:
    """The class METHOD of samatch/methods/<name>.py; a SAM-guided twin gives its wrapped method's.

    Raises InputError on an unknown name.
    """
    return importlib.import_module(
        f"{methods.__name__}.{known(name.removeprefix(GUIDED), _files(), 'method')}"
    ).METHOD


def fits(method: str, variant: str) -> bool:
    """Whether the method has all settings of its own that the variant changes at its stage."""
    own = {field.name for field in dataclasses.fields(method_class(method).Settings)}
    changed = (key.partition(".") for key in variant_settings(variant, stage_of(method)))
    return {name for group, _, name in changed if group == "method"} <= own
