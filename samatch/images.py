"""One image or label from disk as (slices, height, width): NIfTI, DICOM series, h5, PNG, JPEG or TIFF."""

import contextlib
import locale
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np
from PIL import Image

from samatch import paths
from samatch.errors import InputError

NIFTI, HDF5, PICTURES = (".nii", ".nii.gz"), (".h5", ".hdf5"), (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SUFFIXES = NIFTI + HDF5 + PICTURES


@dataclass(frozen=True)
class Picture:
    """What one file holds: array (D, H, W), spacing (z, y, x) in mm or None, affine voxel (x, y, z) -> mm (RAS) or None."""

    array: np.ndarray
    spacing: tuple[float, float, float] | None
    affine: np.ndarray | None
    source: str


def suffix_of(path: Path) -> str:
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), "")


def stem_of(path: Path) -> str:
    """File name without its ending; of a DICOM series the folder's name."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def read(path: Path, key: str = "image") -> Picture:
    """Reads a file, or a folder that holds one DICOM series; `key` names the data set inside an h5 file.

    Raises InputError on a missing, unreadable or unsuitable file.
    """
    if not path.exists():
        raise InputError("a file is missing", where=paths.shown(path.parent), expected=path.name, got="no such file", do="get the data set's files again")
    readers = {NIFTI: _nifti, PICTURES: _picture, HDF5: lambda file: _h5(file, key)}
    reader = _dicom if path.is_dir() else next((r for endings, r in readers.items() if suffix_of(path) in endings), None)
    if reader is None:
        raise InputError("a file of an unknown kind", where=path.name, expected="one of " + " ".join(SUFFIXES) + ", or a folder with a DICOM series",
                         got=path.suffix, do="convert it")
    return reader(path)


def read_label(path: Path) -> Picture:
    """As `read`; a picture with the values 0 and 255 is a mask of class 1."""
    found = read(path, "label")
    if suffix_of(path) in PICTURES:
        _check_grey(path)
    if suffix_of(path) in PICTURES and set(np.unique(found.array).tolist()) <= {0, 255}:
        return Picture((found.array > 0).astype(np.uint8), found.spacing, found.affine, found.source)
    return found


def check_geometry(image: Picture, label: Picture) -> None:
    """Raises InputError where image and label both know where they lie, and lie differently."""
    if image.affine is None or label.affine is None or image.array.shape != label.array.shape or np.allclose(image.affine, label.affine, atol=1e-3):
        return
    turned = _degrees(image.affine, label.affine)
    raise InputError("image and label lie differently in space", where=f"{image.source} and {label.source}", expected="equal affines",
                     got=f"origins {image.affine[:3, 3].round(2).tolist()} and {label.affine[:3, 3].round(2).tolist()}, axes turned by {turned:.1f} degrees",
                     do="resample the label to the image")


def _degrees(a: np.ndarray, b: np.ndarray) -> float:
    """Largest angle between corresponding voxel axes."""
    first, second = (m[:3, :3] / np.linalg.norm(m[:3, :3], axis=0) for m in (a, b))
    return float(np.degrees(np.arccos(np.clip((first * second).sum(0), -1, 1))).max())


def _nifti(path: Path) -> Picture:
    try:
        volume = nibabel.load(path)
        array = np.asarray(volume.dataobj) if 0 not in volume.shape else np.zeros(volume.shape)  # nibabel forgets the shape of nothing
    except Exception as error:  # nibabel, gzip and zlib each raise their own kinds
        raise InputError("unreadable NIfTI volume", where=path.name, expected="a NIfTI file", got=f"{type(error).__name__}: {error}".replace(str(path), path.name)[:160], do="get the file again") from error
    if array.ndim != 3:
        raise InputError("not a 3-D volume", where=path.name, expected="three axes", got=str(array.shape), do="give one file a frame")
    spacing = tuple(float(s) for s in volume.header.get_zooms()[2::-1])
    return Picture(array.transpose(2, 1, 0), spacing, volume.affine, path.name)


def _h5(path: Path, key: str) -> Picture:
    try:
        with h5py.File(path) as file:
            return Picture(file[key][:], None, None, path.name)
    except (OSError, KeyError) as error:
        raise InputError("unreadable h5 volume", where=path.name, expected="an h5 file with 'image' and 'label'", got=str(error).replace(str(path), path.name)[:120],
                         do="get the file again") from error


def _picture(path: Path) -> Picture:
    """A picture as one slice, colours as their luminance; 16-bit greys stay what they are, an alpha channel is left out."""
    try:
        with Image.open(path) as opened:
            array = np.asarray(opened if opened.mode[0] in "1LIF" and opened.mode != "LA" else opened.convert("RGB").convert("L"))
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and its own kinds
        raise InputError("unreadable picture", where=path.name, expected="a " + ", ".join(PICTURES), got=f"{type(error).__name__}: {error}"[:160],
                         do="get the file again") from error
    return Picture(array[None].astype(np.uint8) if array.dtype == bool else array[None], None, None, path.name)


def _check_grey(path: Path) -> None:
    """Raises InputError where a mask's colours differ from grey: which class would a colour be?"""
    with Image.open(path) as opened:
        if opened.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
            channels = np.asarray(opened.convert("RGB"))
            if coloured := int((channels != channels[..., :1]).any(-1).sum()):
                raise InputError("a colour mask", where=path.name, expected="grey values (equal channels)", got=f"{coloured} coloured pixels",
                                 do="give each class its number")


def _dicom(folder: Path) -> Picture:
    """The one DICOM series of a folder, in the order of its positions. Raises InputError where slices are missing."""
    import SimpleITK as sitk  # 0.3 s, and only those who bring DICOM need it

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with kept_locale():
        found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if len(found) != 1:
            raise InputError("not one DICOM series", where=folder.name, expected="a folder with one series", got=f"{len(found)} series", do="give each series a folder")
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), found[0])
        _check_steps(folder, [_position(sitk, file) for file in files])
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Picture(sitk.GetArrayFromImage(image), tuple(float(s) for s in image.GetSpacing()[::-1]), np.diag([-1, -1, 1, 1]) @ affine, folder.name)


@contextlib.contextmanager
def kept_locale():
    """ITK's DICOM code sets the process to the C locale, after which Python reads text files as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _position(sitk, file: str) -> float:
    """Millimetres along the normal of the slice."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    normal = np.array(reader.GetDirection()).reshape(3, 3)[:, 2]
    return float(normal @ np.array(reader.GetOrigin()))


def _check_steps(folder: Path, positions: list[float]) -> None:
    steps = np.diff(positions)
    if len(steps) < 2:
        return
    usual = float(np.median(steps))
    missing = [f"{positions[i]:.1f} and {positions[i + 1]:.1f} mm" for i in np.flatnonzero(np.abs(steps - usual) > 0.02 * abs(usual))]
    if missing:
        raise InputError("slices of a DICOM series are missing", where=folder.name, expected=f"a slice every {usual:.2f} mm",
                         got="other steps between " + ", ".join(missing[:3]), do="export the whole series")
