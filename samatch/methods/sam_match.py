"""SAM-Match (Xu et al., Medical Physics 2025): SAM refines a match method's pseudo-label.

    predict, propose   as the wrapped match method
    refine             class map -> Prompt -> SAM -> class map
    loss               as the wrapped match method, with the refined pseudo-label
    SAM's own loss     L_sam(labeled) + lambda_unsup L_sam(unlabeled, student's pseudo-label)

What SAM is asked is `refine.prompt`: a box of the student's map and the like (the paper), or
"none": every class from its learned query alone, an opinion that does not stand on the student's
map. "class_boxes" (ours) gives these queries the boxes of all classes of the student's map, in one
question instead of one for each class.

`combine` says how SAM's map P_sam and the student's P become one: "replace" (the paper) takes
P_sam, "consensus" (1 - a) P + a P_sam, "weighted" the same with an a of each image and class
(`reliability`), "soft" the consensus, of which the probabilities are taught and not the class map,
"agree" takes P and keeps the pixels where both name the same class, "student" leaves P as it is.
`published` keeps the arithmetic of the authors' code where it is wrong, one item or all.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samatch.config.settings import Refine, RunConfig
from samatch.data.augment import inverse, warp_probs
from samatch.data.batches import Batch
from samatch.methods._refinement import RefinedSlices, Refinement
from samatch.methods._trust import gate, reliability, trusted_pixels
from samatch.methods.base import Method, PseudoLabel, StepOutput, rampup
from samatch.networks.losses import sam_loss, sam_loss_as_published, segmentation_loss
from samatch.sam.answer import Answer, answer_of_queries, class_probs, logits_of_classes
from samatch.sam.memory import Memory
from samatch.sam.model import (
    Embeddings,
    SamModel,
    class_logits,
    resize,
    supervised_loss,
)
from samatch.sam.prompts import OF_QUERIES, class_masks, prompt_from_probs


class SamMatch(Method):
    """A match method guided by a SAM.

    SAM's frame is the student's weak view, which it encodes. Where the image encoder is fixed it
    is the unaugmented slice: `embeddings` are given then, numbered as the student's n_slices slices
    and after them the augmented views of the n_labeled labeled ones, and sam_labels (N, S, S), the
    class maps of the labeled slices and then of these views.
    """

    def __init__(
        self,
        match: Method,
        sam: SamModel,
        config: RunConfig,
        embeddings: Embeddings | None = None,
        sam_labels: Tensor | None = None,
        n_labeled: int = 0,
        n_slices: int = 0,
    ):
        self.Settings, self.strong_views, self.proposes = match.Settings, match.strong_views, True
        super().__init__(match.student, config)
        self.match, self.sam, self.ema = match, sam, match.ema
        self.embeddings, self.sam_labels = embeddings, sam_labels
        self.n_labeled, self.n_slices = n_labeled, n_slices
        self.remembered: Memory | None = None

    @property
    def proposer(self) -> nn.Module:
        """The wrapped method's."""
        return self.match.proposer

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """The wrapped method's."""
        return self.match.predict(batch)

    def propose(self, predictions: dict[str, Tensor]) -> PseudoLabel:
        """The wrapped method's."""
        proposed = self.match.propose(predictions)
        assert proposed is not None  # a method without proposals has no twin, see `method_names`
        return proposed

    def loss(
        self, predictions: dict[str, Tensor], batch: Batch, pseudo_label: PseudoLabel | None
    ) -> StepOutput:
        """The wrapped method's."""
        return self.match.loss(predictions, batch, pseudo_label)

    def step(self, batch: Batch) -> StepOutput:
        """Predict, propose, refine, loss; SAM learns every `sam.update_every` iterations."""
        learns = (
            self.config.sam.tune != "frozen" and batch.iteration % self.config.sam.update_every == 0
        )
        predictions = self.predict(batch)
        proposed = self.propose(predictions)
        asked = self._asked_anew(batch, learns)
        embeddings, labeled = self._embed(batch, asked, learns)
        refinement = self.refine(batch, proposed, learns, asked, embeddings)
        output = self.loss(predictions, batch, refinement.pseudo_label)

        losses = dict(output.losses)
        logs = output.logs | {"sam_agreement": refinement.agreement(proposed)}
        if labeled is not None:
            losses["sam"], sam_logs = self._sam_losses(refinement, *labeled)
            logs |= sam_logs
        ratios = refinement.ratios(proposed, batch.hidden_label_u, self.num_classes)
        return dataclasses.replace(output, losses=losses, logs=logs, ratios=ratios)

    def refine(
        self,
        batch: Batch,
        proposed: PseudoLabel,
        learns: bool = False,
        asked: Tensor | None = None,
        embeddings: Tensor | None = None,
    ) -> Refinement:
        """The student's pseudo-label, SAM asked about it, and both made one, without gradient.

        asked: (n,) numbers of the images that SAM is asked about anew, embeddings: (n, C, h, w)
        theirs; found here if not given.
        """
        if asked is None or embeddings is None:
            asked = self._asked_anew(batch, learns)
            embeddings, _ = self._embed(batch, asked, learns=False)
        target = self._to_sam(proposed, batch)[asked]
        with torch.set_grad_enabled(learns):
            answer = self.ask(embeddings, target)
        sam_probs, quality, present = self._answers(batch, asked, answer)
        sam_probs = self._from_sam(sam_probs, batch)
        pseudo_label, accepted = merge(
            self.config.refine, proposed, sam_probs, quality, present, batch.progress
        )
        return Refinement(pseudo_label, sam_probs.argmax(1), accepted, present, answer, target)

    def refine_slices(
        self, probs: Tensor, embeddings: Tensor, progress: float = 1.0
    ) -> RefinedSlices:
        """Whole slices refined once, as at `progress` (0 to 1) of the training, by default at its
        end: probs (D, C, S, S) of the student, embeddings (D, C, h, w)."""
        student = PseudoLabel.from_probs(probs, 0.0)
        answer = self.ask(embeddings, student)
        sam_probs = resize(self._class_probs(answer.mask_logits), probs.shape[-1])
        both, _ = merge(
            self.config.refine, student, sam_probs, answer.quality, answer.present, progress
        )
        return RefinedSlices(student, sam_probs, answer.quality, both)

    def ask(self, embeddings: Tensor, proposed: PseudoLabel) -> Answer:
        """SAM asked about n images whose embeddings (n, C, h, w) and class maps share a frame."""
        settings = self.config.refine
        if settings.prompt == "none":
            return answer_of_queries(self.sam.decode_classes(embeddings))
        prompt = prompt_from_probs(proposed.probs, proposed.label, settings)
        if settings.prompt == "class_boxes":
            return answer_of_queries(self.sam.decode_classes(embeddings, prompt))
        mask_logits, quality = self.sam.decode(embeddings, prompt)
        return Answer(mask_logits, quality, prompt.present)

    def networks(self) -> dict[str, nn.Module]:
        """Those of the wrapped method, and "sam"."""
        return self.match.networks() | {"sam": self.sam}

    def memory(self) -> dict[str, Tensor]:
        """SAM's remembered answers, see `Memory`; empty where it is always asked anew."""
        return {} if self.remembered is None else vars(self.remembered)

    def recall(self, memory: dict[str, Tensor]) -> None:
        """Takes back what `memory` gave."""
        if memory:
            _, num_classes, size, _ = memory["probs"].shape
            remembered = self._remember(num_classes, size, memory["probs"].device)
            for name, value in memory.items():
                getattr(remembered, name).copy_(value)

    def _remember(self, num_classes: int, size: int, device: torch.device) -> Memory:
        if self.remembered is None:
            self.remembered = Memory(self.n_slices, num_classes, size, device)
        return self.remembered

    def _asked_anew(self, batch: Batch, learns: bool) -> Tensor:
        """(n,) numbers of the batch's images that SAM is asked about.

        All where it learns or nothing is remembered; else the share `renew`, at least one, and
        those that it was never asked about.
        """
        every = torch.arange(len(batch.image_w), device=batch.image_w.device)
        share = self.config.refine.renew
        if share == 1 or self.embeddings is None:
            return every
        remembered = self._remember(self.num_classes, batch.image_w.shape[-1], every.device)
        drawn = torch.rand(len(every)).to(every.device) < share
        drawn[0] = True
        return every if learns else every[drawn | ~remembered.known[batch.index_u]]

    def _answers(self, batch: Batch, asked: Tensor, answer: Answer) -> tuple[Tensor, ...]:
        """probs (B, C, S, S), quality and present (B, K) of the whole batch, in SAM's frame.

        New ones of the asked images, remembered ones of the others.
        """
        probs, quality = self._class_probs(answer.mask_logits.detach()), answer.quality.detach()
        if self.remembered is None:
            return probs, quality, answer.present
        probs = resize(probs, batch.image_w.shape[-1])
        self.remembered.write(batch.index_u[asked], probs, quality, answer.present)
        return self.remembered.read(batch.index_u)

    @property
    def num_classes(self) -> int:
        """C, with background."""
        return self.student.num_classes

    def _class_probs(self, mask_logits: Tensor) -> Tensor:
        return class_probs(mask_logits, published(self.config.refine, "background"))

    def _embed(
        self, batch: Batch, asked: Tensor, learns: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Embeddings of the asked unlabeled images, from one pass of the encoder or from the cache.

        And where SAM learns in this step, embeddings and class maps of the labeled ones.
        """
        if self.embeddings is not None:
            labeled = self._cached_views(batch, self.embeddings) if learns else None
            return self.embeddings[batch.index_u[asked]], labeled
        if not learns:
            with torch.no_grad():
                return self.sam.encode(batch.image_w), None
        count = len(batch.image_w)
        with torch.enable_grad():
            encoded = self.sam.encode(torch.cat([batch.image_w, batch.image_l]))
        label_l = batch.label_l if batch.label_l.ndim == 3 else batch.label_l.argmax(1)
        return encoded[:count], (encoded[count:], label_l)

    def _to_sam(self, proposed: PseudoLabel, batch: Batch) -> PseudoLabel:
        """The student's pseudo-label in SAM's frame.

        What a view does not show of the unaugmented slice is not kept.
        """
        if self.embeddings is None:
            return proposed
        size, back = proposed.probs.shape[-1], inverse(batch.theta_u)
        probs = warp_probs(proposed.probs, back, size)
        kept = torch.stack([~proposed.keep, proposed.keep], dim=1).float()
        keep = warp_probs(kept, back, size)[:, 1] > 0.5
        confidence, label = probs.max(dim=1)
        return PseudoLabel(probs, label, confidence, keep)

    def _from_sam(self, sam_probs: Tensor, batch: Batch) -> Tensor:
        """SAM's probabilities (B, C, h, w) in the student's view, (B, C, S, S)."""
        size = batch.image_w.shape[-1]
        if self.embeddings is None:
            return resize(sam_probs, size)
        return warp_probs(sam_probs, batch.theta_u, size)

    def _cached_views(self, batch: Batch, cache: Embeddings) -> tuple[Tensor, Tensor]:
        """Embeddings and class maps of a view of each labeled slice, drawn from the cached ones.

        View 0 is the unaugmented slice.
        """
        assert self.sam_labels is not None  # they come with the cache
        views = len(self.sam_labels) // self.n_labeled
        view = torch.randint(0, views, (len(batch.index_l),)).to(batch.index_l.device)
        number = view * self.n_labeled + batch.index_l
        shifted = torch.where(view > 0, number - self.n_labeled + self.n_slices, batch.index_l)
        return cache[shifted], self.sam_labels[number].long()

    def _sam_losses(
        self, refinement: Refinement, embeddings_l: Tensor, label_l: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """SAM learns from the reference of labeled slices and the student's map of the others."""
        settings, answer, target = self.config.refine, refinement.answer, refinement.target
        mask_logits = resize(answer.mask_logits, target.label.shape[-1])
        supervised = supervised_loss(
            self.sam, embeddings_l, label_l, self.num_classes, settings.prompt, settings.box_jitter
        )
        if settings.prompt in OF_QUERIES:
            unsupervised = segmentation_loss(class_logits(mask_logits), target.label, target.keep)
        else:
            masks = class_masks(target.label, self.num_classes)
            unsupervised = sam_loss(mask_logits, answer.quality, masks, answer.present)
        if published(settings, "loss"):
            logits = logits_of_classes(mask_logits, published(settings, "background"))
            unsupervised = sam_loss_as_published(logits, target.label)
        return (
            supervised + self.config.sam.lambda_unsup * unsupervised,
            {"loss_sam_sup": supervised.detach(), "loss_sam_unsup": unsupervised.detach()},
        )


def published(settings: Refine, item: str) -> bool:
    """Whether the published arithmetic is asked for: background (logit), filter, or loss."""
    return settings.published in (item, "all")


def merge(
    settings: Refine,
    proposed: PseudoLabel,
    sam_probs: Tensor,
    quality: Tensor,
    present: Tensor,
    progress: float,
) -> tuple[PseudoLabel, Tensor]:
    """The student's pseudo-label and SAM's probabilities (B, C, H, W) as one pseudo-label.

    And which objects (B, K) passed the gate. quality and present: (B, K). progress in [0, 1]: SAM's
    say grows over the first `sam_rampup` of the training.
    """
    num_classes = sam_probs.shape[1]
    sam_masks = class_masks(sam_probs.argmax(1), num_classes)
    student_masks = class_masks(proposed.label, num_classes)
    accepted = gate(settings, present, quality, sam_masks, student_masks)
    trusted = trusted_pixels(sam_probs, proposed.probs, accepted)
    sam_probs = torch.where(trusted, sam_probs, proposed.probs)

    weight: Tensor | float = settings.sam_weight
    if settings.sam_rampup:
        weight = weight * rampup(progress, settings.sam_rampup)
    if settings.combine == "weighted":
        weight = weight * reliability(sam_masks, student_masks, quality)
    found = combine(settings, proposed, sam_probs, weight)
    if settings.rejected == "ignore":
        found = dataclasses.replace(found, keep=found.keep & trusted[:, 0])
    return found, accepted


def combine(
    settings: Refine, proposed: PseudoLabel, sam_probs: Tensor, weight: Tensor | float = 0.5
) -> PseudoLabel:
    """The student's pseudo-label and SAM's probabilities (B, C, H, W) as `settings.combine` says.

    weight: SAM's share in a consensus, a number or (B, C, 1, 1).
    """
    if settings.combine == "student":
        return proposed
    if settings.combine == "agree":
        same = sam_probs.argmax(1) == proposed.label
        return dataclasses.replace(proposed, keep=proposed.keep & same)
    probs = sam_probs
    if settings.combine in ("consensus", "weighted", "soft"):
        probs = weight * sam_probs + (1 - weight) * proposed.probs
        probs = probs / probs.sum(1, keepdim=True)
    kept = replace_as_published if published(settings, "filter") else PseudoLabel.from_probs
    found = kept(probs, settings.sam_conf_thresh)
    return dataclasses.replace(found, soft=settings.combine == "soft")


def replace_as_published(sam_probs: Tensor, conf_thresh: float) -> PseudoLabel:
    """The published filter: confidence after L2-normalising (B, C, H, W) over the classes.

    What it rejects becomes background, and every pixel is kept.
    """
    confidence, label = F.normalize(sam_probs, dim=1).max(dim=1)
    label = torch.where(confidence >= conf_thresh, label, torch.zeros_like(label))
    return PseudoLabel(sam_probs, label, confidence, torch.ones_like(label, dtype=torch.bool))
