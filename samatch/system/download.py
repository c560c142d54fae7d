"""Downloads that go on where they stopped."""

import os
import urllib.error
import urllib.request
from pathlib import Path

from samatch.system import paths
from samatch.system.errors import InputError
from samatch.system.progress import Progress

CHUNK = 1 << 20


def download(url: str, path: Path, what: str) -> None:
    """Gets `url` whole into `path`; a part that an earlier try left (`<name>.part`) is continued.

    Raises InputError without network, with the URL and the place where the file belongs.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _continue(url, part, what)
    except (OSError, urllib.error.URLError) as error:
        raise InputError(
            f"cannot download {what}",
            where=url,
            got=str(error)[:160],
            do="run again, which goes on where this stopped, "
            f"or put the file to {paths.shown(path)} yourself",
        ) from error
    part.replace(path)


def _continue(url: str, part: Path, what: str) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        if answer.status != 206:  # the server sends the file from its start
            have = 0
        total = have + int(answer.headers.get("Content-Length") or 0)
        progress = Progress(what, total)
        with open(part, "ab" if have else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(have, "bytes")
            file.flush()
            os.fsync(file.fileno())
    if total and have != total:
        raise OSError(f"the connection ended after {have} of {total} bytes")
