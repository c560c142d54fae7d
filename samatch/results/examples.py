"""Example slices of test volumes with the runs' predictions, where this machine has the volumes and
the predictions are here or tracked."""

import numpy as np
from IPython.display import Image, display

from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases, on_this_machine
from samatch.results import plots, predictions
from samatch.results.runs import read_predictions
from samatch.results.strips import dice_by_class, mean_dice
from samatch.system import paths


def panels(
    profile: str, dataset: str, patients: list[str], compared: dict[str, str | None]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(title, image, class map) of the middle slice of each patient's first case.

    Cut to the object, for `plots.slices_with_contours`. compared: name -> run_id, or None for the
    reference; a run's title has its Dice on the whole case, the mean over classes. Empty where data
    or predictions are not on this machine.
    """
    manifest, found = load_manifest(dataset), []
    cases = [manifest.cases_of([patient])[0] for patient in patients]
    maps = {name: maps_of(profile, dataset, run) for name, run in compared.items() if run}
    if not (all(maps.values()) and on_this_machine(manifest)):
        return []
    for volume in load_cases(manifest, cases):
        case, middle = volume.case.case_id, len(volume.image) // 2
        window = plots.around(np.any(volume.label, axis=0), margin=20)
        several = len(volume.image) > 1
        of_slice, of = (f", slice {middle + 1}", " of the volume") if several else ("", "")
        for name in compared:
            label = maps[name][case] if name in maps else volume.label
            by_class = dice_by_class(label, volume.label, len(manifest.classes))
            title = f"{case}{of_slice}\n{name}"
            title += f"\nDice{of} {mean_dice(by_class):.0f} %" if name in maps else ""
            found.append((title, volume.image[middle][window], label[middle][window]))
    return found


def maps_of(profile: str, dataset: str, run_id: str) -> dict[str, np.ndarray]:
    """A run's class maps by case, of this machine's run or the tracked ones; {} without either."""
    home = paths.runs_dir(profile) / run_id
    if (home / "predictions.npz").exists():
        return read_predictions(home)
    tracked = predictions.tracked_file(paths.TRACKED_RESULTS / profile / dataset, run_id)
    return predictions.read(tracked) if tracked.exists() else {}


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
