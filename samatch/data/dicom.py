"""One DICOM series from a folder: its slices in order, and what says that some are missing."""

import contextlib
import locale
import re
import struct
from pathlib import Path

import numpy as np

from samatch.data.picture import Picture, check_size
from samatch.system.errors import InputError


def read_series(folder: Path) -> Picture:
    """The one DICOM series of a folder, in the order of its positions. Raises InputError where
    slices are missing.

    Nothing in a series says for sure where it should begin and end: what points to missing ones is
    a doubt."""
    import SimpleITK as sitk  # 0.3 s, and only those who bring DICOM need it

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with kept_locale():
        slices = _slices(folder)
        if cut := sorted(name for name in slices if _is_cut(folder / name)):
            raise InputError(
                "DICOM files that are cut off or damaged",
                where=folder.name,
                expected="every file whole",
                got=f"{len(cut)} that are not: {', '.join(cut[:3])}",
                do="export the series again",
            )
        found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if len(found) != 1:
            raise InputError(
                "not one DICOM series",
                where=folder.name,
                expected="a folder with one series that can be read",
                got=f"{len(found)} series",
                do="give each series a folder of its own"
                if found
                else "name the folder of its slices",
            )
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), found[0])
        if others := sorted(slices - {Path(file).name for file in files}):
            raise InputError(
                "DICOM files that cannot be read as part of the series",
                where=folder.name,
                expected="one series, every file whole and with a pixel spacing above 0",
                got=f"{len(others)} others: {', '.join(others[:3])}",
                do="export the series again, or move these files away",
            )
        headers = [_header(sitk, file) for file in files]
        _check_sizes(folder, headers)
        _check_alike(folder, headers)
        _check_straight(folder, headers)
        _check_steps(folder, [header["position"] for header in headers])
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        if len({header["kind"] for header in headers}) > 1:
            # ITK gives every slice the first one's kind, which cuts off what a rescale slope made.
            reader.SetOutputPixelType(sitk.sitkFloat64)
        image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    x, y, z = (float(s) for s in image.GetSpacing())
    return Picture(
        sitk.GetArrayFromImage(image),
        (z, y, x),
        np.diag([-1, -1, 1, 1]) @ affine,
        folder.name,
        tuple(_series_doubts(headers)),
    )


def _slices(folder: Path) -> set[str]:
    """Names of the files that are DICOM."""
    return {path.name for path in folder.iterdir() if is_slice(path)}


