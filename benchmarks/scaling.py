"""How the cost grows: with iterations, with slices, with classes.

    python -m benchmarks.scaling [--repeats 3] [--threads 0]

Seconds at four sizes each, every size twice the one before, at the laptop profile's image sizes:
FixMatch steps; embeddings and validation of slices; a joint step with cached embeddings, every
class in every image. Writes results/benchmarks/scaling_<device>.csv and figures/scaling.png, with
the exponent of a straight line through the logarithms: 1 is linear, less has a fixed part.
"""

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.cases import DEVICE, SAM
from benchmarks.run import about_here, apart, seconds, set_up
from samatch.config.settings import make_config
from samatch.data.batches import SlicePool, draw_batch
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.methods.base import PseudoLabel, method_class
from samatch.methods.sam_match import SamMatch
from samatch.results import curves, plots
from samatch.sam.embeddings import EmbeddingCache
from samatch.system import paths
from samatch.system.devices import bf16_is_fast
from samatch.system.whole import write_text
from samatch.training import evaluate, task
from samatch.training.optimizers import descend, make_optimizers

COUNTS = {"iterations": (5, 10, 20, 40), "slices": (8, 16, 32, 64), "classes": (1, 2, 4, 8)}
IMAGES = 4


def work_of(quantity: str, count: int) -> Callable[[], None]:
    """One call costs what `count` iterations, slices or classes cost."""
    return {"iterations": iterations, "slices": slices, "classes": joint_step}[quantity](count)


def iterations(count: int) -> Callable[[], None]:
    step = training_step("fixmatch", *squares(3))
    return lambda: [step() for _ in range(count)]


def slices(count: int) -> Callable[[], None]:
    """SAM's embeddings of volumes, and the student's validation on them; an embedding once made
    would be read from its file.
    """
    config = make_config("laptop", "phantom", 3, "samatch-fixmatch", SAM)
    manifest = load_manifest("phantom")
    first = load_cases(manifest, manifest.cases_of(manifest.patients("val")))[0]
    depth = len(first.image)
    volumes = [
        dataclasses.replace(first, case=dataclasses.replace(first.case, case_id=f"copy{n}"))
        for n in range(count // depth)
    ]
    sam = task.new_sam(config, manifest.num_classes, DEVICE)
    student, bf16 = task.UNet(manifest.num_classes).to(DEVICE), bf16_is_fast(DEVICE)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            EmbeddingCache(sam, volumes, Path(folder), bf16=bf16, device=DEVICE)
        evaluate.dice_by_class(
            lambda volume: evaluate.segment_with_student(
                student, volume.image, config.train.image_size, bf16
            ),
            volumes,
            manifest.classes,
        )

    return work


def joint_step(count: int) -> Callable[[], None]:
    """With cached embeddings; the student names every class in every image, like a trained one."""
    return training_step("samatch-fixmatch", *squares(count))


def squares(num_objects: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (2 IMAGES, 1, S, S) and class maps (2 IMAGES, S, S) with a square of each class."""
    size, side = (
        make_config("laptop", "phantom", 3, "fixmatch").train.image_size,
        math.isqrt(num_objects - 1) + 1,
    )
    cell = size // side
    label = torch.zeros(2 * IMAGES, size, size, dtype=torch.long)
    for number in range(num_objects):
        top, left = cell * (number // side), cell * (number % side)
        label[:, top + cell // 4 : top + 3 * cell // 4, left + cell // 4 : left + 3 * cell // 4] = (
            number + 1
        )
    return torch.rand(2 * IMAGES, 1, size, size).to(DEVICE), label.to(DEVICE)


def training_step(name: str, image: torch.Tensor, label: torch.Tensor) -> Callable[[], None]:
    """Batch, step and optimisers; under SAM's guidance, what the student proposes is the label
    itself.
    """
    changes = {
        "train.batch_labeled": IMAGES,
        "train.batch_unlabeled": IMAGES,
        "augment.rotation_deg": 0.0,
        "augment.scale": 0.0,
    }
    config = make_config("laptop", "phantom", 3, name, SAM, variant="scaling", overrides=changes)
    config = dataclasses.replace(config, sam=dataclasses.replace(config.sam, update_every=1))
    num_classes, bf16 = int(label.max()) + 1, bf16_is_fast(DEVICE)
    student = task.UNet(num_classes).to(DEVICE, memory_format=torch.channels_last)
    method = method_class("fixmatch")(student, config)
    if config.sam_name:
        sam = task.new_sam(config, num_classes, DEVICE)
        shape = sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size
        embeddings = torch.randn(len(image), *shape, device=DEVICE)
        method = SamMatch(method, sam, config, embeddings, label[:IMAGES], IMAGES, len(image))
        method.propose = lambda predictions: PseudoLabel.from_probs(
            torch.nn.functional.one_hot(found["batch"].hidden_label_u, num_classes)
            .movedim(-1, 1)
            .float(),
            0.95,
        )
    optimizers, generator, found = (
        make_optimizers(method, config),
        torch.Generator().manual_seed(0),
        {},
    )

    def step() -> None:
        found["batch"] = draw_batch(
            SlicePool(image, label), IMAGES, config, generator, 0, unlabeled=True
        )
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            output = method.step(found["batch"])
        descend(output, optimizers)

    return step


def measure(quantity: str, count: int, repeats: int) -> list[float]:
    work = work_of(quantity, count)
    work()
    return [seconds(work, 1) for _ in range(repeats)]


def exponents(table: pd.DataFrame) -> dict[str, float]:
    """Slope of log(seconds) over log(count) by quantity: least squares through the medians."""
    return {
        quantity: float(np.polyfit(np.log(rows["count"]), np.log(rows.seconds), 1)[0])
        for quantity, rows in table.groupby("quantity", sort=False)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        set_up(args.threads, args.folder)
        about = about_here()
        for quantity, counts in COUNTS.items():
            for count in counts:
                found = apart(args, measure, quantity, count, args.repeats)
                rows.append(
                    {
                        "quantity": quantity,
                        "count": count,
                        "seconds": float(np.median(found)),
                        "fastest": min(found),
                        "slowest": max(found),
                    }
                )
                print("{quantity:12s} {count:4d}  {seconds:8.3f} s".format(**rows[-1]), flush=True)
    table = pd.DataFrame(rows)
    table = table.assign(
        exponent=table.quantity.map(exponents(table)),
        **{key: about[key] for key in ("load", "device", "machine", "torch", "commit")},
    )
    name = "gpu" if DEVICE.type == "cuda" else "cpu"
    write_text(
        paths.TRACKED_RESULTS / "benchmarks" / f"scaling_{name}.csv",
        table.to_csv(index=False, float_format="%.5g"),
    )
    plots.save(curves.scaling(table), paths.TRACKED_FIGURES / "scaling.png")


if __name__ == "__main__":
    main()
