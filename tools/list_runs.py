"""Prints one line of arguments for `samatch train` a run.

usage: list_runs.py ablations|comparisons|seeds MATCH_METHOD
"""

import sys

from samatch.config.profiles import ABLATIONS, WHOLE_CHAIN
from samatch.config.settings import FINETUNE, GUIDED, SUPERVISED
from samatch.methods.base import method_names
from samatch.system.errors import InputError, known

SEEDS = (1, 2)  # beside seed 0 of `make reproduce`


def runs(kind: str, match: str) -> list[str]:
    """The grid of SAM-Match around `match`; every match method, trained as long as SAM-Match's
    student in both its stages; or SAM-Match and what it is compared with first, on other seeds.
    """
    known(kind, ("ablations", "comparisons", "seeds"), "list of runs")
    if kind == "seeds":
        words = (
            f"--method {match}",
            f"--method {GUIDED}{match}",
            f"--method {GUIDED}{match} --variant no_sam",
        )
        return [f"{line} --seed {seed}" for line in words for seed in SEEDS]
    if kind == "ablations":
        return [
            f"--method {GUIDED}{match} --variant {variant}"
            if variant
            else f"--method {GUIDED}{match}"
            for variant in dict.fromkeys(level.variant for level in ABLATIONS)
        ]
    return [
        f"--method {name} --variant {WHOLE_CHAIN}"
        for name in method_names()
        if name not in (SUPERVISED, FINETUNE) and not name.startswith(GUIDED)
    ]


if __name__ == "__main__":
    try:
        print("\n".join(runs(*sys.argv[1:3])))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
