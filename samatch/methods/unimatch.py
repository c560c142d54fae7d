"""UniMatch (Yang et al., CVPR 2023), as its authors train it on medical images.

    loss = (L(f(x_l), y_l) + lambda_u r(t) U) / 2
    U = D(f(S_1(w))) / 4 + D(f(S_2(w))) / 4 + D(g(P(e(w)))) / 2

D is the Dice loss against argmax f(w) over the pixels with max softmax f(w) >= tau, S_1 and S_2 are
two strong views with CutMix, f = g(e) encoder and decoder, P drops half of the channels of all five
encoder features. Departures as for FixMatch (f(w) without dropout, batch-norm's running statistics
from it alone), and the donors of CutMix come from the same batch instead of a third one, which
saves a forward pass.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samatch.data.augment import paste_donor
from samatch.data.batches import Batch
from samatch.methods.base import (
    Method,
    PseudoLabel,
    Settings,
    StepOutput,
    frozen_statistics,
    rampup,
)
from samatch.networks.losses import dice_loss, segmentation_loss


@dataclass(frozen=True)
class UniMatchSettings(Settings):
    """Defaults are the authors'."""

    conf_thresh: float = 0.95  # tau
    lambda_u: float = 1.0  # weight of the unlabeled terms ...
    rampup: float = 0.0  # ... after this fraction of the iterations
    drop: float = 0.5  # share of channels that feature perturbation drops


class UniMatch(Method):
    """Two strong views, and one of dropped features; see the module."""

    Settings, strong_views, proposes = UniMatchSettings, 2, True
    settings: UniMatchSettings

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """logits_l, logits_w without gradient, logits_s1, logits_s2 and logits_fp."""
        logits_w = self.predict_weak(batch.image_w)
        count_l, count_u = len(batch.image_l), len(batch.image_w)
        with frozen_statistics(self.student):
            features = self.student.features(
                torch.cat([batch.image_l, batch.image_s1, batch.image_s2, batch.image_w])
            )
            features = [
                torch.cat([x[:-count_u], F.dropout2d(x[-count_u:], self.settings.drop)])
                for x in features
            ]
            logits_l, logits_s1, logits_s2, logits_fp = self.student.decoder(features).split(
                [count_l] + 3 * [count_u]
            )
        return {
            "logits_l": logits_l,
            "logits_w": logits_w,
            "logits_s1": logits_s1,
            "logits_s2": logits_s2,
            "logits_fp": logits_fp,
        }

    def propose(self, predictions: dict[str, Tensor]) -> PseudoLabel:
        """The most probable class, kept where the student is sure."""
        return PseudoLabel.from_probs(predictions["logits_w"].softmax(1), self.settings.conf_thresh)

    def loss(
        self, predictions: dict[str, Tensor], batch: Batch, pseudo_label: PseudoLabel | None
    ) -> StepOutput:
        """Each strong view against the pseudo-label as its CutMix pasted it."""
        assert pseudo_label is not None  # it proposes one
        loss_sup = segmentation_loss(predictions["logits_l"], batch.label_l)
        views = {
            "s1": (batch.cutmix_box1, 1),
            "s2": (batch.cutmix_box2, 2),
            "fp": (torch.zeros_like(batch.cutmix_box1), 0),
        }
        terms = {}
        for name, donor in views.items():
            label, keep = (
                paste_donor(pseudo_label.taught, *donor),
                paste_donor(pseudo_label.keep, *donor),
            )
            terms[name] = dice_loss(predictions[f"logits_{name}"].float().softmax(1), label, keep)
        unsupervised = terms["s1"] / 4 + terms["s2"] / 4 + terms["fp"] / 2
        weight = self.settings.lambda_u * rampup(batch.progress, self.settings.rampup)
        return StepOutput(
            {"student": (loss_sup + weight * unsupervised) / 2},
            {
                "loss_sup": loss_sup.detach(),
                **{f"loss_unsup_{name}": term.detach() for name, term in terms.items()},
                "mask_ratio": pseudo_label.keep.float().mean(),
            },
        )


METHOD = UniMatch
