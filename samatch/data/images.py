"""One image or label from disk as (slices, height, width): NIfTI, DICOM series, h5, PNG, JPEG or
TIFF."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
from nibabel import imageglobals
from PIL import ExifTags, Image, ImageOps, ImageSequence

from samatch.data.dicom import read_series
from samatch.data.geometry import nifti_place, shape_doubts
from samatch.data.picture import Picture, check_size
from samatch.system import paths
from samatch.system.errors import InputError

# It tells what it sets right in a header, which geometry.py refuses with a message.
imageglobals.logger.setLevel("CRITICAL")

NIFTI, HDF5, PICTURES = (
    (".nii", ".nii.gz"),
    (".h5", ".hdf5"),
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
)
SUFFIXES = NIFTI + HDF5 + PICTURES
COLOURS, INDEXED = ("RGB", "RGBA", "CMYK", "YCbCr"), ("P", "PA")
ROUNDING = 1e-3  # a class number may be so far from a whole one


def suffix_of(path: Path) -> str:
    """The one of SUFFIXES that the name ends with, small letters; "" for another kind of file."""
    return next(
        (s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), ""
    )


def stem_of(path: Path) -> str:
    """File name without its ending; of a DICOM series the folder's name."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def read(path: Path, key: str = "image") -> Picture:
    """Reads a file, or a folder that holds one DICOM series; `key` names the data set inside an h5
    file.

    Raises InputError on a missing, unreadable or unsuitable file.
    """
    return _read(path, key, as_classes=False)


def read_label(path: Path) -> Picture:
    """As `read`, for class numbers: a picture of 0 and 255 is a mask of class 1, and `white` says
    so; of a palette picture the indices count; numbers within 1e-3 of whole ones are these."""
    found = _read(path, "label", as_classes=True)
    array = _whole(found.array)
    if suffix_of(path) in PICTURES and (values := set(np.unique(array).tolist())) <= {0, 255}:
        return dataclasses.replace(found, array=(array > 0).astype(np.uint8), white=255 in values)
    return dataclasses.replace(found, array=array)


def _whole(label: np.ndarray) -> np.ndarray:
    """Class numbers that a scale (NIfTI's scl_slope) has moved by a rounding error, put right."""
    if label.dtype.kind != "f":
        return label
    nearest = np.rint(label)
    return nearest if (np.abs(label - nearest) <= ROUNDING).all() else label


def _read(path: Path, key: str, as_classes: bool) -> Picture:
    if not path.exists():
        raise InputError(
            "a file is missing",
            where=paths.shown(path.parent),
            expected=path.name,
            got="no such file",
            do="get the data set's files again",
        )
    readers = {
        NIFTI: (_nifti, "NIfTI volume", "a NIfTI file"),
        PICTURES: (lambda file: _picture(file, as_classes), "picture", "a " + ", ".join(PICTURES)),
        HDF5: (lambda file: _h5(file, key), "h5 volume", "an h5 file with 'image' and 'label'"),
    }
    if path.is_dir():
        reader: Callable[[Path], Picture] = read_series
        kind, expected = "DICOM series", "a folder with one series"
    else:
        found = [r for endings, r in readers.items() if suffix_of(path) in endings]
        if not found or not path.is_file():
            raise InputError(
                "a file of an unknown kind",
                where=path.name,
                expected="one of " + " ".join(SUFFIXES) + ", or a folder with a DICOM series",
                got=path.suffix if path.is_file() else "no plain file",
                do="convert it",
            )
        reader, kind, expected = found[0]
    try:
        picture = reader(path)
    except InputError:
        raise
    except Exception as error:  # every library raises kinds of its own on broken bytes
        raise InputError(
            f"unreadable {kind}",
            where=path.name,
            expected=expected,
            got=f"{type(error).__name__}: {error}".replace(str(path), path.name)[:160],
            do="get the file again",
        ) from error
    return dataclasses.replace(picture, doubts=picture.doubts + shape_doubts(picture.array.shape))


