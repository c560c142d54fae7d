"""How far SAM is believed: which of its objects, which pixels, and how much against the student.

Masks are (B, K, H, W) bool, one an object; quality is the IoU that SAM promises of each, (B, K).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from samatch.config.settings import Refine


def gate(
    settings: Refine, present: Tensor, iou_pred: Tensor, sam_masks: Tensor, student_masks: Tensor
) -> Tensor:
    """(B, K) bool: which of SAM's objects are trusted, of those present (B, K) bool.

    By its predicted IoU (B, K), by agreement with the student, or both. Agreement: IoU with the
    student's mask, and the smaller area over the larger one.
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
    """(B, 1, H, W) bool: where neither SAM nor the student names a class that was not accepted.

    Both probabilities are (B, C, H, W), accepted (B, K) bool.
    """
    num_classes = sam_probs.shape[1]
    rejected = torch.cat([torch.zeros_like(accepted[:, :1]), ~accepted], dim=1)[:, :, None, None]
    by_sam = F.one_hot(sam_probs.argmax(1), num_classes)
    by_student = F.one_hot(student_probs.argmax(1), num_classes)
    named = (by_sam + by_student).movedim(-1, 1).bool()
    return ~(rejected & named).any(1, keepdim=True)


def reliability(sam_masks: Tensor, student_masks: Tensor, quality: Tensor) -> Tensor:
    """(B, C, 1, 1) in [0, 1]: SAM's share for each class; background takes the mean.

    The promised IoU times the Dice of SAM's mask with the student's: self-consistency times mutual
    agreement, after SynFoC (CVPR 2025).
    """
    both = (sam_masks & student_masks).sum(dim=(2, 3)).float()
    mutual = (2 * both + 1) / (sam_masks.sum(dim=(2, 3)) + student_masks.sum(dim=(2, 3)) + 1)
    weight = (quality * mutual).clamp(0, 1)
    return torch.cat([weight.mean(1, keepdim=True), weight], dim=1)[:, :, None, None]
