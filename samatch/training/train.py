"""The one training loop: a config in, a complete run out.

    samatch train --profile demo --dataset phantom --method fixmatch

Missing parent runs are trained first. A run that was cut off goes on from its last state and ends
with the same weights as an uninterrupted one.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import yaml

from samatch.config.settings import FINETUNE, RunConfig, make_config, parent_configs
from samatch.config.words import run_parser
from samatch.data.batches import Batch, draw_batch
from samatch.data.volumes import load_cases
from samatch.methods.base import StepOutput
from samatch.results.films import film_of_run
from samatch.results.runs import Run, predictions_file, write_predictions
from samatch.sam.weights import weights_sha256
from samatch.system.devices import device_name, memory_checked
from samatch.system.errors import InputError
from samatch.system.stopping import TERMINATED, Stop
from samatch.training import evaluate
from samatch.training.filming import Camera
from samatch.training.optimizers import descend, learning_rate, trainable
from samatch.training.states import TrainingState, kept_weights, save_whole
from samatch.training.task import Task, check_names, prepare, validate

# Looks at a task after so many iterations: at the start of a training and after each one.
Watch = Callable[[Task, int], None]


def train(
    config: RunConfig, wait: bool = False, trial: str = "", watch: Watch | None = None
) -> dict:
    """Trains one run, its missing parents first, and returns its record (run.json).

    A run that another process trains is refused, or waited for: parents
    are, so that their children can start side by side. A trial, of which
    `trial` says what it asks, and its parents never read the test split.
    `watch` sees the run at work, not its parents; it changes nothing, and
    is no part of the run's identity.
    """
    check_names(config)
    run = Run(config, trial)
    if run.complete:
        return run.read()
    for parent in parent_configs(config):
        train(parent, wait=True, trial=trial)
    run.open(wait)
    if run.complete:  # by the process that was waited for
        run.close()
        return Run(config, trial).read()
    try:
        return train_opened(config, run, trial, watch)
    finally:  # a notebook keeps the traceback, and with it the run
        run.release()


def train_opened(config: RunConfig, run: Run, trial: str, watch: Watch | None = None) -> dict:
    """`train` of a run whose folder is locked and whose parents are complete."""
    with memory_checked(config.run_id, LOWER):
        task = prepare(config)
        state = TrainingState.start(task, run)
        train_to_the_end(task, state, run, watch)
        per_case = final_evaluation(task, run, test=not trial)
    # Only here, after the last state and of the same iteration: whatever cuts the run off before,
    # it goes on from a state.
    save_whole(kept_weights(task.method), run.partial / "checkpoint.pt")
    run.finish(facts_of(task, state), pd.DataFrame(state.log), per_case)
    return run.read()


def train_to_the_end(
    task: Task, state: TrainingState, run: Run, watch: Watch | None = None
) -> None:
    """Every iteration that is left. SIGTERM saves one more state and ends the process."""
    settings = task.config.train
    with Stop() as stop:
        if watch and state.iteration == 0:
            watch(task, 0)
        while state.iteration < settings.iterations:
            train_one(task, state)
            if watch:
                watch(task, state.iteration)
            last = state.iteration == settings.iterations
            if last or stop.asked or state.iteration % settings.checkpoint_every == 0:
                state.save(run)
            if stop.asked:
                print(
                    f"{task.config.run_id}: stopped by SIGTERM after iteration {state.iteration} "
                    f"of {settings.iterations}; the same command goes on from there",
                    flush=True,
                )
                raise SystemExit(TERMINATED)
    state.refuse_broken()


def facts_of(task: Task, state: TrainingState) -> dict:
    """What a run's record says of its training."""
    sam = task.config.sam
    published = task.config.sam_name and sam.pretrained
    return {
        "val_dice": state.log[-1]["val_dice"],
        "selected_iteration": state.iteration,
        "seconds": round(state.seconds, 1),
        "selection_rule": SELECTION_RULE,
        "classes": list(task.data.manifest.classes),
        "device": device_name(task.data.device),
        "weights_sha256": weights_sha256(task.config.sam_name) if published else "",
        "trainable_parameters": trainable(task.method),
        "method_settings": dataclasses.asdict(task.method.settings),
    }


