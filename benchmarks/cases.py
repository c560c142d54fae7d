"""What the benchmark times: cases, and of each one step of samatch's and of the plain reference."""

import dataclasses
import functools
from collections.abc import Callable

import torch

from benchmarks.plain import PlainTrainer
from samatch.config.settings import FINETUNE, RunConfig, make_config
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.methods.base import method_names
from samatch.results.runs import Run
from samatch.system.devices import find_device
from samatch.training import evaluate, task
from samatch.training.states import TrainingState
from samatch.training.train import train_one

SIZE, BATCH = 256, 2
DEVICE = find_device()


@dataclasses.dataclass(frozen=True)
class Case:
    """What is compared: the plain side's step, and samatch's; images: a step learns from."""

    name: str
    plain: str  # a method of PlainTrainer, "" where there is nothing to compare with
    method: str
    tune: str = "all"
    images: int = 2 * BATCH


CASES = [
    Case("FixMatch", "fixmatch_step", "fixmatch"),
    Case("SAM-Match, all weights", "joint_step", "samatch-fixmatch"),
    Case("SAM-Match, cached embeddings", "joint_step", "samatch-fixmatch", "decoder"),
    Case("SAM fine-tuning, all weights", "finetune_step", FINETUNE, images=BATCH),
    Case("SAM fine-tuning, cached embeddings", "finetune_step", FINETUNE, "decoder", images=BATCH),
    Case("validation, 4 volumes", "validate", "fixmatch", images=24),
]
ALONE = [
    Case(name, "", name)
    for name in method_names()
    if not name.startswith("samatch-") and name not in ("fixmatch", FINETUNE)
]

# What the plain reference does: SAM asked with boxes, its answer in the student's place.
BOXED = {
    "refine.prompt": "box",
    "refine.combine": "replace",
    "refine.sam_conf_thresh": 0.95,
    "sam.prompt_drop": 0.0,
}


def step_of(case: Case) -> Callable[[], None]:
    """One call is one training step as the training loop does it (batch, augmentation, step,
    optimisers), or one validation.
    """
    config = make_config(
        "paper",
        "phantom",
        3,
        case.method,
        variant=f"benchmark-{case.tune}",
        overrides={
            "train.batch_labeled": BATCH,
            "train.batch_unlabeled": BATCH,
            "train.image_size": SIZE,
            "train.iterations": 1_000_000,
            "train.val_every": 1_000_000,
            "train.log_every": 50,
            **(
                {"sam.tune": case.tune, **BOXED}
                if "sam" in case.method or case.method == FINETUNE
                else {}
            ),
        },
    )
    work = prepare_alone(config)
    if case.plain == "validate":
        return lambda: evaluate.dice_by_class(
            work.segment, work.data.val[:4], work.data.manifest.classes
        )
    run = Run(config)
    run.open()
    state = dataclasses.replace(TrainingState.start(work, run), iteration=1)
    return functools.partial(train_one, work, state)


def prepare_alone(config: RunConfig) -> task.Task:
    """As in training, but networks start as they come (no parent runs), and few slices: the cache
    of embeddings is no part of a step.
    """
    read, load = task.read_data, task.load_parents
    task.read_data, task.load_parents = (
        lambda config, device: few(read(config, device)),
        lambda method, config: None,
    )
    try:
        return task.prepare(config)
    finally:
        task.read_data, task.load_parents = read, load


def few(data: task.Data) -> task.Data:
    """The first labeled and the first unlabeled volume, and their slices."""
    labeled, unlabeled = data.labeled[:1], data.unlabeled[:1]
    first = torch.arange(len(labeled[0].image))
    keep = torch.cat([first, data.n_labeled_slices + first] if unlabeled else [first]).to(
        data.device
    )
    pool = task.SlicePool(data.pool.image[keep], data.pool.label[keep])
    return dataclasses.replace(
        data, labeled=labeled, unlabeled=unlabeled, val=data.val[:4], pool=pool
    )


def plain_of(case: Case) -> Callable[[], None]:
    """The plain reference's step on the same volumes with networks of the same kind."""
    config = make_config("paper", "phantom", 3, "samatch-fixmatch")
    manifest = load_manifest("phantom")
    labeled, val = (
        load_cases(manifest, manifest.cases_of(p))
        for p in (manifest.labeled_patients(3), manifest.patients("val"))
    )
    unlabeled = load_cases(manifest, manifest.cases_of(manifest.patients("train")[3:]))
    data = task.Data(manifest, labeled, unlabeled, val, None, DEVICE, False)
    sam = (
        task.new_sam(config, data)
        if "fixmatch" not in case.plain and case.plain != "validate"
        else None
    )
    student = task.UNet(manifest.num_classes).to(DEVICE).train()
    trainer = PlainTrainer(
        student,
        sam,
        labeled,
        unlabeled,
        manifest.num_classes,
        size=SIZE,
        batch=BATCH,
        workers=4 if DEVICE.type == "cuda" else 1,
        device=DEVICE,
    )
    return (
        functools.partial(trainer.validate, val[:4])
        if case.plain == "validate"
        else getattr(trainer, case.plain)
    )
