"""Headers that contradict themselves, name no unit or no place, or have their slices elsewhere; and
masks that lie where the image lies."""

import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from samatch.data.geometry import shape_doubts
from samatch.data.images import check_geometry, read
from samatch.system.errors import InputError
from samatch.training.predict import write_mask

SIZES = np.array([1.5, 1.25, 8.0])
PIXDIM = 80  # bytes before the voxel size along x, a float of four bytes


def saved(
    path, shape=(7, 6, 5), sform=None, qform=None, sizes=SIZES, unit=None, kind=nibabel.Nifti1Image
):
    """A volume whose header has these forms, with code 1, and no other."""
    volume = kind(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), None)
    volume.header.set_zooms(sizes)
    if qform is not None:
        volume.set_qform(qform, 1)
    if sform is not None:
        volume.set_sform(sform, 1)
    if unit:
        volume.header.set_xyzt_units(unit)
    nibabel.save(volume, path)
    return path


def affine(sizes=SIZES, origin=(-40, 20, 7), turned=False):
    found = np.diag([*sizes, 1.0])
    found[:3, 3] = origin
    if turned:
        found[:2, :2] = np.array([[0.8, -0.6], [0.6, 0.8]]) @ found[:2, :2]
    return found


def patched(path, **values):
    """The sizes of the voxels in the file itself, which nibabel would set right."""
    raw = bytearray(path.read_bytes())
    for axis, value in values.items():
        struct.pack_into("<f", raw, PIXDIM + 4 * "xyz".index(axis), value)
    path.write_bytes(bytes(raw))
    return path


def test_a_sound_header_has_no_doubts(tmp_path):
    for name, forms in (
        ("both", {"sform": affine(), "qform": affine()}),
        ("s", {"sform": affine()}),
        ("q", {"qform": affine()}),
    ):
        found = read(saved(tmp_path / f"{name}.nii.gz", **forms))
        assert (
            found.spacing == (8, 1.25, 1.5)
            and found.doubts == ()
            and np.allclose(found.affine, affine())
        )


@pytest.mark.parametrize(
    "sizes, message, what",
    [
        ({"z": 0.0}, "no voxel spacing(.|\n)*got: 1.5 x 1.25 x 0", "a voxel spacing of 0"),
        ({"x": float("nan")}, "no voxel spacing(.|\n)*got: nan", "a voxel spacing of nan"),
        ({"y": float("inf")}, "no voxel spacing", "an infinite voxel spacing"),
        (
            {"z": 4.0},
            r"two voxel spacings(.|\n)*pixdim 1.5 x 1.25 x 4, sform 1.5 x 1.25 x 8 \(x y z\)",
            "an sform and a pixdim that disagree",
        ),
    ],
)
def test_sizes_that_cannot_be_right_are_faults(tmp_path, sizes, message, what, told):
    path = patched(saved(tmp_path / "a.nii", sform=affine()), **sizes)
    with told(what, match=message) as error:
        read(path)
    assert "a.nii" in str(error.value)


def test_a_sign_and_a_rounded_size_are_no_faults(tmp_path):
    path = patched(saved(tmp_path / "a.nii", sform=affine()), x=-1.5, z=8.004)
    assert read(path).spacing == pytest.approx((8.004, 1.25, 1.5))


@pytest.mark.parametrize("unit, mm", [("micron", 0.001), ("meter", 1000)])
def test_units_are_converted_and_told(tmp_path, unit, mm):
    found = read(
        saved(
            tmp_path / "a.nii.gz",
            sform=affine(SIZES / mm, np.array([-40, 20, 7]) / mm),
            sizes=SIZES / mm,
            unit=unit,
        )
    )
    assert found.spacing == pytest.approx((8, 1.25, 1.5)) and np.allclose(
        found.affine, affine(), atol=1e-3
    )
    assert found.doubts == (
        f"the voxel spacing is in {unit} by the header, and was converted to mm.",
    )
    in_mm = read(saved(tmp_path / "b.nii.gz", sform=affine(), unit="mm"))
    assert in_mm.doubts == ()
    check_geometry(found, in_mm)


def test_what_may_be_meant_is_a_doubt(tmp_path):
    def doubts(**how):
        return [doubt.split(":")[0] for doubt in read(saved(tmp_path / "a.nii.gz", **how)).doubts]

    assert doubts() == ["no orientation codes in the NIfTI header"]
    assert doubts(sizes=np.ones(3)) == [
        "no orientation codes in the NIfTI header",
        "a voxel spacing of 1 x 1 x 1 without orientation codes",
    ]
    assert doubts(sform=affine(), qform=affine(origin=(0, 0, 0))) == [
        "sform and qform place the volume differently"
    ]
    assert doubts(sform=affine(), qform=affine(turned=True)) == [
        "sform and qform place the volume differently"
    ]
    assert doubts(sform=affine(1000 * SIZES), sizes=1000 * SIZES) == [
        "a voxel spacing outside 0.01 to 100 mm"
    ]
    assert doubts(sform=affine(SIZES / 1000), sizes=SIZES / 1000) == [
        "a voxel spacing outside 0.01 to 100 mm"
    ]


