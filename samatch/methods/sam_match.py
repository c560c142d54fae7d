"""SAM-Match (Xu et al., Medical Physics 2025): refine a match method's pseudo-label with SAM, train both.

    predict, propose   as the wrapped match method
    refine             class map -> Prompt -> SAM -> class map
    loss               as the wrapped match method, with the refined pseudo-label
    SAM's own loss     L_sam(labeled) + lambda_unsup L_sam(unlabeled, student's pseudo-label)

What SAM is asked is `refine.prompt`: a box of the student's map and the like (the paper), or "none": every class from
its learned token alone, an opinion that does not stand on the student's map. `combine` says how SAM's map P_sam and
the student's P become one: "replace" (the paper) takes P_sam, "consensus" (1 - a) P + a P_sam, "weighted" the same
with an a of each image and class (`reliability`), "agree" takes P and keeps the pixels where both name the same
class, "student" leaves P as it is. `published` keeps the arithmetic of the authors' code where it is wrong, one item
or all.
"""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samatch.config.settings import RunConfig
from samatch.data.augment import inverse, warp_probs
from samatch.methods.base import Method, PseudoLabel, overlap, rampup
from samatch.networks.losses import sam_loss, sam_loss_as_published, segmentation_loss
from samatch.sam.model import SamModel, class_logits, classes_loss, reference_loss, resize
from samatch.sam.prompts import Prompt, class_masks, prompt_from_probs


@dataclass(frozen=True)
class Answer:
    """SAM's answer about n of a batch's images, in SAM's frame; with gradient where SAM learns from it."""

    mask_logits: Tensor  # (n, K, S, S)
    quality: Tensor  # (n, K) predicted IoU of each mask
    present: Tensor  # (n, K) bool: what was asked for


@dataclass(frozen=True)
class Refinement:
    """What refine found: the new pseudo-label, SAM's own class map and what SAM can learn from."""

    pseudo_label: PseudoLabel
    sam_label: Tensor  # (B, H, W) SAM's class map in the student's view
    accepted: Tensor  # (B, K) bool: objects that were asked for and passed the gate
    present: Tensor  # (B, K) bool: objects that were asked for
    answer: Answer  # about the images that were asked anew
    target: PseudoLabel  # the student's pseudo-label of the same images in SAM's frame


