"""Fills the tables of README.md and docs/*.md, between two markers, from the tracked results.

    <!-- table summary laptop/acdc -->  ...  <!-- end of table -->

usage: write_pages.py [--check]    (--check writes nothing and fails where a page is stale)
"""

import re
import sys
from pathlib import Path

import pandas as pd

from samatch.results import tables
from samatch.results.records import read_results, read_table
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
    """Each run of the main table: Dice on validation and test, by class, and distances."""
    runs, per_case = read_results(profile, dataset, paths.TRACKED_RESULTS / profile / dataset)
    table = tables.summary(tables.headline(runs), per_case)
    classes = [name for name in table if name.startswith("dice_") and name != "dice_sd"]
    columns = {
        "method": table.method,
        "validation Dice %": one(table.val_dice),
        "test Dice %": [
            f"{mean:.1f} ± {sd:.1f}" for mean, sd in zip(table.dice, table.dice_sd, strict=True)
        ],
    }
    if len(classes) > 1:
        columns |= {name.removeprefix("dice_"): one(table[name]) for name in classes}
    columns[f"HD95 ({table.unit.iloc[0]})"] = [
        with_undefined(*row) for row in zip(table.hd95, table.undefined, strict=True)
    ]
    if "hd95_mm" in table:
        columns["HD95 (mm)"] = one(table.hd95_mm)
    return markdown(columns)


def wilcoxon(profile: str, dataset: str) -> str:
    """SAM-Match against each comparison method, per patient: median difference, interval and p."""
    table = read_table(paths.TRACKED_RESULTS / profile / dataset / "wilcoxon.csv")
    table = table[(table.metric == "dice") & (table.unit == "patient")]
    points = 100 * table[["median_difference", "ci_low", "ci_high"]]
    return markdown(
        {
            "SAM-Match": table.reference,
            "against": table.comparison,
            "n": table.n,
            "median difference (points)": [
                f"{m:+.1f} ({low:+.1f} to {high:+.1f})" for m, low, high in points.to_numpy()
            ],
            "p": probability(table.p),
            "Bonferroni": probability(table.p_bonferroni),
        }
    )


SETS = {"acdc": "ACDC", "chaos": "CHAOS liver", "busi": "BUSI"}
ANSWER = {
    "supervised": "Supervised",
    "fixmatch": "FixMatch",
    "no_sam": "FixMatch, continued",
    "finetune": "SAM alone",
    "guided": "SAM-Match",
    "refined": "SAM-Match, SAM at test time",
}


def answer(profile: str, _: str) -> str:
    """One row per set: test Dice of the default methods, SAM-Match against training without SAM."""
    rows = [
        answer_row(profile, name)
        for name in SETS
        if (paths.TRACKED_RESULTS / profile / name / "runs.csv").exists()
    ]
    return markdown({name: [row[name] for row in rows] for name in rows[0]})


def answer_row(profile: str, dataset: str) -> dict[str, str]:
    """Column -> cell of the answer's row of one set."""
    runs, per_case = read_results(profile, dataset, paths.TRACKED_RESULTS / profile / dataset)
    runs = runs[runs.seed == runs.seed.min()]
    table = tables.summary(runs, per_case).set_index("run_id")
    at_test = tables.sam_at_test_time(runs, per_case).set_index("run_id")
    guided = tables.chosen_guided(
        runs, "fixmatch", int(runs.n_labeled.mode()[0]), int(runs.seed.min())
    )
    found = {run.method: run.run_id for run in runs[runs.variant == ""].itertuples()}
    found |= {
        "guided": guided,
        "no_sam": next(iter(runs[runs.variant == tables.NO_SAM].run_id), ""),
    }
    row = {
        "set": SETS[dataset],
        "labeled": str(runs.n_labeled.mode()[0]),
        "test units": str(table.n.max()),
    }
    row |= {
        title: f"{table.dice[found[name]]:.1f}" if found.get(name) in table.index else ""
        for name, title in ANSWER.items()
    }
    row[ANSWER["refined"]] = f"{at_test.refined[guided]:.1f}" if guided in at_test.index else ""
    if found["no_sam"]:
        difference = tables.stats.unit_scores(per_case)
        test = tables.stats.paired_test(
            (difference[guided] - difference[found["no_sam"]]).to_numpy()
        )
        low, median, high = (100 * test[key] for key in ("ci_low", "median_difference", "ci_high"))
        p = probability(pd.Series([test["p"]]))[0]
        row["SAM-Match against continued"] = f"{median:+.1f} ({low:+.1f} to {high:+.1f}), p {p}"
    return row


def test_time(profile: str, dataset: str) -> str:
    """SAM at test time beside the student alone."""
    table = tables.sam_at_test_time(
        *read_results(profile, dataset, paths.TRACKED_RESULTS / profile / dataset)
    )
    return markdown(
        {
            "run": table.method,
            "student alone": one(table.student),
            "SAM": one(table.sam),
            "both together": one(table.refined),
            "gain over the student": [f"{d:+.1f}" for d in table.refined_difference],
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
    "answer": answer,
    "summary": summary,
    "wilcoxon": wilcoxon,
    "test_time": test_time,
    "trials": trials,
}


def one(values: pd.Series) -> list[str]:
    """Numbers with one decimal; "" for NaN."""
    return ["" if pd.isna(value) else f"{value:.1f}" for value in values]


def probability(values: pd.Series) -> list[str]:
    """p with four decimals; never 0."""
    return ["< 0.0001" if value < 0.0001 else f"{value:.4f}" for value in values]


def with_undefined(distance: float, undefined: int) -> str:
    """A mean distance, and how many cases have none."""
    return f"{distance:.1f}" + (f" ({undefined} undefined)" if undefined else "")


def markdown(columns: dict) -> str:
    """A Markdown table of title -> cells, all of one length."""
    names = list(columns)
    rows = zip(*(columns[name] for name in names), strict=True)
    return "\n".join(
        [
            f"| {' | '.join(names)} |",
            "|---" * len(names) + "|",
            *(f"| {' | '.join(map(str, row))} |" for row in rows),
        ]
    )


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
