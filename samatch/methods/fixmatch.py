"""FixMatch (Sohn et al., NeurIPS 2020) for segmentation, with CutMix if it is set.

    loss = L(f(x_l), y_l) + lambda_u r(t) L(f(S(w)), argmax f(w) | max softmax f(w) >= tau)

w is the weak view of an unlabeled image, S the strong view of w, L = (CE + Dice) / 2 over kept
pixels, r the ramp-up. Departures from the published trainer: f(w) is taken without dropout, its
passes alone enter batch-norm's running statistics, and the complementary-label term is left out.
"""

from dataclasses import dataclass

from torch import Tensor

from samatch.data.augment import paste_donor
from samatch.data.batches import Batch
from samatch.methods._families import forward_together
from samatch.methods.base import (
    Method,
    PseudoLabel,
    Settings,
    StepOutput,
    frozen_statistics,
    rampup,
)
from samatch.networks.losses import segmentation_loss


@dataclass(frozen=True)
class FixMatchSettings(Settings):
    """Defaults are the published trainer's."""

    conf_thresh: float = 0.95  # tau: a pixel is kept where the student's max softmax reaches it
    lambda_u: float = 1.0  # weight of the unlabeled term ...
    rampup: float = 0.4  # ... after this fraction of the iterations, exp(-5(1-t)^2) before


class FixMatch(Method):
    """One strong view of each unlabeled image; see the module."""

    Settings, strong_views, proposes = FixMatchSettings, 1, True
    settings: FixMatchSettings

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """logits_l, logits_w of the proposer without gradient, logits_s1 of strong views."""
        logits_w = self.predict_weak(batch.image_w)
        with frozen_statistics(self.student):
            logits_l, logits_s1 = forward_together(self.student, batch.image_l, batch.image_s1)
        return {"logits_l": logits_l, "logits_w": logits_w, "logits_s1": logits_s1}

    def propose(self, predictions: dict[str, Tensor]) -> PseudoLabel:
        """The most probable class, kept where the student is sure."""
        return PseudoLabel.from_probs(predictions["logits_w"].softmax(1), self.settings.conf_thresh)

    def loss(
        self, predictions: dict[str, Tensor], batch: Batch, pseudo_label: PseudoLabel | None
    ) -> StepOutput:
        """The pseudo-label is pasted where CutMix pasted the strong view."""
        assert pseudo_label is not None  # it proposes one
        loss_sup = segmentation_loss(predictions["logits_l"], batch.label_l)
        label = paste_donor(pseudo_label.taught, batch.cutmix_box1)
        keep = paste_donor(pseudo_label.keep, batch.cutmix_box1)
        loss_unsup_s1 = segmentation_loss(predictions["logits_s1"], label, keep)
        weight = self.settings.lambda_u * rampup(batch.progress, self.settings.rampup)
        return StepOutput(
            {"student": loss_sup + weight * loss_unsup_s1},
            {
                "loss_sup": loss_sup.detach(),
                "loss_unsup_s1": loss_unsup_s1.detach(),
                "mask_ratio": keep.float().mean(),
            },
        )


METHOD = FixMatch
