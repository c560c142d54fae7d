"""Tables made from the records: names and order of the runs, results."""

import pandas as pd

from samatch.config.profiles import (
    ABLATIONS,
    ALL_STAGES,
    BOXES_FROM_START,
    EQUAL_LENGTH,
    FROM_START,
    NO_MATCH_STAGE,
    NO_RAMP,
    NO_RAMP_75,
    WHOLE_CHAIN,
    Level,
)
from samatch.config.settings import FINETUNE, GUIDED, stage_of
from samatch.data.manifest import load_manifest
from samatch.results import stats
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
VARIANT_LABELS = {level.variant: f"{level.factor}: {level.level}" for level in ABLATIONS} | {
    "box": "the paper's box",
    "as_published": "as published",
    **dict.fromkeys((ALL_STAGES, WHOLE_CHAIN), "at equal length"),
    NO_RAMP: "at equal length, no ramp",
    NO_RAMP_75: "at equal length, no ramp, kept from 0.75",
    FROM_START: "from the start",
    "guided_thresh60": "from the start, kept from 0.6",
    BOXES_FROM_START: "from the start, boxes at once",
    "guided_weight2": "from the start, boxes at once, weight 2",
    "guided_soft": "from the start, boxes at once, soft",
    "class_boxes": "boxes at once",
    "sam_512": "SAM's input 512",
}
VARIANT_ORDER = (NO_SAM, "", *EQUAL_LENGTH, *NO_MATCH_STAGE, "box", "as_published")
# The same training without SAM, of the variants that another one than NO_SAM stands beside.
CONTROLS = {"half_joint": "no_sam_half"}
# Variants that are tested against every comparison method as the default is.
ALSO_TESTED = (*CONTROLS, *NO_MATCH_STAGE)
NOT_RUN = "not run"
TEST_TIME_COLUMNS = "run_id method student sam refined sam_difference refined_difference n".split()
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
    if variant == FROM_START and not method.startswith(GUIDED):
        return f"{match}, not trained"  # what a SAM-Match from the start begins with
    if not method.startswith(GUIDED):
        return match if not variant else f"{match}, {VARIANT_LABELS.get(variant, variant)}"
    if variant == NO_SAM:
        return f"{match}, continued"
    if variant.startswith(NO_SAM):
        return f"{match}, continued, {VARIANT_LABELS.get(variant, variant)}"
    return f"SAM-Match ({match})" + (f", {VARIANT_LABELS.get(variant, variant)}" if variant else "")


def names_of(runs: pd.DataFrame) -> dict[str, str]:
    """run_id -> name, in reading order, with the SAM or budget where most runs have another one,
    and with a seed that is not the lowest."""
    usual = {
        "n_labeled": _most_common(runs.n_labeled),
        "seed": runs.seed.min(),
        "sam": usual_sam(runs),
    }
    names = {}
    for run in in_reading_order(runs).itertuples():
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


