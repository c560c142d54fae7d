"""votes.csv and shared_errors.csv once more, from the tracked predictions: counted by numpy."""

from pathlib import Path

import numpy as np

from samatch.data.manifest import Manifest
from samatch.data.volumes import Volume
from samatch.results import predictions
from samatch.results.recomputed import Records, Rows


def votes(
    folder: Path, records: Records, tracked: Rows, manifest: Manifest, labels: dict[str, Volume]
) -> list[dict]:
    """Of each group of voters in `tracked`: a row per test case and class."""
    facts = ("method", "sam", "variant", "n_labeled")
    rows = []
    for group in sorted({tuple(row[name] for name in (*facts, "seeds")) for row in tracked}):
        *same, seeds = group
        voters = [
            predictions.read(predictions.tracked_file(folder, run["run_id"]))
            for run in records.runs
            if [run[name] for name in facts] == same and run["seed"] in seeds.split()
        ]
        about = dict(zip((*facts, "seeds"), group, strict=True))
        for case_id, volume in labels.items():
            pred = most_votes([maps[case_id] for maps in voters], manifest.num_classes)
            for value, name in enumerate(manifest.classes, 1):
                case = about | {"case_id": case_id, "class": name}
                rows.append({**case, **measures(pred == value, volume.label == value)})
    return rows


def most_votes(maps: list[np.ndarray], num_classes: int) -> np.ndarray:
    """The class that most maps name in each pixel; 0 where several have equally many."""
    counts = np.stack([sum(labels == value for labels in maps) for value in range(num_classes)])
    several = (counts == counts.max(axis=0)).sum(axis=0) > 1
    return np.where(several, 0, counts.argmax(axis=0))


def measures(pred: np.ndarray, ref: np.ndarray) -> dict[str, float | int]:
    """dice, n_pred and n_ref of two masks; Dice is NaN where both are empty."""
    n_pred, n_ref = int(pred.sum()), int(ref.sum())
    dice = 2 * int((pred & ref).sum()) / (n_pred + n_ref) if n_pred + n_ref else float("nan")
    return {"dice": dice, "n_pred": n_pred, "n_ref": n_ref}


def shared(
    folder: Path, records: Records, tracked: Rows, manifest: Manifest, labels: dict[str, Volume]
) -> list[dict]:
    """Of each pair of runs in `tracked`: wrong pixels of each, and of both."""
    names = sorted({row[side] for row in tracked for side in ("first", "second")})
    wrong = {}
    for run in names:
        maps = predictions.read(predictions.tracked_file(folder, run))
        wrong[run] = np.concatenate(
            [(maps[case] != volume.label).ravel() for case, volume in labels.items()]
        )
    return [
        {"first": row["first"], "second": row["second"]}
        | {f"{side}_wrong": int(np.count_nonzero(wrong[row[side]])) for side in ("first", "second")}
        | {"both_wrong": int(np.count_nonzero(wrong[row["first"]] * wrong[row["second"]]))}
        for row in tracked
    ]
