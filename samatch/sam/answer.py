"""SAM's answer, and its mask logits as class probabilities and as an expected IoU.

Background has no logit of its own: it is 0, so that a class wins where its own logit is above it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from samatch.sam.model import class_logits


@dataclass(frozen=True)
class Answer:
    """SAM's answer about n of a batch's images, in SAM's frame; with gradient where SAM learns."""

    mask_logits: Tensor  # (n, K, S, S)
    quality: Tensor  # (n, K) predicted IoU of each mask
    present: Tensor  # (n, K) bool: what was asked for


def expected_iou(mask_logits: Tensor) -> Tensor:
    """(B, K, H, W) -> (B, K): the IoU of each mask (logit > 0) that its own probabilities promise.

    The sum of the probabilities inside the mask over its area and their sum outside. An empty mask
    that promises nothing scores 1.
    """
    probs, inside = mask_logits.sigmoid(), mask_logits > 0
    intersection = (probs * inside).sum(dim=(2, 3))
    union = torch.where(inside, 1.0, probs).sum(dim=(2, 3))
    return (intersection + 1) / (union + 1)


def answer_of_queries(mask_logits: Tensor) -> Answer:
    """SAM's class queries answer for every class, asked with boxes or without."""
    present = torch.ones(mask_logits.shape[:2], dtype=torch.bool, device=mask_logits.device)
    return Answer(mask_logits, expected_iou(mask_logits.detach()), present)


def class_probs(mask_logits: Tensor, as_published: bool = False) -> Tensor:
    """(B, K, H, W) -> (B, C, H, W) in [0, 1], sum 1 over the classes; see `logits_of_classes`."""
    return logits_of_classes(mask_logits, as_published).softmax(1)


def logits_of_classes(mask_logits: Tensor, as_published: bool = False) -> Tensor:
    """(B, K, H, W) -> (B, C, H, W): `class_logits`, or as the authors' code has it.

    There the background's logit is 1 - mean(foreground logits), which erodes the foreground.
    """
    if as_published:
        return torch.cat([1 - mask_logits.mean(1, keepdim=True), mask_logits], dim=1)
    return class_logits(mask_logits)
