"""SAM-Match (Xu et al., Medical Physics 2025): refine a match method's pseudo-label with SAM, train both.

    predict, propose   as the wrapped match method
    refine             class map -> Prompt -> SAM -> class map
    loss               as the wrapped match method, with the refined pseudo-label
    SAM's own loss     L_sam(labeled, reference boxes) + lambda_unsup L_sam(unlabeled, student's pseudo-label)

`combine` says how SAM's map P_sam and the student's P become one: "replace" (the paper) takes P_sam,
"consensus" (P + P_sam) / 2, "agree" takes P and keeps the pixels where both name the same class, "student"
leaves P as it is. `published` keeps the arithmetic of the authors' code where it is wrong, one item or all.
"""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samatch.augment import inverse, warp
from samatch.config import RunConfig
from samatch.losses import sam_loss, sam_loss_as_published
from samatch.methods import Method, PseudoLabel, overlap
from samatch.prompts import Prompt, class_masks, prompt_from_probs
from samatch.sam import SamModel, reference_loss, resize


@dataclass(frozen=True)
class Refinement:
    """What refine found: the new pseudo-label, SAM's own class map and its answer in SAM's frame."""

    pseudo_label: PseudoLabel
    sam_label: Tensor        # (B, H, W) SAM's class map in the student's view
    accepted: Tensor         # (B, K) bool: objects that were asked for and passed the gate
    prompt: Prompt
    mask_logits: Tensor      # (B, K, S, S); with gradient where SAM learns from them
    iou_pred: Tensor         # (B, K)
    target: Tensor           # (B, S', S') the student's class map in SAM's frame


class SamMatch(Method):
    """A match method guided by a SAM.

    embeddings[index] -> (B, C, h, w) and sam_labels (N, S, S), both of unaugmented slices, are given when the image
    encoder is fixed; without them SAM encodes the weak view.
    """

    def __init__(self, match: Method, sam: SamModel, config: RunConfig, embeddings=None, sam_labels: Tensor | None = None):
        self.Settings, self.strong_views = match.Settings, match.strong_views
        super().__init__(match.student, config)
        self.match, self.sam = match, sam
        self.embeddings, self.sam_labels = embeddings, sam_labels
        self.predict, self.propose, self.loss = match.predict, match.propose, match.loss

    def step(self, batch):
        predictions = self.predict(batch)
        proposed = self.propose(predictions)
        learns = self.config.sam.tune != "frozen" and batch.iteration % self.config.sam.update_every == 0
        embeddings_u, embeddings_l = self._embed(batch, learns)
        refinement = self.refine(batch, proposed, learns, embeddings_u)
        output = self.loss(predictions, batch, refinement.pseudo_label)
        losses, logs = dict(output.losses), output.logs | self._agreement(proposed, refinement)
        if learns:
            losses["sam"], sam_logs = self._sam_losses(batch, refinement, embeddings_l)
            logs |= sam_logs
        return dataclasses.replace(output, losses=losses, logs=logs, ratios=self._ratios(batch, proposed, refinement))

    def refine(self, batch, proposed: PseudoLabel, learns: bool = False, embeddings: Tensor | None = None) -> Refinement:
        """The student's pseudo-label, SAM asked about it, and both made one. Probabilities carry no gradient.

        embeddings: (B, C, h, w) of the unlabeled images, found here if not given.
        """
        if embeddings is None:
            embeddings, _ = self._embed(batch, learns=False)
        probs = self._to_sam(proposed.probs, batch)
        target = probs.argmax(1)
        settings = self.config.refine
        prompt = prompt_from_probs(probs, target, settings)
        with torch.set_grad_enabled(learns):
            mask_logits, iou_pred = self.sam.decode(embeddings, prompt)
        num_classes = probs.shape[1]
        sam_probs = class_probs(mask_logits.detach(), published(settings, "background"))
        sam_probs = self._to_view(sam_probs, batch)
        sam_label = sam_probs.argmax(1)
        accepted = gate(settings, prompt.present, iou_pred.detach(), class_masks(sam_label, num_classes),
                        class_masks(proposed.label, num_classes))
        pseudo_label = combine(settings, proposed, fall_back(sam_probs, proposed.probs, accepted))
        return Refinement(pseudo_label, sam_label, accepted, prompt, mask_logits, iou_pred, target)

    def networks(self):
        return self.match.networks() | {"sam": self.sam}

    def _embed(self, batch, learns: bool) -> tuple[Tensor, Tensor | None]:
        """Embeddings of the unlabeled images and, where SAM learns in this step, of the labeled ones: one pass of the encoder."""
        count = len(batch.image_w)
        if self.embeddings is not None:
            return self.embeddings[batch.index_u], self.embeddings[batch.index_l] if learns else None
        with torch.set_grad_enabled(learns):
            encoded = self.sam.encode(torch.cat([batch.image_w, batch.image_l]) if learns else batch.image_w)
        return encoded[:count], encoded[count:] if learns else None

    def _to_sam(self, probs: Tensor, batch) -> Tensor:
        """Probabilities in the student's view -> in SAM's frame: the same, or the unaugmented slice."""
        return probs if self.embeddings is None else warp_probs(probs, inverse(batch.theta_u), probs.shape[-1])

    def _to_view(self, probs: Tensor, batch) -> Tensor:
        size = batch.image_w.shape[-1]
        return resize(probs, size) if self.embeddings is None else warp_probs(probs, batch.theta_u, size)

    def _sam_losses(self, batch, refinement: Refinement, embeddings_l: Tensor):
        num_classes = refinement.prompt.present.shape[1] + 1
        label = batch.label_l if self.sam_labels is None else self.sam_labels[batch.index_l]
        supervised = reference_loss(self.sam, embeddings_l, label, num_classes, self.config.refine.box_jitter)
        mask_logits = resize(refinement.mask_logits, refinement.target.shape[-1])
        if published(self.config.refine, "loss"):
            logits = class_logits(mask_logits, published(self.config.refine, "background"))
            unsupervised = sam_loss_as_published(logits, refinement.target)
        else:
            unsupervised = sam_loss(mask_logits, refinement.iou_pred, class_masks(refinement.target, num_classes),
                                    refinement.prompt.present)
        return (supervised + self.config.sam.lambda_unsup * unsupervised,
                {"loss_sam_sup": supervised.detach(), "loss_sam_unsup": unsupervised.detach()})

    def _agreement(self, proposed: PseudoLabel, refinement: Refinement) -> dict[str, Tensor]:
        return {"sam_agreement": (refinement.sam_label == proposed.label).float().mean()}

    def _ratios(self, batch, proposed: PseudoLabel, refinement: Refinement) -> dict[str, Tensor]:
        """Dice of the pseudo-labels against the hidden labels, and the share of objects that the gate accepted."""
        hidden, num_classes, refined = batch.hidden_label_u, proposed.probs.shape[1], refinement.pseudo_label
        rates = torch.stack([refinement.accepted.sum(0), refinement.prompt.present.sum(0)], dim=1).double()
        return {"pseudo_dice_student": overlap(proposed.label, hidden, num_classes),
                "pseudo_dice_sam": overlap(refinement.sam_label, hidden, num_classes),
                "pseudo_dice_refined": overlap(refined.label, hidden, num_classes, refined.keep),
                "sam_accept_rate": rates}


