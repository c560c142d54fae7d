"""A plain trainer with the structure of the published ones: what samatch's step is measured by.

One sample at a time is augmented on the host (scipy and PIL) in loader workers, everything is
float32, the student sees weak and strong views of labeled and unlabeled images in two passes with
gradient, boxes go through numpy, the image encoder runs once for every class of the unlabeled part
and once for the labeled one (four passes a step on ACDC), each loss is fetched from the device in
every step, and validation goes slice by slice over the host. The networks, losses and optimisers
are samatch's own: structure is compared, not arithmetic.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ColorJitter
from torchvision.transforms.functional import to_pil_image, to_tensor

from samatch.networks.losses import sam_loss, segmentation_loss
from samatch.sam.model import SamModel, resize
from samatch.sam.prompts import Prompt
from samatch.training.metrics import dice

MARGIN = 10  # pixels at 256
JITTER = ColorJitter(0.8, 0.8, 0.8)


class Slices(Dataset):
    """Slices of volumes, each augmented when it is fetched: (weak, strong, label)."""

    def __init__(self, volumes, size: int):
        self.pairs = [
            (image, label) for v in volumes for image, label in zip(v.image, v.label, strict=True)
        ]
        self.size = size

    def __len__(self) -> int:
        return 1 << 30  # endless: an index is taken modulo the number of slices

    def __getitem__(self, index: int):
        rng = np.random.default_rng(index)
        image, label = self.pairs[rng.integers(len(self.pairs))]
        if rng.random() > 0.5:
            turns, axis = rng.integers(4), rng.integers(2)
            image, label = (np.flip(np.rot90(a, turns), axis) for a in (image, label))
        else:
            angle = rng.uniform(-20, 20)
            image, label = (
                ndimage.rotate(a, angle, order=0, reshape=False) for a in (image, label)
            )
        zoom = self.size / image.shape[0], self.size / image.shape[1]
        image, label = (ndimage.zoom(a, zoom, order=0) for a in (image, label))
        weak, label = (
            torch.from_numpy(image.astype(np.float32))[None],
            torch.from_numpy(label.astype(np.int64)),
        )
        return weak, to_tensor(JITTER(to_pil_image(weak))), label


class PlainTrainer:
    """FixMatch or SAM-Match, step by step. workers as the published loaders (4)."""

    def __init__(
        self,
        student,
        sam: SamModel | None,
        labeled,
        unlabeled,
        num_classes: int,
        *,
        size: int,
        batch: int,
        workers: int,
        device,
        margin: int = MARGIN,
        lambda_u: float = 1.0,
    ):
        self.student, self.sam, self.num_classes, self.size, self.device = (
            student,
            sam,
            num_classes,
            size,
            device,
        )
        self.margin, self.lambda_u = margin, lambda_u
        loaders = [
            DataLoader(Slices(volumes, size), batch, num_workers=workers)
            for volumes in (labeled, unlabeled)
        ]
        self.loaders = [iter(loader) for loader in loaders]
        self.optimizer = torch.optim.SGD(
            student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
        )
        self.sam_optimizer = (
            torch.optim.AdamW(sam.parameters(), lr=5e-5, weight_decay=0.01) if sam else None
        )

    def fixmatch_step(self, batch=None) -> float:
        """batch: (image_l, strong_l, label_l), (weak, strong, hidden label); drawn from the loaders
        if not given.
        """
        labeled, (weak, strong, _) = batch or self._draw()
        sup, probs = self._weak_pass(labeled, weak)
        confidence, label = probs.max(1)
        return self._student_step(sup, labeled[1], strong, label, confidence >= 0.95)

    def joint_step(self, batch=None) -> float:
        labeled, (weak, strong, _) = batch or self._draw()
        loss_sup, probs = self._weak_pass(labeled, weak)
        logits, unsup = self._masks_by_class(weak, probs.argmax(1), margin=self.margin)
        probs = torch.cat([torch.zeros_like(logits[:, :1]), logits.detach()], 1).softmax(1)
        confidence, refined = probs.max(1)
        loss = self._student_step(loss_sup, labeled[1], strong, refined, confidence >= 0.95)
        embeddings = self.sam.image_encoder(labeled[0].expand(-1, 3, -1, -1))
        losses = [
            self._one_class(embeddings, labeled[2], k, margin=None)[1]
            for k in range(self.num_classes - 1)
        ]
        return loss + self._sam_step(present_mean(losses, labeled[2]) + 0.25 * unsup)

    def finetune_step(self, batch=None) -> float:
        (image, _, label), _ = batch or self._draw()
        return self._sam_step(self._masks_by_class(image, label, margin=None)[1])

    @torch.no_grad()
    def validate(self, volumes) -> float:
        """Mean Dice, slice by slice, resized on the host with scipy."""
        self.student.eval()
        scores = []
        for volume in volumes:
            pred = np.zeros_like(volume.label)
            for z, image in enumerate(volume.image):
                small = ndimage.zoom(
                    image, (self.size / image.shape[0], self.size / image.shape[1]), order=0
                )
                out = (
                    self.student(torch.from_numpy(small)[None, None].to(self.device))
                    .softmax(1)
                    .argmax(1)[0]
                    .cpu()
                    .numpy()
                )
                pred[z] = ndimage.zoom(
                    out, (image.shape[0] / self.size, image.shape[1] / self.size), order=0
                )
            scores += [dice(pred == k, volume.label == k) for k in range(1, self.num_classes)]
        self.student.train()
        return float(np.nanmean(scores))

    def _draw(self):
        return [[part.to(self.device) for part in next(loader)] for loader in self.loaders]

    def _weak_pass(self, labeled, weak):
        """The supervised loss, and the probabilities of the unlabeled weak views."""
        image, _, label = labeled
        logits = self.student(torch.cat([image, weak]))
        return segmentation_loss(logits[: len(image)], label), logits[
            len(image) :
        ].detach().softmax(1)

    def _student_step(self, loss_sup, strong_l, strong, label, keep) -> float:
        logits = self.student(torch.cat([strong_l, strong]))[len(strong_l) :]
        loss_unsup = segmentation_loss(logits, label, keep)
        loss = loss_sup + self.lambda_u * loss_unsup
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss_sup.item() + loss_unsup.item()

    def _sam_step(self, loss) -> float:
        self.sam_optimizer.zero_grad()
        loss.backward()
        self.sam_optimizer.step()
        return loss.item()

    def _masks_by_class(self, image, label, margin: int | None):
        """Mask logits (B, K, S, S) and SAM's loss, one class after the other, each with an encoder
        pass of its own.
        """
        found = [
            self._one_class(self.sam.image_encoder(image.expand(-1, 3, -1, -1)), label, k, margin)
            for k in range(self.num_classes - 1)
        ]
        return torch.cat([logits for logits, _ in found], 1), present_mean(
            [loss for _, loss in found], label
        )

    def _one_class(self, embeddings, label, k: int, margin: int | None):
        """Of class k + 1: its box in numpy, SAM's answer, SAM's loss. margin None: a reference's
        box, of all of its parts.
        """
        masks = (label == k + 1).cpu().numpy()
        boxes, present = (
            np.zeros((len(masks), self.num_classes - 1, 4), np.float32),
            np.zeros((len(masks), self.num_classes - 1), bool),
        )
        for b, mask in enumerate(masks):
            rows, columns = np.where(largest(mask) if margin is not None else mask)
            if len(rows):
                out = margin or 0
                boxes[b, k] = (
                    columns.min() - out,
                    rows.min() - out,
                    columns.max() + out,
                    rows.max() + out,
                )
                present[b, k] = True
        prompt = Prompt(
            torch.from_numpy(boxes.clip(0, self.size - 1)).to(self.device),
            torch.from_numpy(present).to(self.device),
            self.size,
        )
        mask_logits, iou_pred = self.sam.decode(embeddings, prompt)
        mask_logits = resize(mask_logits, self.size)
        target = F.one_hot(label, self.num_classes).movedim(-1, 1)[:, 1:].bool()
        return mask_logits[:, k : k + 1], sam_loss(mask_logits, iou_pred, target, prompt.present)


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected component."""
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count else mask


def present_mean(losses, label):
    """Mean over present objects of losses that are each a mean over the present objects of one
    class.
    """
    counts = [(label == k + 1).flatten(1).any(1).sum() for k in range(len(losses))]
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / max(
        sum(counts), 1
    )
