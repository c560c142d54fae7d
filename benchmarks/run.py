"""Speed of samatch's steps against the plain reference, in one run, interleaved.

    python -m benchmarks.run [--repeats 5] [--steps 2] [--threads 0]

Cases that compare with the same plain step are timed in turns: plain, samatch, plain, samatch, ...; the ratio is the median of the ratios of the turns. Generated
phantoms at 256 x 256, two labeled and two unlabeled images a step, LiteMedSAM at 256: the published sizes. Peak memory is that of a
process of its own. Writes results/benchmarks/<device>.csv and figures/speed.png.
"""

import argparse
import dataclasses
import functools
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import PlainTrainer
from samatch.config.settings import FINETUNE, make_config
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.methods.base import method_names
from samatch.results import curves, plots
from samatch.results.records import Run, write_text
from samatch.system import paths, repro
from samatch.system.devices import device_name, find_device
from samatch.training import evaluate, task
from samatch.training.states import TrainingState
from samatch.training.train import train_one

SIZE, BATCH = 256, 2
DEVICE = find_device()


@dataclasses.dataclass(frozen=True)
class Case:
    """What is compared: the plain side's step, and samatch's; images is what one step learns from."""

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

# What the plain reference does: SAM asked and fine-tuned with boxes, its answer in the student's place.
BOXED = {
    "refine.prompt": "box",
    "refine.combine": "replace",
    "refine.sam_conf_thresh": 0.95,
    "sam.prompt_drop": 0.0,
}


def step_of(case: Case) -> Callable[[], None]:
    """One call is one training step as the training loop does it (batch, augmentation, step, optimisers), or one validation."""
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


def prepare_alone(config) -> task.Task:
    """As in training, but networks start as they come (no parent runs), and few slices: the cache of embeddings is no part of a step."""
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


def seconds(step: Callable[[], None], count: int) -> float:
    """Of one call, mean over `count`."""
    synchronise()
    start = time.perf_counter()
    for _ in range(count):
        step()
    synchronise()
    return (time.perf_counter() - start) / count


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def measure(cases: list[Case], repeats: int, steps: int) -> list[dict]:
    """Cases that share a plain step, timed in turns: plain, every samatch case, plain, ...; one warming call of each first."""
    fast = {case.name: step_of(case) for case in cases}
    plain = plain_of(cases[0]) if cases[0].plain else None
    for step in filter(None, (plain, *fast.values())):
        step()
    steps = 1 if cases[0].plain == "validate" else steps
    turns = []
    for _ in range(repeats):
        turns.append(
            {
                "plain": seconds(plain, steps) if plain else float("nan"),
                **{name: seconds(step, steps) for name, step in fast.items()},
            }
        )
    return [row_of(case, turns, fast[case.name]) for case in cases]


def row_of(case: Case, turns: list[dict], step: Callable[[], None]) -> dict:
    mine, gflop = statistics.median(turn[case.name] for turn in turns), flops(step) / 1e9
    return {
        "case": case.name,
        "method": case.method,
        "tune": case.tune if "sam" in case.method or case.method == FINETUNE else "",
        "images_a_step": case.images,
        "plain_s": statistics.median(turn["plain"] for turn in turns),
        "samatch_s": mine,
        "ratio": statistics.median(turn["plain"] / turn[case.name] for turn in turns),
        "iterations_per_s": 1 / mine,
        "images_per_s": case.images / mine,
        "gflop_a_step": gflop,
        "gflop_per_s": gflop / mine,
        "turns": len(turns),
    }


def flops(step: Callable[[], None]) -> float:
    """Floating-point operations of matrix products and convolutions of one call, forward and backward.

    NaN for a method that differentiates inside its step, which the counter cannot follow.
    """
    try:
        with FlopCounterMode(display=False) as counter:
            step()
    except RuntimeError as error:
        if "autograd.grad()" not in str(error):
            raise
        return float("nan")
    return float(counter.get_total_flops())


def limit(dtype: torch.dtype) -> float:
    """Operations a second (GFLOP/s) that a large matrix product reaches here: the device's practical limit."""
    size = 8192 if DEVICE.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=DEVICE).to(dtype)
    product = lambda: a @ b
    product()
    return 2 * size**3 / min(seconds(product, 5) for _ in range(3)) / 1e9


def apart(args, function: Callable, *words):
    """function(*words) in a process of its own, which gives its memory back when it ends."""
    with ProcessPoolExecutor(1, get_context("spawn"), set_up, (args.threads, args.folder)) as pool:
        return pool.submit(function, *words).result()


def set_up(threads: int, folder: Path) -> None:
    """The embeddings' cache and open runs go to `folder`, which is not kept."""
    warnings.simplefilter("ignore")
    if threads:
        torch.set_num_threads(threads)
    paths.runs_dir = lambda profile: folder / profile


def peaks_of(cases: list[Case], args) -> dict[str, float]:
    """Megabytes: of samatch by case, of the plain side by its step."""
    plain = {
        case.plain: apart(args, peak_here, case, "plain")
        for case in {case.plain: case for case in cases if case.plain}.values()
    }
    return plain | {case.name: apart(args, peak_here, case, "samatch") for case in cases}


