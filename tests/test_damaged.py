"""Files that are no images, and damaged ones: read or refused, whatever the damage."""

import gzip
import os
import resource
import struct
import sys
import tarfile
import zipfile

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from samatch.data.dicom import _is_cut
from samatch.data.images import read, read_label
from samatch.data.listing import from_folder
from samatch.system.archives import unpack
from samatch.system.errors import InputError
from tests.damages import gzipped, outcomes, with_checksums
from tests.made import VOLUME, nifti, stack, write_series
from tests.told import FETCHED


def colours(path):
    rgb = np.zeros((4, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), path)


def imaginary(path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 2), np.complex64), np.eye(4)), path)


def promising(path):
    """A header of 32000 voxels along each axis before a hundred bytes."""
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 2), np.int16), np.eye(4)), path)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[42:48] = np.array([32000] * 3, "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


@pytest.mark.parametrize(
    "make, message, what",
    [
        (colours, "no grey values(.|\n)*colours", "a NIfTI of colours"),
        (imaginary, "no grey values", "a NIfTI of complex numbers"),
        (
            promising,
            "promises too much",
            "a NIfTI header that promises 32000 voxels along each axis",
        ),
    ],
)
def test_nifti_that_is_no_image(tmp_path, make, message, what, told):
    make(tmp_path / "a.nii.gz")
    with told(what, match=message):
        read(tmp_path / "a.nii.gz")


def h5_kinds(file, secret):
    """What may stand in the place of an image."""
    kind = np.dtype([("x", "f4")])
    layout = h5py.VirtualLayout(VOLUME.shape, VOLUME.dtype)
    layout[:] = h5py.VirtualSource(str(secret), "image", VOLUME.shape)
    file.create_group("group")
    file["scalar"] = 3.0
    file["text"] = np.array(["a", "b"], dtype="S1")
    file["compound"] = np.zeros((2, 3, 4), kind)
    file["external"] = h5py.ExternalLink(str(secret), "image")
    file["soft"] = h5py.SoftLink("/external")
    file["dangling"] = h5py.SoftLink("/nothing")
    file.create_virtual_dataset("virtual", layout)
    file.create_dataset("raw", (4,), "u1", external=[(str(secret), 0, 4)])
    file.create_dataset("bomb", (100_000,) * 3, "f4", chunks=(10, 10, 10), compression="gzip")
    file["plain"] = VOLUME
    file["inner"] = h5py.SoftLink("/plain")


@pytest.mark.parametrize(
    "key, message, what",
    [
        ("group", "a group or a single value", "an h5 group in the place of the image"),
        ("scalar", "a group or a single value", "an h5 image of a single value"),
        ("text", "no grey values", "an h5 image of texts"),
        ("compound", "no grey values", "an h5 image of records"),
        ("external", "a link to another file", "an h5 image that is a link to another file"),
        ("soft", "values that lie in another file", "an h5 image that is a link to such a link"),
        ("dangling", "a link to nothing", "an h5 image that is a link to nothing"),
        (
            "virtual",
            "values that lie in another file",
            "an h5 image that is a view of another file",
        ),
        ("raw", "values that lie in another file", "an h5 image whose values another file holds"),
        ("bomb", "promises too much", "an h5 image that would take petabytes"),
        ("missing", "no such name", "an h5 file without the image that is asked for"),
    ],
)
def test_h5_that_is_no_image(tmp_path, key, message, what, told):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = VOLUME
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5_kinds(file, tmp_path / "secret.h5")
    with told(what, match=message):
        read(tmp_path / "a.h5", key)
    assert (read(tmp_path / "a.h5", "inner").array == VOLUME).all()


def test_a_pipe_is_no_image(tmp_path, told):
    os.mkfifo(tmp_path / "a.png")
    with told("a named pipe called a.png", match="no plain file"):
        read(tmp_path / "a.png")


def test_a_truncated_slice_is_told_whatever_its_name(tmp_path, told):
    """GDCM leaves out what it cannot read; without the ending .dcm nobody noticed."""
    write_series(tmp_path / "s")
    files = sorted((tmp_path / "s").iterdir())
    for file in files:
        file.rename(file.with_suffix(""))
    cut = files[2].with_suffix("")
    whole_slice = cut.read_bytes()
    cut.write_bytes(whole_slice[:-20])
    with told(
        "a DICOM slice that is cut off, without the ending .dcm",
        match="cut off or damaged(.|\n)*1 that are not: 02",
    ):
        read(tmp_path / "s")
    cut.write_bytes(whole_slice)
    (tmp_path / "s" / "._02").write_bytes(b"macOS")
    (tmp_path / "s" / "notes.txt").write_text("none")
    assert (read(tmp_path / "s").array == VOLUME).all()


# of ru_maxrss, in bytes
UNIT = 1 if sys.platform == "darwin" else 1024


def element(group, number, kind, value, length=None):
    """Bytes of one DICOM element with its kind (b"" where none is written)."""
    head = struct.pack("<HH", group, number) + kind
    length = len(value) if length is None else length
    if kind in (b"OW", b"SQ", b"UN"):
        return head + struct.pack("<HI", 0, length) + value
    return head + struct.pack("<H" if kind else "<I", length) + value


def dicom(path, syntax, *elements):
    meta = element(2, 0x10, b"UI", syntax)
    path.write_bytes(bytes(128) + b"DICM" + meta + b"".join(elements) + bytes(4))
    return path


def test_lengths_of_dicom_elements_by_hand(tmp_path):
    """A sequence holds elements, pixels may be packed, and a length may not pass the end."""
    plain, bare, swapped = (
        b"1.2.840.10008.1.2.1\0",
        b"1.2.840.10008.1.2\0",
        b"1.2.840.10008.1.2.2\0",
    )
    name, endless = element(0x10, 0x10, b"PN", b"Anonymus"), 0xFFFFFFFF
    pixels = element(0x7FE0, 0x10, b"OW", bytes(24))
    item = element(0xFFFE, 0xE000, b"", name)
    ended = element(0xFFFE, 0xE000, b"", name, endless) + element(0xFFFE, 0xE00D, b"", b"")
    cases = {
        "whole": (plain, [name, pixels]),
        "sequence": (plain, [element(8, 0x1140, b"SQ", item), pixels]),
        "ended by a mark": (plain, [element(8, 0x1140, b"SQ", ended, endless), pixels]),
        "packed": (plain, [element(0x7FE0, 0x10, b"OW", item, endless)]),
        "without kinds": (
            bare,
            [element(0x10, 0x10, b"", b"Anonymus"), element(0x7FE0, 0x10, b"", bytes(9))],
        ),
        "another order of bytes": (swapped, [element(0x1000, 0x1000, b"OW", b"", 99)]),
    }
    for what, (syntax, parts) in cases.items():
        assert not _is_cut(dicom(tmp_path / "a.dcm", syntax, *parts)), what
    long = element(0x10, 0x20, b"UN", b"", 1 << 31)
    for what, (syntax, parts) in {
        "pixels": (plain, [name, pixels[:-9]]),
        "an element": (plain, [long, pixels]),
        "in a sequence": (plain, [element(8, 0x1140, b"SQ", element(0xFFFE, 0xE000, b"", long))]),
        "without kinds": (bare, [element(0x7FE0, 0x10, b"", bytes(9), 99)]),
    }.items():
        assert _is_cut(dicom(tmp_path / "a.dcm", syntax, *parts)), what


@pytest.mark.parametrize(
    "spacing, what",
    [
        (b"0\\0", "a DICOM spacing of 0"),
        (b"wide\\1", "a DICOM spacing that is no number"),
        (b"-1\\1", "a negative DICOM spacing"),
    ],
)
def test_a_dicom_spacing_that_is_none(tmp_path, spacing, what, told):
    write_series(tmp_path / "s")
    for file in (tmp_path / "s").iterdir():
        assert b"1.25\\1.5" in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(b"1.25\\1.5", spacing.ljust(8)))
    with told(what, match="no pixel spacing in a DICOM series(.|\n)*got: '"):
        read(tmp_path / "s")


