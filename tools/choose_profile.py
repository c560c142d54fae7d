"""Prints '<profile> <data set>' for `make reproduce`; says on stderr which and why.

What is misspelt is refused here, before anything is trained.

usage: choose_profile.py PROFILE DATASET [METHOD SAM N]    (each may be empty)
"""

import sys

import torch

from samatch.config.settings import GUIDED, PROFILES
from samatch.data.manifest import load_manifest, manifest_folders
from samatch.data.prepared import prepared_file
from samatch.data.volumes import data_folder, load_case
from samatch.methods.base import method_class, method_names
from samatch.sam.model import sam_names
from samatch.system.errors import InputError, known

PHANTOM, FIRST = "phantom", "acdc"


def choose(profile: str, dataset: str, has_gpu: bool, has_data: bool) -> tuple[str, str, str]:
    """(profile, data set, why). has_data: whether the set that is asked for, ACDC where none is,
    lies on this machine."""
    name = dataset or FIRST
    if profile:
        known(profile, PROFILES, "profile")
        why = "asked for"
    elif dataset == PHANTOM:
        profile, why = "demo", f"{PHANTOM} asked for"
    elif has_gpu and has_data:
        profile, why = "paper", f"a GPU and {name} are here"
    elif dataset:
        profile, why = (
            "laptop",
            f"{dataset} asked for, " + ("its data is not here yet" if has_gpu else "no GPU here"),
        )
    else:
        profile, why = "demo", f"no {FIRST} here" if has_gpu else "no GPU here"
    dataset = dataset or (PHANTOM if profile == "demo" else FIRST)
    return profile, known(dataset, manifest_folders(), "data set"), why


def is_here(dataset: str) -> bool:
    """Whether the set was prepared, or its first case can be read from its files."""
    manifest = load_manifest(dataset)
    if prepared_file(manifest).exists():
        return True
    try:
        load_case(manifest, manifest.cases[0], data_folder(manifest.folder))
    except InputError:
        return False
    return True


def check_names(method: str, sam: str) -> None:
    """Raises InputError on a METHOD that is no match method with a SAM-guided twin, and on an
    unknown SAM."""
    if method and not _is_match(method):  # only then are all methods imported
        names = method_names()
        known(method, [name for name in names if GUIDED + name in names], "match method (METHOD)")
    if sam:
        known(sam, sam_names(), "SAM")


def check_budget(dataset: str, budget: str) -> None:
    """Raises InputError on a label budget (N) that the set does not have."""
    if not budget.isdecimal():
        raise InputError("N is no whole number", got=repr(budget), do="for example N=3")
    load_manifest(dataset).labeled_patients(int(budget))


def _is_match(method: str) -> bool:
    try:
        return not method.startswith(GUIDED) and method_class(method).proposes
    except InputError:
        return False


def main() -> None:
    """Prints the choice on stdout, its reason on stderr; ends with exit status 1 on bad input."""
    profile, dataset, method, sam, budget = (sys.argv[1:] + [""] * 5)[:5]
    try:
        check_names(method, sam)
        if dataset:
            known(dataset, manifest_folders(), "data set")
        profile, dataset, why = choose(
            profile, dataset, torch.cuda.is_available(), is_here(dataset or FIRST)
        )
        if budget:
            check_budget(dataset, budget)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    print(
        f"profile {profile} on {dataset} ({why}); choose another with make reproduce "
        f"PROFILE={'|'.join(PROFILES)} "
        f"DATASET={'|'.join(sorted(manifest_folders()))} DATA=DIR",
        file=sys.stderr,
    )
    print(profile, dataset)


if __name__ == "__main__":
    main()