def summary(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """One row a run: mean and standard deviation over patients, undefined distances.

    Dice in percent. hd95 and asd are in `unit`; beside them hd95_mm and asd_mm, where that is not
    mm but the spacing is known. A run whose cases have distances in several units has all of them
    in `unit`, and no mean distance. Raises InputError where no run has test results.
    """
    rows, names = per_case[per_case.split == "test"], names_of(runs)
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
    if not table:
        raise InputError(
            "no run has test results",
            got=f"runs that are measured on validation patients alone: {', '.join(names)}",
            do="train a student, such as --method supervised",
        )
    return pd.DataFrame(table)


def sam_at_test_time(runs: pd.DataFrame, per_case: pd.DataFrame) -> pd.DataFrame:
    """One row per SAM-guided run: test Dice (%), mean over patients, of three ways to segment.

    student: alone, which is the result; sam: SAM as it is asked in joint training; refined: the
    student's map refined once by SAM. The last two with their mean difference from the first.
    """
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
    return pd.DataFrame(rows, columns=TEST_TIME_COLUMNS)


def headline(runs: pd.DataFrame) -> pd.DataFrame:
    """The main table's runs: every method, at its stage's length and at that of SAM-Match's whole
    chain; not the whole grid."""
    return runs[runs.variant.isin(VARIANT_ORDER) & ~is_stand_in(runs)].reset_index(drop=True)


def main_budget(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the number of labeled patients that most runs have; the smaller of two."""
    return runs[runs.n_labeled == _most_common(runs.n_labeled)].reset_index(drop=True)


def usual_sam(runs: pd.DataFrame) -> str:
    """The SAM that most runs have; "" where none has one."""
    return _most_common(runs.sam[runs.sam != ""])


def default_guided(
    runs: pd.DataFrame,
    match: str = "fixmatch",
    n_labeled: int = 3,
    seed: int = 0,
    sam: str = "lite_medsam",
) -> str:
    """run_id of SAM-Match as it is by default. Raises InputError where there is no such run."""
    wanted = {"method": GUIDED + match, "n_labeled": n_labeled, "seed": seed, "sam": sam}
    guided = runs[runs.run_id.isin(all_default_guided(runs))]
    found = guided[(guided[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    if found.empty:
        raise InputError(
            f"no SAM-guided run of {match}",
            expected=f"{sam}, {n_labeled} labeled, seed {seed}, no variant",
            got="none",
            do="run `make reproduce`",
        )
    return found.run_id.iloc[0]


def all_default_guided(runs: pd.DataFrame) -> list[str]:
    """SAM-Match as it is by default, of every match method, budget, seed and SAM that has it."""
    return list(runs.run_id[runs.method.str.startswith(GUIDED) & (runs.variant == "")])


def also_tested(runs: pd.DataFrame) -> list[str]:
    """The guided runs that are tested against every comparison method beside the default ones."""
    return list(runs.run_id[runs.method.str.startswith(GUIDED) & runs.variant.isin(ALSO_TESTED)])


def references(runs: pd.DataFrame, per_case: pd.DataFrame) -> list[str]:
    """The guided runs whose families are tested: those that have a run to be compared with."""
    guided = [*all_default_guided(runs), *also_tested(runs)]
    return [run for run in guided if compared_with(runs, per_case, run)]


def compared_with(runs: pd.DataFrame, per_case: pd.DataFrame, reference: str) -> list[str]:
    """The family of a guided run: every comparison method of its budget and seed.

    The same training without SAM is one of them, unless it is still its start on every case; other
    guided runs are not in the family.
    """
    mine = runs.set_index("run_id").loc[reference]
    control = CONTROLS.get(mine.variant, NO_SAM)
    same = runs[
        (runs.n_labeled == mine.n_labeled)
        & (runs.seed == mine.seed)
        & runs.variant.isin((*VARIANT_ORDER, control))
    ]
    family = same[is_comparison(same, control) & ~same.run_id.isin(unchanged(runs, per_case))]
    return list(in_reading_order(family).run_id)


def wilcoxon_table(
    runs: pd.DataFrame,
    per_case: pd.DataFrame,
    metric: str = "dice",
    unit: str = "patient",
    reference: str | None = None,
) -> pd.DataFrame:
    """One SAM-Match against its family (`compared_with`); columns as `stats.wilcoxon_family`, with
    names for run_ids."""
    reference, names = reference or all_default_guided(runs)[0], names_of(runs)
    others = compared_with(runs, per_case, reference)
    table = stats.wilcoxon_family(stats.paired_scores(per_case, metric, unit), reference, others)
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


def unchanged(runs: pd.DataFrame, per_case: pd.DataFrame) -> list[str]:
    """Controls without SAM whose further training changed no Dice of the test split.

    Such a one is the network that it started from: a second copy of a row that is there already.
    """
    test = per_case[per_case.split == "test"].set_index(["run_id", "case_id", "class"]).dice
    starts = runs[runs.variant == ""].set_index(["method", "n_labeled", "seed"]).run_id
    found = []
    for control in runs[runs.variant == NO_SAM].itertuples():
        start = (control.method.removeprefix(GUIDED), control.n_labeled, control.seed)
        if start in starts.index and test[control.run_id].equals(test[starts[start]]):
            found.append(control.run_id)
    return found


def is_comparison(runs: pd.DataFrame, control: str = NO_SAM) -> pd.Series:
    """Which runs a SAM-Match is compared with: methods without SAM, and the variant `control`."""
    guided = runs.method.str.startswith(GUIDED)
    return (runs.method != FINETUNE) & ~is_stand_in(runs) & (~guided | (runs.variant == control))


def is_stand_in(runs: pd.DataFrame) -> pd.Series:
    """Which runs are the match stage, of no iterations, of a SAM-Match that guides from the start:
    the supervised network once more."""
    return (runs.variant == FROM_START) & ~runs.method.str.startswith(GUIDED)


def ablation_grid(
    runs: pd.DataFrame,
    per_case: pd.DataFrame,
    match: str = "fixmatch",
    n_labeled: int = 3,
    seed: int = 0,
    sam: str = "lite_medsam",
) -> pd.DataFrame:
    """A row a cell of the grid: factor, level, status ("run" or "not run"), Dice (%).

    A cell that has not been run holds NaN, never zero. `difference` is the mean over test patients
    of the paired difference from the run `baseline`, the factor's first level, called `against`.
    """
    guided = runs[(runs.method == GUIDED + match) & runs.sam.isin(["", sam])]
    mine = guided[(guided.n_labeled == n_labeled) & (guided.seed == seed)].set_index("variant")
    scores = 100 * stats.unit_scores(per_case)
    rows = []
    first: dict[str, Level] = {}
    for cell in ABLATIONS:
        beside = first.setdefault(cell.factor, cell)
        row = {
            "factor": cell.factor,
            "level": cell.level,
            "default": cell.variant == "",
            "against": beside.level,
            "run_id": "",
            "baseline": mine.run_id.get(beside.variant, ""),
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
            if row["baseline"]:
                row["difference"] = (scores[run.run_id] - scores[row["baseline"]]).mean()
        rows.append(row)
    return pd.DataFrame(
        rows,
        columns=[
            "factor",
            "level",
            "default",
            "against",
            "run_id",
            "baseline",
            "status",
            "val_dice",
            "dice",
            "difference",
        ],
    )


def unit_name(dataset: str) -> str:
    """What a test unit of the set is: "picture" of a single slice, "test unit" where some pictures
    are near-duplicates of others and count as one, else "patient".

    Where most patients have several pictures, the patient is the unit.
    """
    cases = load_manifest(dataset).cases
    patients = {case.patient_id for case in cases}
    if any(case.n_slices > 1 for case in cases) or 2 * len(patients) <= len(cases):
        return "patient"
    return "picture" if len(patients) == len(cases) else "test unit"
