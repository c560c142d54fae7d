"""One image or label from disk as (slices, height, width): NIfTI, DICOM series, h5, PNG, JPEG or
TIFF."""

import contextlib
import dataclasses
import locale
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageSequence

from samatch.data.geometry import nifti_place, shape_doubts
from samatch.system import paths
from samatch.system.errors import InputError

# It tells what it sets right in a header, which geometry.py refuses with a message.
nibabel.imageglobals.logger.setLevel("CRITICAL")

NIFTI, HDF5, PICTURES = (
    (".nii", ".nii.gz"),
    (".h5", ".hdf5"),
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
)
SUFFIXES = NIFTI + HDF5 + PICTURES


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
    if not path.exists():
        raise InputError(
            "a file is missing",
            where=paths.shown(path.parent),
            expected=path.name,
            got="no such file",
            do="get the data set's files again",
        )
    readers = {NIFTI: _nifti, PICTURES: _picture, HDF5: lambda file: _h5(file, key)}
    reader = (
        _dicom
        if path.is_dir()
        else next((r for endings, r in readers.items() if suffix_of(path) in endings), None)
    )
    if reader is None:
        raise InputError(
            "a file of an unknown kind",
            where=path.name,
            expected="one of " + " ".join(SUFFIXES) + ", or a folder with a DICOM series",
            got=path.suffix,
            do="convert it",
        )
    found = reader(path)
    return dataclasses.replace(found, doubts=found.doubts + shape_doubts(found.array.shape))


def read_label(path: Path) -> Picture:
    """As `read`; a picture with the values 0 and 255 is a mask of class 1, and `white` says so."""
    found = read(path, "label")
    if suffix_of(path) in PICTURES:
        _check_grey(path)
    if suffix_of(path) in PICTURES and (values := set(np.unique(found.array).tolist())) <= {0, 255}:
        return dataclasses.replace(
            found, array=(found.array > 0).astype(np.uint8), white=255 in values
        )
    return found


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
    try:
        volume = nibabel.load(path)
        array = (
            np.asarray(volume.dataobj) if 0 not in volume.shape else np.zeros(volume.shape)
        )  # nibabel forgets the shape of nothing
    except Exception as error:  # nibabel, gzip and zlib each raise their own kinds
        raise InputError(
            "unreadable NIfTI volume",
            where=path.name,
            expected="a NIfTI file",
            got=f"{type(error).__name__}: {error}".replace(str(path), path.name)[:160],
            do="get the file again",
        ) from error
    if array.ndim != 3:
        raise InputError(
            "not a 3-D volume",
            where=path.name,
            expected="three axes",
            got=str(array.shape),
            do="give one file a frame",
        )
    spacing, affine, doubts = nifti_place(volume, path.name)
    return Picture(
        array.transpose(2, 1, 0), spacing, affine, path.name, doubts, header=volume.header
    )


def _h5(path: Path, key: str) -> Picture:
    try:
        with h5py.File(path) as file:
            return Picture(file[key][:], None, None, path.name)
    except (OSError, KeyError) as error:
        raise InputError(
            "unreadable h5 volume",
            where=path.name,
            expected="an h5 file with 'image' and 'label'",
            got=str(error).replace(str(path), path.name)[:120],
            do="get the file again",
        ) from error


def _picture(path: Path) -> Picture:
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
    array = np.stack([_grey(page) for page in pages])
    doubt = (
        "stored turned (EXIF orientation), read as a viewer shows it: do image and label lie alike?"
    )
    return Picture(array, None, None, path.name, (doubt,) if turned else ())


def _grey(page: Image.Image) -> np.ndarray:
    """(H, W)"""
    plain = page.mode[0] in "1LIF" and page.mode != "LA"
    array = np.asarray(page if plain else page.convert("RGB").convert("L"))
    return array.astype(np.uint8) if array.dtype == bool else array


def _pages(path: Path) -> tuple[list[Image.Image], bool]:
    """Pages as a viewer shows them, and whether one is stored turned.

    Of an MPO, the JPEG of some cameras, the first is the picture.
    """
    try:
        # From an open file: by its name Pillow 13 maps an uncompressed TIFF into memory, with
        # height and width exchanged where it is turned.
        with open(path, "rb") as handle, Image.open(handle) as opened:
            kind, count = opened.format, getattr(opened, "n_frames", 1)
            pages = ImageSequence.Iterator(opened) if kind == "TIFF" else [opened]
            tag = ExifTags.Base.Orientation
            found = [(page.getexif().get(tag, 1), ImageOps.exif_transpose(page)) for page in pages]
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and its own kinds
        raise InputError(
            "unreadable picture",
            where=path.name,
            expected="a " + ", ".join(PICTURES),
            got=f"{type(error).__name__}: {error}"[:160],
            do="get the file again",
        ) from error
    if count > 1 and kind not in ("TIFF", "MPO"):
        raise InputError(
            "several pictures in one file",
            where=path.name,
            expected="one, or the pages of a TIFF",
            got=f"{count} frames",
            do="save each as a file, or all as a TIFF",
        )
    return [page for _, page in found], any(orientation != 1 for orientation, _ in found)


