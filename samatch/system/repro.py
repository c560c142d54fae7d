"""Seeds, threads, versions and hashes: what makes a run repeatable and its record complete."""

import hashlib
import importlib.metadata
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

from samatch.system import paths

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "monai",
    "timm",
    "segment-anything",
    "nibabel",
    "h5py",
)


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and, where it is installed, torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(seed)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The repository's commit, with '+' for local changes;
    'unknown' outside a checkout of this project.

    A repository that surrounds the project, somebody's home
    folder for example, says nothing about its code.
    """
    # GIT_DIR and its like are set within a hook of another repository, and lead there.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(paths.ROOT), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
            env=outside,
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != paths.ROOT:
            return "unknown"
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "samatch") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def machine() -> str:
    """For a run's record: system, processor, cores and Python; no host name."""
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {python}"


def boot() -> str:
    """For a run's record: eight random digits that Linux draws at each start of a machine, "" on
    other systems. Two runs with the same were made on one machine; it says nothing else of it."""
    try:
        return BOOT_ID.read_text().strip()[:8]
    except OSError:
        return ""


def array_sha256(array: np.ndarray) -> str:
    """Hash of a decoded array: dtype, shape and bytes. A
    repacked file keeps it, a changed voxel does not."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
