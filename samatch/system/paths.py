"""Where things lie. Every folder is absolute, so that a notebook may run from anywhere.

Each folder can be moved by an environment variable; the defaults lie in the repository.
"""

import os
from pathlib import Path

from samatch.system.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "data_manifests"
MODELS = ROOT / "models"
TRACKED_RESULTS = ROOT / "results"
TRACKED_FIGURES = ROOT / "figures"


def _folder(variable: str, default: Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(os.environ.get(variable) or default)))


# Made absolute once, by today's working directory: a notebook, or a process that is started from
# here, has another.
for _name in ("DATA", "PREPARED", "WEIGHTS", "RUNS", "OUT", "FIGURES"):
    if os.environ.get(f"SAMATCH_{_name}"):
        os.environ[f"SAMATCH_{_name}"] = str(_folder(f"SAMATCH_{_name}", ROOT))


def data_dir() -> Path:
    """Folder that holds one sub-folder a data set, or the files of one set themselves."""
    return _folder("SAMATCH_DATA", ROOT / "data")


def prepared_dir() -> Path:
    """Folder of the prepared files that `make data` writes."""
    return _folder("SAMATCH_PREPARED", ROOT / "prepared")


def weights_dir() -> Path:
    """Folder of the SAMs' weight files, those that no package carries."""
    return _folder("SAMATCH_WEIGHTS", ROOT / "weights")


def runs_dir(profile: str) -> Path:
    """Folder of a profile's trained runs, one sub-folder a run."""
    return _folder("SAMATCH_RUNS", ROOT / "runs") / profile


def output_dir(profile: str, dataset: str) -> Path:
    """Folder of everything that one `make reproduce` writes."""
    return _folder("SAMATCH_OUT", ROOT / "executed") / profile / dataset


def results_dir(profile: str, dataset: str) -> Path:
    """CSV files of one profile and data set: this machine's, or else the tracked ones."""
    own = output_dir(profile, dataset) / "results"
    return own if os.path.exists(own / "runs.csv") else TRACKED_RESULTS / profile / dataset


def tracked_sets() -> list[tuple[str, str]]:
    """(profile, set) of every folder with tracked records."""
    found = sorted(TRACKED_RESULTS.glob("*/*/per_case.csv"))
    return [(path.parent.parent.name, path.parent.name) for path in found]


def figures_dir(profile: str, dataset: str) -> Path:
    """Folder for new figures; SAMATCH_FIGURES=<repository>/figures renews the tracked ones."""
    moved = os.environ.get("SAMATCH_FIGURES")
    folder = (
        _folder("SAMATCH_FIGURES", ROOT) / profile / dataset
        if moved
        else output_dir(profile, dataset) / "figures"
    )
    return make_folder(folder, "SAMATCH_FIGURES or SAMATCH_OUT")


def make_folder(folder: Path, moved_by: str) -> Path:
    """`folder`, made where it is missing. Raises InputError where something else has its name, or
    nothing may be written there; `moved_by` says how the user chooses another one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        got = "" if os.access(folder, os.W_OK | os.X_OK) else "no right to write there"
    except OSError as error:
        got = error.strerror or str(error)
    if got:
        raise InputError(
            "cannot write to a folder",
            where=folder,
            got=got,
            do=f"get the right to write there, or choose another folder with {moved_by}",
        )
    return folder


def shown(path: Path) -> str:
    """`path` as a reader should see it: relative to the repository where it lies inside."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
