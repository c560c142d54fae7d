"""Files that are written whole or not at all, and read back only as they were written.

A run's record lists the sha256 of the run's files. What is written while a run is going, states and
predictions, are zip files, and these carry a checksum of every member already: nothing stands
beside a file that could be lost or renamed without it.
"""

import contextlib
import functools
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from samatch.system import paths, repro
from samatch.system.errors import InputError

ZIPPED = (".pt", ".npz")


def write_whole(
    path: Path,
    write: Callable[[Path], object],
    what: str = "a file",
    older: Path | None = None,
    do: str = "free some space, see that the folder may be written to, and run again",
) -> None:
    """`write` makes the file under another name, which then takes the place of `path`; what stood
    there goes to `older`, where that is named. Raises InputError and leaves what was there."""
    partial = path.with_name(f"{path.name}.partial{uuid.uuid4().hex[:8]}")
    try:
        write(partial)
        if older and path.exists():
            path.replace(older)
        partial.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch: RuntimeError on a full disk
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {what}", where=paths.shown(path), got=reason(error), do=do
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def reason(error: Exception) -> str:
    """An exception in one line: what the system says, without the path."""
    lines = str(error).splitlines() or [type(error).__name__]
    return getattr(error, "strerror", None) or lines[0][:160]


def fault(path: Path, sha256: str = "") -> str:
    """What is wrong with a file that is to be read back, in a few words; "" where nothing is.

    It must be a file that can be read, and not empty; with `sha256` it must have that hash, else a
    zip file (torch's and numpy's are) the checksums that it carries. Large files are read once a
    process, and again when their size or time has changed.
    """
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                return "it is empty"
    except FileNotFoundError:
        return "it is missing"
    except IsADirectoryError:
        return "a folder lies in its place"
    except OSError as error:
        return f"it cannot be read ({reason(error)})"
    if sha256:
        found = sha256_once(path)
        other = f"it is not what was written (sha256 {found[:12]}, expected {sha256[:12]})"
        return "" if found == sha256 else other
    return _zip_fault(*_identity(path)) if path.suffix in ZIPPED else ""


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Raises ValueError in a few words where it is damaged."""
    if problem := fault(path):
        raise ValueError(problem)
    try:
        with np.load(path, allow_pickle=False) as file:
            # By the member's whole name: "a.npy" alone would find the array called a.
            return {name: file[f"{name}.npy"] for name in file.files}
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a changed header
        raise ValueError(f"it is damaged ({reason(error)})") from error


def sha256_once(path: Path) -> str:
    """Hash of a file, computed once a process as long as its size and time stay."""
    return _sha256(*_identity(path))


def _identity(path: Path) -> tuple[Path, int, int, int]:
    about = path.stat()
    return path.absolute(), about.st_ino, about.st_size, about.st_mtime_ns


@functools.cache
def _sha256(path: Path, *_: int) -> str:
    return repro.file_sha256(path)


@functools.cache
def _zip_fault(path: Path, *_: int) -> str:
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except Exception as error:  # zipfile raises a dozen kinds for a changed header
        return f"it is damaged ({reason(error)})"
    return f"it is damaged (the checksum of {broken} is wrong)" if broken else ""
