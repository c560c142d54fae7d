"""What came out, set by set: the rows of README's first table as scores of test units, and each of
them against FixMatch at equal length, the training without SAM that SAM-Match is built on."""

from dataclasses import dataclass

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from samatch.config.profiles import ALL_STAGES, FROM_START, NO_RAMP, NO_RAMP_75, WHOLE_CHAIN
from samatch.config.settings import FINETUNE, SUPERVISED
from samatch.results import folds, stats, tables
from samatch.results.plots import BLUE, DPI
from samatch.results.records import read_results
from samatch.results.ways import BOTH, FIXMATCH, Way, by_way, paired, sam_match
from samatch.system import paths

SETS = {"acdc": "ACDC", "chaos": "CHAOS liver", "busi": "BUSI"}
LEFT, RIGHT = -5.0, 7.5  # points that the figure shows: what is in question lies within
FAR = 6.0  # right of it stand the numbers
MARK = {"markersize": 9, "markeredgewidth": 2}
NUMBER = {"ha": "right", "va": "center", "fontsize": 9}
CONTROL = Way(FIXMATCH, WHOLE_CHAIN)
# What SAM-Match from the start has beside SAM: its unlabeled term at full weight at once, and its
# threshold.
AT_ONCE = Way(FIXMATCH, NO_RAMP)
AT_ONCE_75 = Way(FIXMATCH, NO_RAMP_75)
CONTINUED = sam_match(tables.NO_SAM)
ROWS = {
    Way(SUPERVISED): "Supervised",
    Way(SUPERVISED, ALL_STAGES): "Supervised, at equal length",
    Way(FIXMATCH): "FixMatch",
    CONTINUED: "FixMatch, continued",
    CONTROL: "FixMatch, at equal length",
    AT_ONCE: "FixMatch, at equal length, no ramp",
    AT_ONCE_75: "FixMatch, at equal length, no ramp, kept from 0.75",
    Way(FINETUNE): "SAM alone",
    sam_match(): "SAM-Match",
    sam_match(FROM_START): "SAM-Match, from the start",
    sam_match("", BOTH): "both maps of SAM-Match at test time",
    sam_match(FROM_START, BOTH): "both maps, from the start",
}


@dataclass(frozen=True)
class Answer:
    """scores: way of ROWS -> test unit x seed, Dice in percent, of the seeds that were tested among
    `seeds`, those of SAM-Match and of continued training."""

    n_labeled: int
    seeds: list[int]
    per_case: pd.DataFrame
    scores: dict[Way, pd.DataFrame]


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
    tested = by_way(runs, per_case)
    found = {way: 100 * tested.get(way, pd.DataFrame()) for way in ROWS}
    mine = set(found[sam_match()])
    seeds = sorted(mine & set(found[CONTINUED]) or mine or {int(runs.seed.min())})
    scores = {way: table[[s for s in seeds if s in table]] for way, table in found.items()}
    return Answer(int(runs.n_labeled.iloc[0]), seeds, per_case, scores)


def records(profile: str, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, per_case) of a tracked set, of its main budget; of <set>_folds, of all folds."""
    if dataset.endswith("_folds"):
        return folds.pooled(profile, dataset.removesuffix("_folds"))[:2]
    runs, per_case = tracked(profile, dataset)
    return tables.main_budget(runs), per_case


def tracked(profile: str, dataset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, per_case) of a tracked set, whatever the budget."""
    return read_results(profile, dataset, paths.TRACKED_RESULTS / profile / dataset)


def against_control(found: Answer) -> pd.DataFrame:
    """One row per way of ROWS that has seeds in common with FixMatch at equal length: name, seeds,
    n units, and median_difference with ci_low and ci_high (points; 95 % bootstrap interval)."""
    rows = []
    for way, name in ROWS.items():
        seeds, difference = paired(found.scores[way], found.scores[CONTROL])
        if seeds and way != CONTROL:
            test = stats.paired_test(difference.to_numpy())
            numbers = {key: test[key] for key in ("n", *stats.INTERVAL)}
            rows.append({"name": name, "seeds": len(seeds), **numbers})
    return pd.DataFrame(rows, columns=["name", "seeds", "n", *stats.INTERVAL])


def forest(answers: dict[str, pd.DataFrame], title: str) -> Figure:
    """A panel per set of `against_control`: medians, also in numbers, and intervals, right of zero
    what is better than FixMatch at equal length. A median beyond the picture is an arrow."""
    there = {name for table in answers.values() for name in table.name}
    names = [name for name in ROWS.values() if name in there]
    place = {name: number for number, name in enumerate(names)}
    figure = plt.figure(figsize=(9.5, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, len(answers), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (of, table) in zip(axes, answers.items(), strict=True):
        axis.axvline(0, color="#555555", linewidth=1)
        for row in table.itertuples():
            color = BLUE if "SAM-Match" in row.name or "both" in row.name else "#555555"
            ends, middle = (row.ci_low, row.ci_high), row.median_difference
            axis.plot(ends, [place[row.name]] * 2, "-", color=color, linewidth=2.5)
            mark = "<" if middle < LEFT else ">" if middle > FAR else "|"
            shown = min(max(middle, LEFT), FAR)
            axis.plot(shown, place[row.name], mark, **MARK, color=color)
            axis.text(RIGHT - 0.2, place[row.name], f"{middle:+.1f}", **NUMBER, color=color)
        counts = sorted(set(table.seeds))
        seeds = " or ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
        axis.set_title(f"{of}, {seeds}", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlim(LEFT - 0.4, RIGHT)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    label = "Dice minus FixMatch's at equal length (points): median over test units, 95 % interval"
    figure.supxlabel(label, fontsize=10)
    figure.suptitle(title)
    return figure
