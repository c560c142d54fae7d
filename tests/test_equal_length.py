"""Comparison methods at equal length, by hand: what is shown, what it costs, how it is tested."""

import pandas as pd
import pytest

from samatch.config.profiles import WHOLE_CHAIN
from samatch.results import tables
from samatch.results.equal_length import at_equal_length
from tests.made import records

REFERENCE = "acdc-n3-samatch-fixmatch-lite_medsam-s0"


@pytest.fixture
def made():
    """The records made by hand, each run a minute long, and FixMatch once more, at equal length:
    seven minutes and 0.02 better on every case."""
    runs, cases = records()
    short = runs[runs.run_id == "acdc-n3-fixmatch-s0"]
    name = f"acdc-n3-fixmatch-s0-{WHOLE_CHAIN}"
    longer = short.assign(run_id=name, variant=WHOLE_CHAIN, seconds=420.0)
    mine = cases[cases.run_id == "acdc-n3-fixmatch-s0"]
    return (
        pd.concat([runs.assign(seconds=60.0), longer], ignore_index=True),
        pd.concat([cases, mine.assign(run_id=name, dice=mine.dice + 0.02)], ignore_index=True),
    )


def test_the_chain_its_control_and_what_is_as_long_are_shown(made):
    table = at_equal_length("laptop", *made, REFERENCE)
    assert set(table.method) == {"SAM-Match (FixMatch)", "FixMatch, continued", "FixMatch"}
    assert list(table.dice) == sorted(table.dice, reverse=True)


def test_minutes_are_those_of_the_whole_chain(made):
    minutes = at_equal_length("laptop", *made, REFERENCE).set_index("method").minutes
    assert minutes["FixMatch"] == 1 + 7  # supervised, FixMatch
    assert minutes["FixMatch, continued"] == 3  # supervised, FixMatch, joint stage without SAM
    assert minutes["SAM-Match (FixMatch)"] == 4  # and SAM's fine-tuning


def test_minutes_of_a_chain_with_a_run_off_record_are_not_known(made):
    runs, cases = made
    found = at_equal_length("laptop", runs[runs.method != "supervised"], cases, REFERENCE)
    assert found.minutes.isna().all()


def test_the_test_is_that_of_the_whole_family(made):
    runs, cases = made
    table = at_equal_length("laptop", runs, cases, REFERENCE).set_index("run_id")
    family = tables.wilcoxon_table(runs, cases, reference=REFERENCE)
    mine = family[family.comparison == "FixMatch, at equal length"].iloc[0]
    own = table.loc[f"acdc-n3-fixmatch-s0-{WHOLE_CHAIN}"]
    assert own.p_bonferroni == mine.p_bonferroni == min(1, mine.p * len(family))
    assert own.median_difference == mine.median_difference
    assert pd.isna(table.p_bonferroni[REFERENCE])
