"""Fills the tables of README.md and docs/*.md, between two markers, from the tracked results.

    <!-- table summary laptop/acdc -->  ...  <!-- end of table -->

usage: write_pages.py [--check]    (--check writes nothing and fails where a page is stale)
"""

import re
import sys
from pathlib import Path

import pandas as pd
from answer_table import answer
from cells import interval, markdown, one, probability, tested, with_undefined
from pairs_table import pairs
from votes_table import shared_errors, votes

from samatch.config.profiles import ALL_STAGES, FROM_START
from samatch.config.settings import GUIDED, SUPERVISED
from samatch.results import budgets, equal_length, folds, seed_tables, tables
from samatch.results.across_sets import records, tracked
from samatch.results.records import read_table
from samatch.results.ways import paired
from samatch.system import paths
from samatch.system.errors import InputError, known

MARKED = re.compile(r"(<!-- table (\w+) (\w+)/(\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def pages() -> list[Path]:
    """README.md and the pages of docs."""
    return [paths.ROOT / "README.md", *sorted((paths.ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """The page with every marked table made anew. Raises InputError on an unknown kind of table."""

    def make(found: re.Match) -> str:
        start, kind, profile, dataset, end = found.groups()
        return f"{start}{TABLES[known(kind, TABLES, 'kind of table')](profile, dataset)}\n{end}"

    return MARKED.sub(make, text)


def summary(profile: str, dataset: str) -> str:
    """Each method of the main table, mean over its seeds: Dice by class, and distances."""
    runs, per_case = records(profile, dataset)
    table = seed_tables.summary_over_seeds(tables.headline(runs), per_case)
    classes = [name for name in dict.fromkeys(per_case["class"]) if f"dice_{name}" in table]
    columns = {"method": table.method}
    if several := table.n_seeds.max() > 1:
        columns["seeds"] = table.n_seeds
    columns |= {
        "validation Dice %": one(table.val_dice),
        "test Dice %": [
            f"{mean:.1f} ± {sd:.1f}" for mean, sd in zip(table.dice, table.dice_sd, strict=True)
        ],
    }
    if several:
        columns["± over seeds"] = one(table.dice_sd_over_seeds)
    if len(classes) > 1:
        columns |= {name: one(table[f"dice_{name}"]) for name in classes}
    columns[f"HD95 ({table.unit.iloc[0]})"] = [
        with_undefined(*row) for row in zip(table.hd95, table.undefined, table.n_seeds, strict=True)
    ]
    if "hd95_mm" in table:
        columns["HD95 (mm)"] = one(table.hd95_mm)
    return markdown(columns)


def seeds(profile: str, dataset: str) -> str:
    """Test Dice of the methods with several seeds: mean, deviation, lowest and highest."""
    table = seed_tables.seed_table(*records(profile, dataset))
    return markdown(
        {
            "method": table.method,
            "seeds": table.seeds.str.replace(" ", ", "),
            "test Dice %": one(table.dice),
            "± over seeds": one(table.dice_sd_over_seeds),
            "lowest": one(table.lowest),
            "highest": one(table.highest),
        }
    )


def wilcoxon(profile: str, dataset: str) -> str:
    """SAM-Match against each comparison method, per patient: median difference, interval and p.

    Where runs with several seeds are tracked, a patient's score is the mean over them.
    """
    folder = paths.TRACKED_RESULTS / profile / dataset
    over_seeds = (folder / "wilcoxon_seeds.csv").exists()
    table = read_table(folder / ("wilcoxon_seeds.csv" if over_seeds else "wilcoxon.csv"))
    table = dice_by_patient(table)
    points = 100 * table[list(tables.stats.INTERVAL)]
    return markdown(
        {
            "SAM-Match": table.reference,
            "against": table.comparison,
            **({"seeds": table.seeds.map(lambda seeds: len(seeds.split()))} if over_seeds else {}),
            "n": table.n,
            "median difference (points)": [interval(*row) for row in points.to_numpy()],
            "p": probability(table.p),
            "Bonferroni": probability(table.p_bonferroni),
        }
    )


def exceptions(profile: str, dataset: str) -> str:
    """Comparisons of single seeds that do not stand after correction: a row a SAM-Match."""
    table = dice_by_patient(read_table(paths.TRACKED_RESULTS / profile / dataset / "wilcoxon.csv"))
    found = table.comparison + " (" + probability(table.p_bonferroni) + ")"
    weak = found[table.p_bonferroni >= tables.stats.ALPHA].groupby(table.reference).agg(", ".join)
    families = table.groupby("reference", sort=False).size()
    return markdown(
        {
            "SAM-Match": families.index,
            "tests in the family": families,
            "does not stand against (corrected p)": weak.reindex(families.index, fill_value="none"),
        }
    )


def dice_by_patient(table: pd.DataFrame) -> pd.DataFrame:
    """Of a table of tests, those of Dice with the patient as the unit."""
    return table[(table.metric == "dice") & (table.unit == "patient")]


def at_equal_length(profile: str, dataset: str) -> str:
    """Every comparison method as long as SAM-Match's whole chain, on the first seed; the test is
    that of SAM-Match from the start."""
    runs, per_case = records(profile, dataset)
    guided = runs[(runs.variant == FROM_START) & runs.method.str.startswith(GUIDED)]
    reference = guided.run_id[guided.seed == guided.seed.min()].iloc[0]
    table = equal_length.at_equal_length(runs, per_case, reference)
    compared = table.p_bonferroni.notna()
    points = 100 * table[list(tables.stats.INTERVAL)]
    return markdown(
        {
            "method": table.method,
            "minutes": table.minutes.map("{:.0f}".format),
            "processor": table.run_id.map(runs.set_index("run_id").device).str.split(", ").str[-1],
            "validation Dice %": one(table.val_dice),
            "test Dice %": [
                f"{mean:.1f} ± {sd:.1f}" for mean, sd in zip(table.dice, table.dice_sd, strict=True)
            ],
            f"HD95 ({table.unit.iloc[0]})": [
                with_undefined(*row) for row in zip(table.hd95, table.undefined, strict=True)
            ],
            "SAM-Match from the start against it, median (points)": [
                interval(*row) if tested else ""
                for tested, row in zip(compared, points.to_numpy(), strict=True)
            ],
            "Bonferroni": [
                p if tested else ""
                for tested, p in zip(compared, probability(table.p_bonferroni), strict=True)
            ],
        }
    )


def test_time(profile: str, dataset: str) -> str:
    """SAM at test time beside the student alone, mean over the seeds."""
    table = seed_tables.sam_at_test_time_over_seeds(*records(profile, dataset))
    return markdown(
        {
            "run": table.method,
            **({"seeds": table.n_seeds} if table.n_seeds.max() > 1 else {}),
            "student alone": one(table.student),
            "SAM": one(table.sam),
            "combined": one(table.refined),
            "gain over the student": [f"{d:+.1f}" for d in table.refined_difference],
        }
    )


def external(profile: str, dataset: str) -> str:
    """Dice of the set's runs on pictures of another source, means over the seeds on record; and of
    each method minus supervised training at equal length, paired by picture over common seeds.
    """
    folder = paths.TRACKED_RESULTS / profile / dataset
    rows = pd.concat(read_table(path) for path in sorted(folder.glob("external_*.csv")))
    runs, _ = records(profile, dataset)
    names = seed_tables.names_whatever_seed(runs)
    both = {run_id: f"{name}: both maps at test time" for run_id, name in names.items()}
    together = rows.split == "external_refined"
    name = rows.run_id.map(names).where(~together, rows.run_id.map(both))
    rows = rows.assign(name=name, missed=rows.status == "empty_pred")
    of_method = rows.groupby("name")
    order = dict.fromkeys([*names.values(), *both.values()])
    shown = [name for name in order if name in of_method.groups]
    found = of_method.agg(
        seeds=("seed", "nunique"),
        cases=("case_id", "nunique"),
        mean=("dice", "mean"),
        median=("dice", "median"),
        missed=("missed", "mean"),
    ).loc[shown]
    by_seed = 100 * rows.pivot_table(values="dice", index="case_id", columns=["name", "seed"])
    control = tables.label(SUPERVISED, ALL_STAGES)
    return markdown(
        {
            "method": shown,
            "seeds": found.seeds.astype(str),
            "pictures": found.cases.astype(str),
            "mean Dice %": one(100 * found["mean"]),
            "median Dice %": one(100 * found["median"]),
            "nothing found, % of pictures": one(100 * found.missed),
            f"minus *{control}*, median (points)": [
                difference(by_seed, name, control) for name in shown
            ],
        }
    )


def difference(by_seed: pd.DataFrame, name: str, control: str) -> str:
    """Median, interval and p of the paired differences of two methods, of a table unit x (method,
    seed) of Dice in percent, over the seeds that both have; "" where there is none."""
    if name == control or control not in by_seed:
        return ""
    seeds, found = paired(by_seed[name], by_seed[control])
    return tested(found) if seeds else ""


def label_budgets(profile: str, dataset: str) -> str:
    """Test Dice of each method that was trained with several numbers of labeled patients."""
    table = budgets.by_budget(*tracked(profile, dataset))
    table["cell"] = [
        f"{row.dice:.1f} ({row.low:.1f} to {row.high:.1f})" for row in table.itertuples()
    ]
    wide = table.pivot(index="method", columns="n_labeled", values="cell").fillna("")
    wide = wide.loc[list(dict.fromkeys(table.method))]
    seeds = table.groupby("n_labeled").seeds.max()
    titles = {n: f"{n} labeled ({seeds[n]} seed{'s' if seeds[n] > 1 else ''})" for n in wide}
    return markdown({"method": wide.index, **{titles[n]: wide[n] for n in wide}})


def retrained(profile: str, dataset: str) -> str:
    """The same runs trained again elsewhere: Dice of both, and how far apart the units are. Of
    <set>_folds, those of every fold."""
    names: dict[str, str] = {}
    whole = dataset.removesuffix("_folds")
    for name in folds.fold_names(whole) if whole != dataset else [dataset]:
        runs, _ = tracked(profile, name)
        of_run, fold = tables.names_of(runs), f", {name}" if whole != dataset else ""
        names |= {run: of_run[run] + fold for run in of_run}
    table = read_table(paths.TRACKED_RESULTS / "robustness" / "retrained.csv")
    place = {run_id: number for number, run_id in enumerate(names)}
    table = table[table.run_id.isin(names)]
    table = table.sort_values("run_id", key=lambda ids: ids.map(place), kind="stable")
    return markdown(
        {
            "run": table.run_id.map(names),
            "changed": table.changed,
            "validation Dice %, first": one(table.val_dice_a),
            "validation Dice %, again": one(table.val_dice_b),
            "test Dice %, first": one(table.dice_a),
            "test Dice %, again": one(table.dice_b),
            "apart per unit, mean (points)": one(table.mean_apart),
            "largest": one(table.largest_apart),
        }
    )


def trials(profile: str, dataset: str) -> str:
    """What short trainings asked, on validation alone."""
    table = read_table(paths.TRACKED_RESULTS / profile / dataset / "trials.csv")
    return markdown(
        {
            "method": [tables.label(name) for name in table.method],
            "asks": table.asks,
            "validation Dice %": one(table.val_dice),
            "minutes": table.minutes.map("{:.0f}".format),
        }
    )


TABLES = {
    "retrained": retrained,
    "label_budgets": label_budgets,
    "external": external,
    "answer": answer,
    "equal_length": at_equal_length,
    "summary": summary,
    "seeds": seeds,
    "wilcoxon": wilcoxon,
    "exceptions": exceptions,
    "test_time": test_time,
    "pairs": pairs,
    "votes": votes,
    "shared_errors": shared_errors,
    "trials": trials,
}


def main(words: list[str]) -> None:
    """Fills every page, or with --check fails where one is stale."""
    try:
        made = {page: filled(page.read_text()) for page in pages()}
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    stale = [page for page, text in made.items() if text != page.read_text()]
    if "--check" in words and stale:
        raise SystemExit(f"stale: {', '.join(map(paths.shown, stale))}; run `make pages`")
    for page in stale if "--check" not in words else ():
        page.write_text(made[page])
    print(f"{len(made)} pages, {len(stale)} changed")


if __name__ == "__main__":
    main(sys.argv[1:])
