"""The method on real slices, by finished runs: what student and SAM say of unlabeled slices
at the start and at the end of joint training, for the figure of `samatch.results.strips`.

    samatch strip --profile laptop --dataset acdc

The slices are chosen by a rule over their hidden labels, which no training reads. Both networks see
the whole slice as it is, without augmentation; the student is the moving average that its run kept.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt

from samatch.config.settings import RunConfig, make_config, parent_configs
from samatch.config.words import joint_config, joint_run_parser
from samatch.data.batches import SlicePool, resized
from samatch.data.manifest import Manifest, load_manifest
from samatch.data.volumes import Volume, load_cases
from samatch.methods.base import PseudoLabel, method_class
from samatch.methods.sam_match import SamMatch
from samatch.networks.unet import UNet
from samatch.results import strips, tables
from samatch.results.records import write_table
from samatch.results.runs import Run
from samatch.results.strips import ROLES, Chosen, Count, Opinions
from samatch.sam.model import SamModel
from samatch.sam.prompts import prompt_from_probs
from samatch.system import paths
from samatch.system.devices import bf16_is_fast, find_device
from samatch.system.errors import InputError
from samatch.system.progress import Progress
from samatch.training.evaluate import student_probs
from samatch.training.states import load_networks
from samatch.training.task import (
    Data,
    cached,
    fixed_encoder,
    kept_weights_of,
    load_parents,
    new_sam,
)

RULE = (
    "of the unlabeled training slices whose hidden label shows every class, by the gain at the "
    "start of joint training (Dice of the combined map less Dice of the student's, mean over "
    "classes): greatest, median, least; and of the others the one with the fewest taught pixels"
)
TIMES = {
    "start": "Joint training starts: {student} student, fine-tuned SAM",
    "end": "Joint training ends: the same slices after {iterations} iterations",
}


@dataclass(frozen=True)
class Place:
    """An unlabeled training slice; `number` counts the slices of all unlabeled volumes."""

    volume: Volume
    slice: int
    number: int


@dataclass(frozen=True)
class Pair:
    """A student, a SAM, the settings of their joint training, and SAM's embeddings of slices."""

    config: RunConfig
    data: Data
    method: SamMatch
    embed: Callable[[Place], torch.Tensor]  # -> (1, C, h, w)


def walk(config: RunConfig, every: int = 1) -> tuple[list[Chosen], Count]:
    """Four slices by RULE at the start and the end of the joint run, and the gains of all slices.

    every: take each `every`-th of the slices, in the manifest's order. Raises InputError where the
    run or one of its parents is not complete on this machine, or does what is not drawn.
    """
    refuse_unfinished(config)
    pair = read_pair(config)
    load_parents(pair.method, config)
    places = places_of(pair.data.unlabeled, config.train.image_size, pair.data.manifest.classes)
    places = places[::every]
    gains, kept = gains_and_kept(pair, places)
    chosen = choose(gains, kept)
    found = {role: {"start": opinions(pair, places[n])} for role, (n, _) in chosen.items()}
    load_end(pair)
    for role, (number, _) in chosen.items():
        found[role]["end"] = opinions(pair, places[number])
    rows = []
    for role, (number, rank) in chosen.items():
        place = places[number]
        rows.append(Chosen(role, place.volume.case.case_id, place.slice, rank, found[role]))
    return rows, Count(gains, every)


def read_pair(config: RunConfig) -> Pair:
    """Networks without their weights, and the unlabeled volumes, no labeled ones."""
    manifest, device = load_manifest(config.dataset), find_device()
    unlabeled = load_cases(
        manifest, manifest.cases_of(manifest.patients("train")[config.n_labeled :])
    )
    nothing = SlicePool(torch.empty(0), torch.empty(0))
    bf16 = config.train.bf16 and bf16_is_fast(device)
    data = Data(manifest, [], unlabeled, [], nothing, device, bf16)
    student = UNet(manifest.num_classes).to(device, memory_format=torch.channels_last)
    match = method_class(config.method)(student, config)
    method = SamMatch(match, new_sam(config, manifest.num_classes, device), config)
    return Pair(config, data, method, embedder_of_places(method.sam, config, data))


