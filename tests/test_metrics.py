import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure

from samatch.training.metrics import case_metrics, dice, surface_distances


def block(shape, *ranges):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def test_dice_by_hand():
    a, b = block((4, 4), (0, 2), (0, 2)), block((4, 4), (0, 2), (1, 4))
    assert dice(a, b) == 2 * 2 / (4 + 6)
    assert np.isnan(dice(a & False, b & False))


def test_single_voxels_three_and_four_apart():
    a, b = block((1, 9, 9), (0, 1), (1, 2), (1, 2)), block((1, 9, 9), (0, 1), (4, 5), (5, 6))
    assert surface_distances(a, b, None) == pytest.approx((5, 5))
    assert surface_distances(a, b, (10, 2, 1)) == pytest.approx((np.hypot(6, 4),) * 2)


def test_equal_masks_are_at_distance_zero():
    a = block((3, 8, 8), (0, 3), (2, 6), (1, 7))
    assert surface_distances(a, a, (10, 1.5, 1.5)) == (0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_distances_equal_a_plain_scipy_reference(seed):
    """medpy's definition: surfaces by erosion with face
    neighbours, both directions pooled for HD95."""
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(2, 6, 20, 20)).cumsum(2).cumsum(3)
    a, b = smooth[0] > np.median(smooth[0]), smooth[1] > np.median(smooth[1])
    spacing = (5.0, 1.5, 1.2)

    def surface(mask):
        return mask & ~binary_erosion(mask, generate_binary_structure(3, 1))

    to_ref = distance_transform_edt(~surface(b), sampling=spacing)[surface(a)]
    to_pred = distance_transform_edt(~surface(a), sampling=spacing)[surface(b)]
    expected = np.percentile(np.hstack([to_ref, to_pred]), 95), to_ref.mean()
    assert surface_distances(a, b, spacing) == pytest.approx(expected, rel=1e-5)


def test_every_status():
    pred, ref = np.zeros((2, 6, 6), np.uint8), np.zeros((2, 6, 6), np.uint8)
    pred[0, :2], ref[0, :2] = 1, 1
    pred[1, :2] = 2
    ref[1, 4:] = 3
    rows = case_metrics(pred, ref, ("a", "b", "c", "d"), None)
    assert [row["status"] for row in rows] == ["ok", "empty_ref", "empty_pred", "both_empty"]
    assert [row["dice"] for row in rows[:3]] == [1, 0, 0] and np.isnan(rows[3]["dice"])
    assert rows[0]["hd95"] == 0 and all(np.isnan(row["hd95"]) for row in rows[1:])
    assert rows[0]["distance_unit"] == "voxel"


def test_a_protocol_in_voxels_keeps_the_millimetres_beside():
    """Voxels (3, 4) apart in plane: 5 voxels; with 2 mm and 1 mm pixels sqrt(6^2 + 4^2) mm."""
    pred, ref = np.zeros((2, 9, 9), np.uint8), np.zeros((2, 9, 9), np.uint8)
    pred[:, 1, 1], ref[:, 4, 5] = 1, 1
    row = case_metrics(pred, ref, ("a",), (10.0, 2.0, 1.0), "voxel")[0]
    assert (row["hd95"], row["asd"], row["distance_unit"]) == (
        pytest.approx(5),
        pytest.approx(5),
        "voxel",
    )
    assert row["hd95_mm"] == row["asd_mm"] == pytest.approx(np.hypot(6, 4))
    in_mm = case_metrics(pred, ref, ("a",), (10.0, 2.0, 1.0))[0]
    assert in_mm["distance_unit"] == "mm" and in_mm["hd95"] == in_mm["hd95_mm"] == row["hd95_mm"]
    unknown = case_metrics(pred, ref, ("a",), None)[0]
    assert unknown["hd95"] == pytest.approx(5)
    assert np.isnan(unknown["hd95_mm"]) and np.isnan(unknown["asd_mm"])
