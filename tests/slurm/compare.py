"""Compares the tables and weights of two folders of runs bit by bit: compare.py ONE OTHER"""

import sys
from pathlib import Path

import torch

TABLES = ("per_case.csv", "train_log.csv")


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's checkpoint, by network and name."""
    networks = torch.load(run / "checkpoint.pt", weights_only=True)
    return {
        f"{network}.{name}": value
        for network, state in networks.items()
        for name, value in state.items()
    }


def equal(one: Path, other: Path) -> bool:
    """Whether two runs have the same rows and the same bits."""
    ours, theirs = weights(one), weights(other)
    return (
        all((one / name).read_bytes() == (other / name).read_bytes() for name in TABLES)
        and ours.keys() == theirs.keys()
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
    )


def main(one: Path, other: Path) -> None:
    """Ends with status 1 where a run is missing on one side or differs."""
    names = [sorted(path.parent.name for path in side.glob("*/run.json")) for side in (one, other)]
    if names[0] != names[1] or not names[0]:
        raise SystemExit(f"error: other runs: {names[0]} and {names[1]}")
    differing = [name for name in names[0] if not equal(one / name, other / name)]
    if differing:
        raise SystemExit(f"error: not equal: {', '.join(differing)}")
    print(f"{len(names[0])} runs: tables and weights equal those of the serial run bit by bit")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