def embedder_of_places(
    sam: SamModel, config: RunConfig, data: Data
) -> Callable[[Place], torch.Tensor]:
    """Place -> embedding (1, C, h, w): from the cache if the encoder is fixed, else encoded now."""
    if fixed_encoder(config):
        cache = cached(sam, config, data, data.unlabeled)
        return lambda place: cache[torch.tensor([place.number])]

    def encoded(place: Place) -> torch.Tensor:
        image = torch.from_numpy(place.volume.image[place.slice])
        return sam.encode(image[None, None].to(data.device))

    return encoded


def choose(gains: np.ndarray, kept: np.ndarray) -> dict[str, tuple[int, int]]:
    """Role -> (number of the slice, rank of its gain from 1), four different slices by RULE.

    gains: (N,) points; kept: (N,) share of the pixels that are taught. Of an even number the better
    of both middle ones; of equals the first. Raises InputError on fewer than four slices or a gain
    that is not a number.
    """
    gains = np.asarray(gains, dtype=float)
    if len(gains) < len(ROLES) or np.isnan(gains).any():
        raise InputError(
            "no four slices to choose from",
            expected="at least 4 unlabeled training slices whose hidden label shows every class",
            got=f"{len(gains)}, {int(np.isnan(gains).sum())} of them without a Dice",
            do="choose a data set whose training patients all have labels",
        )
    order = np.argsort(-gains, kind="stable").tolist()
    ranks = {"helps": 0, "median": (len(gains) - 1) // 2, "harms": len(gains) - 1}
    found = {role: order[rank] for role, rank in ranks.items()}
    others = [number for number in range(len(gains)) if number not in found.values()]
    found["rejected"] = min(others, key=lambda number: kept[number])
    return {role: (number, order.index(number) + 1) for role, number in found.items()}


def refuse_unfinished(config: RunConfig) -> None:
    """Raises InputError unless run and parents are complete, and SAM's answer without a prompt is
    averaged with the student's, which is what the figure draws."""
    way = f"{config.refine.prompt}, {config.refine.combine}" if config.sam_name else "no SAM"
    if way != "none, consensus":
        raise InputError(
            "the strip shows SAM asked without a prompt, averaged with the student",
            where=config.run_id,
            expected="none, consensus (refine.prompt, refine.combine)",
            got=way,
            do="choose the default variant",
        )
    missing = [run.run_id for run in (*parent_configs(config), config) if not Run(run).complete]
    if missing:
        raise InputError(
            "the strip needs finished runs",
            where=paths.shown(paths.runs_dir(config.profile)),
            expected=f"{config.run_id} and its parents, complete",
            got="missing: " + ", ".join(missing),
            do=f"make reproduce PROFILE={config.profile} DATASET={config.dataset}",
        )


def load_end(pair: Pair) -> None:
    """Puts the weights with which the joint run ended in place of those with which it started."""
    weights = kept_weights_of(Run(pair.config).folder)
    load_networks(pair.method, weights | {"ema": weights["student"]})


def places_of(volumes: list[Volume], size: int, classes: tuple[str, ...]) -> list[Place]:
    """Every slice whose label, at size x size pixels, shows every class; in the volumes' order."""
    found, before, wanted = [], 0, set(range(1, len(classes) + 1))
    for volume in volumes:
        for z, label in enumerate(resized(volume, size)[1].numpy()):
            if wanted <= set(np.unique(label).tolist()):
                found.append(Place(volume, z, before + z))
        before += len(volume.image)
    return found


def gains_and_kept(pair: Pair, places: list[Place]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) gain of each slice in points of Dice, and (N,) share of its pixels that are taught."""
    progress, found = Progress("opinions of unlabeled slices", len(places)), []
    for number, place in enumerate(places, 1):
        said = opinions(pair, place)
        found.append((said.gain, said.keep.mean()))
        progress(number)
    gains, kept = np.array(found).reshape(-1, 2).T
    return gains, kept


@torch.no_grad()
def opinions(pair: Pair, place: Place, progress: float = 1.0) -> Opinions:
    """What is said of a slice, merged as at `progress` (0 to 1) of the training: by default at its
    end, when SAM's say is whole."""
    config, method, bf16 = pair.config, pair.method, pair.data.bf16
    size, image = config.train.image_size, place.volume.image[place.slice][None]
    with torch.autocast(pair.data.device.type, torch.bfloat16, enabled=bf16):
        probs = student_probs(method.evaluated, image, size, bf16)
        said = method.refine_slices(probs, pair.embed(place), progress)
    small, hidden = resized(place.volume, size)
    return Opinions(
        image=small[place.slice, 0].numpy(),
        hidden=hidden[place.slice].numpy(),
        student=array(said.student.label[0]),
        confidence=array(said.student.confidence[0]),
        sam=array(said.sam_probs[0].argmax(0)),
        iou=array(said.iou[0]),
        both=array(said.both.label[0]),
        keep=array(said.both.keep[0]),
        boxes=boxes_of_the_papers_way(config, said.student),
    )


def array(tensor: torch.Tensor) -> np.ndarray:
    """On the host; numpy has no bfloat16."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def boxed(config: RunConfig) -> RunConfig:
    """The run that asks SAM the paper's way: variant `box`."""
    return make_config(
        config.profile, config.dataset, config.n_labeled, config.method, config.sam_name,
        config.seed, "box",
    )  # fmt: skip


def boxes_of_the_papers_way(config: RunConfig, student: PseudoLabel) -> dict[int, np.ndarray]:
    """The boxes that variant `box` would ask with for one slice, see `Opinions`; a class that the
    student does not see has none."""
    prompt = prompt_from_probs(student.probs, student.label, boxed(config).refine)
    boxes, present = array(prompt.boxes)[0], array(prompt.present)[0]
    return {int(k): boxes[k] for k in np.flatnonzero(present)}


def below(config: RunConfig, manifest: Manifest) -> list[str]:
    """What stands in the figure below the legend: what the numbers are, and whose images."""
    return [
        f"Dice in percent, mean over classes. IoU of {', '.join(manifest.classes)}, as SAM's own "
        f"probabilities promise it. Run {config.run_id}, profile {config.profile}.",
        manifest.credit,
    ]


def caption(config: RunConfig, count: Count) -> str:
    """What a reader needs beside the figure: the rule of the choice, and how to read it."""
    size = config.train.image_size
    return (
        f"Rows are chosen by a rule: {RULE}. {count.sentence} Dice is that of the whole map, "
        "against the hidden label, which chooses and scores these rows; no training learns from "
        f"it. Slices count from 0; they are seen whole at {size} x {size} pixels without "
        "augmentation, and cut to the organ for display. Dashed: the boxes that variant box would "
        "send; their margin is in pixels of an image 256 wide."
    )


def main(words: list[str] | None = None) -> None:
    """Writes strip.png and strip.csv."""
    parser = joint_run_parser(
        "samatch strip",
        "The method on four unlabeled slices chosen by rule, by a finished joint run.",
        "strip.csv",
    )
    parser.add_argument(
        "--every", type=int, default=1, help="choose among one slice in so many, to save time"
    )
    args = parser.parse_args(words)
    if args.every < 1:
        raise InputError(
            "--every is impossible", expected="1 or more", got=args.every, do="leave it out"
        )
    config = joint_config(args)
    chosen, count = walk(config, args.every)
    for file in write_walk(config, chosen, count, args.into):
        print(f"written: {paths.shown(file)}")
    print(f"\nIts caption:\n{textwrap.fill(caption(config, count), 88)}")


def write_walk(
    config: RunConfig, chosen: list[Chosen], count: Count, into: Path | None
) -> list[Path]:
    """Draws and records what `walk` has found; returns picture and CSV file."""
    manifest = load_manifest(config.dataset)
    match = parent_configs(config)[0]
    names = {
        "student": tables.label(match.method, match.variant),
        "iterations": config.train.iterations,
    }
    figure = strips.draw(
        chosen,
        {time: title.format(**names) for time, title in TIMES.items()},
        manifest.classes,
        threshold=config.refine.sam_conf_thresh,
        margin=boxed(config).refine.box_margin_px,
        below=below(config, manifest),
    )
    picture = paths.figures_dir(config.profile, config.dataset) / "strip.png"
    strips.save(figure, picture, manifest.licence)
    plt.close(figure)
    table = strips.record(chosen, count, manifest.classes, RULE)
    return [picture, write_table(config, "strip", table, into)]
