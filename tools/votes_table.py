"""Two networks, or SAM? Both maps beside votes of students, and the errors that runs share."""

import pandas as pd
from cells import markdown, one, tested

from samatch.config.profiles import BOXES_FROM_START, FROM_START
from samatch.config.settings import FINETUNE
from samatch.results import seed_tables, tables
from samatch.results.across_sets import AT_ONCE_75, CONTROL, tracked
from samatch.results.records import read_table
from samatch.results.votes import SHARED, VOTES
from samatch.results.ways import BOTH, Way, by_way, sam_match
from samatch.system import paths

SHOWN = (CONTROL, AT_ONCE_75, sam_match(), sam_match(FROM_START), sam_match(BOXES_FROM_START))
# Votes without SAM, and what the column is called that sets both maps against them.
WITHOUT_SAM = {
    CONTROL: "the latter minus the vote of FixMatch at equal length",
    AT_ONCE_75: "minus that without ramp, kept from 0.75",
}


def votes(profile: str, dataset: str) -> str:
    """One row per student of SHOWN: alone, a vote of its seeds, and with SAM at test time; and the
    latter against votes without SAM."""
    runs, per_case = tracked(profile, dataset)
    scores = {way: 100 * table for way, table in by_way(runs, per_case).items()}
    voted = read_table(paths.TRACKED_RESULTS / profile / dataset / f"{VOTES}.csv")
    units = voted.groupby(["method", "variant", "patient_id"]).dice.mean()
    of_vote = {way: 100 * units[way.method, way.variant] for way in SHOWN}
    both = {way: scores.get(way._replace(who=BOTH), pd.DataFrame()).mean(axis=1) for way in SHOWN}
    return markdown(
        {
            "method": [way.title for way in SHOWN],
            "one student": one(pd.Series([scores[way].mean(axis=1).mean() for way in SHOWN])),
            "three students' vote": one(pd.Series([of_vote[way].mean() for way in SHOWN])),
            "one student and SAM": one(pd.Series([both[way].mean() for way in SHOWN])),
        }
        | {
            title: [
                tested((both[way] - of_vote[other]).dropna()) if len(both[way]) else ""
                for way in SHOWN
            ]
            for other, title in WITHOUT_SAM.items()
        }
    )


def shared_errors(profile: str, dataset: str) -> str:
    """Of the wrong pixels of the first of two runs, how many the second has wrong too: the mean
    over pairs of different seeds of one kind of run, of the same seed of two kinds."""
    runs = tracked(profile, dataset)[0]
    kinds = seed_tables.names_whatever_seed(tables.headline(tables.main_budget(runs)))
    seeds = runs.set_index("run_id").seed
    pairs = read_table(paths.TRACKED_RESULTS / profile / dataset / f"{SHARED}.csv")
    turned = pairs.rename(columns={"first": "second", "second": "first"})
    turned["first_wrong"] = pairs.second_wrong
    pairs = pd.concat([pairs, turned])
    of, beside = pairs["first"].map(kinds), pairs.second.map(kinds)
    same_seed = pairs["first"].map(seeds) == pairs.second.map(seeds)
    pairs = pairs.assign(of=of, beside=beside, share=100 * pairs.both_wrong / pairs.first_wrong)
    pairs = pairs[same_seed | (of == beside)]
    ways = (CONTROL, sam_match(FROM_START), Way(FINETUNE))
    wanted = [tables.label(way.method, way.variant) for way in ways]
    shares = pairs.groupby(["of", "beside"]).share.mean()
    return markdown(
        {"of the wrong pixels of": wanted}
        | {
            f"share with {name} (%)": one(shares.reindex([(row, name) for row in wanted]))
            for name in wanted
        }
    )
