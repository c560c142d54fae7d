"""Prompts: from a class map to what SAM is asked, one object per foreground class.

Coordinates are pixels, x before y, pixel centres on whole numbers; a box is (x_min, y_min, x_max,
y_max) of the pixels it encloses. K counts the foreground classes; object k is class k + 1. An
absent class carries `present=False`, never a sentinel coordinate.
"""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from samatch.config.settings import Refine
from samatch.system.devices import send

OF_QUERIES = ("none", "class_boxes")  # the prompts that SAM's class queries answer, all at once
NO_POINT = -1  # segment-anything's label of a point that is not there
PASSES_AT_ONCE = 8  # of the connected components' propagation; hearts settle in about as many


@dataclass(frozen=True)
class Prompt:
    """What SAM is asked for a batch of B images and K classes.

    boxes: (B, K, 4) float, xyxy pixels of an image of `image_size`; present: (B, K) bool;
    mask_prompt: (B, K, h, w) float logits; points: (B, K, P, 2) float, xy pixels, with
    point_labels (B, K, P) int: 1 foreground, 0 background, NO_POINT where there is none.
    """

    boxes: Tensor | None
    present: Tensor
    image_size: int
    mask_prompt: Tensor | None = None
    points: Tensor | None = None
    point_labels: Tensor | None = None

    def resized(self, image_size: int) -> "Prompt":
        """The same prompt in the pixels of an image of another size."""
        factor = image_size / self.image_size
        boxes, points = (
            None if xy is None else (xy + 0.5) * factor - 0.5 for xy in (self.boxes, self.points)
        )
        return dataclasses.replace(self, boxes=boxes, points=points, image_size=image_size)


def class_masks(label: Tensor, num_classes: int) -> Tensor:
    """(B, H, W) class map -> (B, K, H, W) bool, one mask a foreground class."""
    classes = torch.arange(1, num_classes, device=label.device)
    return label[:, None] == classes[:, None, None]


def largest_components(masks: Tensor) -> Tensor:
    """(..., H, W) bool -> the largest 8-connected component by area of each mask; empty stays
    empty.

    Of equally large ones, the one whose first pixel in reading order comes first. On a CPU by
    scipy, which is quicker there, elsewhere on the device.
    """
    flat = masks.reshape(-1, *masks.shape[-2:])
    kept = _largest_by_scipy(flat) if masks.device.type == "cpu" else largest_by_propagation(flat)
    return kept.view(masks.shape)


def _largest_by_scipy(masks: Tensor) -> Tensor:
    kept = torch.zeros_like(masks)
    for index, mask in enumerate(masks.numpy()):
        components, count = ndimage.label(mask, structure=ndimage.generate_binary_structure(2, 2))
        if count:
            sizes = ndimage.sum_labels(mask, components, range(1, count + 1))
            kept[index] = torch.from_numpy(components == sizes.argmax() + 1)
    return kept


def largest_by_propagation(masks: Tensor) -> Tensor:
    """(N, H, W) bool -> the largest 8-connected component of each, all at once on any device.

    Every pixel learns the first pixel of its component: the least number among its neighbours, then
    the number that this one has learned (pointer jumping), until nothing changes; asked every few
    passes, since the host waits for the answer.
    """
    count, height, width = masks.shape
    nothing = height * width
    own = torch.arange(nothing, device=masks.device).expand(count, -1)
    root, inside = torch.where(masks.flatten(1), own, nothing), masks.flatten(1)
    settled = False
    while not settled:
        for _ in range(PASSES_AT_ONCE):
            before = root
            around = (
                -F.max_pool2d(-root.view(count, 1, height, width).float(), 3, stride=1, padding=1)
                .flatten(1)
                .long()
            )
            least = torch.where(inside, around, nothing)
            root = torch.cat([least, least.new_full((count, 1), nothing)], dim=1).gather(1, least)
        settled = torch.equal(root, before)
    sizes = torch.zeros(count, nothing + 1, device=masks.device).scatter_add_(
        1, root, inside.float()
    )[:, :-1]
    largest = (
        torch.arange(nothing, 0, -1, device=masks.device) * (sizes == sizes.amax(1, keepdim=True))
    ).argmax(1, keepdim=True)
    return (inside & (root == largest)).view(masks.shape)


def boxes_of(masks: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K, H, W) bool -> boxes (B, K, 4) float and present (B, K) bool. Absent boxes are 0."""
    columns, rows = masks.any(2).float(), masks.any(3).float()
    present = masks.flatten(2).any(2)
    first = [side.argmax(2) for side in (columns, rows)]
    last = [side.shape[2] - 1 - side.flip(2).argmax(2) for side in (columns, rows)]
    return torch.stack(first + last, dim=2).float() * present[..., None], present


def widen(boxes: Tensor, margin_px: float, image_size: int) -> Tensor:
    """Boxes with `margin_px` pixels more on every side, cut at the image's border."""
    return torch.cat([boxes[..., :2] - margin_px, boxes[..., 2:] + margin_px], dim=-1).clamp(
        0, image_size - 1
    )


