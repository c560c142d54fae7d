"""Drawing splits: patients, never slices; strata spread evenly; label budgets nested by
construction."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from samatch.data.manifest import SPLITS, UNUSED
from samatch.system.errors import InputError


def draw(
    stratum_of: Mapping[str, str],
    fractions: Sequence[float],
    seed: int,
    *,
    unused: Sequence[str] = (),
    last: frozenset[str] = frozenset(),
    only_train: frozenset[str] = frozenset(),
) -> dict[str, list[str]]:
    """Split -> patients, train in the order in which they become labeled.

    stratum_of: patient -> stratum; each is shuffled with its own seed and cut by `fractions` of
    train, val, test. Patients of `unused` strata take no part; those of `last` come after the
    others in the labeled order, and those of `only_train` (no label) after all. Raises InputError
    where a split would stay empty, and on a negative seed."""
    if seed < 0:
        raise InputError("impossible seed", expected="0 or more", got=seed, do="choose another")
    splits: dict[str, list[str]] = {name: [] for name in (*SPLITS, UNUSED)}
    rank: dict[str, float] = {}
    for stratum in sorted(set(stratum_of.values())):
        patients = sorted(p for p, s in stratum_of.items() if s == stratum and p not in only_train)
        order = np.random.default_rng([seed, zlib.crc32(stratum.encode())]).permutation(
            len(patients)
        )
        patients = [patients[i] for i in order]
        if stratum in unused:
            splits[UNUSED] += patients
            continue
        start = 0
        for name, count in zip(SPLITS, sizes(len(patients), fractions), strict=True):
            splits[name] += patients[start : start + count]
            start += count
        early = [p for p in splits["train"] if stratum_of[p] == stratum and p not in last]
        rank |= {p: (n + 0.5) / len(early) for n, p in enumerate(early)}
    splits["train"].sort(key=lambda p: (p in last, rank.get(p, 1.0)))
    splits["train"] += sorted(only_train)
    empty = [name for name in SPLITS if not splits[name]]
    if empty:
        raise InputError(
            "too few patients for the splits",
            expected="a patient in each of train, val and test",
            got=f"none in {', '.join(empty)}",
            do="bring more labeled patients, or give other fractions",
        )
    return splits


def folds(first: Mapping[str, Sequence[str]], count: int, seed: int) -> list[dict[str, list[str]]]:
    """Splits for cross-validation, `count` of them: every patient is tested exactly once.

    The first are `first` (split -> patients) as they are. The patients that it does not test are
    shared out over the other folds' test splits; what is left of a fold is shuffled anew and gives
    as many validation patients as `first` has, and the training patients in labeled order. Raises
    InputError where a fold would test nobody."""
    others, n_val = sorted([*first["train"], *first["val"]]), len(first["val"])
    if not 2 <= count <= len(others) + 1:
        raise InputError(
            "impossible number of folds",
            expected=f"2 to {len(others) + 1}",
            got=count,
            do="choose another",
        )
    found = [{name: list(first[name]) for name in SPLITS}]
    shuffled = np.random.default_rng([seed, 1]).permutation(others).tolist()
    for number, test in enumerate(np.array_split(shuffled, count - 1), 2):
        rest = sorted({*first["test"], *others} - {*test.tolist()})
        rest = np.random.default_rng([seed, number]).permutation(rest).tolist()
        found.append({"train": rest[n_val:], "val": rest[:n_val], "test": test.tolist()})
    return found


def sizes(count: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `count`, by largest remainder; a split gets at least one patient
    while there are enough."""
    share = np.array(fractions) / sum(fractions) * count
    found = np.floor(share).astype(int)
    for index in np.argsort(-(share - found), kind="stable")[: count - found.sum()]:
        found[index] += 1
    for index in np.flatnonzero((found == 0) & (np.array(fractions) > 0)):
        if found.max() > 1:
            found[found.argmax()] -= 1
            found[index] += 1
    return found.tolist()


def budgets(n_train: int) -> list[int]:
    """Usual label budgets that a training split of this size allows, itself the last."""
    return [n for n in (1, 3, 7, 14, 30, 70) if n < n_train] + [n_train]