class Memory:
    """SAM's last answer about each slice, in the frame of the unaugmented slice: `refine.renew` says what share of a
    batch is asked anew. probs (N, C, S, S) half precision, quality (N, K), asked and known bool; a slice that was never
    asked about is not known."""

    def __init__(self, count: int, num_classes: int, size: int, device):
        self.probs = torch.zeros(count, num_classes, size, size, dtype=torch.float16, device=device)
        self.quality = torch.zeros(count, num_classes - 1, device=device)
        self.present = torch.zeros(count, num_classes - 1, dtype=torch.bool, device=device)
        self.known = torch.zeros(count, dtype=torch.bool, device=device)

    def write(self, index: Tensor, probs: Tensor, quality: Tensor, present: Tensor) -> None:
        self.probs[index], self.quality[index], self.present[index] = probs.half(), quality, present
        self.known[index] = True

    def read(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.probs[index].float(), self.quality[index], self.present[index]


class SamMatch(Method):
    """A match method guided by a SAM.

    Where the image encoder is fixed, embeddings[index] -> (B, C, h, w) of unaugmented slices is given, numbered as the
    student's pool and then the augmented views of the labeled slices, and sam_labels (N, S, S) of the labeled slices
    and then these views; without them SAM encodes the weak view.
    """

    def __init__(
        self,
        match: Method,
        sam: SamModel,
        config: RunConfig,
        embeddings=None,
        sam_labels: Tensor | None = None,
        n_labeled: int = 0,
        n_slices: int = 0,
    ):
        self.Settings, self.strong_views, self.proposes = match.Settings, match.strong_views, True
        super().__init__(match.student, config)
        self.match, self.sam, self.ema = match, sam, match.ema
        self.embeddings, self.sam_labels = embeddings, sam_labels
        self.n_labeled, self.n_slices = n_labeled, n_slices
        self.predict, self.propose, self.loss = match.predict, match.propose, match.loss
        self.remembered: Memory | None = None

    @property
    def proposer(self):
        return self.match.proposer

    def step(self, batch):
        predictions = self.predict(batch)
        proposed = self.propose(predictions)
        learns = (
            self.config.sam.tune != "frozen" and batch.iteration % self.config.sam.update_every == 0
        )
        asked = self._asked_anew(batch, learns)
        embeddings_u, labeled = self._embed(batch, asked, learns)
        refinement = self.refine(batch, proposed, learns, asked, embeddings_u)
        output = self.loss(predictions, batch, refinement.pseudo_label)
        losses, logs = dict(output.losses), output.logs | self._agreement(proposed, refinement)
        if learns:
            losses["sam"], sam_logs = self._sam_losses(refinement, *labeled)
            logs |= sam_logs
        return dataclasses.replace(
            output, losses=losses, logs=logs, ratios=self._ratios(batch, proposed, refinement)
        )

    def refine(
        self,
        batch,
        proposed: PseudoLabel,
        learns: bool = False,
        asked: Tensor | None = None,
        embeddings: Tensor | None = None,
    ) -> Refinement:
        """The student's pseudo-label, SAM asked about it, and both made one. Probabilities carry no gradient.

        asked: (n,) numbers of the images that SAM is asked about anew, embeddings: (n, C, h, w) theirs; found here if not
        given.
        """
        if embeddings is None:
            asked = self._asked_anew(batch, learns)
            embeddings, _ = self._embed(batch, asked, learns=False)
        target = self._to_sam(proposed, batch)
        target = dataclasses.replace(
            target, **{f.name: getattr(target, f.name)[asked] for f in dataclasses.fields(target)}
        )
        with torch.set_grad_enabled(learns):
            answer = self.ask(embeddings, target)
        sam_probs, quality, present = self._answers(batch, asked, answer)
        size = batch.image_w.shape[-1]
        sam_probs = (
            resize(sam_probs, size)
            if self.embeddings is None
            else warp_probs(sam_probs, batch.theta_u, size)
        )
        pseudo_label, accepted = merge(
            self.config.refine, proposed, sam_probs, quality, present, batch.progress
        )
        return Refinement(pseudo_label, sam_probs.argmax(1), accepted, present, answer, target)

    def refine_slices(self, probs: Tensor, embeddings: Tensor) -> Tensor:
        """The student's probabilities (D, C, S, S) of whole slices, refined once as at the end of the training, and SAM's
        own, both (D, C, S, S)."""
        proposed = PseudoLabel.from_probs(probs, 0.0)
        answer = self.ask(embeddings, proposed)
        sam_probs = resize(self._class_probs(answer.mask_logits), probs.shape[-1])
        return merge(self.config.refine, proposed, sam_probs, answer.quality, answer.present, 1.0)[
            0
        ].probs, sam_probs

    def ask(self, embeddings: Tensor, proposed: PseudoLabel) -> Answer:
        """SAM asked about n images whose embeddings and class maps are in one frame."""
        settings, num_classes = self.config.refine, proposed.probs.shape[1]
        if settings.prompt == "none":
            mask_logits = self.sam.decode_classes(embeddings)
            present = torch.ones(mask_logits.shape[:2], dtype=torch.bool, device=mask_logits.device)
            return Answer(mask_logits, expected_iou(mask_logits.detach()), present)
        prompt: Prompt = prompt_from_probs(proposed.probs, proposed.label, settings)
        mask_logits, quality = self.sam.decode(embeddings, prompt)
        return Answer(mask_logits, quality, prompt.present)

    def networks(self):
        return self.match.networks() | {"sam": self.sam}

    def memory(self):
        return {} if self.remembered is None else vars(self.remembered)

    def recall(self, memory):
        if memory:
            self._remember(
                memory["probs"].shape[1], memory["probs"].shape[-1], memory["probs"].device
            )
            for name, value in memory.items():
                getattr(self.remembered, name).copy_(value)

    def _remember(self, num_classes: int, size: int, device) -> None:
        if self.remembered is None:
            self.remembered = Memory(self.n_slices, num_classes, size, device)

    def _asked_anew(self, batch, learns: bool) -> Tensor:
        """(n,) numbers of the batch's images that SAM is asked about: all where it learns or nothing is remembered."""
        every = torch.arange(len(batch.image_w), device=batch.image_w.device)
        share = self.config.refine.renew
        if share == 1 or self.embeddings is None:
            return every
        self._remember(self.num_classes, batch.image_w.shape[-1], every.device)
        drawn = torch.rand(len(every)).to(every.device) < share
        drawn[0] = True  # SAM is asked about at least one
        return every if learns else every[drawn | ~self.remembered.known[batch.index_u]]

    def _answers(self, batch, asked: Tensor, answer: Answer) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities, quality and present of the whole batch: new ones, and remembered ones of the other images."""
        new = (
            self._class_probs(answer.mask_logits.detach()),
            answer.quality.detach(),
            answer.present,
        )
        if self.remembered is None:
            return new
        size = batch.image_w.shape[-1]
        self.remembered.write(batch.index_u[asked], resize(new[0], size), *new[1:])
        return self.remembered.read(batch.index_u)

    @property
    def num_classes(self) -> int:
        return self.student.num_classes

    def _class_probs(self, mask_logits: Tensor) -> Tensor:
        return class_probs(mask_logits, published(self.config.refine, "background"))

    def _embed(
        self, batch, asked: Tensor, learns: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Embeddings of the asked unlabeled images and, where SAM learns in this step, embeddings and class maps of the
        labeled ones: from one pass of the encoder, or from the cache."""
        if self.embeddings is not None:
            return self.embeddings[batch.index_u[asked]], self._cached_views(
                batch
            ) if learns else None
        with torch.set_grad_enabled(learns):
            encoded = self.sam.encode(
                torch.cat([batch.image_w, batch.image_l]) if learns else batch.image_w
            )
        label_l = batch.label_l if batch.label_l.ndim == 3 else batch.label_l.argmax(1)
        return encoded[: len(batch.image_w)], (
            encoded[len(batch.image_w) :],
            label_l,
        ) if learns else None

    def _to_sam(self, proposed: PseudoLabel, batch) -> PseudoLabel:
        """The student's pseudo-label in SAM's frame: the student's view, or the unaugmented slice. What a view does not
        show of the slice is not kept."""
        if self.embeddings is None:
            return proposed
        size, back = proposed.probs.shape[-1], inverse(batch.theta_u)
        probs = warp_probs(proposed.probs, back, size)
        keep = (
            warp_probs(torch.stack([~proposed.keep, proposed.keep], 1).float(), back, size)[:, 1]
            > 0.5
        )
        confidence, label = probs.max(dim=1)
        return PseudoLabel(probs, label, confidence, keep)

    def _cached_views(self, batch) -> tuple[Tensor, Tensor]:
        """Embeddings and class maps of a cached view of each labeled slice, the unaugmented one among them."""
        views = len(self.sam_labels) // self.n_labeled
        view = torch.randint(0, views, (len(batch.index_l),)).to(batch.index_l.device)
        number = view * self.n_labeled + batch.index_l
        shifted = torch.where(view > 0, number - self.n_labeled + self.n_slices, batch.index_l)
        return self.embeddings[shifted], self.sam_labels[number]

    def _sam_losses(
        self, refinement: Refinement, embeddings_l: Tensor, label_l: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings, answer, target = self.config.refine, refinement.answer, refinement.target
        mask_logits = resize(answer.mask_logits, target.label.shape[-1])
        if settings.prompt == "none":
            supervised = classes_loss(self.sam, embeddings_l, label_l)
            unsupervised = segmentation_loss(class_logits(mask_logits), target.label, target.keep)
        else:
            supervised = reference_loss(
                self.sam, embeddings_l, label_l, self.num_classes, settings.box_jitter
            )
            masks = class_masks(target.label, self.num_classes)
            unsupervised = sam_loss(mask_logits, answer.quality, masks, answer.present)
        if published(settings, "loss"):
            logits = published_logits(mask_logits, published(settings, "background"))
            unsupervised = sam_loss_as_published(logits, target.label)
        return (
            supervised + self.config.sam.lambda_unsup * unsupervised,
            {"loss_sam_sup": supervised.detach(), "loss_sam_unsup": unsupervised.detach()},
        )

    def _agreement(self, proposed: PseudoLabel, refinement: Refinement) -> dict[str, Tensor]:
        return {"sam_agreement": (refinement.sam_label == proposed.label).float().mean()}

    def _ratios(self, batch, proposed: PseudoLabel, refinement: Refinement) -> dict[str, Tensor]:
        """Dice of the pseudo-labels against the hidden labels, whole and on the pixels that are kept, and the share of
        objects that the gate accepted."""
        hidden, count, refined = batch.hidden_label_u, self.num_classes, refinement.pseudo_label
        rates = torch.stack([refinement.accepted.sum(0), refinement.present.sum(0)], dim=1).double()
        return {
            "pseudo_dice_student": overlap(proposed.label, hidden, count),
            "pseudo_dice_student_kept": overlap(proposed.label, hidden, count, proposed.keep),
            "pseudo_dice_sam": overlap(refinement.sam_label, hidden, count),
            "pseudo_dice_refined": overlap(refined.label, hidden, count),
            "pseudo_dice_refined_kept": overlap(refined.label, hidden, count, refined.keep),
            "sam_accept_rate": rates,
        }


def published(settings, item: str) -> bool:
    """Whether the published arithmetic is asked for: background (logit), filter, or loss."""
    return settings.published in (item, "all")


def published_logits(mask_logits: Tensor, as_published: bool = False) -> Tensor:
    """`class_logits`, or as published: background logit 1 - mean(foreground logits), which erodes the foreground."""
    logits = class_logits(mask_logits)
    return (
        torch.cat([1 - mask_logits.mean(1, keepdim=True), mask_logits], dim=1)
        if as_published
        else logits
    )


def class_probs(mask_logits: Tensor, as_published: bool = False) -> Tensor:
    return published_logits(mask_logits, as_published).softmax(1)


def expected_iou(mask_logits: Tensor) -> Tensor:
    """(B, K, H, W) -> (B, K): the IoU of each mask (logit > 0) that its own probabilities p promise, the sum of p inside
    it over its area and the sum of p outside. An empty mask that promises nothing scores 1."""
    probs, inside = mask_logits.sigmoid(), mask_logits > 0
    overlap_, union = (
        (probs * inside).sum(dim=(2, 3)),
        torch.where(inside, 1.0, probs).sum(dim=(2, 3)),
    )
    return (overlap_ + 1) / (union + 1)


def merge(
    settings,
    proposed: PseudoLabel,
    sam_probs: Tensor,
    quality: Tensor,
    present: Tensor,
    progress: float,
) -> tuple[PseudoLabel, Tensor]:
    """The student's pseudo-label and SAM's probabilities (B, C, H, W) as one pseudo-label, and which objects (B, K) passed
    the gate. progress in [0, 1]: SAM's say grows over the first `sam_rampup` of the training."""
    num_classes = sam_probs.shape[1]
    sam_masks, masks = (
        class_masks(label, num_classes) for label in (sam_probs.argmax(1), proposed.label)
    )
    accepted = gate(settings, present, quality, sam_masks, masks)
    trusted = trusted_pixels(sam_probs, proposed.probs, accepted)
    sam_probs = torch.where(trusted, sam_probs, proposed.probs)
    weight = settings.sam_weight * (
        rampup(progress, settings.sam_rampup) if settings.sam_rampup else 1.0
    )
    if settings.combine == "weighted":
        weight = weight * reliability(sam_masks, masks, quality)
    found = combine(settings, proposed, sam_probs, weight)
    if settings.rejected == "ignore":
        found = dataclasses.replace(found, keep=found.keep & trusted[:, 0])
    return found, accepted


def gate(
    settings, present: Tensor, iou_pred: Tensor, sam_masks: Tensor, student_masks: Tensor
) -> Tensor:
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


def trusted_pixels(sam_probs: Tensor, student_probs: Tensor, accepted: Tensor) -> Tensor:
    """(B, 1, H, W) bool: where neither SAM nor the student names a class that was not accepted."""
    rejected = torch.cat([torch.zeros_like(accepted[:, :1]), ~accepted], dim=1)[:, :, None, None]
    named = F.one_hot(sam_probs.argmax(1), sam_probs.shape[1]) + F.one_hot(
        student_probs.argmax(1), sam_probs.shape[1]
    )
    return ~(rejected & named.movedim(-1, 1).bool()).any(1, keepdim=True)


def reliability(sam_masks: Tensor, student_masks: Tensor, quality: Tensor) -> Tensor:
    """(B, C, 1, 1) in [0, 1]: for each class the IoU that SAM promises (B, K) times the Dice of its mask with the
    student's (B, K, H, W); background takes the mean.

    Self-consistency times mutual agreement, after SynFoC (CVPR 2025).
    """
    both = (sam_masks & student_masks).sum(dim=(2, 3)).float()
    mutual = (2 * both + 1) / (sam_masks.sum(dim=(2, 3)) + student_masks.sum(dim=(2, 3)) + 1)
    weight = (quality * mutual).clamp(0, 1)
    return torch.cat([weight.mean(1, keepdim=True), weight], dim=1)[:, :, None, None]


def combine(
    settings, proposed: PseudoLabel, sam_probs: Tensor, weight: Tensor | float = 0.5
) -> PseudoLabel:
    """The student's pseudo-label and SAM's probabilities (B, C, H, W) as one pseudo-label; `weight` is SAM's share in a
    consensus, a number or (B, C, 1, 1)."""
    if settings.combine == "student":
        return proposed
    if settings.combine == "agree":
        same = sam_probs.argmax(1) == proposed.label
        return dataclasses.replace(proposed, keep=proposed.keep & same)
    probs = sam_probs
    if settings.combine in ("consensus", "weighted"):
        probs = weight * sam_probs + (1 - weight) * proposed.probs
        probs = probs / probs.sum(1, keepdim=True)
    make = replace_as_published if published(settings, "filter") else PseudoLabel.from_probs
    return make(probs, settings.sam_conf_thresh)


def replace_as_published(sam_probs: Tensor, conf_thresh: float) -> PseudoLabel:
    """The published filter: confidence after L2-normalising over the classes; what it rejects becomes background."""
    confidence, label = F.normalize(sam_probs, dim=1).max(dim=1)
    label = torch.where(confidence >= conf_thresh, label, torch.zeros_like(label))
    return PseudoLabel(sam_probs, label, confidence, torch.ones_like(label, dtype=torch.bool))
