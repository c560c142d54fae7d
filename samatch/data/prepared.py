"""One prepared file a data set: every case checked, normalised,
at native size and at 256 x 256, loaded without decoding.

A safetensors file, read through a memory map. Its metadata names the manifest whose hashes its
arrays have; a file of another manifest is not used. `make data` writes it
(samatch/data/provide.py), `make verify` checks every array again.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from samatch.data.manifest import Manifest
from samatch.system import paths, repro, whole
from samatch.system.errors import InputError

SIZE = 256  # pixels of the small copy
KINDS = ("image", "label", "small_image", "small_label")

Arrays = dict[str, np.ndarray]


def prepared_file(manifest: Manifest) -> Path:
    """Where the set's file belongs, whether it is there or not; sets that share files share it."""
    return paths.prepared_dir() / f"{manifest.folder}.safetensors"


def write(
    manifest: Manifest, cases: Iterable[tuple[str, Arrays, tuple[float, ...] | None]]
) -> Path:
    """Writes the file whole or not at all, from (case_id, an array of each of KINDS, spacing)."""
    arrays, spacing = {}, {}
    for case_id, parts, mm in cases:
        for kind, array in parts.items():
            arrays[f"{case_id}/{kind}"] = np.ascontiguousarray(array)
        spacing[case_id] = mm
    about = {
        "cases_sha256": manifest.sha256,
        "spacing": json.dumps(spacing),
        "sha256": json.dumps({name: repro.array_sha256(array) for name, array in arrays.items()}),
    }
    path = prepared_file(manifest)
    paths.make_folder(path.parent, "SAMATCH_PREPARED")
    whole.write_whole(
        path,
        lambda partial: save_file(arrays, partial, metadata=about | {"seal": _seal(about)}),
        "the prepared file",
        do="free some space and run `make data` again",
    )
    return path


def _seal(about: dict[str, str]) -> str:
    """Hash of what a prepared file says of its arrays, their own hashes among it."""
    rest = {key: value for key, value in about.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class Prepared:
    """A prepared file that belongs to a manifest. What it says is checked when it is opened, an
    array when it is read: nobody waits for the hash of cases that are not asked for."""

    def __init__(self, path: Path, about: dict[str, str]):
        self.path, self.spacing = path, json.loads(about["spacing"])
        self.file = safe_open(path, framework="np")
        self.sha256 = json.loads(about["sha256"])

    @classmethod
    def find(cls, manifest: Manifest) -> "Prepared | None":
        """The set's prepared file, or None where there is none or it
        belongs to another manifest. Raises InputError on a broken one."""
        path = prepared_file(manifest)
        if not os.path.lexists(path):
            return None
        if problem := whole.fault(path):
            raise _unusable(path, problem)
        try:
            with safe_open(path, framework="np") as file:
                about = file.metadata() or {}
            if about.get("seal") != _seal(about):
                raise ValueError("what it says of its arrays is not what was written")
            if about["cases_sha256"] != manifest.sha256:
                return None
            return cls(path, about)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise _unusable(path, whole.reason(error)) from error

    def read(self, case_id: str):
        """(image float32, label uint8, spacing or None, (image, label) at SIZE). Raises
        InputError where an array is not what was written."""
        try:
            arrays = [self.file.get_tensor(f"{case_id}/{kind}") for kind in KINDS]
        except (SafetensorError, OSError, ValueError) as error:
            raise _unusable(self.path, f"{case_id}: {whole.reason(error)}") from error
        for kind, array in zip(KINDS, arrays, strict=True):
            if repro.array_sha256(array) != self.sha256.get(f"{case_id}/{kind}"):
                raise _unusable(self.path, f"{case_id}: its {kind} is not what was written")
        mm = self.spacing.get(case_id)
        return arrays[0], arrays[1], tuple(mm) if mm else None, tuple(arrays[2:])


def _unusable(path: Path, got: str) -> InputError:
    return InputError(
        "unreadable prepared file",
        where=paths.shown(path),
        got=got,
        do="delete it and run `make data` again",
    )
