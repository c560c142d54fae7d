"""Damaged copies of files, drawn by Hypothesis: what fails is shrunk to the least damage."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from samatch.system.errors import InputError

# What a field of a header may hold at worst, in both orders of bytes.
WORST = [
    struct.pack(order + kind, value)
    for order in "<>"
    for kind, values in {
        "h": (0, 1, -1, 2**15 - 1, -(2**15)),
        "i": (0, 1, -1, 2**31 - 1, -(2**31)),
        "f": (0.0, -1.0, 1e38, float("nan"), float("inf")),
        "q": (2**63 - 1, -1),
    }.items()
    for value in values
]
WORDS = [b"", b"\n", b",", b'"', b" ", b"x", b"7", b"-", b".", b"e9", b"nan", b"null", b"[]"]
NEW = st.sampled_from(WORDS) | st.sampled_from(WORST) | st.binary(min_size=1, max_size=8)
HEAD = 400  # bytes in which most formats say how to read the others


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """A copy that is cut off, or in which a few places hold other, more or fewer bytes."""
    place = st.integers(0, min(HEAD, len(whole)) - 1) | st.integers(0, len(whole) - 1)
    if draw(st.integers(0, 4)) == 0:
        return whole[: draw(place)]
    for _ in range(draw(st.integers(1, 3))):
        first, new = draw(place), draw(NEW)
        kept = {"other": len(new), "more": 0, "fewer": len(new)}
        kind = draw(st.sampled_from(["other", "other", "more", "fewer"]))
        whole = whole[:first] + (b"" if kind == "fewer" else new) + whole[first + kept[kind] :]
        whole = whole or b"\0"
    return whole


def outcomes(path, look: Callable, *found: bytes, whole=None, seal=bytes, times=60) -> set[str]:
    """What comes of looking at damaged copies of a file: "read", "refused"; any error other than
    an InputError fails, and is shrunk.

    `whole`: the content that is damaged before `seal` makes the file of it (compression, checksums,
    so that a damage gets past them), the file's own by default. `found`: contents that failed once.
    """
    whole, seen = path.read_bytes() if whole is None else whole, set()

    @settings(max_examples=times)
    @given(damaged(whole))
    def check(content):
        path.write_bytes(seal(content))
        try:
            look(path)
            seen.add("read")
        except InputError as error:
            assert str(error).strip()
            seen.add("refused")

    for content in found:
        check = example(content)(check)
    check()
    return seen


def gzipped(content: bytes) -> bytes:
    """A whole gzip file of a damaged content."""
    return gzip.compress(content, 1, mtime=0)


def with_checksums(png: bytes) -> bytes:
    """A damaged PNG whose chunks have right checksums, as far as their lengths lead."""
    at, fixed = 8, bytearray(png)
    while at + 12 <= len(fixed):
        end = at + 8 + struct.unpack_from(">I", fixed, at)[0]
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


def zipped(name: str) -> Callable[[bytes], bytes]:
    """A whole zip file that holds a damaged content as `name`."""

    def seal(content: bytes) -> bytes:
        with io.BytesIO() as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(name, content)
            return file.getvalue()

    return seal
