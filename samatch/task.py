"""What one run trains on: data on the device, the method with its networks, the parents' weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from samatch import evaluate, repro
from samatch.config import FINETUNE, GUIDED, RunConfig, parent_configs
from samatch.data import SlicePool
from samatch.datasets import Volume, load_cases
from samatch.devices import bf16_is_fast, find_device
from samatch.embeddings import EmbeddingCache, cache_folder
from samatch.errors import known
from samatch.manifest import Manifest, load_manifest
from samatch.methods import Method, method_class, method_names
from samatch.networks import UNet
from samatch.progress import Progress
from samatch.records import Run
from samatch.sam import SamModel, build_sam, input_size, sam_names


def check_names(config: RunConfig) -> None:
    """Raises InputError on an unknown data set, method or SAM or an impossible budget, before anything is trained."""
    load_manifest(config.dataset).labeled_patients(config.n_labeled)
    known(config.method, method_names(), "method")
    method_class(config.method.removeprefix(GUIDED)).Settings.of(dict(config.method_settings))
    if config.sam_name:
        known(config.sam_name, sam_names(), "SAM")


@dataclass
class Data:
    """A run's data: the labeled and unlabeled training volumes, their slices (labeled ones first), validation volumes."""

    manifest: Manifest
    labeled: list[Volume]
    unlabeled: list[Volume]
    val: list[Volume]
    pool: SlicePool
    device: torch.device
    bf16: bool

    @property
    def n_labeled_slices(self) -> int:
        return sum(len(volume.image) for volume in self.labeled)


@dataclass
class Task:
    """What the training loop works on: data, method, and how a volume is segmented for validation and test."""

    config: RunConfig
    data: Data
    method: Method
    segment: evaluate.Segment


def prepare(config: RunConfig) -> Task:
    """Reads the data, builds the method and loads the parents' weights. Seeds everything first."""
    repro.seed_everything(config.seed)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    data = read_data(config, find_device())
    build = build_finetuning if config.method == FINETUNE else build_student
    method, segment = build(config, data)
    load_parents(method, config)
    return Task(config, data, method, segment)


def read_data(config: RunConfig, device: torch.device) -> Data:
    """Fine-tuning reads the labeled slices at SAM's size, a student all it needs at its own."""
    manifest = load_manifest(config.dataset)
    finetuning = config.method == FINETUNE
    wants_unlabeled = not finetuning and method_class(config.method.removeprefix(GUIDED)).needs_unlabeled
    patients = manifest.patients("train")[config.n_labeled:] if wants_unlabeled else ()
    labeled, unlabeled, val = (load_cases(manifest, manifest.cases_of(group))
                               for group in (manifest.labeled_patients(config.n_labeled), patients, manifest.patients("val")))
    pool = SlicePool.from_volumes(labeled + unlabeled, sam_size(config) if finetuning else config.train.image_size, device)
    return Data(manifest, labeled, unlabeled, val, pool, device, config.train.bf16 and bf16_is_fast(device))


def build_student(config: RunConfig, data: Data) -> tuple[Method, evaluate.Segment]:
    """A match method around a new student; guided by SAM where the config names one."""
    student = UNet(data.manifest.num_classes).to(data.device, memory_format=torch.channels_last)
    method = method_class(config.method.removeprefix(GUIDED))(student, config)
    if config.sam_name:
        sam = new_sam(config, data)
        method = method_class("samatch")(method, sam, config, *cached(sam, config, data, data.unlabeled))

    def segment(volume: Volume) -> np.ndarray:
        return evaluate.segment_with_student(student, volume.image, config.train.image_size, data.bf16)

    return method, segment


def build_finetuning(config: RunConfig, data: Data) -> tuple[Method, evaluate.Segment]:
    """SAM's fine-tuning; volumes are segmented with the reference's boxes, an upper bound."""
    sam, num_classes = new_sam(config, data), data.manifest.num_classes
    embeddings, labels = cached(sam, config, data, data.val)

    @torch.no_grad()
    def segment(volume: Volume) -> np.ndarray:
        encoded = embeddings.of_case(volume.case.case_id) if embeddings is not None else \
            sam.encode(torch.from_numpy(volume.image)[:, None].to(data.device))
        return evaluate.segment_with_reference_boxes(sam, volume, encoded, num_classes)

    return method_class(FINETUNE)(sam, config, num_classes, embeddings, labels), segment


def new_sam(config: RunConfig, data: Data) -> SamModel:
    settings = config.sam
    sam = build_sam(settings.name, image_size=settings.image_size, num_classes=data.manifest.num_classes,
                    class_token=settings.class_token, pretrained=settings.pretrained).to(data.device).eval()
    sam.tune(settings.tune, settings.lora_rank)
    return sam


def sam_size(config: RunConfig) -> int:
    return input_size(config.sam_name, config.sam.image_size)


def cached(sam: SamModel, config: RunConfig, data: Data, others: list[Volume]) -> tuple[EmbeddingCache | None, torch.Tensor | None]:
    """Embeddings of the labeled slices and of `others`, and SAM-sized labels of the former; None where the encoder learns."""
    if config.sam.tune in ("lora", "all"):
        return None, None
    embeddings = EmbeddingCache(sam, data.labeled + others, cache_folder(config.dataset, config.sam_name), bf16=data.bf16,
                                device=data.device, progress=counted(f"embeddings of {config.dataset}"))
    return embeddings, SlicePool.from_volumes(data.labeled, sam_size(config), data.device).label


def load_parents(method: Method, config: RunConfig) -> None:
    for parent in parent_configs(config):
        path = Run(parent).folder / "checkpoint.pt"
        weights = torch.load(path, map_location="cpu", weights_only=True)
        networks = method.networks()
        for name, state in weights.items():
            if name in networks:
                networks[name].load_state_dict(state)


def load_student(config: RunConfig, num_classes: int) -> UNet:
    """The student of a complete run, ready to predict."""
    return student_in(Run(config).folder, num_classes)


def student_in(folder: Path, num_classes: int) -> UNet:
    student = UNet(num_classes)
    weights = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    student.load_state_dict(weights["student"])
    return student.eval()


def counted(task: str) -> Callable[[int, int], None]:
    """A Progress whose total is known only when it is first called."""
    bars = {}
    return lambda done, total: bars.setdefault(total, Progress(task, total))(done)
