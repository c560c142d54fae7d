"""Phantom: generated short-axis-like cardiac volumes, so that everything runs anywhere. Demo
numbers only.

Each patient has an anatomy (centre, sizes, wall thickness, tilt of the right ventricle), a contrast
(blood, muscle, fat, lung), a bias field and noise; slices taper from base to apex; frame01 is wide
(ED), frame02 contracted with a thicker wall (ES). Everything follows from the case id. Labels: 1
RV, 2 MYO, 3 LV."""

import zlib
from pathlib import Path

import numpy as np
from scipy import ndimage

from samatch.data.manifest import Case
from samatch.data.volumes import Raw

SLICES, SIZE = 6, 96
SPACING = (10.0, 1.5, 1.5)  # mm, (z, y, x): thick slices, as in cine MRI


def load(case: Case, folder: Path | None = None) -> Raw:
    """The volume that belongs to the case; nothing is read from disk."""
    image, label = volume(case.case_id)
    return Raw(image, label, SPACING, f"{case.case_id} (generated)")


def volume(case_id: str) -> tuple[np.ndarray, np.ndarray]:
    """(image, label) of phantomNNN_frame01 or _frame02."""
    patient, frame = case_id.split("_frame")
    return generate(zlib.crc32(patient.encode()), systole=frame == "02")


def generate(
    seed: int, systole: bool, slices: int = SLICES, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """(image float32, label uint8), both (slices, size, size)."""
    anatomy, texture = np.random.default_rng(seed), np.random.default_rng([seed, int(systole)])
    body = _anatomy(anatomy)
    label = np.stack(
        [_slice_label(body, level, systole, size) for level in np.linspace(0, 1, slices)]
    )
    background = _background(anatomy, size)
    image = np.stack([_slice_image(plane, background, body, texture) for plane in label])
    return image.astype(np.float32), label


def _anatomy(rng: np.random.Generator) -> dict:
    """Lengths in units of the image's side."""
    return {
        "centre": rng.uniform(0.40, 0.60, 2),
        "radius": rng.uniform(0.08, 0.15),
        "wall": rng.uniform(0.035, 0.06),
        "ellipse": rng.uniform(0.82, 1.18),
        "angle": rng.uniform(-0.9, 0.9),
        "rv_width": rng.uniform(0.10, 0.19),
        "rv_reach": rng.uniform(1.1, 1.7),
        "blood": rng.uniform(0.55, 1.0),
        "rv_blood": rng.uniform(-0.15, 0.15),
        "muscle": rng.uniform(0.15, 0.50),
        "bias": rng.uniform(-0.5, 0.5, 2),
        "noise": rng.uniform(0.03, 0.10),
        "papillary": rng.uniform(0, 2 * np.pi, 2),
    }


def _slice_label(body: dict, level: float, systole: bool, size: int) -> np.ndarray:
    """Class map of one slice; level 0 is the base, 1 the apex."""
    y, x = np.mgrid[0:size, 0:size] / size - body["centre"][:, None, None]
    turned = (
        np.cos(body["angle"]) * x + np.sin(body["angle"]) * y,
        -np.sin(body["angle"]) * x + np.cos(body["angle"]) * y,
    )
    taper = np.sqrt(1 - 0.8 * level**2)
    radius = body["radius"] * taper * (0.68 if systole else 1.0)
    wall = body["wall"] * (1.45 if systole else 1.0)
    distance = np.hypot(turned[0] * body["ellipse"], turned[1] / body["ellipse"])
    rv_size = body["rv_width"] * taper * (0.75 if systole else 1.0) * (level < 0.9)
    rv = (
        np.hypot(
            (turned[0] + radius + wall + 0.35 * rv_size) / max(rv_size, 1e-6),
            turned[1] / max(rv_size * body["rv_reach"], 1e-6),
        )
        < 1
    )
    label = np.zeros((size, size), np.uint8)
    label[rv] = 1
    label[distance < radius + wall] = 2
    label[distance < radius] = 3
    return label


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Organs around the heart: smooth random tissue, with bright blobs that look like blood
    pools."""
    tissue = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 14)
    tissue = 0.3 + 0.18 * tissue / tissue.std()
    y, x = np.mgrid[0:size, 0:size] / size
    for _ in range(6):
        centre, radius, bright = (
            rng.uniform(0, 1, 2),
            rng.uniform(0.03, 0.10, 2),
            rng.uniform(0.1, 0.9),
        )
        if np.hypot(*(centre - 0.5)) > 0.33:
            tissue[np.hypot((y - centre[0]) / radius[0], (x - centre[1]) / radius[1]) < 1] = bright
    return tissue


def _slice_image(
    label: np.ndarray, background: np.ndarray, body: dict, rng: np.random.Generator
) -> np.ndarray:
    size = len(label)
    blood = body["blood"]
    image = np.select(
        [label == 1, label == 2, label == 3],
        [blood + body["rv_blood"], body["muscle"], blood],
        background,
    )
    y, x = np.mgrid[0:size, 0:size] / size
    for angle in body["papillary"]:  # dark muscles inside the cavity, labeled as cavity
        spot = body["centre"] + 0.55 * body["radius"] * np.array([np.sin(angle), np.cos(angle)])
        image = np.where(
            (np.hypot(y - spot[0], x - spot[1]) < 0.018) & (label == 3),
            0.6 * body["muscle"] + 0.4 * blood,
            image,
        )
    image = ndimage.gaussian_filter(image, 0.8) * np.exp(
        body["bias"][0] * (x - 0.5) + body["bias"][1] * (y - 0.5)
    )
    return image + body["noise"] * rng.normal(size=image.shape)
