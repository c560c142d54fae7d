"""Uncertainty-aware mean teacher (Yu et al., MICCAI 2019): the teacher teaches where it is sure.

    unsupervised = sum_v [u_v < H] |f_v - t_v|^2 / sum_v [u_v < H]

t is the softmax of the teacher, u the entropy of its mean over T passes with other noise and
dropout; H rises from 3/4 to all of log C with the ramp-up.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from samatch.data.batches import Batch
from samatch.methods._families import TaughtConsistency, TeacherSettings, entropy
from samatch.methods.base import rampup


@dataclass(frozen=True)
class UamtSettings(TeacherSettings):
    """Defaults are the paper's."""

    passes: int = 8  # T


class Uamt(TaughtConsistency):
    """A teacher that says how sure it is; see the module."""

    Settings = UamtSettings
    settings: UamtSettings

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Also logits_teacher, and uncertainty (B, H, W) in nats of its mean over T passes."""
        self.update_teacher(batch)
        sampled = self.teach(batch.image_w.repeat(self.settings.passes, 1, 1, 1)).float().softmax(1)
        mean = torch.stack(sampled.chunk(self.settings.passes)).mean(0)
        return super().predict(batch) | {
            "logits_teacher": self.teach(batch.image_w),
            "uncertainty": entropy(mean),
        }

    def unsupervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """Squared difference to the teacher's probabilities where that one is sure."""
        student, teacher = (
            predictions[name].float().softmax(1) for name in ("logits_w", "logits_teacher")
        )
        threshold = (0.75 + 0.25 * rampup(batch.progress, self.settings.rampup)) * math.log(
            student.shape[1]
        )
        sure = (predictions["uncertainty"] < threshold).float()
        return ((student - teacher).square().sum(1) * sure).sum() / sure.sum().clamp(min=1)


METHOD = Uamt
