"""The same runs, trained twice: how far apart they are.

    python tools/compare_runs.py RESULTS_A RESULTS_B --changed "another machine" --into FILE.csv

RESULTS_A and RESULTS_B are folders with runs.csv and per_case.csv, as `samatch tables --into`
writes them. A run is the same where its id and its settings' hash are. FILE.csv keeps the rows that
it holds of other changes and other runs. With --variant the runs of RESULTS_B differ in a setting:
they are that variant of the runs of RESULTS_A.
"""

import argparse
from pathlib import Path

import pandas as pd

from samatch.results import stats
from samatch.results.records import read_table
from samatch.system.errors import InputError
from samatch.system.whole import write_text

SAME = ["run_id", "config_sha256"]


def compared(first: Path, second: Path, changed: str, variant: str = "") -> pd.DataFrame:
    """One row per run that both folders hold: validation and test Dice (%) of both, the mean and
    the largest absolute difference of a test unit in points. Raises InputError without any.

    variant: of the runs in `second`, which may have another setting then.
    """
    a, b = (read_table(folder / "runs.csv") for folder in (first, second))
    b["run_id"] = b.run_id.map(lambda run: without(variant, run))
    same = a.merge(b, on=["run_id"] if variant else SAME, suffixes=("_a", "_b"))
    if same.empty:
        raise InputError(
            "no run is in both folders",
            where=f"{first}, {second}",
            expected="runs of one id and one hash of settings",
            got=f"{len(a)} and {len(b)} runs that differ",
            do="train the same runs, then write their tables with `samatch tables --into`",
        )
    of_a, of_b = (
        100 * stats.unit_scores(read_table(folder / "per_case.csv")) for folder in (first, second)
    )
    of_b = of_b.rename(columns=lambda run: without(variant, run))
    apart = {
        run: (of_a[run] - of_b[run]).abs() for run in same.run_id if run in of_a and run in of_b
    }
    return pd.DataFrame(
        {
            "changed": changed,
            "run_id": same.run_id,
            "val_dice_a": 100 * same.val_dice_a,
            "val_dice_b": 100 * same.val_dice_b,
            "dice_a": same.run_id.map(of_a.mean()),
            "dice_b": same.run_id.map(of_b.mean()),
            "mean_apart": same.run_id.map({run: of.mean() for run, of in apart.items()}),
            "largest_apart": same.run_id.map({run: of.max() for run, of in apart.items()}),
        }
    )


def without(variant: str, run_id: str) -> str:
    """The run id without its variant; another run's is none of the runs that are compared."""
    end = f"-{variant}"
    if not variant:
        return run_id
    return run_id.removesuffix(end) if run_id.endswith(end) else ""


def main() -> None:
    """Reads the command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs=2, type=Path)
    parser.add_argument("--changed", required=True, help="what differs, in a few words")
    parser.add_argument("--into", required=True, type=Path, help="CSV file of all comparisons")
    parser.add_argument("--variant", default="", help="of the runs in the second folder")
    args = parser.parse_args()
    try:
        table = compared(*args.folders, args.changed, args.variant)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    if args.into.exists():
        table = pd.concat([read_table(args.into), table])
        table = table.drop_duplicates(["changed", "run_id"], keep="last")
    args.into.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.into, table.to_csv(index=False, float_format="%.6g"))
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
