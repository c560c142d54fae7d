"""What one run trains on: data on the device, the method
with its networks, the parents' weights."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from samatch.config.settings import FINETUNE, RunConfig, parent_configs
from samatch.data.batches import SlicePool, augmented_views, soft_label
from samatch.data.manifest import Manifest, load_manifest
from samatch.data.volumes import Volume, load_cases
from samatch.methods.base import Method, method_class, method_names
from samatch.methods.finetune import FineTune
from samatch.methods.sam_match import SamMatch
from samatch.networks.unet import UNet
from samatch.results.runs import file_of, run_folder
from samatch.sam.embeddings import EmbeddingCache, cache_folder, encoder_key
from samatch.sam.model import SamModel, build_sam, input_size, sam_names
from samatch.system import repro, whole
from samatch.system.devices import bf16_is_fast, find_device
from samatch.system.errors import InputError, known
from samatch.system.progress import Progress
from samatch.training import evaluate


def check_names(config: RunConfig) -> None:
    """Raises InputError on an unknown data set, method or SAM, an impossible budget, or one that
    leaves a method that learns from unlabeled images none, before anything is trained."""
    manifest = load_manifest(config.dataset)
    manifest.labeled_patients(config.n_labeled)
    known(config.method, method_names(), "method")
    if not 0 <= config.seed < 2**32:  # numpy's
        raise InputError("impossible seed", expected="0 to 4294967295", got=config.seed)
    method_class(config.method).Settings.of(dict(config.method_settings))
    if wants_unlabeled(config) and config.n_labeled == len(manifest.patients("train")):
        raise InputError(
            f"{config.method} learns from unlabeled images",
            where=config.dataset,
            expected="fewer labeled patients",
            got=f"all {config.n_labeled} training patients labeled",
            do="choose a smaller n_labeled, or method supervised",
        )
    if config.sam_name:
        known(config.sam_name, sam_names(), "SAM")


def wants_unlabeled(config: RunConfig) -> bool:
    """Whether the run's method draws unlabeled images."""
    return method_class(config.method).needs_unlabeled


@dataclass
class Data:
    """A run's data: the labeled and unlabeled training volumes,
    their slices (labeled ones first), validation volumes."""

    manifest: Manifest
    labeled: list[Volume]
    unlabeled: list[Volume]
    val: list[Volume]
    pool: SlicePool
    device: torch.device
    bf16: bool

    @property
    def n_labeled_slices(self) -> int:
        """How many of the pool's slices, its first ones, are labeled."""
        return sum(len(volume.image) for volume in self.labeled)

    @property
    def case_ids(self) -> list[str]:
        """The case of each of the pool's slices."""
        volumes = self.labeled + self.unlabeled
        return [volume.case.case_id for volume in volumes for _ in volume.image]


@dataclass(frozen=True)
class Beside:
    """More class maps of a volume, evaluated once when the training has ended: of `names`, on the
    volumes of `splits`, recorded as <split>_<name>. They share their work: one call makes all."""

    names: tuple[str, ...]
    splits: tuple[str, ...]
    segment: Callable[[Volume], tuple[np.ndarray, ...]]


@dataclass
class Task:
    """What the training loop works on: data, method, and
    how a volume is segmented for validation and test."""

    config: RunConfig
    data: Data
    method: Method
    segment: evaluate.Segment
    beside: Beside | None = None
    raw: evaluate.Segment | None = (
        None  # by the student itself, where its moving average is what is evaluated
    )


def prepare(config: RunConfig) -> Task:
    """Reads the data, builds the method and loads the parents' weights. Seeds everything first."""
    task = untrained(config, load_manifest(config.dataset))
    load_parents(task.method, config)
    return task


def untrained(config: RunConfig, manifest: Manifest) -> Task:
    """`prepare` without the parents' weights, on the cases of `manifest`."""
    repro.seed_everything(config.seed)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    data = read_data(config, manifest, find_device())
    build = build_finetuning if config.method == FINETUNE else build_student
    return build(config, data)


