"""Loss terms. Every one is exactly 0 where nothing is kept, and never NaN.

A label is a class map (B, H, W), or class probabilities (B, C, H, W) where it was resized or warped
softly.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5  # of the soft Dice: a class in neither counts 0


def cross_entropy(logits: Tensor, label: Tensor, keep: Tensor | None = None) -> Tensor:
    """logits (B, C, H, W), a label, keep (B, H, W) bool -> mean over the kept pixels."""
    loss = F.cross_entropy(logits, label, reduction="none")
    keep = torch.ones_like(loss) if keep is None else keep.to(loss.dtype)
    return (loss * keep).sum() / keep.sum().clamp(min=1)


def dice_loss(probs: Tensor, label: Tensor, keep: Tensor | None = None) -> Tensor:
    """Soft Dice loss, mean over all classes, sums over batch and kept pixels.

    Milletari et al., 2016. probs (B, C, H, W), a label, keep (B, H, W) bool. A class in neither
    counts 0.
    """
    target = label if label.ndim == 4 else F.one_hot(label, probs.shape[1]).movedim(-1, 1)
    target = target.to(probs.dtype)
    weight = torch.ones_like(probs[:, :1]) if keep is None else keep[:, None].to(probs.dtype)
    axes = (0, 2, 3)
    overlap = (probs * target * weight).sum(axes)
    total = ((probs.square() + target.square()) * weight).sum(axes)
    return (1 - (2 * overlap + EPS) / (total + EPS)).mean()


def segmentation_loss(logits: Tensor, label: Tensor, keep: Tensor | None = None) -> Tensor:
    """(cross-entropy + soft Dice) / 2 over the kept pixels, in float32."""
    logits = logits.float()
    return 0.5 * (cross_entropy(logits, label, keep) + dice_loss(logits.softmax(1), label, keep))


def sam_loss(mask_logits: Tensor, iou_pred: Tensor, masks: Tensor, present: Tensor) -> Tensor:
    """2 (Dice + BCE) + MSE(predicted IoU, IoU), mean over present objects (published fine-tuning
    loss).

    mask_logits (B, K, H, W), iou_pred (B, K), masks (B, K, H, W) bool, present (B, K) bool.
    """
    probs, target, axes = mask_logits.sigmoid(), masks.float(), (2, 3)
    dice = 1 - (2 * (probs * target).sum(axes) + 1) / ((probs + target).sum(axes) + 1)
    bce = F.binary_cross_entropy_with_logits(mask_logits, target, reduction="none").mean(axes)
    with torch.no_grad():
        overlap = ((mask_logits > 0) & masks).sum(axes)
        iou = overlap / ((mask_logits > 0) | masks).sum(axes).clamp(min=1)
    of_object = 2 * (dice + bce) + (iou_pred - iou) ** 2
    return torch.where(present, of_object, 0.0).sum() / present.sum().clamp(min=1)


def sam_loss_as_published(class_logits: Tensor, label: Tensor) -> Tensor:
    """The published joint loss: cross-entropy of probabilities (softmax twice), plus Dice."""
    probs = class_logits.softmax(1)
    return cross_entropy(probs, label) + dice_loss(probs, label)
