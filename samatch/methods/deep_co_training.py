"""Deep co-training (Qiao et al., ECCV 2018; for segmentation Peng et al., 2020).

    loss = L(f_1(x_l), y_l) + L(f_2(x_l), y_l) + r(t) (lambda_u JS(f_1(w), f_2(w)) + lambda_diff D)
    D = CE(f_2(a_1), f_1(w)) + CE(f_1(a_2), f_2(w))

JS is the Jensen-Shannon divergence, a_k = w + epsilon sign(gradient of CE(f_k(w), argmax f_k(w)))
an adversarial image against network k that the other one must withstand, so that the two stay
different.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samatch.data.batches import Batch
from samatch.methods._families import ConsistencySettings, TwoStudents, entropy
from samatch.methods.base import frozen_statistics


@dataclass(frozen=True)
class DeepCoTrainingSettings(ConsistencySettings):
    """Defaults are the paper's."""

    lambda_u: float = 10.0  # of the divergence
    lambda_diff: float = 0.5
    rampup: float = 0.13  # 80 of 600 epochs
    epsilon: float = 0.02  # of a unit of intensity


class DeepCoTraining(TwoStudents):
    """Two students that agree and stay different; see the module."""

    Settings = DeepCoTrainingSettings
    settings: DeepCoTrainingSettings

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Also logits_attacked of each student on images that mislead the other one."""
        found = super().predict(batch)
        for mine, network, other in (
            ("", self.student, self.student2),
            ("_2", self.student2, self.student),
        ):
            attack = adversarial(network, batch.image_w, self.settings.epsilon)
            with frozen_statistics(other):
                found["logits_attacked" + ("_2" if mine == "" else "")] = other(attack)
        return found

    def cross(self, predictions: dict[str, Tensor], mine: str, other: str, batch: Batch) -> Tensor:
        """Its own half of the divergence, and the attack on the other network, withstood."""
        probs, probs_other = (
            predictions["logits_w" + suffix].float().softmax(1) for suffix in (mine, other)
        )
        divergence = (
            entropy((probs + probs_other) / 2) - (entropy(probs) + entropy(probs_other)) / 2
        ).mean() / 2
        withstood = F.cross_entropy(
            predictions["logits_attacked" + mine].float(), probs_other.detach()
        )
        return divergence + self.settings.lambda_diff / self.settings.lambda_u * withstood


def adversarial(network: nn.Module, image: Tensor, epsilon: float) -> Tensor:
    """The fast gradient sign attack on the network's own prediction."""
    image = image.detach().requires_grad_()
    with frozen_statistics(network):
        logits = network(image).float()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, logits.detach().argmax(1)), image)
    return (image + epsilon * gradient.sign()).detach()


METHOD = DeepCoTraining
