"""What the benchmark times: cases, and of each one step of samatch's and of the plain reference."""

import dataclasses
import functools
from collections.abc import Callable

from benchmarks.plain import PlainTrainer
from samatch.config.settings import FINETUNE, make_config
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.methods.base import method_names
from samatch.results.runs import Run
from samatch.system.devices import find_device
from samatch.training import evaluate, pace, task
from samatch.training.states import TrainingState
from samatch.training.train import train_one

SIZE, BATCH, SAM = 256, 2, "lite_medsam"
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
    optimisers), or one validation; on a few patients, with networks as they come.
    """
    config = make_config(
        "paper",
        "phantom",
        3,
        case.method,
        SAM,
        variant=f"benchmark-{case.tune}",
        overrides={
            "train.batch_labeled": BATCH,
            "train.batch_unlabeled": BATCH,
            "train.image_size": SIZE,
            "train.iterations": 1_000_000,
            "train.val_every": 1_000_000,
            "train.log_every": 50,
            **(
                {"sam.tune": case.tune, "sam.image_size": SIZE, **BOXED}
                if "sam" in case.method or case.method == FINETUNE
                else {}
            ),
        },
    )
    work = pace.on_few_patients(config)
    if case.plain == "validate":
        return lambda: evaluate.dice_by_class(
            work.segment, work.data.val[:4], work.data.manifest.classes
        )
    run = Run(work.config)
    run.open()
    state = dataclasses.replace(TrainingState.start(work, run), iteration=1)
    return functools.partial(train_one, work, state)


def plain_of(case: Case) -> Callable[[], None]:
    """The plain reference's step on the same volumes with networks of the same kind."""
    config = make_config(
        "paper",
        "phantom",
        3,
        "samatch-fixmatch",
        SAM,
        variant="benchmark",
        overrides={"sam.image_size": SIZE},
    )
    manifest = load_manifest("phantom")
    labeled, val = (
        load_cases(manifest, manifest.cases_of(p))
        for p in (manifest.labeled_patients(3), manifest.patients("val"))
    )
    unlabeled = load_cases(manifest, manifest.cases_of(manifest.patients("train")[3:]))
    sam = (
        task.new_sam(config, manifest.num_classes, DEVICE)
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
