"""What two maps gain on one, and why: votes of students without SAM, and errors that runs share.

    samatch votes --profile laptop --dataset acdc

Both maps at test time are the mean of two networks, and any two networks together may be better
than one. Two controls, of the tracked predictions and the labels of the test cases:

* votes.csv: a row per case and class of a majority vote of the students of all seeds of a method;
  a pixel on which no class has most votes is background.
* shared_errors.csv: a row per pair of runs: pixels that each has wrong, and that both have.
"""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from samatch.config.profiles import ALL_STAGES, FROM_START, WHOLE_CHAIN
from samatch.config.settings import FINETUNE, GUIDED, SUPERVISED
from samatch.data.manifest import Manifest, load_manifest
from samatch.data.volumes import Volume
from samatch.results import predictions, tables
from samatch.results.records import read_results
from samatch.results.ways import FIXMATCH
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.system.whole import write_text

SAME = ["method", "sam", "variant", "n_labeled"]  # columns of runs.csv that voters share
VOTERS = 3  # at least: of two that differ none has most votes
VOTES, SHARED = "votes", "shared_errors"  # .csv, beside the set's other tables
KINDS = [  # method and variant of the runs whose errors are compared
    (SUPERVISED, ALL_STAGES),
    (FIXMATCH, WHOLE_CHAIN),
    (GUIDED + FIXMATCH, FROM_START),
    (FINETUNE, ""),
]
Maps = dict[str, np.ndarray]  # case_id -> class map (D, H, W)


def vote(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Class map of the same shape: each pixel's class with most votes, background of a tie."""
    images = [sitk.GetImageFromArray(labels.astype(np.uint8)) for labels in maps]
    return sitk.GetArrayFromImage(sitk.LabelVoting(images, 0))


def votes(
    runs: pd.DataFrame, maps: dict[str, Maps], labels: dict[str, Volume], classes: tuple[str, ...]
) -> list[dict]:
    """Rows of votes.csv: of every method and variant with predictions of VOTERS seeds or more."""
    here = runs[runs.run_id.isin(maps)]
    rows = []
    for found, same in here.groupby(SAME, sort=False):
        if len(same) < VOTERS:
            continue
        facts = dict(zip(SAME, found, strict=True)) | {"seeds": seeds_of(same)}
        for case_id, volume in labels.items():
            pred = vote([maps[run][case_id] for run in same.run_id])
            for value, name in enumerate(classes, 1):
                mine, ref = pred == value, volume.label == value
                case = {"patient_id": volume.case.patient_id, "case_id": case_id, "class": name}
                sizes = {"n_pred": mine.sum(), "n_ref": ref.sum()}
                rows.append(facts | case | {"dice": predictions.overlap(mine, ref)} | sizes)
    return rows


def seeds_of(runs: pd.DataFrame) -> str:
    """The runs' seeds as the tables write them: "0 1 2"."""
    return " ".join(map(str, sorted(runs.seed)))


def shared_errors(
    runs: pd.DataFrame, maps: dict[str, Maps], labels: dict[str, Volume]
) -> list[dict]:
    """Rows of shared_errors.csv: of every pair of the runs of KINDS."""
    kinds = pd.Series(list(zip(runs.method, runs.variant, strict=True)), index=runs.index)
    wrong = {
        run: [maps[run][case] != volume.label for case, volume in labels.items()]
        for run in runs.run_id[kinds.isin(KINDS) & runs.run_id.isin(maps)]
    }
    return [
        {
            "first": first,
            "second": second,
            "first_wrong": sum(mine.sum() for mine in wrong[first]),
            "second_wrong": sum(other.sum() for other in wrong[second]),
            "both_wrong": sum(
                (mine & other).sum()
                for mine, other in zip(wrong[first], wrong[second], strict=True)
            ),
        }
        for first, second in combinations(wrong, 2)
    ]


def read_maps(folder: Path, runs: pd.DataFrame, manifest: Manifest) -> dict[str, Maps]:
    """run_id -> its tracked predictions. Raises InputError where they are not of the test cases."""
    found = {}
    for run in runs.run_id:
        if (path := predictions.tracked_file(folder, run)).exists():
            found[run] = predictions.read(path)
            if faults := predictions.map_faults(found[run], manifest):
                raise InputError(
                    "predictions are not of the test cases",
                    where=paths.shown(path),
                    got="; ".join(faults[:3]),
                    do="restore the file, or export it again (`samatch audit --export`)",
                )
    return found


def measured(profile: str, dataset: str) -> dict[str, pd.DataFrame]:
    """Both tables by name, of the main budget; one without rows is left out. Raises InputError
    where the set's files are not on this machine."""
    folder, manifest = paths.TRACKED_RESULTS / profile / dataset, load_manifest(dataset)
    runs = tables.in_reading_order(tables.main_budget(read_results(profile, dataset, folder)[0]))
    runs = tables.headline(runs[runs.sam.isin(["", tables.usual_sam(runs)])])
    labels, why = predictions.labels_of(manifest)
    if why:
        raise InputError("votes need the labels", got=why, do=f"make data DATASET={dataset}")
    maps = read_maps(folder, runs, manifest)
    found = {
        VOTES: votes(runs, maps, labels, manifest.classes),
        SHARED: shared_errors(runs, maps, labels),
    }
    return {name: pd.DataFrame(rows) for name, rows in found.items() if rows}


def main(words: list[str] | None = None) -> None:
    """Command line of `samatch votes`: writes the tables among the tracked results."""
    parser = argparse.ArgumentParser(prog="samatch votes", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--dataset", default="acdc")
    args = parser.parse_args(words)
    folder = paths.TRACKED_RESULTS / args.profile / args.dataset
    for name, table in measured(args.profile, args.dataset).items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
        print(f"written: {paths.shown(folder / f'{name}.csv')}, {len(table)} rows")