def published(settings, item: str) -> bool:
    """Whether the published arithmetic is asked for: background (logit), filter, or loss."""
    return settings.published in (item, "all")


def class_logits(mask_logits: Tensor, as_published: bool = False) -> Tensor:
    """(B, K, H, W) -> (B, C, H, W): background logit 0, so that a pixel is foreground where the best mask is positive.

    As published: background logit 1 - mean(foreground logits), which erodes the foreground.
    """
    background = 1 - mask_logits.mean(1, keepdim=True) if as_published else torch.zeros_like(mask_logits[:, :1])
    return torch.cat([background, mask_logits], dim=1)


def class_probs(mask_logits: Tensor, as_published: bool = False) -> Tensor:
    return class_logits(mask_logits, as_published).softmax(1)


def warp_probs(probs: Tensor, theta: Tensor, size: int) -> Tensor:
    """Probabilities seen through theta; what lies outside the image is background."""
    warped = warp(probs, theta, size)
    return torch.cat([1 - warped[:, 1:].sum(1, keepdim=True), warped[:, 1:]], dim=1)


def gate(settings, present: Tensor, iou_pred: Tensor, sam_masks: Tensor, student_masks: Tensor) -> Tensor:
    """(B, K) bool: which of SAM's objects are trusted: by its predicted IoU, by agreement with the student, or both.

    Agreement: IoU with the student's mask, and the smaller area over the larger one.
    """
    accepted = present.clone()
    if settings.gate in ("iou_pred", "both"):
        accepted &= iou_pred >= settings.gate_iou
    if settings.gate in ("agreement", "both"):
        union = (sam_masks | student_masks).sum(dim=(2, 3))
        accepted &= (sam_masks & student_masks).sum(dim=(2, 3)) >= settings.gate_iou * union
        areas = torch.stack([sam_masks.sum(dim=(2, 3)), student_masks.sum(dim=(2, 3))])
        accepted &= areas.amin(0) >= settings.gate_area_ratio * areas.amax(0)
    return accepted


def fall_back(sam_probs: Tensor, student_probs: Tensor, accepted: Tensor) -> Tensor:
    """SAM's probabilities, but the student's where either of them names a class that was not accepted."""
    trusted = torch.cat([torch.ones_like(accepted[:, :1]), accepted], dim=1)[:, :, None, None]
    named = F.one_hot(sam_probs.argmax(1), sam_probs.shape[1]).movedim(-1, 1).bool()
    named |= F.one_hot(student_probs.argmax(1), sam_probs.shape[1]).movedim(-1, 1).bool()
    use_sam = (trusted | ~named).all(1, keepdim=True)
    return torch.where(use_sam, sam_probs, student_probs)


def combine(settings, proposed: PseudoLabel, sam_probs: Tensor) -> PseudoLabel:
    """The student's pseudo-label and SAM's probabilities (B, C, H, W) as one pseudo-label."""
    if settings.combine == "student":
        return proposed
    if settings.combine == "agree":
        same = sam_probs.argmax(1) == proposed.label
        return dataclasses.replace(proposed, keep=proposed.keep & same)
    probs = sam_probs if settings.combine == "replace" else (proposed.probs + sam_probs) / 2
    make = replace_as_published if published(settings, "filter") else PseudoLabel.from_probs
    return make(probs, settings.sam_conf_thresh)


def replace_as_published(sam_probs: Tensor, conf_thresh: float) -> PseudoLabel:
    """The published filter: confidence after L2-normalising over the classes; what it rejects becomes background."""
    confidence, label = F.normalize(sam_probs, dim=1).max(dim=1)
    label = torch.where(confidence >= conf_thresh, label, torch.zeros_like(label))
    return PseudoLabel(sam_probs, label, confidence, torch.ones_like(label, dtype=torch.bool))


METHOD = SamMatch
