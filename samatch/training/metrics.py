"""Dice, HD95 and ASD of one volume, with a status word where a distance is not defined.

HD95 is the 95th percentile of the surface distances of both directions taken together, ASD the mean
distance from the prediction's surface to the reference's: the definitions of the SSL4MIS protocol
(medpy), computed from MONAI's surface distances.
"""

import numpy as np
import torch

BOTH_EMPTY, EMPTY_PRED, EMPTY_REF, OK = "both_empty", "empty_pred", "empty_ref", "ok"


def dice(pred: np.ndarray, ref: np.ndarray) -> float:
    """2|A and B| / (|A| + |B|); NaN where both are empty."""
    total = int(pred.sum()) + int(ref.sum())
    return 2 * int((pred & ref).sum()) / total if total else float("nan")


def surface_distances(
    pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, ...] | None
) -> tuple[float, float]:
    """(hd95, asd) of two non-empty masks (D, H, W), in mm with spacing (z, y, x), else in voxels.

    A single slice is a 2-D image: in three dimensions all of its pixels would be surface.
    """
    from monai.metrics.utils import (
        get_edge_surface_distance,
    )  # three seconds, which no start of a training needs

    if len(pred) == 1:
        pred, ref, spacing = pred[0], ref[0], spacing and spacing[1:]
    # A margin keeps objects at the border closed; the crop of both keeps large volumes quick.
    where = np.argwhere(pred | ref)
    crop = tuple(slice(low, high + 1) for low, high in zip(where.min(0), where.max(0), strict=True))
    pair = [torch.from_numpy(np.pad(mask[crop], 1)) for mask in (pred, ref)]
    _, (to_ref, to_pred), _ = get_edge_surface_distance(
        *pair, spacing=list(spacing or (1.0,) * pred.ndim), symmetric=True
    )
    distances = torch.cat([to_ref, to_pred]).double().numpy()
    return float(np.percentile(distances, 95)), float(to_ref.double().mean())


def distance_unit(mask: np.ndarray, spacing: tuple[float, ...] | None) -> str:
    """mm with a spacing; without one pixel for a mask of one slice (1, H, W), voxel for more."""
    return "mm" if spacing else "pixel" if len(mask) == 1 else "voxel"


def case_metrics(
    pred: np.ndarray,
    ref: np.ndarray,
    classes: tuple[str, ...],
    spacing: tuple[float, ...] | None,
    distances: str = "mm",
) -> list[dict]:
    """One row a foreground class of two class maps (D, H,
    W): class, dice, distances, unit, sizes, status.

    hd95 and asd are in mm with a spacing (z, y, x), else in voxels;
    always in voxels where `distances` is "voxel". hd95_mm and
    asd_mm are in mm whatever the protocol, NaN without a spacing.
    """
    rows, unknown = [], (float("nan"), float("nan"))
    counted_in = spacing if distances == "mm" else None
    for value, name in enumerate(classes, 1):
        a, b = pred == value, ref == value
        n_pred, n_ref = int(a.sum()), int(b.sum())
        status = (
            OK
            if n_pred and n_ref
            else BOTH_EMPTY
            if not (n_pred or n_ref)
            else EMPTY_REF
            if n_pred
            else EMPTY_PRED
        )
        in_mm = surface_distances(a, b, spacing) if status == OK and spacing else unknown
        hd95, asd = in_mm if counted_in or status != OK else surface_distances(a, b, None)
        rows.append(
            {
                "class": name,
                "dice": dice(a, b),
                "hd95": hd95,
                "asd": asd,
                "distance_unit": distance_unit(pred, counted_in),
                "hd95_mm": in_mm[0],
                "asd_mm": in_mm[1],
                "n_pred": n_pred,
                "n_ref": n_ref,
                "status": status,
            }
        )
    return rows
