"""Prints one line of arguments for `samatch train` a run.

usage: list_runs.py reproduce|ablations|comparisons|seeds MATCH_METHOD
"""

import sys

from samatch.config.profiles import ABLATIONS, ALL_STAGES, WHOLE_CHAIN
from samatch.config.settings import FINETUNE, GUIDED, SUPERVISED
from samatch.config.words import reproduced
from samatch.methods.base import fits, method_names
from samatch.system.errors import InputError, known

SEEDS = (1, 2)  # beside seed 0 of `make reproduce`
KINDS = ("reproduce", "ablations", "comparisons", "seeds")


def runs(kind: str, match: str) -> list[str]:
    """What `make reproduce` trains beside SAM-Match around `match`; the grid of SAM-Match; every
    method without SAM, trained as long as SAM-Match's student in all its stages; or SAM-Match and
    what it is compared with first, on other seeds.
    """
    known(kind, KINDS, "list of runs")
    beside = [line_of(*run) for run in reproduced(match)]
    if kind == "reproduce":
        return beside
    if kind == "seeds":
        lines = (line_of(match), line_of(GUIDED + match), *beside)
        return [f"{line} --seed {seed}" for line in lines for seed in SEEDS]
    if kind == "ablations":
        variants = dict.fromkeys(level.variant for level in ABLATIONS)
        guided = GUIDED + match
        return [line_of(guided, variant) for variant in variants if fits(guided, variant)]
    return [
        line_of(name, ALL_STAGES if name == SUPERVISED else WHOLE_CHAIN)
        for name in method_names()
        if name != FINETUNE and not name.startswith(GUIDED)
    ]


def line_of(method: str, variant: str = "") -> str:
    """The arguments of one run."""
    return f"--method {method}" + (f" --variant {variant}" if variant else "")


if __name__ == "__main__":
    try:
        print("\n".join(runs(*sys.argv[1:3])))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
