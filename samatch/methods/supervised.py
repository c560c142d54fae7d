"""Supervised training on the labeled images alone: the lower bound, and stage 1 of the small profiles."""

from samatch.methods.base import Method, StepOutput
from samatch.networks.losses import segmentation_loss


class Supervised(Method):
    """loss = (CE + Dice) / 2 on labeled images."""

    needs_unlabeled = False

    def predict(self, batch):
        return {"logits_l": self.student(batch.image_l)}

    def propose(self, predictions):
        return None

    def loss(self, predictions, batch, pseudo_label):
        loss_sup = segmentation_loss(predictions["logits_l"], batch.label_l)
        return StepOutput({"student": loss_sup}, {"loss_sup": loss_sup.detach()})


METHOD = Supervised