def read_data(config: RunConfig, manifest: Manifest, device: torch.device) -> Data:
    """Fine-tuning reads the labeled slices, and cached views of
    them, at SAM's size, a student all it needs at its own."""
    patients = manifest.patients("train")[config.n_labeled :] if wants_unlabeled(config) else ()
    labeled, unlabeled, val = (
        load_cases(manifest, manifest.cases_of(group))
        for group in (
            manifest.labeled_patients(config.n_labeled),
            patients,
            manifest.patients("val"),
        )
    )
    finetuning = config.method == FINETUNE
    size, soft = sam_size(config) if finetuning else config.train.image_size, None
    if finetuning:
        labeled += sam_views(config, labeled)
    elif config.augment.soft_labels:
        soft = torch.cat([soft_label(volume, size, manifest.num_classes) for volume in labeled])
    pool = SlicePool.from_volumes(labeled + unlabeled, size, device, soft)
    return Data(
        manifest, labeled, unlabeled, val, pool, device, config.train.bf16 and bf16_is_fast(device)
    )


def build_student(config: RunConfig, data: Data) -> Task:
    """A match method around a new student; guided by SAM where the config names one."""
    student = UNet(data.manifest.num_classes).to(data.device, memory_format=torch.channels_last)
    method = method_class(config.method)(student, config)
    beside, size = None, config.train.image_size
    if config.sam_name:
        method = guided(method, config, data)
        beside = Beside(("refined", "sam"), ("val", "test"), with_sam(method, config, data))

    def with_network(network: torch.nn.Module) -> evaluate.Segment:
        return lambda volume: evaluate.segment_with_student(network, volume.image, size, data.bf16)

    # A student whose moving average proposes has no batch-norm statistics of its own.
    raw = (
        with_network(method.student)
        if method.ema is not None and method.proposer is not method.ema
        else None
    )
    return Task(config, data, method, with_network(method.evaluated), beside, raw)


def guided(match: Method, config: RunConfig, data: Data) -> SamMatch:
    """The match method with a new SAM around it; with a fixed encoder its embeddings are cached."""
    sam, views, labels, embeddings = (
        new_sam(config, data.manifest.num_classes, data.device),
        sam_views(config, data.labeled),
        None,
        None,
    )
    if fixed_encoder(config):
        volumes = data.labeled + data.unlabeled + views
        embeddings = cached(sam, config, data, volumes, progress=counted(config))
        labels = SlicePool.from_volumes(data.labeled + views, sam_size(config), data.device).label
    return SamMatch(match, sam, config, embeddings, labels, data.n_labeled_slices, len(data.pool))