@pytest.mark.parametrize(
    "sizes, shape, refused",
    [
        ((8, 1.5, 1.5), (6, 48, 48), True),
        ((1.5, 8, 1.5), (48, 6, 48), True),
        ((1.5, 1.5, 8), (48, 48, 6), False),
        ((1, 1, 1), (8, 8, 8), False),
        ((2, 1.5, 1.5), (8, 8, 8), False),
        ((3, 3, 1), (8, 8, 8), False),
        ((8, 1.5, 1), (8, 8, 1), False),
        ((8, 1.5, 1.5), (48, 48, 6), False),
    ],
)
def test_slices_along_another_axis_are_a_fault(tmp_path, sizes, shape, refused):
    path = saved(tmp_path / "a.nii.gz", shape, affine(sizes), sizes=sizes)
    if not refused:
        found = read(path)
        assert found.array.shape == shape[::-1]
        assert ("slice axis in its place" in " ".join(found.doubts)) == (
            sizes[0] == 8 and shape[2] > 1
        )  # thick and many: who knows
        return
    with pytest.raises(
        InputError,
        match=f"slices do not lie along the last axis(.|\n)*shape {' x '.join(map(str, shape))}, "
        f"spacing",
    ):
        read(path)


def test_flat_slices_by_hand():
    assert shape_doubts((48, 48, 6)) and shape_doubts((48, 6, 48))
    assert (
        not shape_doubts((6, 48, 48))
        and not shape_doubts((1, 10, 400))
        and not shape_doubts((10, 100, 500))
        and not shape_doubts((40, 30, 90))
    )


HEADERS = {
    "none": {},
    "s": {"sform": affine(turned=True)},
    "q": {"qform": affine(turned=True)},
    "both": {"sform": affine(), "qform": affine(turned=True)},
    "micron": {"sform": affine(1000 * SIZES), "sizes": 1000 * SIZES, "unit": "micron"},
    "nifti2": {"sform": affine(), "kind": nibabel.Nifti2Image},
    "ones": {"sizes": np.ones(3)},
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_mask_lies_where_the_image_lies_for_every_reader(tmp_path, name):
    """nibabel believes the sform, ITK the qform or neither: the mask says to both what the image
    says."""
    path = saved(tmp_path / "a.nii.gz", **HEADERS[name])
    picture = read(path)
    label = np.zeros(picture.array.shape, np.uint8)
    label[1, 2, 3] = 2
    target = write_mask(tmp_path, path, picture, label, 2)
    source, mask = nibabel.load(path), nibabel.load(target)
    assert (
        type(mask) is type(source)
        and mask.get_data_dtype() == np.uint8
        and (np.asarray(mask.dataobj).transpose(2, 1, 0) == label).all()
    )
    for field in (
        "qform_code",
        "sform_code",
        "pixdim",
        "xyzt_units",
        "srow_x",
        "quatern_b",
        "qoffset_x",
    ):
        assert (mask.header[field] == source.header[field]).all(), field
    assert np.allclose(mask.affine, source.affine)
    if name != "nifti2":  # which ITK does not read everywhere
        for_itk, from_itk = (sitk.ReadImage(str(file)) for file in (path, target))
        for fact in ("GetOrigin", "GetDirection", "GetSpacing", "GetSize"):
            assert getattr(for_itk, fact)() == getattr(from_itk, fact)(), fact
        assert from_itk[3, 2, 1] == 2


def test_a_mask_takes_no_grey_levels_from_its_image(tmp_path):
    volume = nibabel.Nifti1Image(np.linspace(-4, 9, 210).reshape(7, 6, 5), affine())
    volume.set_data_dtype(np.int16)  # stored with a slope and an intercept
    volume.header["cal_max"] = 9
    volume.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"scanner 3"))
    nibabel.save(volume, tmp_path / "a.nii.gz")
    picture = read(tmp_path / "a.nii.gz")
    label = (np.arange(210).reshape(picture.array.shape) % 3).astype(np.uint8)
    mask = nibabel.load(write_mask(tmp_path, tmp_path / "a.nii.gz", picture, label, 2))
    assert (np.asarray(mask.dataobj).transpose(2, 1, 0) == label).all() and mask.header[
        "cal_max"
    ] == 0
    assert (
        mask.header.get_slope_inter() in ((1, 0), (None, None))
        and mask.header.extensions[0].get_content() == b"scanner 3"
    )


def test_the_mask_of_one_frame_in_four_axes_has_three(tmp_path):
    path = saved(tmp_path / "a.nii.gz", (7, 6, 5, 1), affine(), sizes=(*SIZES, 1))
    picture = read(path)
    label = np.ones(picture.array.shape, np.uint8)
    mask = nibabel.load(write_mask(tmp_path, path, picture, label, 2))
    assert mask.shape == (7, 6, 5) and np.allclose(mask.affine, affine())
    assert np.asarray(mask.dataobj).all() and mask.header.get_zooms() == pytest.approx(SIZES)
