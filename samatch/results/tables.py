"""Tables made from the records: results by method, the choice among variants, the paper's numbers beside them.

samatch tables --profile demo --dataset phantom
"""

import argparse
import re
from pathlib import Path

import pandas as pd

from samatch.config.profiles import ABLATIONS
from samatch.config.settings import FINETUNE, GUIDED, stage_of
from samatch.data.manifest import load_manifest, manifest_folders
from samatch.results import clinical, stats
from samatch.results.records import collect, collect_trials, read_results, write_text
from samatch.system import paths
from samatch.system.errors import InputError

METHOD_LABELS = {
    "supervised": "Supervised",
    "finetune": "SAM alone",
    "fixmatch": "FixMatch",
    "unimatch": "UniMatch",
    "bcp": "BCP",
    "entropy_minimization": "Entropy minimization",
    "mean_teacher": "Mean teacher",
    "uamt": "UA-MT",
    "ict": "ICT",
    "cps": "CPS",
    "cct": "CCT",
    "deep_co_training": "Deep co-training",
    "r_drop": "R-Drop",
    "urpc": "URPC",
    "adversarial": "DAN",
    "cross_teaching": "CNN-transformer cross teaching",
}
NO_SAM = "no_sam"
CHOSEN = (
    "chosen"  # of cross-validation: the way to combine that each fold's validation patients chose
)
VARIANT_LABELS = {
    "box": "the paper's box",
    "as_published": "as published",
    CHOSEN: "chosen in each fold",
    **{
        level.variant: f"{level.factor}: {level.level}"
        for level in ABLATIONS
        if level.variant not in ("", NO_SAM, "box", "as_published")
    },
}
VARIANT_ORDER = (NO_SAM, CHOSEN, "", "box", "as_published")
CONTROLS = {
    "half_joint": "no_sam_half"
}  # the same training without SAM, of the variants that another one than NO_SAM stands beside
COMBINE_VARIANTS = (
    "",
)  # the candidates for SAM-Match; where there are several, validation chooses
NOT_RUN = "not run"
IN_MM = {"hd95_mm": "HD95 mm", "asd_mm": "ASD mm"}


def in_reading_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Supervised, match methods, their guided twins by variant, SAM alone."""

    def place(run) -> tuple:
        stage = ("warm_up", "match", "joint", "finetune").index(stage_of(run.method))
        variant = (
            VARIANT_ORDER.index(run.variant) if run.variant in VARIANT_ORDER else len(VARIANT_ORDER)
        )
        return stage, run.method, variant, run.variant, run.seed

    return runs.iloc[sorted(range(len(runs)), key=lambda row: place(runs.iloc[row]))].reset_index(
        drop=True
    )


def label(method: str, variant: str = "") -> str:
    """A method's name for tables and figures."""
    match = METHOD_LABELS.get(method.removeprefix(GUIDED), method.removeprefix(GUIDED))
    if not method.startswith(GUIDED):
        return match if not variant else f"{match}, {VARIANT_LABELS.get(variant, variant)}"
    if variant == NO_SAM:
        return f"{match}, continued"
    if variant.startswith(NO_SAM):
        return f"{match}, continued, {VARIANT_LABELS.get(variant, variant)}"
    return f"SAM-Match ({match})" + (f", {VARIANT_LABELS.get(variant, variant)}" if variant else "")


def names_of(runs: pd.DataFrame) -> dict[str, str]:
    """run_id -> name, with the SAM, budget or seed where it is not the one that most runs have."""
    usual = {column: _most_common(runs[column]) for column in ("n_labeled", "seed")} | {
        "sam": _most_common(runs.sam[runs.sam != ""])
    }
    names = {}
    for run in runs.itertuples():
        unusual = [
            words
            for differs, words in (
                (run.n_labeled != usual["n_labeled"], f"{run.n_labeled} labeled"),
                (run.seed != usual["seed"], f"seed {run.seed}"),
                (run.sam not in ("", usual["sam"]), run.sam),
            )
            if differs
        ]
        names[run.run_id] = ", ".join([label(run.method, run.variant), *unusual])
    return names


