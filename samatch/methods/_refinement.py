"""What SAM-Match's refine found for a batch, and how good the pseudo-labels are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from samatch.methods.base import PseudoLabel, overlap
from samatch.sam.answer import Answer


@dataclass(frozen=True)
class RefinedSlices:
    """What student, SAM and both together say of D whole slices."""

    student: PseudoLabel
    sam_probs: Tensor  # (D, C, S, S) SAM's own map
    iou: Tensor  # (D, K) how well SAM expects its masks to fit
    both: PseudoLabel


@dataclass(frozen=True)
class Refinement:
    """The new pseudo-label, SAM's own class map and what SAM can learn from."""

    pseudo_label: PseudoLabel
    sam_label: Tensor  # (B, H, W) SAM's class map in the student's view
    accepted: Tensor  # (B, K) bool: objects that were asked for and passed the gate
    present: Tensor  # (B, K) bool: objects that were asked for
    answer: Answer  # about the images that were asked anew
    target: PseudoLabel  # the student's pseudo-label of the same images in SAM's frame

    def agreement(self, proposed: PseudoLabel) -> Tensor:
        """The share of pixels where SAM names the class that the student names, a scalar."""
        return (self.sam_label == proposed.label).float().mean()

    def ratios(self, proposed: PseudoLabel, hidden: Tensor, num_classes: int) -> dict[str, Tensor]:
        """Dice of the pseudo-labels against the hidden labels (B, H, W), whole and on kept pixels.

        And the share of objects that the gate accepted. (K, 2) sums each, see `StepOutput`.
        """
        refined = self.pseudo_label
        rates = torch.stack([self.accepted.sum(0), self.present.sum(0)], dim=1).double()
        return {
            "pseudo_dice_student": overlap(proposed.label, hidden, num_classes),
            "pseudo_dice_student_kept": overlap(proposed.label, hidden, num_classes, proposed.keep),
            "pseudo_dice_sam": overlap(self.sam_label, hidden, num_classes),
            "pseudo_dice_refined": overlap(refined.label, hidden, num_classes),
            "pseudo_dice_refined_kept": overlap(refined.label, hidden, num_classes, refined.keep),
            "sam_accept_rate": rates,
        }
