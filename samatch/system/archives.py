"""Unpacking archives that users bring: nothing leaves the folder, no links, bounded size."""

import errno
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from samatch.system import paths
from samatch.system.errors import InputError, raise_all
from samatch.system.whole import reason

MOST_BYTES = 20 << 30
MOST_FILES = 200_000
# Of the folder, not of the archive: a full disk, a limit, no right to write.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


def unpack(archive: Path, folder: Path, most_bytes: int = MOST_BYTES) -> int:
    """Unpacks a zip or tar archive into `folder`, after a
    look at every member; returns the number of files.

    Raises InputError with all faults: paths that lead out of the
    folder, links and devices, more than `most_bytes` unpacked; and
    where the folder cannot take the files.
    """
    try:
        opened = zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive)
        with opened:
            members = _members(opened)
            raise_all(
                f"archive {archive.name}",
                _faults(members, most_bytes),
                "do not unpack it; get the archive from its source again",
            )
            paths.make_folder(folder, "DATA=DIR")
            if isinstance(opened, zipfile.ZipFile):
                opened.extractall(folder)
            else:
                opened.extractall(folder, filter="data")
    except InputError:
        raise
    except Exception as error:  # zipfile, tarfile and their packers each raise their own kinds
        if getattr(error, "errno", None) in NO_ROOM:
            raise InputError(
                "cannot unpack an archive",
                where=paths.shown(folder),
                got=reason(error),
                do="free some space, or choose another folder with DATA=DIR, and run again",
            ) from error
        raise InputError(
            "unreadable archive",
            where=paths.shown(archive),
            expected="a zip or tar archive",
            got=str(error)[:160],
            do="get it again",
        ) from error
    return sum(not name.endswith("/") for name, *_ in members)


def _members(opened) -> list[tuple[str, int, bool]]:
    """(name, bytes, whether it is a plain file or folder)."""
    if isinstance(opened, zipfile.ZipFile):
        if any(member.flag_bits & 1 for member in opened.infolist()):
            raise InputError(
                "an encrypted archive",
                where=Path(opened.filename or "").name,
                expected="files that can be read without a password",
                do="unpack it yourself, and name the folder with DATA=DIR",
            )
        return [(m.filename, m.file_size, _is_plain(m)) for m in opened.infolist()]
    return [(m.name, m.size, m.isfile() or m.isdir()) for m in opened.getmembers()]


def _is_plain(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a file or folder, as far as its archive says what it is."""
    return stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)


def _faults(members: list[tuple[str, int, bool]], most_bytes: int) -> list[str]:
    faults = [f"{name}: leads out of the folder" for name, _, _ in members if _escapes(name)]
    faults += [f"{name}: not a plain file" for name, _, plain in members if not plain]
    if (total := sum(size for _, size, _ in members)) > most_bytes:
        faults.append(
            f"{total / 2**30:.1f} GB unpacked, at most {most_bytes / 2**30:.1f} are allowed"
        )
    if len(members) > MOST_FILES:
        faults.append(f"{len(members)} files, at most {MOST_FILES} are allowed")
    return faults


def _escapes(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else "")
