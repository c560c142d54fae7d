"""Mean teacher (Tarvainen & Valpola, NeurIPS 2017).

unsupervised = mean (softmax f(w) - softmax t(w + noise))^2,   t = moving average of f
"""

import torch.nn.functional as F
from torch import Tensor

from samatch.data.batches import Batch
from samatch.methods._families import TaughtConsistency


class MeanTeacher(TaughtConsistency):
    """A teacher under noise and dropout; see the module."""

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """logits_l, logits_w, and logits_teacher of weak views with noise."""
        self.update_teacher(batch)
        return super().predict(batch) | {"logits_teacher": self.teach(batch.image_w)}

    def unsupervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """Mean squared difference to the teacher's probabilities. A scalar."""
        return F.mse_loss(
            predictions["logits_w"].float().softmax(1),
            predictions["logits_teacher"].float().softmax(1),
        )


METHOD = MeanTeacher