def encrypted(path):
    """A zip whose one member says that it is encrypted."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"x" * 20)
    raw = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.find(mark) + flags] |= 1
    path.write_bytes(bytes(raw))


def zip_of_a_pipe(path):
    member = zipfile.ZipInfo("pipe")
    member.external_attr = 0o010644 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"")


def tar_of_a_pipe(path):
    member = tarfile.TarInfo("pipe")
    member.type = tarfile.FIFOTYPE
    with tarfile.open(path, "w") as archive:
        archive.addfile(member)


def zip_with_a_flipped_byte(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(range(256)) * 9)
    raw = bytearray(path.read_bytes())
    raw[60] ^= 255
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(
    "make, message, what",
    [
        (encrypted, "an encrypted archive", "an encrypted zip"),
        (zip_of_a_pipe, "pipe: not a plain file", "a zip with a named pipe"),
        (tar_of_a_pipe, "pipe: not a plain file", "a tar with a named pipe"),
        (zip_with_a_flipped_byte, "unreadable archive", "a zip with a flipped byte"),
    ],
)
def test_archives_that_are_refused(tmp_path, make, message, what, told):
    make(tmp_path / "a.archive")
    with told(what, match=message, room=FETCHED):
        unpack(tmp_path / "a.archive", tmp_path / "into")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_folder_that_cannot_take_an_archives_files_is_told(tmp_path, kind):
    """The archive is whole: nobody should get it again. The limit on a file's size stands for a
    full disk, a file in the folder's place for a forbidden one."""
    (tmp_path / "a.bin").write_bytes(b"x" * 200_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.bin", "a.bin")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.bin", "a.bin")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(InputError, match="cannot unpack(.|\n)*where: into(.|\n)*free some"):
            unpack(tmp_path / f"a.{kind}", tmp_path / "into")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    with pytest.raises(InputError, match="cannot write to a folder(.|\n)*DATA=DIR"):
        unpack(tmp_path / f"a.{kind}", tmp_path / "a.bin")
    assert unpack(tmp_path / f"a.{kind}", tmp_path / "into") == 1