def with_sam(
    method: SamMatch, config: RunConfig, data: Data
) -> Callable[[Volume], tuple[np.ndarray, np.ndarray]]:
    """SAM at test time: the student's map refined once, and SAM's own as it is asked here."""
    embed, size = embedder(method.sam, config, data), config.train.image_size

    @torch.no_grad()
    def both(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
        with torch.autocast(data.device.type, torch.bfloat16, enabled=data.bf16):
            embeddings = embed(volume)
        return evaluate.segment_with_both(
            method, method.evaluated, volume.image, embeddings, size, data.bf16
        )

    return both


def build_finetuning(config: RunConfig, data: Data) -> Task:
    """SAM's fine-tuning. Volumes are segmented by SAM alone where it learns to answer without a
    prompt, and, as an upper bound on validation, with the reference's boxes."""
    num_classes = data.manifest.num_classes
    sam = new_sam(config, num_classes, data.device)
    embeddings = None
    if fixed_encoder(config):
        embeddings = cached(sam, config, data, data.labeled, progress=counted(config))
    method = FineTune(sam, config, num_classes, embeddings, data.pool.label)
    embed, at_once = embedder(sam, config, data), config.refine.prompt == "class_boxes"

    @torch.no_grad()
    def alone(volume: Volume) -> np.ndarray:
        with torch.autocast(data.device.type, torch.bfloat16, enabled=data.bf16):
            return evaluate.segment_with_sam_alone(sam, embed(volume), volume.image.shape[-2:])

    @torch.no_grad()
    def with_boxes(volume: Volume) -> np.ndarray:
        with torch.autocast(data.device.type, torch.bfloat16, enabled=data.bf16):
            return evaluate.segment_with_reference_boxes(
                sam, volume, embed(volume), num_classes, at_once=at_once
            )

    if not method.answers_alone:
        return Task(config, data, method, with_boxes)
    beside = Beside(("reference_boxes",), ("val",), lambda volume: (with_boxes(volume),))
    return Task(config, data, method, alone, beside)


def new_sam(config: RunConfig, num_classes: int, device: torch.device) -> SamModel:
    """The config's SAM on the device in evaluation mode, with what `sam.tune` names learning."""
    settings = config.sam
    sam = (
        build_sam(
            settings.name,
            image_size=settings.image_size,
            num_classes=num_classes,
            class_token=settings.class_token,
            pretrained=settings.pretrained,
        )
        .to(device)
        .eval()
    )
    sam.tune(settings.tune, settings.lora_rank)
    return sam


def sam_size(config: RunConfig) -> int:
    """Side of SAM's square input in pixels."""
    return input_size(config.sam_name, config.sam.image_size)


def fixed_encoder(config: RunConfig) -> bool:
    """Whether SAM's image encoder never learns, so that its embeddings can be cached."""
    return config.sam.tune in ("frozen", "decoder")


def sam_views(config: RunConfig, labeled: list[Volume]) -> list[Volume]:
    """The augmented views of the labeled slices whose embeddings a fixed encoder makes once. They
    are the same for all seeds of a training, which share the cache."""
    return (
        augmented_views(labeled, config.sam.views, sam_size(config), config.augment, seed=0)
        if fixed_encoder(config)
        else []
    )


def cached(
    sam: SamModel, config: RunConfig, data: Data, volumes: list[Volume], key: str = "", **words: Any
) -> EmbeddingCache:
    """Embeddings of the volumes' slices, by their number; key: the encoder's, where it is known;
    words: more for EmbeddingCache."""
    return EmbeddingCache(
        sam,
        volumes,
        cache_folder(data.manifest.folder, config.sam_name),
        bf16=data.bf16,
        device=data.device,
        key=key,
        **words,
    )


def embedder(sam: SamModel, config: RunConfig, data: Data) -> Callable[[Volume], torch.Tensor]:
    """Volume -> embeddings (D, C, h, w): from the cache where the
    encoder is fixed, else encoded now, a few slices at once."""
    if fixed_encoder(config):
        key = functools.cache(lambda: encoder_key(sam, data.bf16))
        return lambda volume: cached(sam, config, data, [volume], key()).of_case(
            volume.case.case_id
        )
    return lambda volume: torch.cat(
        [
            sam.encode(part.to(data.device))
            for part in torch.from_numpy(volume.image)[:, None].split(evaluate.SAM_AT_ONCE)
        ]
    )


def load_parents(method: Method, config: RunConfig) -> None:
    """The parents' weights into the method's networks of the same name; the moving average starts
    as a copy of the student."""
    for parent in parent_configs(config):
        networks = method.networks()
        for name, state in kept_weights_of(run_folder(parent)).items():
            if name in networks:
                load_into(networks[name], state, run_folder(parent))
    if method.ema is not None:
        method.ema.load_state_dict(method.student.state_dict())


def load_student(config: RunConfig, num_classes: int) -> UNet:
    """The student of a complete run, ready to predict."""
    return student_in(run_folder(config), num_classes)


def student_in(folder: Path, num_classes: int) -> UNet:
    """The student in a complete run's folder, in evaluation mode on the CPU."""
    student = UNet(num_classes)
    load_into(student, kept_weights_of(folder).get("student", {}), folder)
    return student.eval()


def kept_weights_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What a complete run's checkpoint holds: a state by network. Raises InputError where the file
    is not what was written."""
    path = file_of(folder, "checkpoint.pt")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a file that is none of its own
        raise InputError(
            "this is no checkpoint",
            where=f"{folder.name}/{path.name}",
            got=whole.reason(error),
            do="restore the file, or delete the run's folder and train it again",
        ) from error


def load_into(network: torch.nn.Module, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Loads a checkpoint's weights. Raises InputError where they are another network's."""
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            "a run's weights do not fit the network",
            where=folder.name,
            got=whole.reason(error),
            do="delete that run's folder and train it again",
        ) from error


def counted(config: RunConfig) -> Callable[[int, int], None]:
    """The progress of a set's embeddings, whose total is known only when it is first called."""
    bars: dict[int, Progress] = {}
    task = f"embeddings of {config.dataset}"
    return lambda done, total: bars.setdefault(total, Progress(task, total))(done)


def validate(task: Task) -> dict[str, float]:
    """Mean Dice on the validation volumes, over the classes that
    have one; `raw` is the student's beside its moving average's."""
    by_class = evaluate.dice_by_class(task.segment, task.data.val, task.data.manifest.classes)
    row = {
        "val_dice": float(pd.Series(by_class).mean()),
        **{f"val_dice_{name}": value for name, value in by_class.items()},
    }
    if task.raw is not None:
        raw = evaluate.dice_by_class(task.raw, task.data.val, task.data.manifest.classes)
        row["val_dice_raw"] = float(pd.Series(raw).mean())
    return row
