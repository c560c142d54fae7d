"""Uncertainty rectified pyramid consistency (Luo et al., MICCAI 2021).

    loss = mean over scales of L(f_s(x_l), y_l)
    unsupervised = mean over s of [ sum_v w |p_s - p|^2 / sum_v w + mean_v D_s ]
    w = exp(-D_s),  D_s = KL(p_s || p)

p_s is the prediction from the decoder's map at stride 1, 2, 4 or 8, brought to full size, p their
mean.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samatch.config.settings import RunConfig
from samatch.data.batches import Batch
from samatch.methods._families import ConsistencyMethod, like
from samatch.networks.losses import segmentation_loss
from samatch.networks.unet import CHANNELS


class Urpc(ConsistencyMethod):
    """The student with a head at each scale of its decoder."""

    def __init__(self, student: nn.Module, config: RunConfig):
        super().__init__(student, config)
        self.heads = like(
            nn.ModuleList(
                nn.Conv2d(channels, student.num_classes, 3, padding=1)
                for channels in CHANNELS[-2:0:-1]
            ),
            student,
        )

    def networks(self) -> dict[str, nn.Module]:
        """The student, and the heads of the three coarser scales."""
        return {"student": self.student, "heads": self.heads}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """logits (4, B_l + B_u, C, H, W): the student's own, then strides 8, 4 and 2."""
        maps = self.student.decoder.maps(
            self.student.features(torch.cat([batch.image_l, batch.image_w]))
        )
        size, logits = batch.image_l.shape[-2:], [self.student.decoder.classifier(maps[-1])]
        for head, coarse in zip(self.heads, maps[:-1], strict=True):
            logits.append(F.interpolate(head(coarse), size, mode="bilinear", align_corners=False))
        return {"logits": torch.stack(logits)}

    def supervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """The mean over scales."""
        return torch.stack(
            [
                segmentation_loss(logits[: len(batch.label_l)], batch.label_l)
                for logits in predictions["logits"]
            ]
        ).mean()

    def unsupervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """Each scale against the mean of all, rectified by their divergence. A scalar."""
        probs = predictions["logits"][:, len(batch.label_l) :].float().softmax(2)
        mean = probs.mean(0, keepdim=True)
        difference = (probs * (probs.clamp(min=1e-8).log() - mean.clamp(min=1e-8).log())).sum(2)
        weight = torch.exp(-difference)
        distance = (probs - mean).square().sum(2)
        return (
            (distance * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
            + difference.flatten(1).mean(1)
        ).mean()


METHOD = Urpc