def _check_grey(path: Path) -> None:
    """Raises InputError where a mask's colours differ from grey: which class would a colour be?"""
    coloured = 0
    for page in _pages(path)[0]:
        if page.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
            channels = np.asarray(page.convert("RGB"))
            coloured += int((channels != channels[..., :1]).any(-1).sum())
    if coloured:
        raise InputError(
            "a colour mask",
            where=path.name,
            expected="grey values (equal channels)",
            got=f"{coloured} coloured pixels",
            do="give each class its number",
        )


def _dicom(folder: Path) -> Picture:
    """The one DICOM series of a folder, in the order of its positions. Raises InputError where
    slices are missing.

    Nothing in a series says for sure where it should begin and end: what points to missing ones is
    a doubt."""
    import SimpleITK as sitk  # 0.3 s, and only those who bring DICOM need it

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with kept_locale():
        found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if len(found) != 1:
            raise InputError(
                "not one DICOM series",
                where=folder.name,
                expected="a folder with one series",
                got=f"{len(found)} series",
                do="give each series a folder",
            )
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), found[0])
        dicom = {path.name for path in folder.iterdir() if path.suffix.lower() == ".dcm"}
        if others := sorted(dicom - {Path(file).name for file in files}):
            raise InputError(
                "DICOM files that cannot be read as part of the series",
                where=folder.name,
                expected="one series, every file whole",
                got=f"{len(others)} others: {', '.join(others[:3])}",
                do="export the series again, or move these files away",
            )
        headers = [_header(sitk, file) for file in files]
        _check_steps(folder, [header["position"] for header in headers])
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    spacing = tuple(float(s) for s in image.GetSpacing()[::-1])
    return Picture(
        sitk.GetArrayFromImage(image),
        spacing,
        np.diag([-1, -1, 1, 1]) @ affine,
        folder.name,
        tuple(_series_doubts(headers)),
    )


@contextlib.contextmanager
def kept_locale():
    """ITK's DICOM code sets the process to the C locale, after which Python reads text files as
    ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


# InstanceNumber, ImagesInAcquisition, SpacingBetweenSlices, SliceThickness
DICOM_TAGS = {
    "number": "0020|0013",
    "expected": "0020|1002",
    "step": "0018|0088",
    "thickness": "0018|0050",
}
PIXEL_SPACINGS = ("0028|0030", "0018|1164")  # PixelSpacing, ImagerPixelSpacing


def _header(sitk, file: str) -> dict:
    """Position in mm along the slice's normal, whether pixels have a size, the numbers of
    DICOM_TAGS or None."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    normal = np.array(reader.GetDirection()).reshape(3, 3)[:, 2]
    there = {name: tag for name, tag in DICOM_TAGS.items() if reader.HasMetaDataKey(tag)}
    found = {name: reader.GetMetaData(tag).strip() for name, tag in there.items()}
    numbers = {
        name: float(text) for name, text in found.items() if re.fullmatch(r"[-+]?\d+(\.\d*)?", text)
    }
    return (
        dict.fromkeys(DICOM_TAGS)
        | numbers
        | {
            "position": float(normal @ np.array(reader.GetOrigin())),
            "sized": any(map(reader.HasMetaDataKey, PIXEL_SPACINGS)),
        }
    )


def _series_doubts(headers: list[dict]) -> list[str]:
    """What says that slices may be missing although those that are there lie at even steps; pixels
    without a size."""
    numbers, doubts = sorted(h["number"] for h in headers if h["number"] is not None), []
    if not all(h["sized"] for h in headers):
        doubts.append("no pixel spacing in the DICOM headers: 1 mm is assumed.")
    if len(set(numbers)) == len(headers) and (
        numbers[0] > 1 or numbers[-1] - numbers[0] >= len(numbers)
    ):
        doubts.append(
            "the numbers of the DICOM slices do not count from 0 or 1 without a gap: are some "
            "missing?"
        )
    if any(h["expected"] and h["expected"] > len(headers) for h in headers):
        doubts.append("the DICOM acquisition has more images than the series: are slices missing?")
    first, second = headers[0], headers[min(1, len(headers) - 1)]
    if _skips(abs(second["position"] - first["position"]), first["step"], first["thickness"]):
        doubts.append(
            "the DICOM slices lie at a multiple of the SpacingBetweenSlices: are slices missing?"
        )
    return doubts


def _skips(step: float, stated: float | None, thickness: float | None) -> bool:
    """Whether a step is twice, three times, ... the stated one. ITK states 1 mm, less than slices
    are thick."""
    if not stated or stated < 0.9 * (thickness or 0):
        return False
    return round(step / stated) > 1 and abs(step / stated - round(step / stated)) < 0.02


def _check_steps(folder: Path, positions: list[float]) -> None:
    steps = np.diff(positions)
    if len(steps) < 2:
        return
    usual = float(np.median(steps))
    missing = [
        f"{positions[i]:.1f} and {positions[i + 1]:.1f} mm"
        for i in np.flatnonzero(np.abs(steps - usual) > 0.02 * abs(usual))
    ]
    if missing:
        raise InputError(
            "slices of a DICOM series are missing",
            where=folder.name,
            expected=f"a slice every {usual:.2f} mm",
            got="other steps between " + ", ".join(missing[:3]),
            do="export the whole series",
        )
