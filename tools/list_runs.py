"""Prints one line of arguments for `python -m samatch.train` a run: usage: list_runs.py ablations|comparisons MATCH_METHOD"""

import sys

from samatch.config import FINETUNE, GUIDED, SUPERVISED
from samatch.errors import InputError, known
from samatch.methods import method_names
from samatch.profiles import ABLATIONS


def runs(kind: str, match: str) -> list[str]:
    """The grid of SAM-Match around `match`, or every comparison method that does not use SAM."""
    known(kind, ("ablations", "comparisons"), "list of runs")
    if kind == "ablations":
        return [f"--method {GUIDED}{match} --variant {variant}" if variant else f"--method {GUIDED}{match}"
                for variant in dict.fromkeys(level.variant for level in ABLATIONS)]
    return [f"--method {name}" for name in method_names() if name not in (SUPERVISED, FINETUNE, match) and not name.startswith(GUIDED)]


if __name__ == "__main__":
    try:
        print("\n".join(runs(*sys.argv[1:3])))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
