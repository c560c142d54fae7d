"""Dice against the number of labeled patients, by hand."""

import matplotlib
import pandas as pd
import pytest

from samatch.config.settings import run_id
from samatch.results import budgets, tables

PATIENTS = ("p0", "p1")


def row(method, n_labeled, seed, variant=""):
    sam = "lite_medsam" if method.startswith("samatch") and not variant else ""
    name = run_id("acdc", n_labeled, method, sam, seed, variant)
    return {
        "run_id": name,
        "method": method,
        "sam": sam,
        "variant": variant,
        "n_labeled": n_labeled,
        "seed": seed,
        "val_dice": 0.5,
    }


def made(scores):
    """(runs, per_case) of {(method, n_labeled, seed): (Dice of p0, Dice of p1)}."""
    runs = pd.DataFrame([row(*key) for key in scores])
    cases = [
        {"run_id": run, "split": "test", "patient_id": patient, "case_id": patient, "dice": dice}
        for run, values in zip(runs.run_id, scores.values(), strict=True)
        for patient, dice in zip(PATIENTS, values, strict=True)
    ]
    return runs, pd.DataFrame(cases).assign(**{"class": "LV"})


@pytest.fixture
def records():
    return made(
        {
            ("samatch-fixmatch", 3, 0): (0.8, 0.8),
            ("samatch-fixmatch", 1, 0): (0.5, 0.7),
            ("supervised", 1, 0): (0.1, 0.3),
            ("supervised", 3, 0): (0.4, 0.6),
            ("supervised", 3, 1): (0.6, 0.8),
            ("fixmatch", 3, 0): (0.7, 0.7),  # one budget: no line
            ("fixmatch", 3, 0, "whole_chain"): (0.7, 0.9),  # one budget: a point beside the lines
            ("samatch-fixmatch", 1, 0, "margin0"): (0.0, 0.0),  # of the grid
            ("samatch-fixmatch", 3, 0, "margin0"): (0.0, 0.0),
        }
    )


def test_by_hand(records):
    table = budgets.by_budget(*records)
    assert list(zip(table.method, table.n_labeled, strict=True)) == [
        ("Supervised", 1),
        ("Supervised", 3),
        ("FixMatch, at equal length", 3),
        ("SAM-Match (FixMatch)", 1),
        ("SAM-Match (FixMatch)", 3),
    ]
    assert table.dice.tolist() == pytest.approx([20, 60, 80, 60, 80])
    assert table.seeds.tolist() == [1, 2, 1, 1, 1] and set(table.n) == {2}
    # Of two patients a resample's mean is either patient or their mean; equal ones leave a point.
    assert table.low.tolist() == pytest.approx([10, 50, 70, 50, 80])
    assert table.high.tolist() == pytest.approx([30, 70, 90, 70, 80])
    drawn = budgets.with_several(*records)
    assert len(drawn) == table.seeds.sum() == 6
    assert set(drawn.method) == set(table.method) and set(drawn.variant) == {"", "whole_chain"}


def test_one_budget_has_no_table(records):
    runs, per_case = records
    only = runs[runs.n_labeled == 3]
    assert budgets.by_budget(only, per_case).empty


def test_the_figure_has_a_line_per_method_and_every_budget(records):
    figure = budgets.figure(budgets.by_budget(*records), "acdc", "patient")
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "3"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "Supervised",
        "FixMatch, at equal length",
        "SAM-Match (FixMatch)",
    ]
    low, high = axis.get_ylim()
    assert low < 10 and high > 80
    matplotlib.pyplot.close(figure)


def test_the_main_budget_is_the_one_of_most_runs(records):
    runs, _ = records
    assert set(tables.main_budget(runs).n_labeled) == {3}
