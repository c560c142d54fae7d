"""Stage 2: fine-tuning of SAM on the labeled slices, prompted with the reference's boxes.

    loss = 2 (Dice + BCE) + MSE(predicted IoU, IoU), one object a class

With a fixed image encoder the slices are not augmented and their embeddings come from the cache.
"""

from torch import nn

from samatch.config import RunConfig
from samatch.methods import Method, StepOutput
from samatch.sam import SamModel, reference_loss


class FineTune(Method):
    needs_unlabeled = False

    def __init__(self, sam: SamModel, config: RunConfig, num_classes: int, embeddings=None, labels=None):
        """embeddings[index] and labels[index] (N, S, S): of unaugmented labeled slices; None to encode views."""
        super().__init__(nn.Identity(), config)
        self.sam, self.num_classes = sam, num_classes
        self.embeddings, self.labels = embeddings, labels

    def step(self, batch):
        if self.embeddings is not None:
            embeddings, label = self.embeddings[batch.index_l], self.labels[batch.index_l]
        else:
            embeddings, label = self.sam.encode(batch.image_l), batch.label_l
        loss = reference_loss(self.sam, embeddings, label, self.num_classes, self.config.refine.box_jitter)
        return StepOutput({"sam": loss}, {"loss_sam_sup": loss.detach()})

    def networks(self):
        return {"sam": self.sam}


METHOD = FineTune
