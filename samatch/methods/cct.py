"""Cross-consistency training (Ouali et al., CVPR 2020): auxiliary decoders see perturbed features.

    unsupervised = mean over k of mean (softmax g_k(P_k(e(w))) - softmax g(e(w)))^2

e encoder, g main decoder (gives no gradient here), g_k auxiliary ones. P_k: noise on the features,
the most active positions dropped, channels dropped. The paper's other perturbations (guided
masking, VAT) are left out, as in SSL4MIS.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samatch.config.settings import RunConfig
from samatch.data.batches import Batch
from samatch.methods._families import ConsistencyMethod, like
from samatch.networks.unet import Decoder


class Cct(ConsistencyMethod):
    """The student and an auxiliary decoder a perturbation."""

    def __init__(self, student: nn.Module, config: RunConfig):
        super().__init__(student, config)
        self.auxiliary = like(
            nn.ModuleList(Decoder(student.num_classes) for _ in PERTURBATIONS), student
        )

    def networks(self) -> dict[str, nn.Module]:
        """The student and its auxiliary decoders."""
        return {"student": self.student, "auxiliary": self.auxiliary}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """logits_l, logits_w, and logits_perturbed (3, B, C, H, W) of the auxiliary decoders."""
        count = len(batch.image_l)
        features = self.student.features(torch.cat([batch.image_l, batch.image_w]))
        logits_l, logits_w = self.student.decoder(features).split([count, len(batch.image_w)])
        unlabeled = [x[count:] for x in features]
        perturbed = [
            decoder([perturb(x) for x in unlabeled])
            for decoder, perturb in zip(self.auxiliary, PERTURBATIONS, strict=True)
        ]
        return {
            "logits_l": logits_l,
            "logits_w": logits_w,
            "logits_perturbed": torch.stack(perturbed),
        }

    def unsupervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """Mean squared difference of the auxiliary maps to the main one. A scalar."""
        target = predictions["logits_w"].detach().float().softmax(1)
        return torch.stack(
            [
                F.mse_loss(logits.float().softmax(1), target)
                for logits in predictions["logits_perturbed"]
            ]
        ).mean()


def feature_noise(x: Tensor) -> Tensor:
    """x (1 + n), n uniform in +-.3, one a channel and position, shared by the batch."""
    return x * (1 + torch.empty_like(x[:1]).uniform_(-0.3, 0.3))


def feature_drop(x: Tensor) -> Tensor:
    """Without the positions whose mean activity exceeds a share of the sample's maximum, drawn from
    .7-.9.
    """
    activity = x.detach().mean(1, keepdim=True)
    limit = activity.amax(dim=(2, 3), keepdim=True) * torch.empty_like(x[:, :1, :1, :1]).uniform_(
        0.7, 0.9
    )
    return x * (activity < limit)


def channel_drop(x: Tensor) -> Tensor:
    """(B, C, h, w) without half of its channels, drawn for each image."""
    return F.dropout2d(x, 0.5)


PERTURBATIONS = (feature_noise, feature_drop, channel_drop)
METHOD = Cct
