"""The words of a command line that name a run: one meaning in every command that takes them."""

import argparse
from pathlib import Path

from samatch.config.profiles import CONTROLS, PROFILES, REPRODUCED
from samatch.config.settings import GUIDED, SUPERVISED, RunConfig, make_config


def run_parser(
    prog: str, description: str, method: str, help: str | None = None
) -> argparse.ArgumentParser:
    """A parser with --profile, --dataset, --n-labeled, --method, --sam and --seed.

    method: its default.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--profile", default="demo", help=", ".join(PROFILES))
    parser.add_argument("--dataset", default="phantom")
    parser.add_argument("--n-labeled", type=int, default=3, help="labeled patients")
    parser.add_argument("--method", default=method, help=help)
    parser.add_argument("--sam", default="lite_medsam")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def joint_run_parser(prog: str, description: str, table: str) -> argparse.ArgumentParser:
    """As `run_parser`, of a command that draws a joint run and writes `table` with --into."""
    parser = run_parser(prog, description, "fixmatch", "the match method that SAM guides")
    parser.add_argument(
        "--into",
        type=Path,
        help=f"folder for {table} (results/<profile>/<set> renews the tracked one)",
    )
    return parser


def joint_config(args: argparse.Namespace) -> RunConfig:
    """The default joint training around --method, which may be named with or without its SAM."""
    method = GUIDED + args.method.removeprefix(GUIDED)
    return make_config(args.profile, args.dataset, args.n_labeled, method, args.sam, args.seed)


def reproduced(match: str) -> list[tuple[str, str]]:
    """Method and variant of what `make reproduce` trains beside the stages of SAM-Match."""
    method_of = {"warm_up": SUPERVISED, "match": match, "joint": GUIDED + match}
    of_all = [(method_of[stage], variant) for stage, variant in REPRODUCED]
    return of_all + [(match, variant) for variant in CONTROLS.get(match, ())]
