"""What a cardiologist reads off a segmentation: ventricle volumes, Dice by diagnosis.

Everything follows from per_case.csv (voxels of prediction and reference) and the manifest's
spacing; no image is read. A ventricle that prediction or reference misses completely has no volume
here: it is counted as undefined, not as 0 ml.
"""

import numpy as np
import pandas as pd

from samatch.data.manifest import Manifest
from samatch.results import tables
from samatch.results.runs import manifest_of
from samatch.system.errors import raise_all

# End-diastolic and end-systolic volume, ejection fraction.
UNITS = {"EDV": "ml", "ESV": "ml", "EF": "%"}
LIMITS = 1.96  # standard deviations of the differences on both sides of their mean
DO = "collect the runs again, or correct cases.csv"


def measurements(per_case: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    """One row a run, patient and measure of UNITS: with group, unit, pred and ref.

    The manifest's `clinical` names the ventricle's class and the frames of end-diastole and
    end-systole. NaN where a ventricle is missed; EF then too. Raises InputError on cases without
    spacing, strangers, and patients who lack a frame.
    """
    about = manifest.clinical
    ml_of = {case.case_id: np.prod(case.spacing) / 1000 for case in manifest.cases if case.spacing}
    rows = per_case[(per_case.split == "test") & (per_case["class"] == about["ventricle"])]
    raise_all(f"ventricle volumes of {manifest.name}", _faults(rows, manifest), DO)
    ml = rows.case_id.map(lambda case_id: ml_of[case_id])
    rows = rows.assign(
        **{
            side: (rows[count] * ml).where(rows[count] > 0)
            for side, count in (("pred", "n_pred"), ("ref", "n_ref"))
        }
    )
    edv, esv = (_of_frame(rows, about[phase]) for phase in ("ed", "es"))
    found = {"EDV": edv, "ESV": esv.loc[edv.index], "EF": 100 * (edv - esv.loc[edv.index]) / edv}
    parts = [
        part.assign(measure=name, unit=UNITS[name]).reset_index() for name, part in found.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(group=table.patient_id.map(_groups(manifest)))


def _of_frame(rows: pd.DataFrame, frame: str) -> pd.DataFrame:
    """Volumes pred and ref of one frame, by run and patient."""
    return rows[rows.case_id.str.endswith(f"_{frame}")].set_index(["run_id", "patient_id"])[
        ["pred", "ref"]
    ]


def _groups(manifest: Manifest) -> dict[str, str]:
    return {case.patient_id: case.group for case in manifest.cases}


def _faults(rows: pd.DataFrame, manifest: Manifest) -> list[str]:
    about, spacing = manifest.clinical, {case.case_id: case.spacing for case in manifest.cases}
    ids = sorted(set(rows.case_id))
    faults = [f"case {name} is not in the manifest" for name in ids if name not in spacing]
    faults += [
        f"case {name} has no spacing" for name in ids if name in spacing and not spacing[name]
    ]
    for frame in (about["ed"], about["es"]):
        counts = (
            rows.case_id.str.endswith(f"_{frame}").groupby([rows.run_id, rows.patient_id]).sum()
        )
        faults += [
            f"{run_id}: patient {patient} has {count} results of {frame}; expected 1"
            for (run_id, patient), count in counts[counts != 1].items()
        ]
    return faults


def bias_and_limits(pred: np.ndarray, ref: np.ndarray) -> dict:
    """Bland-Altman: mean of pred - ref and its 95 % limits, mean +- 1.96 sd (of n - 1).

    n counts the pairs that are defined, `undefined` the others.
    """
    difference = np.asarray(pred, float) - np.asarray(ref, float)
    undefined = int(np.isnan(difference).sum())
    difference = difference[~np.isnan(difference)]
    n = len(difference)
    bias, sd = difference.mean() if n else np.nan, difference.std(ddof=1) if n > 1 else np.nan
    return {
        "n": n,
        "undefined": undefined,
        "bias": float(bias),
        "sd": float(sd),
        "low": float(bias - LIMITS * sd),
        "high": float(bias + LIMITS * sd),
    }


def agreement(measured: pd.DataFrame) -> pd.DataFrame:
    """One row a run and measure of `measurements`: mean_ref, and `bias_and_limits`."""
    rows = [
        {
            "run_id": run_id,
            "measure": measure,
            "unit": mine.unit.iloc[0],
            "mean_ref": mine.ref.mean(),
            **bias_and_limits(mine.pred, mine.ref),
        }
        for (run_id, measure), mine in measured.groupby(["run_id", "measure"], sort=False)
    ]
    return pd.DataFrame(rows)


def by_group(per_case: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    """One row a run and group: mean and standard deviation of Dice (%) over the group's n patients.

    Patients without a group are left out. Raises InputError on patients that the manifest lacks.
    """
    rows, group = per_case[per_case.split == "test"], _groups(manifest)
    strangers = [
        f"patient {p} is not in the manifest" for p in sorted(set(rows.patient_id) - set(group))
    ]
    raise_all(f"groups of {manifest.name}", strangers, DO)
    patients = 100 * rows.groupby(["run_id", "patient_id"], sort=False).dice.mean()
    patients = patients.reset_index().assign(group=lambda table: table.patient_id.map(group))
    found = (
        patients[patients.group != ""]
        .groupby(["run_id", "group"])
        .dice.agg(["mean", "std", "size"])
    )
    return found.set_axis(["dice", "dice_sd", "n"], axis=1).reset_index()


def patient_tables(
    dataset: str, runs: pd.DataFrame, per_case: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """`clinical` (agreement in volumes) and `groups` (Dice by diagnosis) of test patients.

    Only those for which the set's manifest has what they need.
    """
    manifest = manifest_of(dataset)
    found = {}
    if manifest and manifest.clinical:
        found["clinical"] = agreement(measurements(per_case, manifest))
    if manifest and any(case.group for case in manifest.cases):
        found["groups"] = by_group(per_case, manifest)
    names = tables.names_of(runs)
    place = {run_id: number for number, run_id in enumerate(names)}
    for name, table in found.items():
        table.insert(1, "method", table.run_id.map(names))
        found[name] = table.sort_values("run_id", key=lambda ids: ids.map(place), kind="stable")
    return found
