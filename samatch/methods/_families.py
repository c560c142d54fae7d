"""What several methods share: forward passes, a teacher by moving average, two students."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samatch.config.settings import RunConfig
from samatch.data.batches import Batch
from samatch.methods.base import Method, PseudoLabel, Settings, StepOutput, rampup, update_ema
from samatch.networks.losses import segmentation_loss
from samatch.networks.unet import UNet


@dataclass(frozen=True)
class ConsistencySettings(Settings):
    """Weight of the unlabeled term and its ramp-up; defaults of SSL4MIS's trainers."""

    lambda_u: float = 0.1  # weight of the unlabeled term ...
    rampup: float = 1.0  # ... after this fraction of the iterations, exp(-5(1-t)^2) before


class ConsistencyMethod(Method):
    """For methods that say only what is unsupervised.

    loss = L(f(x_l), y_l) + lambda_u r(t) unsupervised; r is the ramp-up, L = (CE + Dice) / 2.
    """

    Settings = ConsistencySettings
    settings: ConsistencySettings

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """logits_l of labeled images and logits_w of weak views, from one pass."""
        logits_l, logits_w = forward_together(self.student, batch.image_l, batch.image_w)
        return {"logits_l": logits_l, "logits_w": logits_w}

    def propose(self, predictions: dict[str, Tensor]) -> PseudoLabel | None:
        """None: unlabeled images are taught without pseudo-labels."""
        return None

    def supervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """The labeled term, a scalar."""
        return segmentation_loss(predictions["logits_l"], batch.label_l)

    def unsupervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """The unlabeled term before its weight, a scalar."""
        raise NotImplementedError

    def loss(
        self, predictions: dict[str, Tensor], batch: Batch, pseudo_label: PseudoLabel | None
    ) -> StepOutput:
        """Both terms; `pseudo_label` is not read."""
        loss_sup, loss_unsup = (
            self.supervised(predictions, batch),
            self.unsupervised(predictions, batch),
        )
        return StepOutput(
            {"student": loss_sup + self.consistency_weight(batch) * loss_unsup},
            {"loss_sup": loss_sup.detach(), "loss_unsup": loss_unsup.detach()},
        )

    def consistency_weight(self, batch: Batch) -> float:
        """lambda_u r(t), r the ramp-up over training progress."""
        return self.settings.lambda_u * rampup(batch.progress, self.settings.rampup)


@dataclass(frozen=True)
class EmaSettings(Settings):
    """How slowly a teacher follows; the default of SSL4MIS's mean teacher."""

    ema_decay: float = 0.99


class TeacherMethod(Method):
    """A method with a teacher, the moving average of the student."""

    Settings: type[EmaSettings] = EmaSettings
    settings: EmaSettings

    def __init__(self, student: nn.Module, config: RunConfig):
        super().__init__(student, config)
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    def networks(self) -> dict[str, nn.Module]:
        """The student and its teacher, which no optimiser trains."""
        return {"student": self.student, "teacher": self.teacher}

    def update_teacher(self, batch: Batch) -> None:
        """Before an iteration's forward passes: the teacher has then followed all steps so far."""
        update_ema(self.teacher, self.student, self.settings.ema_decay, batch.iteration)


@dataclass(frozen=True)
class TeacherSettings(EmaSettings, ConsistencySettings):
    """Defaults of SSL4MIS's mean teacher."""

    noise: float = 0.1  # standard deviation of the noise on the teacher's images, cut at twice it


class TaughtConsistency(TeacherMethod, ConsistencyMethod):
    """A consistency method whose teacher sees images with noise."""

    Settings = TeacherSettings
    settings: TeacherSettings

    @torch.no_grad()
    def teach(self, image: Tensor) -> Tensor:
        """The teacher's logits on the image with noise, under dropout as in training."""
        noise = (torch.randn_like(image) * self.settings.noise).clamp(
            -2 * self.settings.noise, 2 * self.settings.noise
        )
        return self.teacher.train()(image + noise)


class TwoStudents(ConsistencyMethod):
    """Two networks that teach each other; the first one is validated and tested."""

    def __init__(self, student: nn.Module, config: RunConfig):
        super().__init__(student, config)
        self.student2 = self.new_partner(student)

    def new_partner(self, student: nn.Module) -> nn.Module:
        """The same network with random weights of its own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed + 1)
            return like(UNet(student.num_classes), student)

    def networks(self) -> dict[str, nn.Module]:
        """The student that is tested, and student2."""
        return {"student": self.student, "student2": self.student2}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Logits of both: names of the second one end with _2."""
        found = {}
        for suffix, network in (("", self.student), ("_2", self.student2)):
            found["logits_l" + suffix], found["logits_w" + suffix] = forward_together(
                network, batch.image_l, batch.image_w
            )
        return found

    def cross(self, predictions: dict[str, Tensor], mine: str, other: str, batch: Batch) -> Tensor:
        """The unlabeled term of student `mine` taught by `other`: suffixes of names of logits."""
        raise NotImplementedError

    def loss(
        self, predictions: dict[str, Tensor], batch: Batch, pseudo_label: PseudoLabel | None
    ) -> StepOutput:
        """A loss a student, each of its own reference and the other's teaching."""
        weight = self.consistency_weight(batch)
        losses: dict[str, Tensor] = {}
        logs: dict[str, Tensor] = {}
        for name, mine, other in (("student", "", "_2"), ("student2", "_2", "")):
            loss_sup = segmentation_loss(predictions["logits_l" + mine], batch.label_l)
            loss_unsup = self.cross(predictions, mine, other, batch)
            losses[name] = loss_sup + weight * loss_unsup
            logs |= {"loss_sup" + mine: loss_sup.detach(), "loss_unsup" + mine: loss_unsup.detach()}
        return StepOutput(losses, logs)


def forward_together(network: nn.Module, *images: Tensor) -> tuple[Tensor, ...]:
    """Logits of each batch of images, from one pass: they share batch-norm's statistics."""
    return network(torch.cat(images)).split([len(image) for image in images])


def like(network: nn.Module, student: nn.Module) -> nn.Module:
    """`network` on the student's device and in its memory layout."""
    return network.to(next(student.parameters()).device, memory_format=torch.channels_last)


def entropy(probs: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W), in nats."""
    return -(probs * probs.clamp(min=1e-8).log()).sum(1)
