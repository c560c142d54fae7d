"""Tables made from the records: results by method, the choice among variants, the paper's numbers beside them.

    python -m samatch.tables --profile demo --dataset phantom
"""

import argparse
from pathlib import Path

import pandas as pd

from samatch import paths, stats
from samatch.config import FINETUNE, GUIDED, SUPERVISED, stage_of
from samatch.errors import InputError
from samatch.records import collect, read_results, write_text

MATCH_LABELS = {"fixmatch": "FixMatch"}
VARIANT_LABELS = {"": "SAM replaces", "consensus": "consensus", "agree": "agreement", "margin10": "replaces, margin 10 px",
                  "as_published": "as published"}
VARIANT_ORDER = ("no_sam", "", "consensus", "agree", "margin10", "as_published")
COMBINE_VARIANTS = ("", "consensus", "agree")  # the candidates for SAM-Match, chosen on validation


def in_reading_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Supervised, match methods, their guided twins by variant, SAM alone."""
    def place(run) -> tuple:
        stage = ("warm_up", "match", "joint", "finetune").index(stage_of(run.method))
        variant = VARIANT_ORDER.index(run.variant) if run.variant in VARIANT_ORDER else len(VARIANT_ORDER)
        return stage, run.method, variant, run.variant, run.seed

    return runs.iloc[sorted(range(len(runs)), key=lambda row: place(runs.iloc[row]))].reset_index(drop=True)


def label(method: str, variant: str = "") -> str:
    """A method's name for tables and figures."""
    if method == SUPERVISED:
        return "Supervised"
    if method == FINETUNE:
        return "SAM, reference boxes"
    match = MATCH_LABELS.get(method.removeprefix(GUIDED), method.removeprefix(GUIDED))
    if not method.startswith(GUIDED):
        return match if not variant else f"{match}, {variant}"
    if variant == "no_sam":
        return f"{match}, continued"
    return f"SAM-Match ({match}), {VARIANT_LABELS.get(variant, variant)}"