LOWER = (
    "lower train.batch_unlabeled, train.batch_labeled or train.image_size, where SAM takes part "
    "sam.image_size too, or set sam.tune=decoder (--variant NAME --set KEY=VALUE); "
    "the last saved state is kept"
)
SELECTION_RULE = (
    "the last weights, of the student their moving average; "
    "validation chooses settings, never an iteration"
)


def train_one(task: Task, state: TrainingState) -> None:
    """One iteration, and what is due after it: a log row, a validation."""
    start, config, data = time.monotonic(), task.config, task.data
    batch, output = take_step(task, state.optimizers, state.generator, state.iteration)
    accumulate(output, state)
    drawn = {"labeled": batch.index_l, "unlabeled": batch.index_u}
    slices = {name: index for name, index in drawn.items() if len(index)}
    state.recent.append(
        (state.iteration, sum(loss.detach() for loss in output.losses.values()), slices)
    )
    state.iteration += 1
    row = {}
    if state.iteration % config.train.log_every == 0:
        row = read_log(state, data.manifest.classes)
    if state.iteration % config.train.val_every == 0 or state.iteration == config.train.iterations:
        row |= validate(task)
    state.seconds += time.monotonic() - start
    if row:
        state.log.append({"iteration": state.iteration} | row)
    state.progress(state.iteration, f"val Dice {100 * state.val_dice:.1f} %")


def take_step(
    task: Task,
    optimizers: dict[str, torch.optim.Optimizer],
    generator: torch.Generator,
    iteration: int,
) -> tuple[Batch, StepOutput]:
    """A batch drawn, the method's step on it, the weights moved: what it was and what it gave."""
    config, data = task.config, task.data
    batch = draw_batch(
        data.pool,
        data.n_labeled_slices,
        config,
        generator,
        iteration,
        unlabeled=bool(data.unlabeled),
        strong_views=task.method.strong_views,
    )
    for name, optimizer in optimizers.items():
        if name != "discriminator":
            optimizer.param_groups[0]["lr"] = learning_rate(config, name, iteration)
    for name, network in task.method.networks().items():
        network.train(name != "sam")
    with torch.autocast(data.device.type, torch.bfloat16, enabled=data.bf16):
        output = task.method.step(batch)
    descend(output, optimizers)
    task.method.follow(iteration)
    return batch, output


def accumulate(output: StepOutput, state: TrainingState) -> None:
    """Adds to the sums, which stay on the device until a row
    of the log reads them: no step waits for the device."""
    with torch.no_grad():
        for name, value in output.logs.items():
            state.sums[name] = state.sums.get(name, 0) + torch.stack(
                [value.float(), torch.ones_like(value, dtype=torch.float32)]
            )
        for name, value in output.ratios.items():
            state.sums[f"ratio_{name}"] = state.sums.get(f"ratio_{name}", 0) + value


def read_log(state: TrainingState, classes: tuple[str, ...]) -> dict[str, float]:
    """Means of the scalars and quotients of the ratios since the last row; the sums start anew."""
    row: dict[str, float] = {}
    for name, value in ((name, value.cpu()) for name, value in state.sums.items()):
        if name.startswith("ratio_"):
            quotients = value[:, 0] / value[:, 1]
            row |= {
                f"{name.removeprefix('ratio_')}_{c}": float(q)
                for c, q in zip(classes, quotients, strict=True)
            }
        else:
            row[name] = float(value[0] / value[1])
    state.refuse_broken_losses()
    row |= {
        f"lr_{name}": optimizer.param_groups[0]["lr"]
        for name, optimizer in state.optimizers.items()
    }
    state.sums = {}
    return row


