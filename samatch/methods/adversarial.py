"""Deep adversarial network, DAN (Zhang et al., MICCAI 2017): an evaluator judges predictions.

It learns to tell those of labeled images from those of unlabeled ones.

    evaluator = BCE(D(x_l, softmax f(x_l)), 1) + BCE(D(x_u, softmax f(x_u)), 0)
    unsupervised = BCE(D(x_u, softmax f(x_u)), 1)

D is MONAI's patch discriminator under Adam; no gradient of the student's loss reaches it. x_u is a
view of the kind that x_l is: with another brightness and contrast where labeled images get one.
Else D would tell the two apart by that, whatever the student predicts.
"""

import torch
import torch.nn.functional as F
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.func import functional_call

from samatch.config.settings import RunConfig
from samatch.data.batches import Batch
from samatch.methods._families import ConsistencyMethod, forward_together, like
from samatch.methods.base import PseudoLabel, StepOutput


class Adversarial(ConsistencyMethod):
    """The student against a discriminator of its own; see the module."""

    def __init__(self, student: nn.Module, config: RunConfig):
        super().__init__(student, config)
        self.strong_views = int(config.augment.jitter_labeled)
        self.discriminator = like(
            PatchDiscriminator(
                spatial_dims=2, channels=32, in_channels=student.num_classes + 1, num_layers_d=3
            ),
            student,
        )

    def networks(self) -> dict[str, nn.Module]:
        """The student and its discriminator."""
        return {"student": self.student, "discriminator": self.discriminator}

    def unlabeled_view(self, batch: Batch) -> Tensor:
        """Unlabeled images (B, 1, H, W) in the kind of view that the labeled ones have."""
        return batch.image_s1 if self.strong_views else batch.image_w

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """logits_l of labeled and logits_u of unlabeled images, from one pass."""
        judged = self.unlabeled_view(batch)
        logits_l, logits_u = forward_together(self.student, batch.image_l, judged)
        return {"logits_l": logits_l, "logits_u": logits_u}

    def unsupervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """The student's share: its unlabeled maps should pass for labeled ones. A scalar."""
        fixed = {name: value.detach() for name, value in self.discriminator.state_dict().items()}
        judged = evidence(self.unlabeled_view(batch), predictions["logits_u"])
        return verdict_loss(functional_call(self.discriminator, fixed, (judged,))[-1], 1.0)

    def loss(
        self, predictions: dict[str, Tensor], batch: Batch, pseudo_label: PseudoLabel | None
    ) -> StepOutput:
        """Adds the discriminator's own loss, under the name "discriminator"."""
        output = super().loss(predictions, batch, pseudo_label)
        labeled, unlabeled = (
            self.discriminator(evidence(image, predictions[name].detach()))[-1]
            for image, name in (
                (batch.image_l, "logits_l"),
                (self.unlabeled_view(batch), "logits_u"),
            )
        )
        evaluator = verdict_loss(labeled, 1.0) + verdict_loss(unlabeled, 0.0)
        return type(output)(
            output.losses | {"discriminator": evaluator},
            output.logs | {"loss_discriminator": evaluator.detach()},
        )


def evidence(image: Tensor, logits: Tensor) -> Tensor:
    """(B, 1, H, W) images and (B, C, H, W) logits -> (B, 1 + C, H, W): what is judged."""
    return torch.cat([image, logits.float().softmax(1)], dim=1)


def verdict_loss(verdict: Tensor, target: float) -> Tensor:
    """BCE of the discriminator's logits, any shape, against one target for all."""
    return F.binary_cross_entropy_with_logits(
        verdict.float(), torch.full_like(verdict, target, dtype=torch.float32)
    )


METHOD = Adversarial
