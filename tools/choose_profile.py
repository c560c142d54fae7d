"""Prints '<profile> <data set>' for `make reproduce`; says on stderr which and why.

usage: choose_profile.py PROFILE DATASET    (either may be empty)
"""

import sys

import torch

from samatch.config import PROFILES
from samatch.datasets import data_folder
from samatch.errors import InputError, known
from samatch.manifest import manifest_folders


def choose(profile: str, dataset: str, has_gpu: bool, has_data: bool) -> tuple[str, str, str]:
    """(profile, data set, why)."""
    if profile:
        known(profile, PROFILES, "profile")
        why = "asked for"
    elif has_gpu and has_data:
        profile, why = "paper", "a GPU and ACDC are here"
    elif dataset and dataset != "phantom":
        profile, why = "laptop", f"{dataset} asked for, no GPU here" if not has_gpu else f"{dataset} asked for"
    else:
        profile, why = "demo", "no ACDC here" if has_gpu else "no GPU here"
    dataset = dataset or ("phantom" if profile == "demo" else "acdc")
    return profile, known(dataset, manifest_folders(), "data set"), why


def main() -> None:
    folder = data_folder("acdc")
    has_data = any(folder.glob("patient001*"))
    try:
        profile, dataset, why = choose(sys.argv[1], sys.argv[2], torch.cuda.is_available(), has_data)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"profile {profile} on {dataset} ({why}); choose another with make reproduce PROFILE={'|'.join(PROFILES)} DATASET={'|'.join(manifest_folders())} DATA=DIR",
          file=sys.stderr)
    print(profile, dataset)


if __name__ == "__main__":
    main()
