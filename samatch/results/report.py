"""Tables written and printed: CSV files beside the records, the paper's numbers beside ours.

samatch tables --profile demo --dataset phantom
"""

import argparse
from pathlib import Path

import pandas as pd

from samatch.config.profiles import PROFILES
from samatch.config.settings import GUIDED
from samatch.results import clinical, folds, seed_tables, stats, tables
from samatch.results.records import collect, collect_trials, read_results, write_csvs
from samatch.system import paths
from samatch.system.errors import known
from samatch.system.names import checked_word
from samatch.system.whole import write_text


def paper_numbers(dataset: str, n_labeled: int) -> pd.DataFrame:
    """The paper's own numbers for a set and budget; empty where it gives none."""
    table = pd.read_csv(paths.TRACKED_RESULTS / "paper.csv")
    own = (table.dataset == dataset) & (table.n_labeled == n_labeled)
    return table[own & (table.method == "samatch")]


def papers_dice(dataset: str, runs: pd.DataFrame) -> dict[str, str]:
    """run_id -> the paper's Dice (%) on its own set, of SAM-Match around FixMatch as it is by
    default, with the usual SAM; once for each budget, whatever the seeds."""
    default = runs[runs.run_id.isin(tables.all_default_guided(runs))]
    papers = default[
        (default.method == f"{GUIDED}fixmatch") & (default.sam == tables.usual_sam(runs))
    ]
    found = {}
    for run in papers.sort_values("seed").drop_duplicates("n_labeled").itertuples():
        for number in paper_numbers(dataset, run.n_labeled).dice_percent:
            found[run.run_id] = f"{number:.2f}"
    return found


def final_table(profile: str, dataset: str, folder: Path | None = None) -> pd.DataFrame:
    """method | Dice | HD95 | ASD | tracked Dice | the paper's Dice, of the records in `folder`,
    by default this machine's."""
    runs, per_case = read_results(profile, dataset, folder)
    runs = tables.headline(runs)
    table = tables.summary(runs, per_case)
    default = tables.all_default_guided(runs)
    tracked = tracked_dice(profile, dataset)
    unit = table.unit.iloc[0] if table.unit.nunique() == 1 else "in its own unit"
    hd95, asd = (
        [
            _distance(d, own if table.unit.nunique() > 1 else "")
            for d, own in zip(table[name], table.unit, strict=True)
        ]
        for name in stats.DISTANCES
    )
    return pd.DataFrame(
        {
            "method": table.method.where(~table.run_id.isin(default), table.method + " *"),
            "Dice %": [
                f"{d:.2f} ± {s:.2f}" for d, s in zip(table.dice, table.dice_sd, strict=True)
            ],
            f"HD95 {unit}": hd95,
            f"ASD {unit}": asd,
            **{
                title: table[name].map("{:.2f}".format)
                for name, title in tables.IN_MM.items()
                if name in table
            },
            "tracked Dice %": [tracked.get(r, "") for r in table.run_id],
            "paper's Dice %": table.run_id.map(papers_dice(dataset, runs)).fillna(""),
        }
    )


def _distance(value: float, unit: str) -> str:
    """A mean distance in words, followed by its unit where the table's runs have several."""
    return (
        f"{value:.2f} {unit}".strip()
        if value == value
        else f"undefined {unit and f'({unit})'}".strip()
    )


def tracked_dice(profile: str, dataset: str) -> dict[str, str]:
    """Dice of the runs that the repository carries for this profile and set."""
    folder = paths.TRACKED_RESULTS / profile / dataset
    if not (folder / "runs.csv").exists():
        return {}
    table = tables.summary(*read_results(profile, dataset, folder))
    return {row.run_id: f"{row.dice:.2f}" for row in table.itertuples()}


def write_tables(profile: str, dataset: str, folder: Path | None = None) -> list[Path]:
    """Writes summary.csv, wilcoxon.csv and what else the records allow; returns the files."""
    folder = folder or paths.results_dir(profile, dataset)
    runs, per_case = read_results(profile, dataset, folder)
    found = {"summary": tables.summary(runs, per_case)}
    if references := tables.references(runs, per_case):
        found["wilcoxon"] = tables.wilcoxon_tables(runs, per_case, references)
    found |= clinical.patient_tables(dataset, runs, per_case)
    return write_csvs(folder, found | seed_tables.where_there_are(runs, per_case))


def renew_tracked() -> list[Path]:
    """Makes every table of the tracked records anew from their per_case.csv; returns the files."""
    files = []
    for profile, dataset in paths.tracked_sets():
        if dataset.endswith("_folds"):
            files += folds.write_pooled(profile, dataset.removesuffix("_folds"))[0]
        else:
            files += write_tables(profile, dataset, paths.TRACKED_RESULTS / profile / dataset)
    return files


def main(words: list[str] | None = None) -> None:
    """Command `samatch tables`: collects this machine's runs, writes and prints their tables."""
    parser = argparse.ArgumentParser(
        prog="samatch tables", description="Collect the runs, write and print the tables."
    )
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--dataset", default="phantom")
    parser.add_argument(
        "--into",
        type=Path,
        help="folder for the CSV files (results/<profile>/<set> renews the tracked ones)",
    )
    parser.add_argument("--print", action="store_true", help="print the final table as well")
    parser.add_argument(
        "--trials", action="store_true", help="write trials.csv from this machine's trials instead"
    )
    parser.add_argument(
        "--tracked", action="store_true", help="renew the tables of all tracked records instead"
    )
    args = parser.parse_args(words)
    known(args.profile, PROFILES, "profile")  # both are parts of folders' names
    checked_word(args.dataset, "data set")
    if args.tracked:
        return print(f"{len(renew_tracked())} tables written from the tracked records")
    if args.trials:
        folder = args.into or paths.output_dir(args.profile, args.dataset) / "results"
        paths.make_folder(folder, "--into")
        return write_text(
            folder / "trials.csv",
            collect_trials(args.profile, args.dataset).to_csv(index=False, float_format="%.4g"),
        )
    folder = collect(args.profile, args.dataset, args.into and args.into.absolute())
    files = write_tables(args.profile, args.dataset, folder)
    if args.print:
        print(final_table(args.profile, args.dataset, folder).to_string(index=False))
        if args.profile == "demo":
            of_what = "generated phantoms, " if args.dataset == "phantom" else ""
            print(
                f"\nDemo numbers: {of_what}minutes of training. They show that "
                "everything runs, nothing about the method."
            )
        print("* SAM-Match as it is by default; ± is the standard deviation over patients")
        print("written: " + ", ".join(paths.shown(f) for f in files))
