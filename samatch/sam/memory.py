"""What SAM last said about each slice, so that only a share of a batch has to be asked anew."""

import torch
from torch import Tensor


class Memory:
    """SAM's last answer about each of N slices, in the frame of the unaugmented slice.

    probs (N, C, S, S) float16, quality (N, K) predicted IoU, present (N, K) bool: asked for or not,
    known (N,) bool: whether the slice was ever asked about. `refine.renew` is the share asked anew.
    """

    def __init__(self, count: int, num_classes: int, size: int, device: torch.device | str):
        self.probs = torch.zeros(count, num_classes, size, size, dtype=torch.float16, device=device)
        self.quality = torch.zeros(count, num_classes - 1, device=device)
        self.present = torch.zeros(count, num_classes - 1, dtype=torch.bool, device=device)
        self.known = torch.zeros(count, dtype=torch.bool, device=device)

    def write(self, index: Tensor, probs: Tensor, quality: Tensor, present: Tensor) -> None:
        """Replaces the answers about slices index (n,): probs (n, C, S, S), the others (n, K)."""
        self.probs[index], self.quality[index], self.present[index] = probs.half(), quality, present
        self.known[index] = True

    def read(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """probs (n, C, S, S) float32, quality and present (n, K) of slices index; 0 if unknown."""
        return self.probs[index].float(), self.quality[index], self.present[index]
