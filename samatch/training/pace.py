"""How long runs will take on this machine: those of `make reproduce`, or of a list. Some steps of
each are tried.

    samatch time --profile laptop --dataset acdc
    samatch time --list FILE

Nothing is written but embeddings of a few slices, which the trainings then find ready.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from samatch.config.profiles import PROFILES
from samatch.config.settings import FINETUNE, GUIDED, RunConfig, make_config, parent_configs
from samatch.config.words import joint_config, reproduced, run_parser
from samatch.data.manifest import Manifest, load_manifest
from samatch.results import tables
from samatch.results.runs import Run
from samatch.sam.embeddings import cache_folder, encode, encoder_key, file_of
from samatch.system.devices import find_device
from samatch.system.errors import InputError, raise_all
from samatch.training.lists import named, numbered, read_list
from samatch.training.optimizers import make_optimizers
from samatch.training.task import (
    Task,
    check_names,
    fixed_encoder,
    new_sam,
    read_data,
    untrained,
    validate,
)
from samatch.training.train import take_step

# The first steps are slower. 24 is a multiple of sam.update_every in every profile.
FIRST, STEPS = 2, 24
ENOUGH_S = 60.0  # of trying one run; of many, a quarter
FEW = 12
SLICES = 24  # of each kind, or those of one patient where he has more


@dataclass(frozen=True)
class Pace:
    """Seconds of one step; of one slice in a validation; of one when the training has ended, by
    every way to segment."""

    step: float
    validation: float
    end: float


def few_of(manifest: Manifest, n_labeled: int) -> tuple[Manifest, int]:
    """The manifest of a few labeled, unlabeled and validation patients; how many are labeled."""

    def first(patients: tuple[str, ...]) -> tuple[str, ...]:
        kept: list[str] = []
        for patient in patients:
            if sum(case.n_slices for case in manifest.cases_of(kept)) < SLICES:
                kept.append(patient)
        return tuple(kept)

    train = manifest.patients("train")
    labeled, unlabeled = first(train[:n_labeled]), first(train[n_labeled:])
    split_of = dict.fromkeys(labeled + unlabeled, "train")
    split_of |= dict.fromkeys(first(manifest.patients("val")), "val")
    few = dataclasses.replace(manifest, labeled_order=labeled + unlabeled, split_of=split_of)
    return few, len(labeled)


def on_few_patients(config: RunConfig) -> Task:
    """A run's task with new weights, on the patients of `few_of`, without SAM's cached views."""
    manifest, few = few_of(load_manifest(config.dataset), config.n_labeled)
    sam = dataclasses.replace(config.sam, views=0)
    return untrained(dataclasses.replace(config, n_labeled=few, sam=sam), manifest)


def pace_of(config: RunConfig, enough: float = ENOUGH_S) -> Pace:
    """Tries a run, with new weights, on a few patients; `enough`: seconds after which no more
    steps are tried."""
    task = on_few_patients(config)
    slices = sum(len(volume.image) for volume in task.data.val)
    step = _step_seconds(task, enough)
    validation = _seconds(lambda: validate(task)) / slices
    ways = [task.segment, *([task.beside.segment] if task.beside else [])]
    end = _seconds(lambda: [way(volume) for way in ways for volume in task.data.val]) / slices
    return Pace(step, validation, end)


def _step_seconds(task: Task, enough: float) -> float:
    """Mean seconds of a step: of STEPS, or of those that `enough` seconds have room for."""
    optimizers = make_optimizers(task.method, task.config)
    generator = torch.Generator().manual_seed(task.config.seed)
    began, steps = time.monotonic(), 0
    for iteration in range(min(FIRST + STEPS, task.config.train.iterations)):
        if iteration == FIRST:
            began, steps = time.monotonic(), 0
        _, output = take_step(task, optimizers, generator, iteration)
        for loss in output.losses.values():
            loss.item()  # waits for the device
        steps += 1
        if time.monotonic() - began > enough:
            break
    return (time.monotonic() - began) / max(steps, 1)


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def expected_seconds(config: RunConfig, pace: Pace) -> float:
    """Of a whole run at this pace, without SAM's embeddings."""
    manifest, train = load_manifest(config.dataset), config.train
    val, test = (_slices(manifest, manifest.patients(split)) for split in ("val", "test"))
    validations = 1 + -(-train.iterations // train.val_every)
    return (
        train.iterations * pace.step + validations * val * pace.validation + (val + test) * pace.end
    )


def _slices(manifest: Manifest, patients: tuple[str, ...]) -> int:
    return sum(case.n_slices for case in manifest.cases_of(patients))


def embedding_seconds(config: RunConfig) -> tuple[int, float]:
    """How many slices SAM's fixed encoder has still to encode for a joint run, augmented views of
    the labeled ones among them, and the seconds that this takes."""
    manifest = load_manifest(config.dataset)
    few, n_few = few_of(manifest, config.n_labeled)
    data = read_data(
        dataclasses.replace(config, n_labeled=n_few, method=FINETUNE), few, find_device()
    )
    sam = new_sam(config, few.num_classes, data.device)
    folder = cache_folder(manifest.folder, config.sam_name) / encoder_key(sam, data.bf16)
    missing = [c for c in manifest.cases if not file_of(folder, c.image_sha256).exists()]
    if not missing:
        return 0, 0.0
    labeled = _slices(manifest, manifest.labeled_patients(config.n_labeled))
    count = sum(case.n_slices for case in missing) + labeled * config.sam.views
    image = data.labeled[0].image[:SLICES]
    seconds = _seconds(lambda: encode(sam, image, data.bf16, data.device))
    return count, count * seconds / len(image)


def runs_of(joint: RunConfig) -> list[RunConfig]:
    """The runs of `make reproduce` for this joint training, but for their parents."""
    named = [(joint.method, ""), *reproduced(joint.method.removeprefix(GUIDED))]
    return [
        make_config(
            joint.profile,
            joint.dataset,
            joint.n_labeled,
            method,
            joint.sam_name,
            joint.seed,
            variant,
        )
        for method, variant in named
    ]


def runs_left(wanted: list[RunConfig]) -> list[RunConfig]:
    """The wanted runs and their parents that are not complete, in order of training."""
    found: dict[str, RunConfig] = {}

    def add(config: RunConfig) -> None:
        for parent in parent_configs(config):
            add(parent)
        if not Run(config).complete:
            found[f"{config.profile} {config.run_id}"] = config

    for config in wanted:
        add(config)
    return list(found.values())


def shorter(profile: str) -> str:
    """The profile before this one, "" before the first."""
    names = list(PROFILES)
    return names[names.index(profile) - 1] if profile != names[0] else ""


def runs_of_list(lines: Iterable[str], joint: RunConfig) -> list[RunConfig]:
    """The runs that lines of arguments for `samatch train` name; what a line leaves out is as in
    `joint`. Raises InputError with all lines that name none."""
    common = [
        f"--profile={joint.profile}",
        f"--dataset={joint.dataset}",
        f"--n-labeled={joint.n_labeled}",
        f"--sam={joint.sam_name}",
        f"--seed={joint.seed}",
    ]
    runs, faults = [], []
    for number, line in numbered(lines):
        try:
            runs.append(named(line, common)[1])
        except InputError as error:
            faults.append(f"line {number}: {error.brief}")
    raise_all("the list of runs", faults, "samatch train --help says what a line may hold")
    return runs


def but_for_seeds(runs: list[RunConfig]) -> list[list[RunConfig]]:
    """The runs in groups that differ in the seed alone, in order of their first."""
    groups: dict[RunConfig, list[RunConfig]] = {}
    for config in runs:
        groups.setdefault(dataclasses.replace(config, seed=0, parents=()), []).append(config)
    return list(groups.values())


def lines_of(wanted: list[RunConfig]) -> Iterator[str]:
    """What `samatch time` prints of runs and their parents, line by line as it is measured.

    Runs that differ in their seed alone are tried once, and are one line."""
    left = runs_left(wanted)
    if not left:
        yield "every training of these has ended already"
        return
    total, alike = 0.0, but_for_seeds(left)
    several = len({config.dataset for config in left}) > 1
    enough = ENOUGH_S if len(alike) <= FEW else ENOUGH_S / 4
    for runs in alike:
        config = runs[0]
        seconds = len(runs) * expected_seconds(config, pace_of(config, enough))
        total += seconds
        if config.train.iterations:
            times = f", {len(runs)} seeds" if len(runs) > 1 else ""
            name = tables.label(config.method, config.variant) + times
            yield f"{duration(seconds):>12}  {name}{', ' + config.dataset if several else ''}"
    with_sam = [config for config in left if config.sam_name and fixed_encoder(config)]
    for config in {(c.profile, c.dataset, c.sam_name): c for c in with_sam}.values():
        count, seconds = embedding_seconds(config)
        total += seconds
        if count:
            slices = f"{count} slices of {config.dataset}"
            yield f"{duration(seconds):>12}  SAM's embeddings of {slices}, once for all runs"
    yield f"{duration(total):>12}  in all, one after the other"


def duration(seconds: float) -> str:
    """Minutes or hours, as an estimate is told."""
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} hours"


def main(words: list[str] | None = None) -> None:
    """`samatch time`: how long the runs of `make reproduce`, or of a list, that are left will take
    here."""
    parser = run_parser(
        "samatch time",
        "How long the trainings of make reproduce, or of a list, take on this machine.",
        "fixmatch",
        "the match method that SAM guides",
    )
    parser.add_argument(
        "--list",
        metavar="FILE",
        help="lines of arguments for samatch train instead; - is the standard input",
    )
    args = parser.parse_args(words)
    joint = joint_config(args)
    check_names(joint)
    wanted = runs_of_list(read_list(args.list), joint) if args.list else runs_of(joint)
    print("expected on this machine, from some steps of each training:", flush=True)
    for line in lines_of(wanted):
        print(line, flush=True)
    if not args.list and (less := shorter(joint.profile)):
        print(f"shorter: make reproduce PROFILE={less} DATASET={joint.dataset}", flush=True)