def final_evaluation(task: Task, run: Run, test: bool = True) -> pd.DataFrame:
    """The last weights on validation and, read here for the first time, the test volumes. A SAM
    that needs the reference's boxes is an upper bound, on validation alone."""
    manifest, volumes = task.data.manifest, {"val": task.data.val}

    def rows(segment: evaluate.Segment, split: str) -> pd.DataFrame:
        return evaluate.evaluate(
            segment, volumes[split.split("_")[0]], manifest.classes, split, manifest.distances
        )

    tables = [rows(task.segment, "val")]
    if test and not needs_reference(task):
        volumes["test"] = load_cases(manifest, manifest.cases_of(manifest.patients("test")))
        predictions = {volume.case.case_id: task.segment(volume) for volume in volumes["test"]}
        write_predictions(run.partial / predictions_file(), predictions)
        tables.append(rows(segmented(predictions), "test"))
    if beside := task.beside:
        for split in (split for split in beside.splits if split in volumes):
            maps = {volume.case.case_id: beside.segment(volume) for volume in volumes[split]}
            for number, name in enumerate(beside.names):
                one = {case_id: several[number] for case_id, several in maps.items()}
                if split == "test":
                    write_predictions(run.partial / predictions_file(name), one)
                tables.append(rows(segmented(one), f"{split}_{name}"))
    return pd.concat(tables, ignore_index=True)


def segmented(maps: dict[str, np.ndarray]) -> evaluate.Segment:
    """Volumes that are segmented already: class maps by case."""
    return lambda volume: maps[volume.case.case_id]


def needs_reference(task: Task) -> bool:
    """Whether the run's way to segment is asked with the reference's boxes: no prediction."""
    return task.config.method == FINETUNE and not task.method.answers_alone


def read_words(words: list[str] | None = None) -> argparse.Namespace:
    """The run that a command line names, as `config`, beside `trial` and `wait` of `train`."""
    parser = run_parser(
        "samatch train", "Train one run; missing parents first.", "samatch-fixmatch"
    )
    parser.add_argument("--variant", default="", help="name of a variant; needed with --set")
    parser.add_argument(
        "--trial",
        default="",
        metavar="QUESTION",
        help="validation only: what this trial asks; it is no result",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one setting, e.g. train.iterations=100",
    )
    parser.add_argument(
        "--wait", action="store_true", help="for another process that trains this run"
    )
    parser.add_argument(
        "--film",
        action="store_true",
        help="keep what student and SAM say of one slice over a joint training: samatch film",
    )
    args = parser.parse_args(words)
    overrides = dict(map(_override, args.set))
    args.config = make_config(
        args.profile,
        args.dataset,
        args.n_labeled,
        args.method,
        args.sam,
        args.seed,
        args.variant,
        overrides,
    )
    return args


def _override(pair: str) -> tuple[str, object]:
    """Key and value of KEY=VALUE. Raises InputError where the value is no YAML."""
    key, _, value = pair.partition("=")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(
            f"{key} has no value that can be read",
            expected="KEY=VALUE with a number, a word, true or false",
            got=pair,
            do=f"for example --set {key}=1",
        ) from None


def main(words: list[str] | None = None) -> None:
    """`samatch train`: trains one run, and says how it ended."""
    args = read_words(words)
    watch = Camera(args.config, args.trial) if args.film else None
    run = Run(args.config, args.trial)
    if watch and run.complete:
        film_of_run(run.folder)  # says so where there is none
    record = train(args.config, wait=args.wait, trial=args.trial, watch=watch)
    print(
        "trainable parameters:",
        ", ".join(f"{name} {count:,}" for name, count in record["trainable_parameters"].items()),
    )
    print(
        f"{record['run_id']}: validation Dice {100 * record['val_dice']:.2f} % "
        f"at iteration {record['selected_iteration']}, {record['seconds']:.0f} s"
    )
