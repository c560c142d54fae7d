"""Reading one file of every kind, and what is said about broken ones."""

import locale
import struct

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from samatch.data.images import check_geometry, read, read_label
from samatch.system.errors import InputError
from tests.made import VOLUME, tiff, turned, write_series

RNG = np.random.default_rng(0)


def test_a_dicom_series_is_read_in_its_order_with_its_place(tmp_path):
    write_series(tmp_path / "s")
    found, encoding = read(tmp_path / "s"), locale.getencoding()
    assert encoding.lower() == "utf-8"
    assert (found.array == VOLUME).all() and found.spacing == pytest.approx((4.0, 1.25, 1.5))
    # DICOM counts to the patient's left and back (LPS), NIfTI to the right and front (RAS).
    assert found.affine @ [0, 0, 0, 1] == pytest.approx([20, -30, 10, 1])
    assert found.affine @ [1, 1, 1, 1] == pytest.approx([18.5, -31.25, 14, 1])


def test_slices_of_a_dicom_series_keep_a_rescale_slope_of_their_own(tmp_path):
    """A PET scan has one a slice: the first may give whole numbers, the others not."""
    stored = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
    for name, slope in (("s", b"1 "), ("others", b".3")):
        write_series(tmp_path / name, stored, tags=[("0028|1052", "0"), ("0028|1053", "1")])
        for file in (tmp_path / name).iterdir():
            head = b"\x28\0\x53\x10\2\0\0\0"  # ITK writes no slope that is not whole
            assert head + b"1 " in file.read_bytes()
            file.write_bytes(file.read_bytes().replace(head + b"1 ", head + slope))
    for z in (1, 3):  # slice z is the file of this number
        file = f"{z * 3 % 5:02d}.dcm"
        (tmp_path / "others" / file).replace(tmp_path / "s" / file)
    slopes = np.array([1, 0.3, 1, 0.3, 1])[:, None, None]
    assert read(tmp_path / "s").array == pytest.approx(stored * slopes)


def test_missing_slices_and_several_series_are_named(tmp_path, told):
    write_series(tmp_path / "gap", positions=[0, 4, 8, 16, 20])
    with told(
        "a DICOM series without its fourth slice",
        match="slices of a DICOM series are missing.*\n.*gap\n.*every 4.00 mm\n.*between 8.0 and "
        "16.0 mm",
    ):
        read(tmp_path / "gap")
    write_series(tmp_path / "two", VOLUME[:2])
    write_series(tmp_path / "more", VOLUME[:3], series="1.2.4")
    for file in (tmp_path / "more").iterdir():
        file.rename(tmp_path / "two" / f"m{file.name}")
    with told("two DICOM series in one folder", match="2 series"):
        read(tmp_path / "two")
    (tmp_path / "none").mkdir()
    with told("an empty folder in the place of a DICOM series", match="0 series"):
        read(tmp_path / "none")


def test_slices_that_may_be_missing_at_the_ends_are_doubts(tmp_path):
    """The first ones by the numbers, the last ones by the size of the acquisition, every second one
    by the step."""

    def doubts(name, **how):
        write_series(tmp_path / name, **how)
        return [doubt for doubt in read(tmp_path / name).doubts if "missing" in doubt]

    assert doubts("from0") == doubts("from1", first=1) == []
    assert doubts("whole", tags=[("0020|1002", "5")]) == []
    assert [d[:25] for d in doubts("start", first=3)] == ["the numbers of the DICOM "]
    assert [d[:21] for d in doubts("end", tags=[("0020|1002", "6")])] == ["the DICOM acquisition"]
    for spacing, step, count in (
        (4, 8, 1),
        (5, 5, 0),
        (3, 12, 0),
        (4, 6, 0),
    ):  # 3 is less than the slices are thick
        write_series(tmp_path / "step", positions=[step * z for z in range(5)])
        for file in (
            tmp_path / "step"
        ).iterdir():  # ITK writes a SpacingBetweenSlices of 1 whatever it is given
            file.write_bytes(
                file.read_bytes().replace(
                    b"\x18\0\x88\0\2\0\0\x001 ", b"\x18\0\x88\0\2\0\0\0%d " % spacing
                )
            )
        assert len(read(tmp_path / "step").doubts) == count, spacing
    assert doubts("words", tags=[("0020|1002", "many")]) == []


