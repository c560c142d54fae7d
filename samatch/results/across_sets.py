"""What came out, set by set: the rows of README's first table as scores of test units, and each of
them against FixMatch at equal length, the strongest training without SAM."""

from dataclasses import dataclass

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from samatch.config.profiles import ALL_STAGES, FROM_START, WHOLE_CHAIN
from samatch.config.settings import GUIDED, SUPERVISED
from samatch.results import folds, stats, tables
from samatch.results.plots import BLUE, DPI
from samatch.results.records import read_results
from samatch.system import paths

SETS = {"acdc": "ACDC", "chaos": "CHAOS liver", "busi": "BUSI"}
ROWS = {
    "supervised": "Supervised",
    ALL_STAGES: "Supervised, at equal length",
    "fixmatch": "FixMatch",
    "no_sam": "FixMatch, continued",
    WHOLE_CHAIN: "FixMatch, at equal length",
    "finetune": "SAM alone",
    "guided": "SAM-Match",
    FROM_START: "SAM-Match, from the start",
    "refined": "both maps of SAM-Match at test time",
    "refined_start": "both maps, from the start",
}
REFINED = {"refined": "guided", "refined_start": FROM_START}  # both maps of the runs of another row
CONTROL = WHOLE_CHAIN


@dataclass(frozen=True)
class Answer:
    """scores: row of ROWS -> test unit x seed, Dice in percent, of the seeds that were tested among
    `seeds`, those of SAM-Match and of continued training."""

    n_labeled: int
    seeds: list[int]
    per_case: pd.DataFrame
    scores: dict[str, pd.DataFrame]


def sets_on_record(profile: str) -> list[str]:
    """The sets of SETS with tracked runs."""
    folder = paths.TRACKED_RESULTS / profile
    return [name for name in SETS if (folder / name / "runs.csv").exists()]


def are_pooled(profile: str, dataset: str) -> bool:
    """Whether the set's folds are pooled, so that its answer is of all of their patients."""
    return (paths.TRACKED_RESULTS / profile / f"{dataset}_folds" / "per_case.csv").exists()


def of_set(profile: str, dataset: str) -> Answer:
    """The answer of one set, of the budget and SAM that most runs have."""
    name = f"{dataset}_folds" if are_pooled(profile, dataset) else dataset
    runs, per_case = records(profile, name)
    by_seed = by_row(tables.of_usual_sam(runs))
    both = by_seed["guided"].keys() & by_seed["no_sam"].keys()
    seeds = sorted(both or by_seed["guided"] or {int(runs.seed.min())})
    scores = {row: scores_by_seed(row, by_seed, per_case, seeds) for row in ROWS}
    return Answer(int(runs.n_labeled.iloc[0]), seeds, per_case, scores)


def by_row(runs: pd.DataFrame) -> dict[str, dict[int, str]]:
    """Row of ROWS -> seed -> run_id, of runs of one budget and SAM."""
    default = runs[(runs.variant == "") & ~runs.method.str.startswith(GUIDED)]
    found: dict[str, dict[int, str]] = {name: {} for name in ROWS}
    for run in default.itertuples():
        found.get(run.method, {})[run.seed] = run.run_id
    guided = runs[runs.method == f"{GUIDED}fixmatch"]
    for name, mine in (
        ("no_sam", guided[guided.variant == tables.NO_SAM]),
        (ALL_STAGES, runs[(runs.method == SUPERVISED) & (runs.variant == ALL_STAGES)]),
        (WHOLE_CHAIN, runs[(runs.method == "fixmatch") & (runs.variant == WHOLE_CHAIN)]),
        (FROM_START, guided[guided.variant == FROM_START]),
    ):
        found[name] |= {run.seed: run.run_id for run in mine.itertuples()}
    in_each_fold = (guided.variant == tables.CHOSEN).any()
    chosen = folds.references(guided) if in_each_fold else tables.all_chosen(guided)
    for run in guided[guided.run_id.isin(chosen)].itertuples():
        found["guided"][run.seed] = run.run_id
    return found


def scores_by_seed(
    row: str, by_seed: dict[str, dict[int, str]], per_case: pd.DataFrame, seeds: list[int]
) -> pd.DataFrame:
    """Table unit x seed of Dice (%), of a row of ROWS; the seeds that were tested."""
    scores = 100 * scores_of(per_case, "test_refined" if row in REFINED else "test")
    of_row = by_seed[REFINED.get(row, row)]
    tested = [seed for seed in seeds if of_row.get(seed) in scores]
    return scores[[of_row[seed] for seed in tested]].set_axis(tested, axis=1)


def records(profile: str, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, per_case) of a tracked set, of its main budget; of <set>_folds, of all folds."""
    if dataset.endswith("_folds"):
        return folds.pooled(profile, dataset.removesuffix("_folds"))[:2]
    runs, per_case = tracked(profile, dataset)
    return tables.main_budget(runs), per_case


def tracked(profile: str, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, per_case) of a tracked set, whatever the budget."""
    return read_results(profile, dataset, paths.TRACKED_RESULTS / profile / dataset)


def scores_of(per_case: pd.DataFrame, split: str) -> pd.DataFrame:
    """Mean Dice of each unit by run, of the rows of `split`, such as SAM's maps at test time."""
    return stats.unit_scores(per_case[per_case.split == split].assign(split="test"))


def paired(first: pd.DataFrame, second: pd.DataFrame) -> tuple[list[int], pd.Series]:
    """Of two tables unit x seed: the seeds that both have, and the difference of each unit that
    both have, of its means over these seeds, to the decimals that tests take."""
    seeds = sorted(set(first) & set(second))
    mine, other = (scores[seeds].mean(axis=1, skipna=False) for scores in (first, second))
    return seeds, (mine - other).dropna().round(stats.DECIMALS)


def against_control(found: Answer) -> pd.DataFrame:
    """One row per row of ROWS that has seeds in common with FixMatch at equal length: name, seeds,
    n units, and median_difference with ci_low and ci_high (points; 95 % bootstrap interval)."""
    rows = []
    for row, name in ROWS.items():
        seeds, difference = paired(found.scores[row], found.scores[CONTROL])
        if seeds and row != CONTROL:
            test = stats.paired_test(difference.to_numpy())
            numbers = {key: test[key] for key in ("n", *stats.INTERVAL)}
            rows.append({"name": name, "seeds": len(seeds), **numbers})
    return pd.DataFrame(rows, columns=["name", "seeds", "n", *stats.INTERVAL])


def forest(answers: dict[str, pd.DataFrame], title: str) -> Figure:
    """A panel per set of `against_control`: medians and intervals, right of zero what is better
    than FixMatch at equal length."""
    names = [name for row, name in ROWS.items() if row != CONTROL]
    place = {name: number for number, name in enumerate(names)}
    figure = plt.figure(figsize=(9.5, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, len(answers), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (of, table) in zip(axes, answers.items(), strict=True):
        axis.axvline(0, color="#555555", linewidth=1)
        for row in table.itertuples():
            color = BLUE if "SAM-Match" in row.name or "both" in row.name else "#555555"
            ends, middle = (row.ci_low, row.ci_high), row.median_difference
            axis.plot(ends, [place[row.name]] * 2, "-", color=color, linewidth=2)
            axis.plot(middle, place[row.name], "o", color=color, markersize=6)
        counts = sorted(set(table.seeds))
        seeds = " or ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
        axis.set_title(f"{of}, {seeds}", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    label = "Dice minus FixMatch's at equal length (points): median over test units, 95 % interval"
    figure.supxlabel(label, fontsize=10)
    figure.suptitle(title)
    return figure