def check_geometry(image: Picture, label: Picture) -> None:
    """Raises InputError where image and label both know where they lie, and lie differently."""
    if (
        image.affine is None
        or label.affine is None
        or image.array.shape != label.array.shape
        or np.allclose(image.affine, label.affine, atol=1e-3)
    ):
        return
    turned = _degrees(image.affine, label.affine)
    raise InputError(
        "image and label lie differently in space",
        where=f"{image.source} and {label.source}",
        expected="equal affines",
        got=f"origins {image.affine[:3, 3].round(2).tolist()} and "
        f"{label.affine[:3, 3].round(2).tolist()}, axes turned by {turned:.1f} degrees",
        do="resample the label to the image",
    )


def _degrees(a: np.ndarray, b: np.ndarray) -> float:
    """Largest angle between corresponding voxel axes."""
    first, second = (m[:3, :3] / np.linalg.norm(m[:3, :3], axis=0) for m in (a, b))
    return float(np.degrees(np.arccos(np.clip((first * second).sum(0), -1, 1))).max())


def _nifti(path: Path) -> Picture:
    volume = nibabel.load(path)
    shape, dtype = volume.shape, volume.get_data_dtype()
    _check_numbers(path, dtype)
    check_size(path.name, shape, dtype.itemsize, path.stat().st_size)
    # nibabel forgets the shape of nothing
    array = np.asarray(volume.dataobj) if 0 not in shape else np.zeros(shape)
    one_frame = len(shape) > 3 and set(shape[3:]) == {1}
    array = array.reshape(shape[:3]) if one_frame else array
    if array.ndim != 3:
        raise InputError(
            "not a 3-D volume",
            where=path.name,
            expected="three axes",
            got=str(array.shape),
            do="save each frame as a file of its own",
        )
    spacing, affine, doubts = nifti_place(volume, path.name)
    return Picture(
        array.transpose(2, 1, 0), spacing, affine, path.name, doubts, header=volume.header
    )


def _h5(path: Path, key: str) -> Picture:
    """The data set `key` of the file itself: no link leads to the bytes of another file."""
    with h5py.File(path) as file:
        if isinstance(file.get(key, getlink=True), h5py.ExternalLink):
            raise _no_array(path, key, "a link to another file")
        if file.get(key) is None:
            names = ", ".join(file)[:100] or "nothing"
            raise _no_array(path, key, f"a link to nothing, or no such name; there are: {names}")
        found = file[key]
        if not isinstance(found, h5py.Dataset) or not found.shape:
            raise _no_array(path, key, "a group or a single value")
        if found.file.filename != file.filename or found.external or found.is_virtual:
            raise _no_array(path, key, "values that lie in another file")
        _check_numbers(path, found.dtype)
        stored = found.id.get_storage_size()
        check_size(path.name, found.shape, found.dtype.itemsize, stored)
        return Picture(found[:], None, None, path.name)


def _no_array(path: Path, key: str, got: str) -> InputError:
    return InputError(
        f"{key!r} of an h5 file is no array of its own",
        where=path.name,
        expected="'image' and 'label' as (slices, height, width)",
        got=got,
        do="write the numbers themselves into the file",
    )


def h5_keys(path: Path) -> set[str]:
    """Names of what an h5 file holds; none of another or a broken one, which `read` tells."""
    if suffix_of(path) not in HDF5:
        return set()
    try:
        with h5py.File(path) as file:
            return set(file)
    except Exception:
        return set()


def _check_numbers(path: Path, dtype: np.dtype) -> None:
    """Raises InputError on colours, complex numbers and texts."""
    if dtype.kind not in "biuf":
        raise InputError(
            "voxels that are no grey values",
            where=path.name,
            expected="one number a voxel",
            got=f"{'colours' if dtype.names else 'values'} of type {dtype}"[:100],
            do="convert it to grey values",
        )


