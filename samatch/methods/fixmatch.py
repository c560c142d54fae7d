"""FixMatch (Sohn et al., NeurIPS 2020) for segmentation, with CutMix on the strong view where it is set.

    loss = L(f(x_l), y_l) + lambda_u r(t) L(f(S(w)), argmax f(w) | max softmax f(w) >= tau)

w is the weak view of an unlabeled image, S the strong view of w, L = (CE + Dice) / 2 over kept pixels,
r the ramp-up. Departures from the published trainer: f(w) is taken without dropout, its passes alone enter
batch-norm's running statistics, and the complementary-label term is left out.
"""

import torch

from samatch.augment import paste_neighbour
from samatch.losses import segmentation_loss
from samatch.methods import Method, PseudoLabel, StepOutput, frozen_statistics, predict_weak, rampup


class FixMatch(Method):
    def predict(self, batch):
        logits_w = predict_weak(self.student, batch.image_w)
        with frozen_statistics(self.student):
            logits = self.student(torch.cat([batch.image_l, batch.image_s1]))
        logits_l, logits_s1 = logits.split([len(batch.image_l), len(batch.image_s1)])
        return {"logits_l": logits_l, "logits_w": logits_w, "logits_s1": logits_s1}

    def propose(self, predictions):
        return PseudoLabel.from_probs(predictions["logits_w"].softmax(1), self.config.match.conf_thresh)

    def loss(self, predictions, batch, pseudo_label):
        loss_sup = segmentation_loss(predictions["logits_l"], batch.label_l)
        label = paste_neighbour(pseudo_label.label, batch.cutmix_box1)
        keep = paste_neighbour(pseudo_label.keep, batch.cutmix_box1)
        loss_unsup_s1 = segmentation_loss(predictions["logits_s1"], label, keep)
        weight = self.config.match.lambda_u * rampup(batch.progress, self.config.match.rampup)
        return StepOutput({"student": loss_sup + weight * loss_unsup_s1},
                          {"loss_sup": loss_sup.detach(), "loss_unsup_s1": loss_unsup_s1.detach(), "mask_ratio": keep.float().mean()})


METHOD = FixMatch
