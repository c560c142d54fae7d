"""Tracked predictions: results/<profile>/<set>/predictions/<run_id>.npz, and their measures anew.

A file holds one uint8 class map (D, H, W) a test case, by case_id, at the case's own size; of SAM
and of both maps, in a run that has them, <run_id>.sam.npz and <run_id>.refined.npz do. The
measures share no code with those that made the records (training/metrics.py, which asks MONAI):
overlap is SimpleITK's, surfaces are found by shifting the mask, distances by a search tree.
"""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.spatial import KDTree

from samatch.data.manifest import Manifest, load_manifest
from samatch.data.volumes import Volume, load_cases, on_this_machine
from samatch.results.recomputed import read_rows
from samatch.results.runs import predictions_file, write_predictions
from samatch.results.ways import BOTH, SAM, STUDENT
from samatch.system import paths, whole
from samatch.system.errors import InputError, raise_all

DICE_TOLERANCE = 1e-9  # relative, beyond the six digits of the records
DISTANCE_TOLERANCE = 1e-6  # the records' distances were summed in single precision
# Split of per_case.csv -> whose maps they are; "": the run's own.
MAPS = {split: split.removeprefix(STUDENT).strip("_") for split in (STUDENT, SAM, BOTH)}


def tracked_file(folder: Path, run_id: str, split: str = STUDENT) -> Path:
    """Where a results folder has the predictions of a run."""
    whose = MAPS[split]
    return folder / "predictions" / (f"{run_id}.{whose}.npz" if whose else f"{run_id}.npz")


def read(path: Path) -> dict[str, np.ndarray]:
    """case_id -> class map (D, H, W). Raises InputError where the file cannot be read."""
    try:
        return whole.arrays(path)
    except ValueError as error:
        raise InputError(
            "predictions cannot be read",
            where=paths.shown(path),
            got=error,
            do="restore the file, or export it again",
        ) from error


def export(profile: str, dataset: str) -> list[str]:
    """Copies this machine's predictions of the tracked runs; returns a line a file.

    Raises InputError on a file that is not the tracked run's: other settings, cases or classes.
    """
    folder = paths.TRACKED_RESULTS / profile / dataset
    said, faults, ready = [], [], {}
    for run in read_rows(folder / "runs.csv"):
        name, home = run["run_id"], paths.runs_dir(profile) / run["run_id"]
        if not all((home / file).exists() for file in ("run.json", predictions_file())):
            said.append(f"{name}: no predictions on this machine")
            continue
        record = json.loads((home / "run.json").read_text())
        if record["config_sha256"] != run["config_sha256"]:
            faults.append(f"{name}: this machine's run has other settings than the tracked one")
        for split, whose in MAPS.items():
            if (file := home / predictions_file(whose)).exists():
                maps, path = read(file), tracked_file(folder, name, split)
                faults += [f"{path.stem}: {f}" for f in map_faults(maps, load_manifest(dataset))]
                ready[path] = maps
    raise_all(f"predictions of {dataset}, profile {profile}", faults, "train these runs again")
    for path, maps in ready.items():
        path.parent.mkdir(exist_ok=True)
        write_predictions(path, {case: maps[case] for case in sorted(maps)})
        said.append(f"{path.stem}: {len(maps)} cases, {path.stat().st_size / 1000:.0f} kB")
    return said


def map_faults(maps: dict[str, np.ndarray], manifest: Manifest) -> list[str]:
    """Other cases than the test split's, sizes other than the case's, values that are no class."""
    cases = {case.case_id: case for case in manifest.cases_of(manifest.patients("test"))}
    faults = [f"case {name} is missing" for name in sorted(cases.keys() - maps.keys())]
    for name, labels in sorted(maps.items()):
        if name not in cases:
            faults.append(f"case {name} is none of the test split")
            continue
        size = (cases[name].n_slices, cases[name].height, cases[name].width)
        if labels.dtype != np.uint8 or labels.shape != size or labels.max() >= manifest.num_classes:
            faults.append(
                f"case {name}: expected uint8 {size} below {manifest.num_classes}, got "
                f"{labels.dtype} {labels.shape} up to {labels.max()}"
            )
    return faults


def labels_of(manifest: Manifest) -> tuple[dict[str, Volume], str]:
    """(case_id -> test case, ""), or ({}, that the set's files are not on this machine). Raises
    InputError where they are here and faulty."""
    if not on_this_machine(manifest):
        return {}, f"the files of {manifest.name} are not on this machine"
    volumes = load_cases(manifest, manifest.cases_of(manifest.patients("test")))
    return {volume.case.case_id: volume for volume in volumes}, ""


def measured(
    row: dict[str, str], pred: np.ndarray, labels: dict[str, Volume], manifest: Manifest
) -> dict[str, tuple]:
    """Column of per_case.csv -> (value, tolerance) of one case and class.

    Without the case's label only what the prediction says alone: n_pred.
    """
    value = manifest.classes.index(row["class"]) + 1
    mine = pred == value
    found: dict[str, tuple[float, float]] = {"n_pred": (int(mine.sum()), 0)}
    if row["case_id"] not in labels:
        return found
    volume = labels[row["case_id"]]
    ref = volume.label == value
    found["n_ref"] = (int(ref.sum()), 0)
    found["dice"] = (overlap(mine, ref), DICE_TOLERANCE)
    in_mm = distances(mine, ref, volume.spacing) if volume.spacing else (float("nan"),) * 2
    protocol = volume.spacing if manifest.distances == "mm" else None
    for name, own, of_mm in zip(
        ("hd95", "asd"), in_mm if protocol else distances(mine, ref, None), in_mm, strict=True
    ):
        found[name] = (own, DISTANCE_TOLERANCE)
        found[f"{name}_mm"] = (of_mm, DISTANCE_TOLERANCE)
    return found


def overlap(pred: np.ndarray, ref: np.ndarray) -> float:
    """Dice of two masks by SimpleITK; NaN where both are empty."""
    if not pred.any() and not ref.any():
        return float("nan")
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(*(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (ref, pred)))
    return float(measures.GetDiceCoefficient(1))


def distances(
    pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, ...] | None
) -> tuple[float, float]:
    """(HD95, ASD) of two masks (D, H, W) in mm, in voxels without a spacing; NaN if one is empty.

    HD95 here is the 95th percentile, between the two nearest values in proportion, of the surface
    distances of both directions pooled. Libraries differ in it: some take the larger of the two
    directions' percentiles, some the nearest value above; those are other numbers, not errors. ASD
    is the mean from prediction to reference alone.
    """
    if not pred.any() or not ref.any():
        return float("nan"), float("nan")
    if len(pred) == 1:  # a picture
        pred, ref, spacing = pred[0], ref[0], spacing and spacing[1:]
    size = np.array(spacing or (1.0,) * pred.ndim)
    edges = [np.argwhere(surface(mask)) * size for mask in (pred, ref)]
    to_ref, _ = KDTree(edges[1]).query(edges[0])
    to_pred, _ = KDTree(edges[0]).query(edges[1])
    pooled = np.sort(np.concatenate([to_ref, to_pred]))
    place = 0.95 * (len(pooled) - 1)
    low, high = pooled[int(np.floor(place))], pooled[int(np.ceil(place))]
    return float(low + (place - np.floor(place)) * (high - low)), float(to_ref.mean())


def surface(mask: np.ndarray) -> np.ndarray:
    """Pixels or voxels of the mask that share a side with one outside of it, or with the border."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for step in (-1, 1):
            neighbour = np.roll(padded, step, axis)
            inside &= neighbour[(slice(1, -1),) * mask.ndim]
    return mask & ~inside
