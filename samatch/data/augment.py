"""Weak and strong views of a batch, drawn from an explicit generator and computed on the device at
once.

A geometric view is an affine map `theta` (B, 2, 3) in torch's `affine_grid` convention: normalised
output coordinates (x, y) to input coordinates. Image and label share one theta; its inverse takes a
prediction on the view back to the slice.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from samatch.config.settings import Augment
from samatch.system.devices import send


def uniform(shape, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform draws in [low, high), float32 on the CPU, where the generator lives."""
    return torch.rand(shape, generator=generator) * (high - low) + low


def random_affine(count: int, augment: Augment, generator: torch.Generator) -> Tensor:
    """(count, 2, 3) maps: with p turn_prob a quarter turn and flips, else a rotation, always a
    scale and a shift."""
    turn = torch.randint(4, (count,), generator=generator) * (math.pi / 2)
    flip = torch.randint(2, (count, 2), generator=generator) * 2.0 - 1
    angle = uniform(count, -1, 1, generator) * math.radians(augment.rotation_deg)
    turned = torch.rand(count, generator=generator) < augment.turn_prob
    total = turn * turned + angle * ~turned
    flip = torch.where(turned[:, None], flip, torch.ones_like(flip))
    zoom = uniform(count, 1 - augment.scale, 1 + augment.scale, generator)
    rotation = torch.stack([total.cos(), -total.sin(), total.sin(), total.cos()], dim=1).view(
        -1, 2, 2
    )
    linear = rotation * flip[:, None, :] * zoom[:, None, None]
    shift = (
        2 * uniform((count, 2, 1), -augment.shift, augment.shift, generator)
        if augment.shift
        else torch.zeros(count, 2, 1)
    )
    return torch.cat([linear, shift], dim=2)


def inverse(theta: Tensor) -> Tensor:
    """The map that undoes `theta`, (B, 2, 3)."""
    linear = torch.linalg.inv_ex(
        theta[:, :, :2]
    ).inverse  # inv would wait for the device to say whether there is one
    return torch.cat([linear, -linear @ theta[:, :, 2:]], dim=2)


def elastic_field(count: int, size: int, deviation: float, generator: torch.Generator) -> Tensor:
    """(count, size, size, 2) smooth displacements in `affine_grid`'s coordinates: normal draws on
    an 8 x 8 lattice, of that standard deviation (fraction of the image), interpolated
    bicubically."""
    lattice = torch.randn(count, 2, 8, 8, generator=generator) * 2 * deviation
    return F.interpolate(lattice, (size, size), mode="bicubic", align_corners=True).movedim(1, -1)


def warp(
    image: Tensor,
    theta: Tensor,
    size: int,
    mode: str = "bilinear",
    displacement: Tensor | None = None,
) -> Tensor:
    """(B, C, H, W) seen through theta at size x size, displaced where that is asked; outside the
    image is 0."""
    grid = F.affine_grid(
        theta.to(image.dtype), [image.shape[0], image.shape[1], size, size], align_corners=False
    )
    grid = grid if displacement is None else grid + displacement
    return F.grid_sample(image, grid, mode=mode, padding_mode="zeros", align_corners=False)


def warp_probs(
    probs: Tensor, theta: Tensor, size: int, displacement: Tensor | None = None
) -> Tensor:
    """Class probabilities (B, C, H, W) seen through theta; what lies outside the image is
    background."""
    warped = warp(probs, theta, size, displacement=displacement)
    return torch.cat([1 - warped[:, 1:].sum(1, keepdim=True), warped[:, 1:]], dim=1)


def warp_label(
    label: Tensor, theta: Tensor, size: int, displacement: Tensor | None = None
) -> Tensor:
    """(B, H, W) class map seen through theta, nearest neighbour; outside is background."""
    return warp(label[:, None].float(), theta, size, mode="nearest", displacement=displacement)[
        :, 0
    ].to(label.dtype)


def strong_view(image: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) in [0, 1] with another brightness, contrast and gamma a sample, with p
    jitter_prob, and blur, with p blur_prob."""
    count, jitter = image.shape[0], augment.jitter
    draws = torch.stack(
        [
            uniform(count, 1 - jitter, 1 + jitter, generator),
            uniform(count, 1 - jitter, 1 + jitter, generator),
            uniform(count, -augment.gamma, augment.gamma, generator).exp(),
        ]
    )
    changed = torch.rand(count, generator=generator) < augment.jitter_prob
    brightness, contrast, gamma = send(draws, image.device)[:, :, None, None, None]
    mean = image.mean(dim=(2, 3), keepdim=True)
    view = ((image - mean) * contrast + mean) * brightness
    view = view.clamp(0, 1).clamp(min=1e-6) ** gamma
    view = torch.where(send(changed, image.device)[:, None, None, None], view, image)
    if not augment.blur_prob:
        return view
    sigma = uniform(count, 0.1, 2.0, generator) * (
        torch.rand(count, generator=generator) < augment.blur_prob
    )
    return blur(view, send(sigma, image.device))


def blur(image: Tensor, sigma: Tensor) -> Tensor:
    """(B, 1, H, W) under a Gaussian of its own sigma (B,) in pixels, cut at 6; sigma 0 changes
    nothing."""
    offset = torch.arange(-6, 7, device=image.device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, None, None, :]
    count, rows = image.shape[0], F.pad(image.transpose(0, 1), (6, 6, 6, 6), mode="replicate")
    rows = F.conv2d(rows, kernel, groups=count)
    return F.conv2d(rows, kernel.transpose(2, 3), groups=count).transpose(0, 1)


def cutmix_boxes(count: int, size: int, probability: float, generator: torch.Generator) -> Tensor:
    """(count, size, size) bool: a random box of area .02-.4 and aspect .3-3.3, or nothing."""
    area = uniform(count, 0.02, 0.4, generator) * size * size
    aspect = uniform(count, math.log(0.3), math.log(1 / 0.3), generator).exp()
    used = torch.rand(count, generator=generator) < probability
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=size)
    start = torch.rand(count, 2, generator=generator) * (size - sides)
    pixels = torch.arange(size)
    inside = (pixels >= start[..., None]) & (pixels < (start + sides)[..., None])
    return inside[:, 0, :, None] & inside[:, 1, None, :] & used[:, None, None]


def paste_donor(values: Tensor, boxes: Tensor, distance: int = 1) -> Tensor:
    """CutMix within the batch: inside the box of sample b stands its donor, sample b - distance.

    values: (B, ..., H, W) of any type; boxes: (B, H, W) bool.
    """
    boxes = boxes.view(boxes.shape[0], *[1] * (values.ndim - 3), *boxes.shape[1:])
    return torch.where(boxes, values.roll(distance, dims=0), values)
