"""Stage 2: SAM learns from the labeled slices, asked with the reference's boxes or with nothing.

    with boxes:        loss = 2 (Dice + BCE) + MSE(predicted IoU, IoU), of each class (published)
    without a prompt:  loss = (CE + Dice) / 2 of the class map that the class queries ask for
    class_boxes:       the same, and the queries are given the boxes of all classes

Each step draws one of the two, the second with probability `sam.prompt_drop`. With a fixed image
encoder the embeddings of the slices and of some augmented views of each (`sam.views`) come from the
cache.
"""

import torch
from torch import Tensor, nn

from samatch.config.settings import RunConfig
from samatch.data.batches import Batch
from samatch.methods.base import Method, StepOutput
from samatch.sam.model import Embeddings, SamModel, supervised_loss


class FineTune(Method):
    """SAM alone learns; there is no student."""

    needs_unlabeled = False

    def __init__(
        self,
        sam: SamModel,
        config: RunConfig,
        num_classes: int,
        embeddings: Embeddings | None = None,
        labels: Tensor | None = None,
    ):
        """embeddings, labels (N, S, S): of labeled slices and their views; None: encode."""
        super().__init__(nn.Identity(), config)
        self.sam, self.num_classes = sam, num_classes
        self.embeddings, self.labels = embeddings, labels

    def step(self, batch: Batch) -> StepOutput:
        """One of SAM's two losses, on the labeled images."""
        if self.embeddings is not None and self.labels is not None:
            embeddings = self.embeddings[batch.index_l]
            label = self.labels[batch.index_l].long()
        else:
            embeddings, label = self.sam.encode(batch.image_l), batch.label_l
        prompt = self.config.refine.prompt
        if self.answers_alone and torch.rand(()) < self.config.sam.prompt_drop:
            prompt = "none"
        loss = supervised_loss(
            self.sam, embeddings, label, self.num_classes, prompt, self.config.refine.box_jitter
        )
        name = "loss_sam_alone" if prompt == "none" else "loss_sam_boxes"
        return StepOutput({"sam": loss}, {name: loss.detach()})

    @property
    def answers_alone(self) -> bool:
        """Whether this SAM learns to answer without a prompt."""
        return self.sam.class_queries is not None and self.config.sam.prompt_drop > 0

    def networks(self) -> dict[str, nn.Module]:
        """SAM alone."""
        return {"sam": self.sam}


METHOD = FineTune
