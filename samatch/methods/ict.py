"""Interpolation consistency training (Verma et al., IJCAI 2019).

    unsupervised = mean (softmax f(m a + (1 - m) b) - (m softmax t(a) + (1 - m) softmax t(b)))^2

m ~ Beta(alpha, alpha), a is an unlabeled image, b the one before it in the batch, t the teacher.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samatch.data.batches import Batch
from samatch.methods._families import TaughtConsistency, TeacherSettings, forward_together
from samatch.system.devices import send
from samatch.system.errors import InputError


@dataclass(frozen=True)
class IctSettings(TeacherSettings):
    """Defaults are the paper's."""

    alpha: float = 0.2
    noise: float = 0.0  # the interpolation is the perturbation

    def __post_init__(self):
        if self.alpha <= 0:
            raise InputError("method.alpha is impossible", expected="more than 0", got=self.alpha)


class Ict(TaughtConsistency):
    """The student on mixed images against the teacher's mixed answers."""

    Settings = IctSettings
    settings: IctSettings

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """logits_l, logits_mixed of mixed unlabeled images, target (B, C, H, W) probabilities."""
        self.update_teacher(batch)
        concentration = torch.full((len(batch.image_w), 1, 1, 1), self.settings.alpha)
        share = send(
            torch.distributions.Beta(concentration, concentration).sample(), batch.image_w.device
        )
        logits_l, logits_mixed = forward_together(
            self.student, batch.image_l, interpolate(batch.image_w, share)
        )
        target = interpolate(self.teach(batch.image_w).float().softmax(1), share)
        return {"logits_l": logits_l, "logits_mixed": logits_mixed, "target": target}

    def unsupervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """Mean squared difference to the target. A scalar."""
        return F.mse_loss(predictions["logits_mixed"].float().softmax(1), predictions["target"])


def interpolate(values: Tensor, share: Tensor) -> Tensor:
    """share of each sample, the rest of the one before it in the batch."""
    return share * values + (1 - share) * values.roll(1, dims=0)


METHOD = Ict
