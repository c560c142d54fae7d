"""What reading one image or label gives, and how large it may be."""

import math
from dataclasses import dataclass, field

import nibabel
import numpy as np

from samatch.system.errors import InputError

MOST_BYTES = 16 << 30  # of one image
MOST_PACKED = 1100  # bytes from one stored byte; deflate's utmost is 1032


@dataclass(frozen=True)
class Picture:
    """What one file holds: array (D, H, W), spacing (z, y, x) in mm or None, affine voxel (x, y, z)
    -> mm (RAS) or None.

    `doubts` are worth a warning: the same words for the same kind of doubt in every file. `white`
    marks a label picture of 0 and 255, which is read as class 1. `colours` are those that a palette
    gives to the class numbers of a label picture. `header` is a NIfTI file's own, so that its mask
    can lie where the image lies for every reader."""

    array: np.ndarray
    spacing: tuple[float, float, float] | None
    affine: np.ndarray | None
    source: str
    doubts: tuple[str, ...] = ()
    white: bool = False
    colours: dict[int, tuple[int, ...]] = field(default_factory=dict)
    header: nibabel.Nifti1Header | None = None


def check_size(name: str, shape: tuple[int, ...], itemsize: int, stored: int) -> None:
    """Raises InputError where a header promises more than so many stored bytes can hold: reading it
    would fill the memory."""
    size = math.prod(shape) * itemsize
    if size > max(1 << 20, MOST_PACKED * stored) or size > MOST_BYTES:
        raise InputError(
            "a header that promises too much",
            where=name,
            expected=f"at most {MOST_BYTES >> 30} GB, {MOST_PACKED} times what is stored",
            got=f"{size:,} bytes of shape {tuple(shape)} from {stored:,} stored ones",
            do="get the file again",
        )
