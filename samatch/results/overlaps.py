"""Case rows checked by what they say themselves, where neither predictions nor labels are tracked.

Dice is 2 |P and R| / (|P| + |R|). Rows hold Dice and both sizes, so the common pixels follow from
them; they are a whole number, and no more than the smaller mask has. Six digits of Dice tell that
for up to a million pixels in both masks; above, a row is only asked whether it is about right.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

from samatch.data.manifest import SPLITS, Manifest
from samatch.results.formulae import number, rounding
from samatch.results.recomputed import Rows

EXTERNAL = "external"  # split of an external test, whose set has test cases alone


def impossible(row: dict[str, str]) -> str:
    """Why the row's Dice cannot be that of masks of its sizes; "" where it can."""
    n_pred, n_ref, dice = int(row["n_pred"]), int(row["n_ref"]), number(row["dice"])
    masks = f"masks of {n_pred} and {n_ref}"
    if math.isnan(dice) or n_pred + n_ref == 0:
        fits = math.isnan(dice) and n_pred + n_ref == 0
        return "" if fits else f"Dice {row['dice'] or 'undefined'} of {masks}"
    half = (n_pred + n_ref) / 2
    common = dice * half
    if abs(common - round(common)) > rounding(dice) * half + 1e-9:
        return f"Dice {row['dice']} of {masks}: {common:.3f} common pixels are no whole number"
    if round(common) > min(n_pred, n_ref) + rounding(dice) * half:
        return f"Dice {row['dice']} of {masks}: {round(common)} common pixels are too many"
    return ""


def sizes_apart(rows: Rows) -> list[str]:
    """Cases and classes whose reference does not have the same size in all rows."""
    found = defaultdict(set)
    for row in rows:
        found[row["case_id"], row["class"]].add(int(row["n_ref"]))
    return [
        f"{case}, {name}: the reference has {' and '.join(map(str, sorted(sizes)))} pixels"
        for (case, name), sizes in found.items()
        if len(sizes) > 1
    ]


def incomplete(rows: Rows, manifest: Manifest) -> list[str]:
    """Runs whose rows of a split are not one each of its cases and classes."""
    found = defaultdict(list)
    for row in rows:
        found[row["run_id"], row["split"]].append((row["case_id"], row["class"]))
    faults = []
    for (run, split), mine in found.items():
        due = cases_and_classes(manifest, split)
        faults += [f"{run}, {split}: {' '.join(pair)} is missing" for pair in due - set(mine)]
        faults += [f"{run}, {split}: {' '.join(pair)} is none of it" for pair in set(mine) - due]
        if len(mine) > len(set(mine)):
            faults.append(f"{run}, {split}: two rows of one case and class")
    return sorted(faults)


def cases_and_classes(manifest: Manifest, split: str) -> set[tuple[str, str]]:
    """Of a split of case rows: "test", "test_refined", "val_sam", "external" and their like."""
    base = split.split("_")[0]
    cases: Iterable = ()
    if base in (*SPLITS, EXTERNAL):
        cases = manifest.cases_of(manifest.patients("test" if base == EXTERNAL else base))
    return {(case.case_id, name) for case in cases for name in manifest.classes}
