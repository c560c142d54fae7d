"""Downloads that go on where they stopped."""

import contextlib
import fcntl
import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from samatch.system import paths
from samatch.system.errors import InputError
from samatch.system.progress import Progress
from samatch.system.whole import reason

CHUNK = 1 << 20


def download(url: str, path: Path, what: str) -> None:
    """Gets `url` whole into `path`; a part that an earlier try left (`<name>.part`) is continued,
    and what another process gets at this time is waited for.

    Raises InputError without network, with the URL and the place where the file belongs.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab") as file:
            _lock(file, what)
            if _is_at(file, part):
                _get(url, file, part, what)
                part.replace(path)
            elif not path.exists():  # the process that was waited for has given up
                download(url, path, what)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a bad URL
        raise InputError(
            f"cannot download {what}",
            where=url,
            got=reason(error),
            do="run again, which goes on where this stopped, "
            f"or put the file to {paths.shown(path)} yourself",
        ) from error


def _get(url: str, file: BinaryIO, part: Path, what: str) -> None:
    try:
        _continue(url, file, what)
    except BaseException:
        if not os.fstat(file.fileno()).st_size:
            part.unlink(missing_ok=True)
        raise


def _lock(file: BinaryIO, what: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that gets {what}", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _continue(url: str, file: BinaryIO, what: str) -> None:
    """Appends what is missing. A part that is no beginning of today's file is begun anew."""
    have = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        if _whole_size(error.headers.get("Content-Range")) == have:
            return  # nothing is missing: an earlier try ended before the part got its name
        file.truncate(0)
        return _continue(url, file, what)
    with answer:
        if answer.status != http.client.PARTIAL_CONTENT:  # the file from its start
            have = 0
        elif _start(answer.headers.get("Content-Range"), have) != have:
            raise OSError("the server continues at another place than it was asked for")
        file.truncate(have)
        _receive(answer, file, have, what)


def _receive(answer: http.client.HTTPResponse, file: BinaryIO, have: int, what: str) -> None:
    length = answer.headers.get("Content-Length")
    if length is not None and not re.fullmatch(r"[0-9]+", length.strip()):
        raise OSError(f"the server's Content-Length is no size: {length!r}")
    total = None if length is None else have + int(length)
    progress = Progress(what, total or 0)
    while chunk := answer.read(CHUNK):
        file.write(chunk)
        have += len(chunk)
        progress(have, "bytes")
    file.flush()
    os.fsync(file.fileno())
    if total is not None and have != total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def _whole_size(content_range: str | None) -> int | None:
    """The size in `bytes */1000`, which comes with the answer 416."""
    found = re.fullmatch(r"bytes \*/([0-9]+)", (content_range or "").strip())
    return int(found[1]) if found else None


def _start(content_range: str | None, default: int) -> int:
    """The first byte in `bytes 200-999/1000`; `default` where the server does not say."""
    found = re.match(r"bytes ([0-9]+)-", (content_range or "").strip())
    return int(found[1]) if found else default
