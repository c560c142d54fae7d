"""R-Drop (Wu et al., NeurIPS 2021): two passes under dropout should agree.

Both on labeled and on unlabeled images.

loss = mean over both passes of L(f(x_l), y_l) + lambda_u r(t) (KL(p || q) + KL(q || p)) / 2
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samatch.data.batches import Batch
from samatch.methods._families import ConsistencyMethod, ConsistencySettings
from samatch.networks.losses import segmentation_loss


@dataclass(frozen=True)
class RDropSettings(ConsistencySettings):
    """Defaults for images."""

    lambda_u: float = 0.6  # the paper's alpha for images
    rampup: float = 0.0


class RDrop(ConsistencyMethod):
    """The student twice; see the module."""

    Settings = RDropSettings

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Two passes over labeled and unlabeled images together, (B_l + B_u, C, H, W) each."""
        images = torch.cat([batch.image_l, batch.image_w])
        return {"logits": self.student(images), "logits_again": self.student(images)}

    def supervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """The mean of both passes."""
        return (
            sum(
                segmentation_loss(logits[: len(batch.label_l)], batch.label_l)
                for logits in predictions.values()
            )
            / 2
        )

    def unsupervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """Symmetric Kullback-Leibler divergence, in nats, over labeled and unlabeled images."""
        p, q = (predictions[name].float().log_softmax(1) for name in ("logits", "logits_again"))
        both = F.kl_div(q, p, reduction="none", log_target=True) + F.kl_div(
            p, q, reduction="none", log_target=True
        )
        return both.sum(1).mean() / 2


METHOD = RDrop
