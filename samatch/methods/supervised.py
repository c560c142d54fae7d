"""Training on labeled images alone: the lower bound, and stage 1 of the small profiles."""

from torch import Tensor

from samatch.data.batches import Batch
from samatch.methods.base import Method, PseudoLabel, StepOutput
from samatch.networks.losses import segmentation_loss


class Supervised(Method):
    """loss = (CE + Dice) / 2 on labeled images."""

    needs_unlabeled = False

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """logits_l of labeled images."""
        return {"logits_l": self.student(batch.image_l)}

    def propose(self, predictions: dict[str, Tensor]) -> PseudoLabel | None:
        """None: there are no unlabeled images."""
        return None

    def loss(
        self, predictions: dict[str, Tensor], batch: Batch, pseudo_label: PseudoLabel | None
    ) -> StepOutput:
        """(CE + Dice) / 2; `pseudo_label` is not read."""
        loss_sup = segmentation_loss(predictions["logits_l"], batch.label_l)
        return StepOutput({"student": loss_sup}, {"loss_sup": loss_sup.detach()})


METHOD = Supervised
