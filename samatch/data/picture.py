"""What reading one image or label gives."""

from dataclasses import dataclass

import nibabel
import numpy as np


@dataclass(frozen=True)
class Picture:
    """What one file holds: array (D, H, W), spacing (z, y, x) in mm or None, affine voxel (x, y, z)
    -> mm (RAS) or None.

    `doubts` are worth a warning: the same words for the same kind of doubt in every file. `white`
    marks a label picture of 0 and 255, which is read as class 1. `header` is a NIfTI file's own, so
    that its mask can lie where the image lies for every reader."""

    array: np.ndarray
    spacing: tuple[float, float, float] | None
    affine: np.ndarray | None
    source: str
    doubts: tuple[str, ...] = ()
    white: bool = False
    header: nibabel.Nifti1Header | None = None