def _most_common(values: pd.Series):
    return values.mode().iloc[0] if len(values) else ""


def summary(runs: pd.DataFrame, per_case: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """One row a run: mean and standard deviation over patients, undefined distances, validation Dice.

    hd95 and asd are in `unit`; beside them hd95_mm and asd_mm, where that is not mm but the spacing is known. A run
    whose cases have distances in several units has all of them in `unit`, and no mean distance.
    """
    rows, names = per_case[per_case.split == split], names_of(runs)
    beside = [name for name in IN_MM if name in rows and rows[name].notna().any()]
    beside = [] if (rows.distance_unit == "mm").all() else beside
    table = []
    for run in in_reading_order(runs).itertuples():
        cases = rows[rows.run_id == run.run_id]
        if cases.empty:
            continue
        patients = (
            stats.of_one_unit(cases).groupby("patient_id")[["dice", "hd95", "asd", *beside]].mean()
        )
        by_class = cases.groupby("class", sort=False)["dice"].mean()
        table.append(
            {
                "run_id": run.run_id,
                "method": names[run.run_id],
                "val_dice": 100 * run.val_dice,
                "dice": 100 * patients.dice.mean(),
                "dice_sd": 100 * patients.dice.std(),
                **{f"dice_{c}": 100 * d for c, d in by_class.items()},
                "hd95": patients.hd95.mean(),
                "asd": patients.asd.mean(),
                "unit": stats.unit_of(cases),
                **{name: patients[name].mean() for name in beside},
                "undefined": int(cases.hd95.isna().sum()),
                "n": len(patients),
                "seed": run.seed,
            }
        )
    return pd.DataFrame(table)


def sam_at_test_time(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """One row per SAM-guided run: test Dice (%), mean over patients, of the student alone, which is the result, of SAM as it
    is asked there, and of the student's map refined once by SAM; the last two with their mean difference from the first."""
    rows, names = [], names_of(runs)
    for run in in_reading_order(runs).itertuples():
        cases = per_case[
            (per_case.run_id == run.run_id)
            & per_case.split.isin(["test", "test_sam", "test_refined"])
        ]
        dice = 100 * cases.groupby(["patient_id", "split"]).dice.mean().unstack()
        if "test_sam" not in dice:
            continue
        mean = dice.mean()
        rows.append(
            {
                "run_id": run.run_id,
                "method": names[run.run_id],
                "student": mean.test,
                "sam": mean.test_sam,
                "refined": mean.test_refined,
                "sam_difference": (dice.test_sam - dice.test).mean(),
                "refined_difference": (dice.test_refined - dice.test).mean(),
                "n": len(dice),
            }
        )
    columns = [
        "run_id",
        "method",
        "student",
        "sam",
        "refined",
        "sam_difference",
        "refined_difference",
        "n",
    ]
    return pd.DataFrame(rows, columns=columns)


def headline(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the main table: every method, and SAM-Match in its ways to combine; the rest of the grid is left to `ablation_grid`."""
    return runs[runs.variant.isin(VARIANT_ORDER)].reset_index(drop=True)


def chosen_guided(
    runs: pd.DataFrame, match: str = "fixmatch", n_labeled: int = 3, seed: int = 0
) -> str:
    """run_id of SAM-Match: of its ways to combine, the one with the best validation Dice. The test split is not read."""
    candidates = runs[
        (runs.method == GUIDED + match)
        & runs.variant.isin(COMBINE_VARIANTS)
        & (runs.n_labeled == n_labeled)
        & (runs.seed == seed)
    ]
    if candidates.empty:
        raise InputError(
            f"no SAM-guided run of {match}",
            expected=f"{n_labeled} labeled, seed {seed}, one of the variants {COMBINE_VARIANTS}",
            got="none",
            do="run `make reproduce`",
        )
    return candidates.sort_values("val_dice", ascending=False, kind="stable").run_id.iloc[0]


def all_chosen(runs: pd.DataFrame) -> list[str]:
    """The chosen SAM-Match of every match method, budget and seed that has one."""
    guided = runs[runs.method.str.startswith(GUIDED) & runs.variant.isin(COMBINE_VARIANTS)]
    keys = guided[["method", "n_labeled", "seed"]].drop_duplicates()
    return [
        chosen_guided(runs, key.method.removeprefix(GUIDED), key.n_labeled, key.seed)
        for key in keys.itertuples()
    ]


def paper_numbers(dataset: str, n_labeled: int) -> pd.DataFrame:
    """The paper's own numbers for a set and budget; empty where it gives none."""
    table = pd.read_csv(paths.TRACKED_RESULTS / "paper.csv")
    return table[(table.dataset == dataset) & (table.n_labeled == n_labeled)]


def paper_value(dataset: str, run_id: str) -> str:
    """The paper's Dice for a run, where the run is SAM-Match as it is by default, without a variant, on the paper's set."""
    n_labeled = int(run_id.removeprefix(f"{dataset}-n").split("-")[0])
    numbers = paper_numbers(dataset, n_labeled)
    default = GUIDED in run_id and re.search(r"-s\d+$", run_id)
    return f"{numbers.dice_percent.iloc[0]:.2f}" if len(numbers) and default else ""


def final_table(profile: str, dataset: str) -> pd.DataFrame:
    """method | Dice | HD95 | ASD | tracked Dice | the paper's Dice."""
    runs, per_case = read_results(profile, dataset)
    runs = headline(runs)
    table = summary(runs, per_case)
    chosen = all_chosen(runs)
    tracked = tracked_dice(profile, dataset)
    unit = table.unit.iloc[0] if table.unit.nunique() == 1 else "in its own unit"
    hd95, asd = (
        [
            _distance(d, own if table.unit.nunique() > 1 else "")
            for d, own in zip(table[name], table.unit)
        ]
        for name in stats.DISTANCES
    )
    return pd.DataFrame(
        {
            "method": [f"{m} *" if r in chosen else m for m, r in zip(table.method, table.run_id)],
            "Dice %": [f"{d:.2f} ± {s:.2f}" for d, s in zip(table.dice, table.dice_sd)],
            f"HD95 {unit}": hd95,
            f"ASD {unit}": asd,
            **{
                title: table[name].map("{:.2f}".format)
                for name, title in IN_MM.items()
                if name in table
            },
            "tracked Dice %": [tracked.get(r, "") for r in table.run_id],
            "paper's Dice %": [paper_value(dataset, r) for r in table.run_id],
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
    table = summary(*read_results(profile, dataset, folder))
    return {row.run_id: f"{row.dice:.2f}" for row in table.itertuples()}


def wilcoxon_table(
    runs: pd.DataFrame,
    per_case: pd.DataFrame,
    metric: str = "dice",
    unit: str = "patient",
    reference: str | None = None,
) -> pd.DataFrame:
    """One SAM-Match against every comparison method of its budget and seed, and against the same training without SAM; other guided
    runs are not in the family."""
    reference = reference or all_chosen(runs)[0]
    mine, names = runs.set_index("run_id").loc[reference], names_of(runs)
    control = CONTROLS.get(mine.variant, NO_SAM)
    same = runs[
        (runs.n_labeled == mine.n_labeled)
        & (runs.seed == mine.seed)
        & runs.variant.isin((*VARIANT_ORDER, control))
    ]
    others = list(in_reading_order(same[_is_comparison(same, control)]).run_id)
    table = stats.wilcoxon_family(stats.unit_scores(per_case, metric, unit), reference, others)
    return table.assign(
        reference=names[reference], comparison=table.comparison.map(names), metric=metric, unit=unit
    )


def wilcoxon_tables(
    runs: pd.DataFrame, per_case: pd.DataFrame, references: list[str]
) -> pd.DataFrame:
    """The families of all references, for Dice and HD95, by patient and by volume."""
    return pd.concat(
        [
            wilcoxon_table(runs, per_case, metric, unit, reference)
            for reference in references
            for metric in ("dice", "hd95")
            for unit in stats.UNITS
        ]
    )


def _is_comparison(runs: pd.DataFrame, control: str = NO_SAM) -> pd.Series:
    """Which runs a SAM-Match is compared with: every method that no SAM guides, and continued training of the variant `control`."""
    return (runs.method != FINETUNE) & (
        ~runs.method.str.startswith(GUIDED) | (runs.variant == control)
    )


def _words(seeds: pd.Series) -> str:
    return " ".join(map(str, sorted(seeds)))


def several_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """The main table's runs that were trained with more than one seed, with `name`: the method's, whatever the seed."""
    named = headline(runs[runs.method != FINETUNE])
    named = in_reading_order(named.assign(name=named.run_id.map(names_of(named.assign(seed=0)))))
    return named[named.groupby("name").seed.transform("nunique") > 1]


def seed_table(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """One row a method: seeds, mean validation and test Dice (%) over them, and the test Dice's spread over them."""
    rows = several_seeds(runs)
    rows = rows.assign(
        dice=rows.run_id.map(100 * stats.unit_scores(per_case).mean()), val_dice=100 * rows.val_dice
    )
    return (
        rows.groupby("name", sort=False)
        .agg(
            seeds=("seed", _words),
            val_dice=("val_dice", "mean"),
            dice=("dice", "mean"),
            dice_sd_over_seeds=("dice", "std"),
            lowest=("dice", "min"),
            highest=("dice", "max"),
        )
        .reset_index(names="method")
    )


def wilcoxon_over_seeds(
    runs: pd.DataFrame, per_case: pd.DataFrame, metric: str = "dice", unit: str = "patient"
) -> pd.DataFrame:
    """Each SAM-Match that has several seeds against every comparison method of its budget that has the same ones: a
    patient's score is the mean over the seeds. The way of combining is the one with the best mean validation Dice of
    those with the most seeds. Without such runs the table is empty."""
    rows, scores = several_seeds(runs), stats.unit_scores(per_case, metric, unit)
    tables = []
    for (_, n_labeled), guided in rows[
        rows.method.str.startswith(GUIDED) & rows.variant.isin(COMBINE_VARIANTS)
    ].groupby(["method", "n_labeled"], sort=False):
        ranked = (
            guided.groupby("name")
            .agg(seeds=("seed", "nunique"), val_dice=("val_dice", "mean"))
            .sort_values(["seeds", "val_dice"])
        )
        mine = guided[guided.name == ranked.index[-1]]
        family = rows[
            _is_comparison(rows) & (rows.n_labeled == n_labeled) & rows.seed.isin(mine.seed)
        ]
        family = family[family.groupby("name").seed.transform("nunique") == len(mine)]
        if family.empty:
            continue
        means = pd.DataFrame(
            {
                name: scores[ids].mean(axis=1)
                for name, ids in pd.concat([mine, family]).groupby("name").run_id
            }
        )
        found = stats.wilcoxon_family(means, mine.name.iloc[0], list(family.name.unique()))
        tables.append(
            found.assign(
                reference=mine.name.iloc[0], metric=metric, unit=unit, seeds=_words(mine.seed)
            )
        )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def ablation_grid(
    runs: pd.DataFrame,
    per_case: pd.DataFrame,
    match: str = "fixmatch",
    n_labeled: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """A row a cell of the grid: factor, level, status ("run" or "not run"), validation and test Dice (%), difference from the default.

    A cell that has not been run holds NaN, never zero. `difference` is the mean over test patients of the paired difference.
    """
    mine = (
        runs[(runs.method == GUIDED + match) & (runs.n_labeled == n_labeled) & (runs.seed == seed)]
        .drop_duplicates("variant")
        .set_index("variant")
    )
    scores = 100 * stats.unit_scores(per_case)
    rows = []
    for cell in ABLATIONS:
        row = {
            "factor": cell.factor,
            "level": cell.level,
            "default": cell.variant == "",
            "run_id": "",
            "status": NOT_RUN,
        }
        if cell.variant in mine.index:
            run = mine.loc[cell.variant]
            row |= {
                "run_id": run.run_id,
                "status": "run",
                "val_dice": 100 * run.val_dice,
                "dice": scores[run.run_id].mean(),
            }
            if "" in mine.index:
                row["difference"] = (scores[run.run_id] - scores[mine.loc[""].run_id]).mean()
        rows.append(row)
    return pd.DataFrame(
        rows,
        columns=[
            "factor",
            "level",
            "default",
            "run_id",
            "status",
            "val_dice",
            "dice",
            "difference",
        ],
    )


def patient_tables(
    dataset: str, runs: pd.DataFrame, per_case: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """`clinical` (agreement in ventricle volumes) and `groups` (Dice by diagnosis) of the test patients,
    where the set's manifest has what they need."""
    manifest = load_manifest(dataset) if dataset in manifest_folders() else None
    found = {}
    if manifest and manifest.clinical:
        found["clinical"] = clinical.agreement(clinical.measurements(per_case, manifest))
    if manifest and any(case.group for case in manifest.cases):
        found["groups"] = clinical.by_group(per_case, manifest)
    names = names_of(in_reading_order(runs))
    place = {run_id: number for number, run_id in enumerate(names)}
    for name, table in found.items():
        table.insert(1, "method", table.run_id.map(names))
        found[name] = table.sort_values("run_id", key=lambda ids: ids.map(place), kind="stable")
    return found


def write_tables(profile: str, dataset: str, folder: Path | None = None) -> list[Path]:
    """summary.csv, wilcoxon.csv and what else the records allow, beside the records they are made from."""
    folder = folder or paths.results_dir(profile, dataset)
    runs, per_case = read_results(profile, dataset, folder)
    found = {"summary": summary(runs, per_case)}
    if references := all_chosen(runs) + list(runs[runs.variant.isin(CONTROLS)].run_id):
        found["wilcoxon"] = wilcoxon_tables(runs, per_case, references)
    found |= patient_tables(dataset, runs, per_case)
    where_there_are = {
        "seeds": seed_table(runs, per_case),
        "wilcoxon_seeds": wilcoxon_over_seeds(runs, per_case),
        "sam_at_test_time": sam_at_test_time(runs, per_case),
    }
    found |= {name: table for name, table in where_there_are.items() if len(table)}
    for name, table in found.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    return [folder / f"{name}.csv" for name in found]


def main(words: list[str] | None = None) -> None:
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
    args = parser.parse_args(words)
    if args.trials:
        folder = args.into or paths.output_dir(args.profile, args.dataset) / "results"
        folder.mkdir(parents=True, exist_ok=True)
        return write_text(
            folder / "trials.csv",
            collect_trials(args.profile, args.dataset).to_csv(index=False, float_format="%.4g"),
        )
    folder = collect(args.profile, args.dataset, args.into and args.into.absolute())
    files = write_tables(args.profile, args.dataset, folder)
    if args.print:
        print(final_table(args.profile, args.dataset).to_string(index=False))
        if args.profile == "demo":
            print(
                "\nDemo numbers: generated phantoms, minutes of training. They show that everything runs, nothing about the method."
            )
        print("* SAM-Match as it is by default; ± is the standard deviation over patients")
        print("written: " + ", ".join(paths.shown(f) for f in files))
