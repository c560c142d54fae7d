"""One prepared file a data set: every case checked, normalised,
at native size and at 256 x 256, loaded without decoding.

A safetensors file, read through a memory map. Its metadata names the manifest whose hashes its
arrays have; a file of another manifest is not used. `make data` writes it
(samatch/data/provide.py), `make verify` checks every array again.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from samatch.data.manifest import Manifest
from samatch.system import paths
from samatch.system.errors import InputError

SIZE = 256  # pixels of the small copy

Arrays = dict[str, np.ndarray]


def prepared_file(manifest: Manifest) -> Path:
    """Where the set's file belongs, whether it is there or not; sets that share files share it."""
    return paths.prepared_dir() / f"{manifest.folder}.safetensors"


def write(
    manifest: Manifest, cases: Iterable[tuple[str, Arrays, tuple[float, ...] | None]]
) -> Path:
    """Writes the file whole or not at all, from (case_id,
    {"image", "label", "small_image", "small_label"}, spacing)."""
    arrays, spacing = {}, {}
    for case_id, parts, mm in cases:
        arrays |= {
            f"{case_id}/{kind}": np.ascontiguousarray(array) for kind, array in parts.items()
        }
        spacing[case_id] = mm
    path = prepared_file(manifest)
    partial = path.with_name(f"{path.name}.partial{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            arrays,
            partial,
            metadata={"cases_sha256": manifest.sha256, "spacing": json.dumps(spacing)},
        )
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            "cannot write the prepared file",
            where=paths.shown(path),
            got=str(error)[:160],
            do="free some space and run `make data` again",
        ) from error
    return path


class Prepared:
    """A prepared file that belongs to a manifest."""

    def __init__(self, path: Path, spacing: dict):
        self.path, self.spacing = path, spacing
        self.file = safe_open(path, framework="np")

    @classmethod
    def find(cls, manifest: Manifest) -> "Prepared | None":
        """The set's prepared file, or None where there is none or it
        belongs to another manifest. Raises InputError on a broken one."""
        path = prepared_file(manifest)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as file:
                about = file.metadata()
        except (SafetensorError, OSError) as error:
            raise InputError(
                "unreadable prepared file",
                where=paths.shown(path),
                got=str(error)[:160],
                do="delete it and run `make data` again",
            ) from error
        return (
            cls(path, json.loads(about["spacing"]))
            if about["cases_sha256"] == manifest.sha256
            else None
        )

    def read(self, case_id: str):
        """(image float32, label uint8, spacing or None, (image, label) at SIZE)."""
        image, label, small_image, small_label = (
            self.file.get_tensor(f"{case_id}/{kind}")
            for kind in ("image", "label", "small_image", "small_label")
        )
        mm = self.spacing[case_id]
        return image, label, tuple(mm) if mm else None, (small_image, small_label)
