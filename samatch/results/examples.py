"""Example slices of test volumes with the runs' predictions, where this machine has both."""

import numpy as np
from IPython.display import Image, display

from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases, on_this_machine
from samatch.results import plots
from samatch.results.runs import read_predictions
from samatch.system import paths


def panels(
    profile: str, dataset: str, patients: list[str], compared: dict[str, str | None]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(title, image, class map) of the middle slice of each patient's first case.

    Cut to the object, for `plots.slices_with_contours`. compared: name -> run_id, or
    None for the reference. Empty where data or predictions are not on this machine.
    """
    manifest = load_manifest(dataset)
    files = [paths.runs_dir(profile) / run / "predictions.npz" for run in compared.values() if run]
    cases = [manifest.cases_of([patient])[0] for patient in patients]
    if not (all(file.exists() for file in files) and on_this_machine(manifest)):
        return []
    found = []
    for volume in load_cases(manifest, cases):
        middle = len(volume.image) // 2
        window = plots.around(np.any(volume.label, axis=0), margin=20)
        for name, run in compared.items():
            label = (
                volume.label
                if run is None
                else read_predictions(paths.runs_dir(profile) / run)[volume.case.case_id]
            )
            found.append(
                (
                    f"{volume.case.patient_id}: {name}",
                    volume.image[middle][window],
                    label[middle][window],
                )
            )
    return found


def show(profile: str, dataset: str, name: str) -> None:
    """Displays the picture drawn here, else the tracked one, or says that there is none."""
    folders = (paths.figures_dir(profile, dataset), paths.TRACKED_FIGURES / profile / dataset)
    for folder in folders:
        if (folder / name).exists():
            return display(Image(filename=str(folder / name)))
    print(
        f"no {name} of {dataset} in profile {profile}: what it is drawn from is not on this "
        f"machine, and none is tracked"
    )