def test_hidden_files_are_no_cases(tmp_path):
    for name in (
        "x.nii.gz",
        "x_gt.nii.gz",
        "._x.nii.gz",
        ".DS_Store",
        "__MACOSX/x.nii.gz",
        ".git/y.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [(e.image, e.label) for e in from_folder(tmp_path)] == [("x.nii.gz", "x_gt.nii.gz")]


def make_nifti(path):
    nifti(path, VOLUME)


def make_h5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=VOLUME, compression="gzip")
        file["label"] = (VOLUME > 400).astype(np.uint8)


def make_picture(path):
    Image.fromarray(stack(0)[0][0]).save(path)


FORMATS = {
    "a.nii": make_nifti,
    "a.nii.gz": make_nifti,
    "a.h5": make_h5,
    "a.png": make_picture,
    "a.tif": make_picture,
    "a.jpg": make_picture,
    "a.bmp": make_picture,
}


def look(path):
    for picture in (read(path), read_label(path)):
        assert picture.array.dtype.kind in "biuf" and picture.array.ndim >= 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_images_are_read_or_refused(tmp_path, name):
    FORMATS[name](tmp_path / name)
    assert "refused" in outcomes(tmp_path / name, look)


@pytest.mark.filterwarnings("ignore")
def test_damages_that_get_past_checksums_are_read_or_refused(tmp_path):
    """Inside of whole gzip data, and of PNG chunks with right checksums."""
    make_nifti(tmp_path / "a.nii")
    plain = (tmp_path / "a.nii").read_bytes()
    assert "refused" in outcomes(tmp_path / "a.nii.gz", look, whole=plain, seal=gzipped)
    make_picture(tmp_path / "a.png")
    assert "refused" in outcomes(tmp_path / "a.png", look, seal=with_checksums)


def test_damaged_dicom_slices_are_read_or_refused(tmp_path):
    write_series(tmp_path / "s")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = outcomes(tmp_path / "s" / "03.dcm", lambda path: read(path.parent), times=100)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 1e9 / UNIT
    assert found == {"read", "refused"}
