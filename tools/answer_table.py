"""The first table of README.md: what came out, one column per set."""

import pandas as pd
from cells import interval, markdown, paired, probability, records, scores_of

from samatch.config.profiles import ALL_STAGES, FROM_START, WHOLE_CHAIN
from samatch.config.settings import GUIDED, SUPERVISED
from samatch.results import folds, tables
from samatch.system import paths
from samatch.system.errors import InputError

NOT_TRAINED = "-"
SETS = {"acdc": "ACDC", "chaos": "CHAOS liver", "busi": "BUSI"}
ANSWER = {
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
# SAM-Match, the control without SAM, the row that sets them side by side.
AGAINST = (
    ("guided", "no_sam", "SAM-Match against continued"),
    (FROM_START, WHOLE_CHAIN, "from the start against equal length"),
    ("refined_start", WHOLE_CHAIN, "both maps, from the start, against equal length"),
)


def answer(profile: str, _: str) -> str:
    """One column per set: test Dice of the default methods, SAM-Match against training without
    SAM."""
    columns = {
        SETS[name]: answer_of(profile, name)
        for name in SETS
        if (paths.TRACKED_RESULTS / profile / name / "runs.csv").exists()
    }
    if not columns:
        raise InputError(f"no records of {', '.join(SETS)}", where=paths.TRACKED_RESULTS / profile)
    rows = next(iter(columns.values()))
    return markdown(
        {"": list(rows)} | {name: list(cells.values()) for name, cells in columns.items()}
    )


def answer_of(profile: str, dataset: str) -> dict[str, str]:
    """Row -> cell of the answer's column of one set.

    Where the set's folds are pooled, of all of their patients. Every number is the mean over the
    seeds that SAM-Match and continued training have; a cell with fewer says so.
    """
    pooled = (paths.TRACKED_RESULTS / profile / f"{dataset}_folds" / "per_case.csv").exists()
    runs, per_case = records(profile, f"{dataset}_folds" if pooled else dataset)
    n_labeled = int(runs.n_labeled.mode()[0])
    by_seed = of_answer(runs[runs.n_labeled == n_labeled])
    both = by_seed["guided"].keys() & by_seed["no_sam"].keys()
    seeds = sorted(both or by_seed["guided"] or {int(runs.seed.min())})
    fold_count = f", {len(folds.fold_names(dataset))} folds" if pooled else ""
    cells = {
        "labeled": str(n_labeled),
        "test units": units_of(per_case, dataset) + fold_count,
        "seeds": str(len(seeds)),
    }
    scores = {name: scores_by_seed(name, by_seed, per_case, seeds) for name in ANSWER}
    for name, title in ANSWER.items():
        cells[title] = over_seeds(scores[name], seeds)
    for mine, other, title in AGAINST:
        cells[title] = gain(scores[mine], scores[other], seeds)
    return cells


def scores_by_seed(
    name: str, by_seed: dict[str, dict[int, str]], per_case: pd.DataFrame, seeds: list[int]
) -> pd.DataFrame:
    """Table unit x seed of Dice (%), of the row `name` of ANSWER; the seeds that were tested."""
    scores = 100 * scores_of(per_case, "test_refined" if name in REFINED else "test")
    of_row = by_seed[REFINED.get(name, name)]
    tested = [seed for seed in seeds if of_row.get(seed) in scores]
    return scores[[of_row[seed] for seed in tested]].set_axis(tested, axis=1)


def units_of(per_case: pd.DataFrame, dataset: str) -> str:
    """How many test units, and how many pictures where a unit may be a group of them."""
    test, name = per_case[per_case.split == "test"], tables.unit_name(dataset)
    units, cases = test.patient_id.nunique(), test.case_id.nunique()
    grouped = name == "picture" and cases > units
    return f"{units} units ({cases} pictures)" if grouped else f"{units} {name}s"


def of_answer(runs: pd.DataFrame) -> dict[str, dict[int, str]]:
    """Name of ANSWER -> seed -> run_id, of runs of one budget with the SAM that most have."""
    runs = tables.of_usual_sam(runs)
    default = runs[(runs.variant == "") & ~runs.method.str.startswith(GUIDED)]
    found = {name: {} for name in ANSWER}
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


def over_seeds(scores: pd.DataFrame, seeds: list[int]) -> str:
    """Mean over test units of their mean over the seeds; a dash where no run has been tested."""
    if scores.empty:
        return NOT_TRAINED
    return f"{scores.mean(axis=1).mean():.1f}{fewer(list(scores), seeds)}"


def fewer(found: list, seeds: list[int]) -> str:
    """Says of how many seeds a cell is, where others are of more."""
    return f" ({len(found)} of {len(seeds)} seeds)" if len(found) < len(seeds) else ""


def gain(guided: pd.DataFrame, control: pd.DataFrame, seeds: list[int]) -> str:
    """Median paired difference of SAM-Match to its control over the seeds that both have, in
    points, interval and p; a dash where no seed has both."""
    shared, difference = paired(guided, control)
    if not shared:
        return NOT_TRAINED
    test = tables.stats.paired_test(difference.to_numpy())
    low, median, high = (test[key] for key in ("ci_low", "median_difference", "ci_high"))
    p = probability(pd.Series([test["p"]]))[0]
    return f"{interval(median, low, high)}, p {p}{fewer(shared, seeds)}"