def _picture(path: Path, as_classes: bool) -> Picture:
    """A picture as one slice, a TIFF as one slice a page; turned as its EXIF orientation says, as
    viewers show it.

    Colours become their luminance; 16-bit greys stay what they are, an alpha channel is left out.
    """
    pages, turned = _pages(path)
    sizes = {page.size for page in pages}
    if len(sizes) > 1:
        raise InputError(
            "pages of several sizes",
            where=path.name,
            expected="one size, a page a slice",
            got=", ".join(f"{w} x {h}" for w, h in sorted(sizes)),
            do="save the pages that belong together as a file",
        )
    doubt = (
        "stored turned (EXIF orientation), read as a viewer shows it: do image and label lie alike?"
    )
    array = np.stack([_classes(page, path.name) if as_classes else _grey(page) for page in pages])
    colours = _colours(pages[0], array[0]) if as_classes else {}
    return Picture(array, None, None, path.name, (doubt,) if turned else (), colours=colours)


def _grey(page: Image.Image) -> np.ndarray:
    """(H, W)"""
    plain = page.mode[0] in "1LIF" and page.mode != "LA"
    array = np.asarray(page if plain else page.convert("RGB").convert("L"))
    return array.astype(np.uint8) if array.dtype == bool else array


def _pages(path: Path) -> tuple[list[Image.Image], bool]:
    """Pages as a viewer shows them, and whether one is stored turned.

    Of an MPO, the JPEG of some cameras, the first is the picture.
    """
    # From an open file: by its name Pillow 13 maps an uncompressed TIFF into memory, with height
    # and width exchanged where it is turned.
    with open(path, "rb") as handle, Image.open(handle) as opened:
        kind, count = opened.format, getattr(opened, "n_frames", 1)
        pages = ImageSequence.Iterator(opened) if kind == "TIFF" else [opened]
        tag = ExifTags.Base.Orientation
        found = [(page.getexif().get(tag, 1), ImageOps.exif_transpose(page)) for page in pages]
    if count > 1 and kind not in ("TIFF", "MPO"):
        raise InputError(
            "several pictures in one file",
            where=path.name,
            expected="one, or the pages of a TIFF",
            got=f"{count} frames",
            do="save each as a file, or all as a TIFF",
        )
    return [page for _, page in found], any(orientation != 1 for orientation, _ in found)


def _colours(page: Image.Image, array: np.ndarray) -> dict[int, tuple[int, ...]]:
    """Class number -> colour, where the class numbers (H, W) are the indices of a palette; else
    {}."""
    palette = page.getpalette("RGB") if page.mode in INDEXED else None
    if not palette or (array != np.asarray(page.getchannel(0))).any():
        return {}
    shown = [n for n in np.unique(array).tolist() if 3 * n < len(palette)]
    return {n: tuple(palette[3 * n : 3 * n + 3]) for n in shown}


def _classes(page: Image.Image, name: str) -> np.ndarray:
    """(H, W) class numbers: of a palette picture its indices, unless black and white are all that
    it shows; else grey values. Raises InputError on colours (which class would a colour be?) and
    where nothing but the alpha channel shows a shape."""
    _check_alpha(page, name)
    if page.mode in COLOURS or page.mode in INDEXED:
        shown = np.asarray(page.convert("RGB"))
        coloured = int((shown != shown[..., :1]).any(-1).sum())
        if page.mode in INDEXED and (coloured or not np.isin(shown, (0, 255)).all()):
            return np.asarray(page.getchannel(0))
        if coloured:
            raise InputError(
                "a colour mask",
                where=name,
                expected="grey values (equal channels)",
                got=f"{coloured} coloured pixels",
                do="give each class its number",
            )
    return _grey(page)


def _check_alpha(page: Image.Image, name: str) -> None:
    """Raises InputError on a picture of one colour whose transparency shows a shape: a drawing
    program's layer, which would be read as all foreground or all background."""
    if "A" not in page.getbands():
        return
    levels = len(np.unique(np.asarray(page.getchannel("A"))))
    if levels > 1 and len(np.unique(np.asarray(page.convert("RGB")))) == 1:
        raise InputError(
            "a mask in the alpha channel",
            where=name,
            expected="class numbers, or 0 and 255, as grey values",
            got=f"one grey value everywhere, and {levels} values of transparency",
            do="save the alpha channel as a grey picture",
        )