def summary(runs: pd.DataFrame, per_case: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """One row a run: mean and standard deviation over patients, how many distances are not defined, validation Dice."""
    rows = per_case[per_case.split == split]
    table = []
    for run in in_reading_order(runs).itertuples():
        cases = rows[rows.run_id == run.run_id]
        if cases.empty:
            continue
        patients = cases.groupby("patient_id")[["dice", "hd95", "asd"]].mean()
        by_class = cases.groupby("class", sort=False)["dice"].mean()
        table.append({"run_id": run.run_id, "method": label(run.method, run.variant), "val_dice": 100 * run.val_dice,
                      "dice": 100 * patients.dice.mean(), "dice_sd": 100 * patients.dice.std(), **{f"dice_{c}": 100 * d for c, d in by_class.items()},
                      "hd95": patients.hd95.mean(), "asd": patients.asd.mean(), "unit": cases.distance_unit.iloc[0],
                      "undefined": int(cases.hd95.isna().sum()), "n": len(patients), "seed": run.seed})
    return pd.DataFrame(table)


def chosen_guided(runs: pd.DataFrame, match: str = "fixmatch") -> str:
    """run_id of SAM-Match: of its ways to combine, the one with the best validation Dice. The test split is not read."""
    candidates = runs[(runs.method == GUIDED + match) & runs.variant.isin(COMBINE_VARIANTS)]
    if candidates.empty:
        raise InputError(f"no SAM-guided run of {match}", expected=f"one of the variants {COMBINE_VARIANTS}", got="none", do="run `make reproduce`")
    return candidates.sort_values("val_dice", ascending=False, kind="stable").run_id.iloc[0]


def paper_numbers(dataset: str, n_labeled: int) -> pd.DataFrame:
    """The paper's own numbers for a set and budget; empty where it gives none."""
    table = pd.read_csv(paths.TRACKED_RESULTS / "paper.csv")
    return table[(table.dataset == dataset) & (table.n_labeled == n_labeled)]


def paper_value(dataset: str, run_id: str) -> str:
    """The paper's Dice for a run, where the run is the paper's method on the paper's set."""
    n_labeled = int(run_id.removeprefix(f"{dataset}-n").split("-")[0])
    numbers = paper_numbers(dataset, n_labeled)
    guided = GUIDED in run_id and not run_id.endswith("no_sam")
    return f"{numbers.dice_percent.iloc[0]:.2f}" if len(numbers) and guided else ""


def final_table(profile: str, dataset: str) -> pd.DataFrame:
    """method | Dice | HD95 | ASD | tracked Dice | the paper's Dice."""
    runs, per_case = read_results(profile, dataset)
    table = summary(runs, per_case)
    chosen = chosen_guided(runs) if runs.method.str.startswith(GUIDED).any() else ""
    tracked = tracked_dice(profile, dataset)
    unit = table.unit.iloc[0]
    return pd.DataFrame({"method": [f"{m} *" if r == chosen else m for m, r in zip(table.method, table.run_id)],
                         "Dice %": [f"{d:.2f} ± {s:.2f}" for d, s in zip(table.dice, table.dice_sd)],
                         f"HD95 {unit}": table.hd95.map("{:.2f}".format), f"ASD {unit}": table.asd.map("{:.2f}".format),
                         "tracked Dice %": [tracked.get(r, "") for r in table.run_id],
                         "paper's Dice %": [paper_value(dataset, r) for r in table.run_id]})


def tracked_dice(profile: str, dataset: str) -> dict[str, str]:
    """Dice of the runs that the repository carries for this profile and set."""
    folder = paths.TRACKED_RESULTS / profile / dataset
    if not (folder / "runs.csv").exists():
        return {}
    table = summary(*read_results(profile, dataset, folder))
    return {row.run_id: f"{row.dice:.2f}" for row in table.itertuples()}


def wilcoxon_table(runs: pd.DataFrame, per_case: pd.DataFrame, metric: str = "dice", unit: str = "patient") -> pd.DataFrame:
    """The chosen SAM-Match against every comparison method; other variants of SAM-Match are not in the family."""
    reference = chosen_guided(runs)
    family = runs[(runs.method != FINETUNE) & (~runs.method.str.startswith(GUIDED) | (runs.variant == "no_sam"))]
    others = [run for run in in_reading_order(family).run_id if run != reference]
    table = stats.wilcoxon_family(stats.unit_scores(per_case, metric, unit), reference, others)
    names = {run.run_id: label(run.method, run.variant) for run in runs.itertuples()}
    return table.assign(reference=names[reference], comparison=table.comparison.map(names), metric=metric, unit=unit)


def write_tables(profile: str, dataset: str, folder: Path | None = None) -> list[Path]:
    """summary.csv and wilcoxon.csv beside the records they are made from."""
    folder = folder or paths.results_dir(profile, dataset)
    runs, per_case = read_results(profile, dataset, folder)
    found = {"summary": summary(runs, per_case)}
    if runs.method.str.startswith(GUIDED).any():
        found["wilcoxon"] = pd.concat([wilcoxon_table(runs, per_case, metric, unit) for metric in ("dice", "hd95") for unit in stats.UNITS])
    for name, table in found.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    return [folder / f"{name}.csv" for name in found]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m samatch.tables", description="Collect the runs, write and print the tables.")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--dataset", default="phantom")
    parser.add_argument("--into", type=Path, help="folder for the CSV files (results/<profile>/<set> renews the tracked ones)")
    parser.add_argument("--print", action="store_true", help="print the final table as well")
    args = parser.parse_args(words)
    try:
        folder = collect(args.profile, args.dataset, args.into and args.into.absolute())
        files = write_tables(args.profile, args.dataset, folder)
        if args.print:
            print(final_table(args.profile, args.dataset).to_string(index=False))
            if args.profile == "demo":
                print("\nDemo numbers: generated phantoms, minutes of training. They show that everything runs, nothing about the method.")
            print("* chosen among the ways to combine on validation Dice; ± is the standard deviation over patients")
            print("written: " + ", ".join(paths.shown(f) for f in files))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
