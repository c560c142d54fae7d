"""Ways to segment the test units, and how two of them are set side by side."""

from typing import NamedTuple

import pandas as pd

from samatch.config.settings import GUIDED
from samatch.results import stats, tables

STUDENT, SAM, BOTH = "test", "test_sam", "test_refined"  # as `split` of per_case.csv names them
WHO = {STUDENT: "", SAM: ": SAM's map at test time", BOTH: ": both maps at test time"}
FIXMATCH = "fixmatch"


class Way(NamedTuple):
    """A method and variant, and who segments: the run's own network, SAM, or both maps together;
    sam: the SAM where it is not the set's usual one."""

    method: str
    variant: str = ""
    who: str = STUDENT
    sam: str = ""

    @property
    def title(self) -> str:
        """The way in a reader's words."""
        name = tables.label(self.method, self.variant)
        return name + (f", {self.sam}" if self.sam else "") + WHO[self.who]


def sam_match(variant: str = "", who: str = STUDENT, sam: str = "") -> Way:
    """A way of SAM-Match around FixMatch."""
    return Way(GUIDED + FIXMATCH, variant, who, sam)


def by_way(runs: pd.DataFrame, per_case: pd.DataFrame) -> dict[Way, pd.DataFrame]:
    """Of each way of the main budget that was tested, a table unit x seed of the mean Dice. Of the
    records of several folds, each unit has the Dice of the fold that tests it."""
    runs = tables.main_budget(runs)
    other_sam = runs.sam.where(runs.sam != tables.usual_sam(runs), "")
    found: dict[Way, dict[int, pd.Series]] = {}
    for who in WHO:
        scores = stats.paired_scores(per_case[per_case.split == who].assign(split="test"))
        tested = runs[runs.run_id.isin(scores.columns)]
        keys = ["method", "variant", other_sam, "seed"]
        for (method, variant, sam, seed), same in tested.groupby(keys):
            of_way = found.setdefault(Way(method, variant, who, sam), {})
            of_way[seed] = scores[list(same.run_id)].mean(axis=1)
    return {way: pd.DataFrame(of_way) for way, of_way in found.items()}


def paired(first: pd.DataFrame, second: pd.DataFrame) -> tuple[list[int], pd.Series]:
    """Of two tables unit x seed: the seeds that both have, and the difference of each unit that
    both have, of its means over these seeds, to the decimals that tests take."""
    seeds = sorted(set(first) & set(second))
    mine, other = (scores[seeds].mean(axis=1, skipna=False) for scores in (first, second))
    return seeds, (mine - other).dropna().round(stats.DECIMALS)