def test_a_file_of_a_series_that_cannot_be_read_is_told(tmp_path, told):
    write_series(tmp_path / "cut")
    (tmp_path / "cut" / "04.dcm").write_bytes((tmp_path / "cut" / "04.dcm").read_bytes()[:200])
    (tmp_path / "cut" / "empty.DCM").write_bytes(b"")
    with told(
        "a DICOM series with a cut and an empty file",
        match="cannot be read as part of the series(.|\n)*2 others: 04.dcm, empty.DCM",
    ):
        read(tmp_path / "cut")


@pytest.mark.parametrize(
    "other, message",
    [
        ({"array": VOLUME[:, :4]}, "slices of several sizes(.|\n)*got: 7 x 4, 7 x 6"),
        ({"spacing": (3.0, 1.25, 4.0)}, "pixels of several sizes(.|\n)*got: 1.5 x 1.25, 3 x 1.25"),
    ],
)
def test_a_slice_of_another_scan_in_a_series_is_told(tmp_path, other, message):
    """One series by its number, but one slice has another size, or larger pixels."""
    write_series(tmp_path / "s")
    write_series(tmp_path / "other", **other)
    (tmp_path / "other" / "02.dcm").replace(tmp_path / "s" / "02.dcm")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "s")


def test_frames_at_one_place_and_in_one_file_are_told(tmp_path, told):
    """Two echoes under one number, and an enhanced DICOM file that holds the whole volume."""
    write_series(tmp_path / "echoes", positions=[0, 4, 8, 0, 4])
    with told("two echoes in one DICOM series", match="at one place(.|\n)*2 of 5"):
        read(tmp_path / "echoes")
    (tmp_path / "s").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(VOLUME.astype(np.uint8)), tmp_path / "s" / "all.dcm")
    with told("a DICOM file of several frames", match="several slices in one DICOM file"):
        read(tmp_path / "s")


def test_a_tilted_or_turned_series_has_no_one_affine(tmp_path, told):
    """Each slice 4 mm above the last: 1 mm aside is 14 degrees; 0.02 mm are a rounding. A
    localizer's slices are turned against the others."""
    write_series(tmp_path / "straight", aside=0.02)
    assert read(tmp_path / "straight").spacing[0] == pytest.approx(4, rel=1e-3)
    write_series(tmp_path / "tilted", aside=1.0)
    with told("a DICOM series of a tilted gantry", match="straight above(.|\n)*14.0 degrees"):
        read(tmp_path / "tilted")
    write_series(tmp_path / "s")
    write_series(tmp_path / "localizer", axes="0\\1\\0\\0\\0\\1")
    (tmp_path / "localizer" / "02.dcm").replace(tmp_path / "s" / "02.dcm")
    with told("a localizer in a DICOM series", match="several orientations(.|\n)*1 of 5 turned"):
        read(tmp_path / "s")


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_pictures_are_read_as_a_viewer_shows_them(tmp_path, orientation, name):
    grey = RNG.integers(0, 255, (6, 7)).astype(np.uint8)
    turned(tmp_path / name, grey, orientation)
    found = read(tmp_path / name)
    assert (found.array == grey[None]).all() and "stored turned" in found.doubts[0]
    turned(tmp_path / f"mask_{name}", (grey > 99).astype(np.uint8) * 255, orientation)
    assert (read_label(tmp_path / f"mask_{name}").array == (grey > 99)[None]).all()
    Image.fromarray(grey).save(tmp_path / f"plain_{name}")
    assert read(tmp_path / f"plain_{name}").doubts == ()