def peak_here(case: Case, side: str) -> float:
    """Of one step in this process: memory of the GPU, or resident memory."""
    step = plain_of(case) if side == "plain" else step_of(case)
    step()
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")  # getrusage would count what the parent had
    if status.exists():
        return (
            int(
                next(
                    line for line in status.read_text().splitlines() if line.startswith("VmHWM")
                ).split()[1]
            )
            / 2**10
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument(
        "--only", default="", help="cases whose name contains this; the table's other rows stay"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="where the joint step's time goes, of both sides, instead of the timing",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        set_up(args.threads, args.folder)
        if args.profile:
            return write_profile(args)
        wanted = [case for case in CASES + ALONE if args.only in case.name]
        groups = [[case] for case in wanted if not case.plain] + [
            [c for c in wanted if c.plain == p]
            for p in dict.fromkeys(c.plain for c in wanted if c.plain)
        ]
        peaks, about, rows = peaks_of(wanted, args), about_here(), []
        for group in sorted(groups, key=lambda g: wanted.index(g[0])):
            rows += measure_and_show(group, args, peaks)
            write_table(pd.DataFrame(rows).assign(**about))


def about_here() -> dict:
    """The machine, how busy it has been (processes that wanted a core, this one among them), and what a large matrix product reaches on it."""
    return {
        "load": os.getloadavg()[1],
        "device": device_name(DEVICE),
        "machine": repro.machine(),
        "torch": torch.__version__,
        "commit": repro.commit(),
        "limit_f32_gflop_per_s": limit(torch.float32),
        "limit_bf16_gflop_per_s": limit(torch.bfloat16),
        "size": SIZE,
        "batch": f"{BATCH}+{BATCH}",
    }


def write_table(rows: pd.DataFrame) -> None:
    """results/benchmarks/<device>.csv and figures/speed.png, after every group of cases; other cases' rows of the same machine stay."""
    path = paths.TRACKED_RESULTS / "benchmarks" / f"{'gpu' if DEVICE.type == 'cuda' else 'cpu'}.csv"
    table = rows if not path.exists() else pd.concat([comparable(pd.read_csv(path), rows), rows])
    table = table.sort_values(
        "case",
        key=lambda names: names.map(
            {case.name: number for number, case in enumerate(CASES + ALONE)}
        ),
        ignore_index=True,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table.to_csv(index=False, float_format="%.5g"))
    figure = curves.speed(
        table[table.plain_s.notna()].reset_index(drop=True),
        f"{table.device[0]}, {SIZE} x {SIZE}, {BATCH}+{BATCH} images",
    )
    plots.save(figure, paths.TRACKED_FIGURES / "speed.png")


def comparable(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Rows of other cases that were measured on the same machine with the same torch."""
    same = ["device", "machine", "torch", "size", "batch"]
    return old[~old.case.isin(new.case) & (old[same] == new[same].iloc[0]).all(axis=1)]


def write_profile(args) -> None:
    """results/benchmarks/profile_<device>.csv: seconds of the joint step by operator, of the plain side and of samatch."""
    case = next(case for case in CASES if case.plain == "joint_step")
    columns = {
        f"{side}_s": pd.Series(apart(args, seconds_by_operator, case, side))
        for side in ("plain", "samatch")
    }
    table = pd.DataFrame(columns).fillna(0).sort_values("samatch_s", ascending=False)
    top = pd.concat(
        [table.head(14), table.iloc[14:].sum().rename("everything else").to_frame().T]
    ).rename_axis("operator")
    name = "gpu" if DEVICE.type == "cuda" else "cpu"
    write_text(
        paths.TRACKED_RESULTS / "benchmarks" / f"profile_{name}.csv",
        top.to_csv(float_format="%.3f"),
    )
    print(top.round(2).to_string())


def seconds_by_operator(case: Case, side: str) -> dict[str, float]:
    """Of one step, after one that warms up."""
    step = plain_of(case) if side == "plain" else step_of(case)
    step()
    activity = (
        torch.profiler.ProfilerActivity.CUDA
        if DEVICE.type == "cuda"
        else torch.profiler.ProfilerActivity.CPU
    )
    with torch.profiler.profile(activities=[activity]) as profiler:
        step()
    return {
        e.key: (e.self_device_time_total if DEVICE.type == "cuda" else e.self_cpu_time_total) / 1e6
        for e in profiler.key_averages()
    }


def measure_and_show(cases: list[Case], args, peaks: dict[str, float]) -> list[dict]:
    rows = apart(args, measure, cases, args.repeats, args.steps)
    for case, row in zip(cases, rows):
        row |= {
            "samatch_peak_mb": peaks[case.name],
            "plain_peak_mb": peaks.get(case.plain, float("nan")),
        }
        print(
            f"{case.name:36s} plain {row['plain_s']:8.3f} s   samatch {row['samatch_s']:8.3f} s   ratio {row['ratio']:6.1f}   "
            f"{row['gflop_per_s']:.0f} GFLOP/s   peak {row['samatch_peak_mb']:.0f} MB (plain {row['plain_peak_mb']:.0f})",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