def is_slice(path: Path) -> bool:
    """Whether a file is DICOM by its ending or by its first bytes; a hidden file and a DICOMDIR,
    the list of others, are none."""
    if not path.is_file() or path.name.startswith(".") or path.name == "DICOMDIR":
        return False
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with open(path, "rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:  # a file of another kind that may not be read
        return False


# Kinds of values (VR) whose length takes four bytes; a length that is told by a mark at the end.
LONG = [b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"]
SHORT = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
UNDEFINED = 0xFFFFFFFF
SYNTAX, PIXELS = (0x0002, 0x0010), (0x7FE0, 0x0010)
IMPLICIT = b"1.2.840.10008.1.2"
OTHER_ORDERS = (b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99")  # big-endian, deflated


def _is_cut(path: Path) -> bool:
    """Whether an element before the pixels, or the pixels, end after the file's end, or the file's
    own group, number 2, is not first or has a kind of value that there is not. GDCM sets the
    memory aside that a damaged length asks for, up to 4 GB each time."""
    content, at, syntax = path.read_bytes(), 132, b""
    if content[128:at] != b"DICM":
        return False
    if content[at : at + 2] != b"\2\0":
        return True
    while at + 12 <= len(content):
        tag, kind = struct.unpack_from("<HH", content, at), content[at + 4 : at + 6]
        if tag[0] != 2 and syntax in OTHER_ORDERS:
            return False
        if tag[0] == 2 and kind not in LONG + SHORT:
            return True
        if tag[0] == 0xFFFE or (tag[0] != 2 and syntax == IMPLICIT):  # an item has no kind
            kind, head, length = b"", 8, struct.unpack_from("<I", content, at + 4)[0]
        elif kind in LONG:
            head, length = 12, struct.unpack_from("<I", content, at + 8)[0]
        else:
            head, length = 8, struct.unpack_from("<H", content, at + 6)[0]
        within = tag[0] == 0xFFFE or kind == b"SQ" or length == UNDEFINED
        if length != UNDEFINED and at + head + length > len(content):
            return True
        if tag == PIXELS or (kind == b"UN" and within):
            return False
        if tag == SYNTAX:
            syntax = content[at + head : at + head + length].strip(b" \0")
        at += head + (0 if within else length)
    return False


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
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
MOST_MM = 1e5
ROUNDING = 1e-3  # of the cosines in a header
TILT = 0.01  # tangent; a hundredth of the height is less than a pixel in a usual stack
PIXEL_SPACINGS = ("0028|0030", "0018|1164")  # PixelSpacing, ImagerPixelSpacing


def _header(sitk, file: str) -> dict:
    """Place of the first pixel in mm, axes (columns: x, y, normal), the place along the normal,
    shape, kind of value after rescaling, size of a pixel as ITK reads it and as stated, the numbers
    of DICOM_TAGS or None."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    check_size(Path(file).name, reader.GetSize(), 2, Path(file).stat().st_size)
    if any(count > 1 for count in reader.GetSize()[2:]):
        raise InputError(
            "several slices in one DICOM file",
            where=Path(file).name,
            expected="a file a slice",
            got=f"{' x '.join(map(str, reader.GetSize()))} voxels",
            do="convert it to NIfTI (dcm2niix, for example)",
        )
    origin, axes = np.array(reader.GetOrigin()), np.array(reader.GetDirection()).reshape(3, 3)
    there = {name: tag for name, tag in DICOM_TAGS.items() if reader.HasMetaDataKey(tag)}
    found = {name: reader.GetMetaData(tag).strip() for name, tag in there.items()}
    numbers = {name: float(text) for name, text in found.items() if NUMBER.fullmatch(text)}
    return (
        dict.fromkeys(DICOM_TAGS)
        | numbers
        | {
            "position": float(axes[:, 2] @ origin),
            "origin": origin,
            "axes": axes,
            "shape": reader.GetSize()[:2],
            "kind": reader.GetPixelID(),
            "pixel": reader.GetSpacing()[:2],
            "sizes": [reader.GetMetaData(t) for t in PIXEL_SPACINGS if reader.HasMetaDataKey(t)],
        }
    )


def _check_sizes(folder: Path, headers: list[dict]) -> None:
    """Raises InputError where a stated pixel size is none: ITK reads such a file with another."""
    stated = {text.strip(" \0") for header in headers for text in header["sizes"]}
    for text in sorted(stated):
        sides = [side.strip() for side in text.split("\\")]
        plain = len(sides) == 2 and all(map(NUMBER.fullmatch, sides))
        if not plain or not all(0 < float(side) < MOST_MM for side in sides):
            raise InputError(
                "no pixel spacing in a DICOM series",
                where=folder.name,
                expected="two positive numbers",
                got=repr(text),
                do="export the series again",
            )


def _check_alike(folder: Path, headers: list[dict]) -> None:
    """Raises InputError where slices differ in how many pixels they have, or how large these are:
    ITK gives every slice the first one's size."""
    first = headers[0]["pixel"]
    several = not all(np.allclose(header["pixel"], first, rtol=0.01) for header in headers)
    for what, key, differ in (
        ("slices", "shape", len({header["shape"] for header in headers}) > 1),
        ("pixels", "pixel", several),
    ):
        if differ:
            found = sorted({header[key] for header in headers})
            raise InputError(
                f"{what} of several sizes in a DICOM series",
                where=folder.name,
                expected="one size in all slices",
                got=", ".join(f"{x:g} x {y:g}" for x, y in found[:3]),
                do="move the slices of another scan away",
            )


def _check_straight(folder: Path, headers: list[dict]) -> None:
    """Raises InputError where slices are turned against each other (a localizer among them), or do
    not lie straight above each other (a tilted gantry): no one affine places such voxels, and their
    volume would be wrong."""
    first, last = headers[0], headers[-1]
    turned = [h for h in headers if not np.allclose(h["axes"], first["axes"], atol=ROUNDING)]
    if turned:
        raise InputError(
            "slices of several orientations in a DICOM series",
            where=folder.name,
            expected="parallel slices",
            got=f"{len(turned)} of {len(headers)} turned against the first",
            do="move the slices of another scan away (a localizer, for example)",
        )
    way = last["origin"] - first["origin"]
    along = way @ first["axes"][:, 2]
    aside = np.linalg.norm(way - along * first["axes"][:, 2])
    if aside > max(min(first["pixel"]) / 2, TILT * abs(along)):
        raise InputError(
            "slices of a DICOM series that do not lie straight above each other",
            where=folder.name,
            expected="a stack along the slices' normal",
            got=f"{np.degrees(np.arctan2(aside, abs(along))):.1f} degrees from it",
            do="resample it to straight slices (dcm2niix does so for a tilted gantry)",
        )


def _series_doubts(headers: list[dict]) -> list[str]:
    """What says that slices may be missing although those that are there lie at even steps; pixels
    without a size."""
    numbers, doubts = sorted(h["number"] for h in headers if h["number"] is not None), []
    if not all(h["sizes"] for h in headers):
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
    if doubles := len(positions) - len({round(position, 2) for position in positions}):
        raise InputError(
            "several slices of a DICOM series at one place",
            where=folder.name,
            expected="one slice a place",
            got=f"{doubles} of {len(positions)} where another one lies",
            do="give each echo or time frame a folder of its own",
        )
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
