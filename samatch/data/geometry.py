"""Where a NIfTI volume lies and how large its voxels are, as far as its header says one thing; and
what is doubtful.

NIfTI tells sizes twice (pixdim and sform) and places twice (sform and qform), in a unit of its own.
Readers differ in what they believe. What contradicts itself is refused, what may be meant is a
doubt."""

import nibabel
import numpy as np

from samatch.system.errors import InputError

MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
TOLERANCE = 0.01  # relative difference of two voxel sizes that are still the same
PLAUSIBLE_MM = (0.01, 100.0)
THICK = 2.0  # a slice axis has voxels so many times as long as the others
FLAT = 4  # slices with one side so many times the other are seldom meant

Place = tuple[tuple[float, float, float], np.ndarray, tuple[str, ...]]


def nifti_place(volume: nibabel.Nifti1Image, name: str) -> Place:
    """Spacing (z, y, x) in mm, affine voxel (x, y, z) -> mm (RAS), doubts.

    Raises InputError on sizes that are not positive, on pixdim and sform that differ, and where few
    and thick slices lie along another axis than the last."""
    sizes = _stored_sizes(volume)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise InputError(
            "no voxel spacing",
            where=name,
            expected="three positive numbers in pixdim",
            got=_words(sizes),
            do="correct the header",
        )
    of_affine = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if not np.allclose(of_affine, sizes, rtol=TOLERANCE, atol=0):
        raise InputError(
            "the header gives two voxel spacings",
            where=name,
            expected="pixdim and sform that agree",
            do="correct the one that is wrong",
            got=f"pixdim {_words(sizes)}, sform {_words(of_affine)} (x y z)",
        )
    unit = _unit(volume.header)
    spacing = sizes * MM[unit]
    thick = int(spacing.argmax())
    misplaced = bool(
        thick != 2 and volume.shape[2] > 1 and spacing[thick] >= THICK * np.sort(spacing)[1]
    )
    if misplaced and volume.shape[thick] < volume.shape[2]:
        raise InputError(
            "the slices do not lie along the last axis",
            where=name,
            expected="axes x, y, slice, the last with the longest voxels",
            got=f"shape {' x '.join(map(str, volume.shape))}, spacing {_words(spacing)} mm",
            do="exchange the axes of image and label alike (SimpleITK.PermuteAxes, for example)",
        )
    affine = np.diag([*[MM[unit]] * 3, 1.0]) @ volume.affine
    doubts = _doubts(volume.header, spacing, unit)
    if misplaced:
        doubts.append(
            "the longest voxels do not lie along the last axis: is the slice axis in its place?"
        )
    return tuple(spacing[::-1].tolist()), affine, tuple(doubts)


def _stored_sizes(volume: nibabel.Nifti1Image) -> np.ndarray:
    """pixdim (x, y, z) as the file has it, without its sign: nibabel puts 1 in the place of 0 when
    it loads it."""
    with volume.file_map["image"].get_prepare_fileobj("rb") as handle:
        return np.abs(
            type(volume.header).from_fileobj(handle, check=False)["pixdim"][1:4].astype(float)
        )


def _unit(header) -> str:
    try:
        return header.get_xyzt_units()[0]
    except KeyError:  # a number that the standard does not know
        return "unknown"


def _doubts(header, spacing: np.ndarray, unit: str) -> list[str]:
    doubts = []
    coded = [int(header[code]) > 0 for code in ("qform_code", "sform_code")]
    if not any(coded):
        doubts.append("no orientation codes in the NIfTI header: where the volume lies is unknown.")
        if (spacing == 1).all():
            doubts.append(
                "a voxel spacing of 1 x 1 x 1 without orientation codes: is it known, are "
                "distances in mm?"
            )
    if all(coded) and not np.allclose(header.get_sform(), header.get_qform(), atol=0.1 / MM[unit]):
        doubts.append(
            "sform and qform place the volume differently: the sform is used, others may use the "
            "qform."
        )
    if MM[unit] != 1:
        doubts.append(f"the voxel spacing is in {unit} by the header, and was converted to mm.")
    if min(spacing) < PLAUSIBLE_MM[0] or max(spacing) > PLAUSIBLE_MM[1]:
        low, high = PLAUSIBLE_MM
        doubts.append(f"a voxel spacing outside {low:g} to {high:g} mm: is its unit right?")
    return doubts


def shape_doubts(shape: tuple[int, ...]) -> tuple[str, ...]:
    """A doubt about (slices, height, width) where many flat slices suggest another slice axis."""
    if len(shape) != 3 or shape[0] <= min(shape[1:]) or max(shape[1:]) < FLAT * min(shape[1:]):
        return ()
    return (
        "more slices than the shorter side of a slice is long: is the slice axis in its place?",
    )


def _words(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