def test_pages_of_a_tiff_are_slices(tmp_path, told):
    stack = RNG.integers(0, 60000, (4, 6, 7)).astype(np.uint16)
    tiff(tmp_path / "a.tif", stack)
    assert (read(tmp_path / "a.tif").array == stack).all()
    masks = RNG.integers(0, 2, (3, 6, 7)).astype(np.uint8) * 255
    tiff(tmp_path / "m.tif", masks)
    label = read_label(tmp_path / "m.tif")
    assert (label.array == masks // 255).all() and label.white
    tiff(tmp_path / "sizes.tif", [stack[0], stack[1, :3]])
    with told(
        "a TIFF with pages of several sizes", match="pages of several sizes(.|\n)*7 x 3, 7 x 6"
    ):
        read(tmp_path / "sizes.tif")
    colour = [np.stack([page] * 3, -1).astype(np.uint8) for page in masks]
    colour[2][0, :2, 0] = 77
    tiff(tmp_path / "c.tif", colour)  # the second page alone would be grey
    with told("a coloured page in a TIFF of masks", match="2 coloured pixels"):
        read_label(tmp_path / "c.tif")
    first, *others = (Image.fromarray(page) for page in masks)
    first.save(tmp_path / "moving.png", save_all=True, append_images=others)
    with told("an animated PNG", match="several pictures in one file(.|\n)*3 frames"):
        read(tmp_path / "moving.png")


def test_only_black_and_white_labels_are_marked(tmp_path):
    for name, values, white in (
        ("bw", [0, 255], True),
        ("numbers", [0, 1], False),
        ("black", [0, 0], False),
    ):
        Image.fromarray(np.array([values] * 3, np.uint8)).save(tmp_path / f"{name}.png")
        assert read_label(tmp_path / f"{name}.png").white == white


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_keep_their_depth(tmp_path, dtype):
    grey = RNG.integers(0, np.iinfo(dtype).max, (6, 7)).astype(dtype)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png").array == grey[None]).all()


def test_masks_as_pictures(tmp_path, told):
    mask = RNG.integers(0, 2, (6, 7)).astype(np.uint8)
    for name, array in (
        ("l", mask * 255),
        ("one_bit", mask > 0),
        ("rgba", np.stack([mask * 255] * 3 + [mask * 0 + 255], -1)),
        ("numbers", mask),
    ):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        assert (read_label(tmp_path / f"{name}.png").array == mask[None]).all()
    Image.fromarray(mask * 3).save(tmp_path / "classes.png")
    assert set(np.unique(read_label(tmp_path / "classes.png").array)) == {0, 3}
    colour = np.stack([mask * 255, mask * 0, mask * 0], -1)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    with told(
        "a mask in colours",
        match=f"a colour mask\n.*colour.png\n.*\n.*{mask.sum()} coloured pixels",
    ):
        read_label(tmp_path / "colour.png")
    assert read(tmp_path / "colour.png").array.max() == 76  # luminance of pure red, .299 * 255


@pytest.mark.parametrize(
    "name, content, message, what",
    [
        ("a.png", b"not a png", "unreadable picture", "a PNG that is none"),
        ("a.nii.gz", b"not gzip", "unreadable NIfTI", "a NIfTI that is none"),
        ("a.h5", b"not hdf", "unreadable h5", "an h5 file that is none"),
        ("a.xyz", b"", "unknown kind", "a file of unknown kind"),
    ],
)
def test_broken_files(tmp_path, name, content, message, what, told):
    (tmp_path / name).write_bytes(content)
    with told(what, match=message) as error:
        read(tmp_path / name)
    assert name in str(error.value)


def test_a_cut_off_picture_is_unreadable(tmp_path):
    Image.fromarray(RNG.integers(0, 255, (64, 64)).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:1500])
    with pytest.raises(InputError, match="unreadable picture"):
        read(tmp_path / "a.png")


def test_four_axes_and_h5_keys(tmp_path, told):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 3, 2)), np.eye(4)), tmp_path / "a.nii")
    with told(
        "a NIfTI of several frames",
        match=r"not a 3-D volume.*\n.*a.nii\n.*three axes\n.*\(4, 4, 3, 2\)",
    ):
        read(tmp_path / "a.nii")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = VOLUME
    assert (read(tmp_path / "a.h5").array == VOLUME).all()
    with told("an h5 file without a label", match="'image' and 'label'"):
        read(tmp_path / "a.h5", "label")


