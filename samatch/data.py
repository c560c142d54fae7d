"""Slices on the device and the batches made from them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samatch import augment, prepared
from samatch.config import RunConfig
from samatch.datasets import Volume
from samatch.devices import send


def resize_image(image: Tensor, size: int) -> Tensor:
    """(N, 1, H, W) -> (N, 1, size, size), bilinear, antialiased when shrinking."""
    return F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)


def resized(volume: Volume, size: int) -> tuple[Tensor, Tensor]:
    """Image (D, 1, S, S) float32 and label (D, S, S) uint8; from the prepared small copy where that has the size."""
    if volume.small is not None and size == prepared.SIZE:
        return torch.from_numpy(volume.small[0])[:, None], torch.from_numpy(volume.small[1])
    label = F.interpolate(torch.from_numpy(volume.label)[:, None], (size, size), mode="nearest-exact")[:, 0]
    return resize_image(torch.from_numpy(volume.image)[:, None], size), label


@dataclass(frozen=True)
class SlicePool:
    """Every slice of some volumes: image (N, 1, S, S) float32 and label (N, S, S) int64, on one device."""

    image: Tensor
    label: Tensor

    @classmethod
    def from_volumes(cls, volumes: list[Volume], size: int, device: torch.device | str = "cpu") -> "SlicePool":
        images, labels = zip(*(resized(volume, size) for volume in volumes))
        return cls(torch.cat(images).to(device), torch.cat(labels).to(device).long())

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Batch:
    """One step's images. All views are (B, 1, S, S), class maps (B, S, S), boxes (B, S, S) bool.

    The CutMix donor of sample b is sample b-1 of the same batch in the first strong view, b-2 in the second.
    `hidden_label_u` is for logging the quality of pseudo-labels; no loss may read it. `theta_*` take the slice to its view (see augment).
    """

    image_l: Tensor
    label_l: Tensor
    index_l: Tensor
    theta_l: Tensor
    iteration: int
    progress: float                      # fraction of the training that is done, in [0, 1)
    image_w: Tensor | None = None
    image_s1: Tensor | None = None       # strong view of image_w, CutMix applied
    cutmix_box1: Tensor | None = None
    image_s2: Tensor | None = None       # a second one, drawn anew
    cutmix_box2: Tensor | None = None
    index_u: Tensor | None = None
    theta_u: Tensor | None = None
    hidden_label_u: Tensor | None = None


def draw_batch(pool: SlicePool, n_labeled_slices: int, config: RunConfig, generator: torch.Generator, iteration: int,
               unlabeled: bool, strong_views: int = 1) -> Batch:
    """A batch drawn with replacement: the first slices of the pool are the labeled ones, the rest unlabeled."""
    size, settings = config.train.image_size, config.augment
    device, progress = pool.image.device, iteration / config.train.iterations

    def view(low: int, high: int, count: int):
        index = send(torch.randint(low, high, (count,), generator=generator), device)
        theta = send(augment.random_affine(count, settings, generator), device)
        return index, theta, augment.warp(pool.image[index], theta, size), augment.warp_label(pool.label[index], theta, size)

    index_l, theta_l, image_l, label_l = view(0, n_labeled_slices, config.train.batch_labeled)
    if settings.jitter_labeled:
        image_l = augment.strong_view(image_l, settings, generator)
    if not unlabeled:
        return Batch(image_l, label_l, index_l, theta_l, iteration, progress)
    count = config.train.batch_unlabeled
    index_u, theta_u, image_w, hidden_label_u = view(n_labeled_slices, len(pool), count)
    views = {}
    for number in range(1, strong_views + 1):
        box = send(augment.cutmix_boxes(count, size, settings.cutmix_prob, generator), device)
        strong = augment.strong_view(image_w, settings, generator)
        views |= {f"image_s{number}": augment.paste_donor(strong, box, number), f"cutmix_box{number}": box}
    return Batch(image_l, label_l, index_l, theta_l, iteration, progress, image_w=image_w, index_u=index_u, theta_u=theta_u,
                 hidden_label_u=hidden_label_u, **views)
