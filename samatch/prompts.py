"""Prompts: from a class map to what SAM is asked, one object per foreground class.

Coordinates are pixels, x before y, pixel centres on whole numbers; a box is (x_min, y_min, x_max, y_max)
of the pixels it encloses. K counts the foreground classes; object k is class k + 1. An absent class
carries `present=False`, never a sentinel coordinate.
"""

import dataclasses
from dataclasses import dataclass

import torch
from scipy import ndimage
from torch import Tensor
from torchvision.ops import masks_to_boxes


@dataclass(frozen=True)
class Prompt:
    """What SAM is asked for a batch of B images and K classes.

    boxes: (B, K, 4) float, xyxy pixels of an image of `image_size`; present: (B, K) bool;
    mask_prompt: (B, K, h, w) float logits, or None.
    """

    boxes: Tensor | None
    present: Tensor
    image_size: int
    mask_prompt: Tensor | None = None

    def resized(self, image_size: int) -> "Prompt":
        """The same prompt in the pixels of an image of another size."""
        factor = image_size / self.image_size
        boxes = None if self.boxes is None else (self.boxes + 0.5) * factor - 0.5
        return dataclasses.replace(self, boxes=boxes, image_size=image_size)


def class_masks(label: Tensor, num_classes: int) -> Tensor:
    """(B, H, W) class map -> (B, K, H, W) bool, one mask a foreground class."""
    classes = torch.arange(1, num_classes, device=label.device)
    return label[:, None] == classes[:, None, None]


def largest_components(masks: Tensor) -> Tensor:
    """(..., H, W) bool -> the largest 8-connected component by area of each mask; empty stays empty."""
    flat = masks.reshape(-1, *masks.shape[-2:]).cpu().numpy()
    kept = torch.zeros(flat.shape, dtype=torch.bool)
    for index, mask in enumerate(flat):
        components, count = ndimage.label(mask, structure=ndimage.generate_binary_structure(2, 2))
        if count:
            sizes = ndimage.sum_labels(mask, components, range(1, count + 1))
            kept[index] = torch.from_numpy(components == sizes.argmax() + 1)
    return kept.view(masks.shape).to(masks.device)


def boxes_of(masks: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K, H, W) bool -> boxes (B, K, 4) float and present (B, K) bool. Absent boxes are 0."""
    present = masks.flatten(2).any(2)
    boxes = torch.zeros(*present.shape, 4, device=masks.device)
    if present.any():
        boxes[present] = masks_to_boxes(masks[present])
    return boxes, present


def widen(boxes: Tensor, margin_px: float, image_size: int) -> Tensor:
    """Boxes with `margin_px` pixels more on every side, cut at the image's border."""
    outwards = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=boxes.device) * margin_px
    return (boxes + outwards).clamp(0, image_size - 1)


def jitter(boxes: Tensor, fraction: float, image_size: int, generator: torch.Generator) -> Tensor:
    """Boxes with each edge moved by a uniform draw in +-fraction of the box's side (at least 1 px)."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1 / max(fraction, 1e-6)).repeat(1, 1, 2)
    draw = torch.rand(boxes.shape, generator=generator).to(boxes.device) * 2 - 1
    return (boxes + draw * fraction * sides).clamp(0, image_size - 1) if fraction else boxes


def prompt_from_probs(probs: Tensor, label: Tensor, kind: str, margin_px: float) -> Prompt:
    """The prompt that a prediction asks SAM with.

    probs: (B, C, H, W) class probabilities; label: (B, H, W) class map; kind: box, mask or box+mask;
    margin_px: pixels of an image 256 wide (the paper's unit), scaled to this one.
    """
    size = label.shape[-1]
    boxes, present = boxes_of(largest_components(class_masks(label, probs.shape[1])))
    boxes = widen(boxes, margin_px * size / 256, size)
    return Prompt(boxes if "box" in kind else None, present, size, foreground_logits(probs) if "mask" in kind else None)


def foreground_logits(probs: Tensor) -> Tensor:
    """(B, C, H, W) probabilities -> (B, K, H, W): log-odds of each foreground class against background."""
    log_probs = probs.clamp(min=1e-6).log()
    return log_probs[:, 1:] - log_probs[:, :1]