def test_a_label_turned_against_its_image_is_told_the_angle(tmp_path, told):
    turn = np.radians(10)
    turned = np.diag([1.0, 1, 3, 1])
    turned[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    for name, affine in (("image", np.diag([1.0, 1, 3, 1])), ("label", turned)):
        nibabel.save(
            nibabel.Nifti1Image(VOLUME.transpose(2, 1, 0), affine), tmp_path / f"{name}.nii.gz"
        )
    image, label = (read(tmp_path / f"{name}.nii.gz") for name in ("image", "label"))
    with told("a label turned against its image", match="axes turned by 10.0 degrees"):
        check_geometry(image, label)
    check_geometry(label, label)


def test_one_frame_in_four_axes_is_a_volume(tmp_path):
    for axes in ((1,), (1, 1)):
        array = VOLUME.transpose(2, 1, 0).reshape(7, 6, 5, *axes)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1.25, 8, 1])), tmp_path / "a.nii.gz")
        found = read(tmp_path / "a.nii.gz")
        assert (found.array == VOLUME).all() and found.spacing == pytest.approx((8, 1.25, 1.5))


def palette(path, index, colours):
    picture = Image.fromarray(index.astype(np.uint8)).convert("P")
    picture.putdata(index.ravel().tolist())
    picture.putpalette(sum(colours, ()))
    picture.save(path)


def test_of_a_palette_mask_the_indices_are_the_classes(tmp_path):
    """Colours, greys that are no classes, and black and white in either order, by hand."""
    index = np.array([[0, 1, 2], [2, 1, 0]])
    for name, colours in (
        ("colours", [(0, 0, 0), (255, 0, 0), (0, 255, 0)]),
        ("greys", [(0, 0, 0), (128, 128, 128), (255, 255, 255)]),
        ("alike", [(9, 9, 9), (255, 0, 0), (255, 0, 0)]),
    ):
        palette(tmp_path / f"{name}.png", index, colours)
        found = read_label(tmp_path / f"{name}.png")
        assert (found.array == index[None]).all() and not found.white, name
    palette(tmp_path / "mask.png", index % 2, [(255, 255, 255), (0, 0, 0)])
    found = read_label(tmp_path / "mask.png")
    assert (found.array == (index % 2 == 0)[None]).all() and found.white and not found.colours
    shown = {0: (0, 0, 0), 1: (255, 0, 0), 2: (0, 255, 0)}
    assert read_label(tmp_path / "colours.png").colours == shown
    assert read(tmp_path / "colours.png").array.max() > 2  # an image has colours


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_in_the_alpha_channel_is_told(tmp_path, told, mode):
    """A drawing program's layer: all black or all white, its shape in the transparency. A mask of
    grey values may have an alpha channel."""
    alpha = Image.fromarray((RNG.integers(0, 2, (6, 7)) * 255).astype(np.uint8))
    for grey in (0, 255):
        layer = Image.new("L", (7, 6), grey).convert(mode)
        layer.putalpha(alpha)
        layer.save(tmp_path / "layer.png")
        with pytest.raises(InputError, match="a mask in the alpha channel"):
            read_label(tmp_path / "layer.png")
    with told("a mask in the alpha channel", match="2 values of transparency"):
        read_label(tmp_path / "layer.png")
    both = alpha.convert(mode)
    both.putalpha(alpha)
    both.save(tmp_path / "both.png")
    assert (read_label(tmp_path / "both.png").array[0] == np.asarray(alpha) / 255).all()


def test_labels_whole_up_to_rounding_are_rounded(tmp_path):
    """A scale of 1/3 that float32 cannot hold; half a class is none."""
    classes = np.array([[[0, 1, 2], [3, 0, 1]]], np.float32)
    for name, error in (("near", 0.0009), ("far", 0.01)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["label"] = classes - np.float32(error)
    assert (read_label(tmp_path / "near.h5").array == classes).all()
    assert (read_label(tmp_path / "far.h5").array == classes - np.float32(0.01)).all()
    raw = bytearray(nibabel.Nifti1Image((3 * classes).astype(np.int16).T, np.eye(4)).to_bytes())
    struct.pack_into("<2f", raw, 112, 0.33333, 0.0)  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(bytes(raw))
    assert read(tmp_path / "a.nii").array.max() < 3
    assert (read_label(tmp_path / "a.nii").array == classes).all()