def jitter(boxes: Tensor, fraction: float, image_size: int, generator: torch.Generator) -> Tensor:
    """Boxes with each edge moved by a uniform draw in +-fraction of its side (at least 1 px)."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1 / max(fraction, 1e-6)).repeat(1, 1, 2)
    draw = send(torch.rand(boxes.shape, generator=generator), boxes.device) * 2 - 1
    return (boxes + draw * fraction * sides).clamp(0, image_size - 1) if fraction else boxes


def prompt_from_probs(probs: Tensor, label: Tensor, settings: Refine) -> Prompt:
    """The prompt that a prediction asks SAM with: what `settings.prompt` names, of boxes, points
    and mask.

    probs: (B, C, H, W) class probabilities; label: (B, H, W) class map. Margins are pixels of an
    image 256 wide (the paper's unit), scaled to this one. Every object is the largest component of
    its class.
    """
    size, asked = label.shape[-1], settings.prompt
    objects = largest_components(class_masks(label, probs.shape[1]))
    tight, present = boxes_of(objects)
    boxes = widen(tight, settings.box_margin_px * size / 256, size)
    boxes = jitter(boxes, settings.prompt_jitter, size, torch.default_generator)
    points, point_labels = (
        points_of(
            objects, probs[:, 1:], tight, settings.points_foreground, settings.points_background
        )
        if "points" in asked
        else (None, None)
    )
    return Prompt(
        boxes if "box" in asked else None,
        present,
        size,
        foreground_logits(probs) if "mask" in asked else None,
        points,
        point_labels,
    )


def points_of(
    objects: Tensor, confidence: Tensor, boxes: Tensor, foreground: int, background: int
) -> tuple[Tensor, Tensor]:
    """Point prompts of P = foreground + background points each.

    -> points (B, K, P, 2) xy and their labels (B, K, P). objects: (B, K, H, W) bool; confidence:
    (B, K, H, W) probability of the class; boxes: of the objects, xyxy. Foreground: the most
    confident pixels of the object's interior (without its rim, where that leaves any). Background:
    the pixels least likely of the class outside the object, but within its box and an eighth of the
    image around. Points of one object keep a sixteenth of the image between them.
    """
    size = objects.shape[-1]
    interior = -F.max_pool2d(-objects.float(), 3, stride=1, padding=1) > 0
    interior = torch.where(interior.any(dim=(2, 3), keepdim=True), interior, objects)
    pixels = torch.arange(size, device=objects.device)
    near = widen(boxes, size / 8, size)[..., None]
    around = ((pixels >= near[:, :, 1]) & (pixels <= near[:, :, 3]))[..., :, None] & (
        (pixels >= near[:, :, 0]) & (pixels <= near[:, :, 2])
    )[..., None, :]
    around &= ~objects & objects.any(dim=(2, 3), keepdim=True)
    apart = max(1, size // 16)
    parts = [
        pick(confidence, interior, foreground, apart, 1),
        pick(1 - confidence, around, background, apart, 0),
    ]
    points, labels = (torch.cat(values, dim=2) for values in zip(*parts, strict=True))
    return points, labels


def pick(
    score: Tensor, allowed: Tensor, count: int, apart: int, label: int
) -> tuple[Tensor, Tensor]:
    """The `count` best allowed pixels of each map, at least `apart` from one another.

    One after the other. score: (B, K, H, W), allowed: the same, bool -> points (B, K, count, 2) xy
    and labels (B, K, count): `label`, or NO_POINT where no pixel is left. Of equal pixels the first
    in reading order.
    """
    batch, classes, height, width = score.shape
    rows, columns = (
        torch.arange(height, device=score.device)[:, None],
        torch.arange(width, device=score.device),
    )
    points, labels = (
        score.new_zeros(batch, classes, count, 2),
        torch.full((batch, classes, count), NO_POINT, device=score.device),
    )
    for number in range(count):
        best, where = score.masked_fill(~allowed, -1.0).flatten(2).max(2)
        found, y, x = best >= 0, where // width, where % width
        points[:, :, number] = torch.stack([x, y], dim=2) * found[..., None]
        labels[:, :, number] = torch.where(found, label, NO_POINT)
        distance = torch.maximum(
            (rows - y[..., None, None]).abs(), (columns - x[..., None, None]).abs()
        )
        allowed = allowed & (distance >= apart)
    return points, labels


def foreground_logits(probs: Tensor) -> Tensor:
    """(B, C, H, W) probabilities -> (B, K, H, W): log-odds of each class against background."""
    log_probs = probs.clamp(min=1e-6).log()
    return log_probs[:, 1:] - log_probs[:, :1]
