"""The one training loop: a config in, a complete run out.

    samatch train --profile demo --dataset phantom --method fixmatch

Missing parent runs are trained first. A run that was cut off goes on from its last state and ends with
the same weights as an uninterrupted one.
"""

import argparse
import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor

from samatch.config.settings import FINETUNE, PROFILES, RunConfig, make_config, parent_configs
from samatch.data.batches import draw_batch
from samatch.data.volumes import load_cases
from samatch.methods.base import Method, StepOutput
from samatch.results.records import Run
from samatch.sam.weights import weights_sha256
from samatch.system.devices import device_name
from samatch.system.errors import InputError
from samatch.system.progress import Progress
from samatch.training import evaluate
from samatch.training.task import Task, check_names, prepare


def train(config: RunConfig, wait: bool = False, trial: str = "") -> dict:
    """Trains one run, its missing parents first, and returns its record (run.json).

    A run that another process trains is refused, or waited for: parents are, so that their children can start side by side.
    A trial, of which `trial` says what it asks, and its parents never read the test split.
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
    task = prepare(config)
    state = TrainingState.start(task, run)
    while state.iteration < config.train.iterations:
        train_one(task, state)
        if state.iteration % config.train.checkpoint_every == 0:
            state.save(run)
    state.refuse_broken()
    save_whole(kept_weights(task.method), run.partial / "checkpoint.pt")
    per_case = final_evaluation(task, run, test=not trial)
    facts = {
        "val_dice": state.log[-1]["val_dice"],
        "selected_iteration": state.iteration,
        "seconds": round(state.seconds, 1),
        "selection_rule": SELECTION_RULE,
        "device": device_name(task.data.device),
        "weights_sha256": weights_sha256(config.sam_name)
        if config.sam_name and config.sam.pretrained
        else "",
        "trainable_parameters": trainable(task.method),
        "method_settings": dataclasses.asdict(task.method.settings),
    }
    run.finish(facts, pd.DataFrame(state.log), per_case)
    return run.read()


SELECTION_RULE = "the last weights, of the student their moving average; validation chooses settings, never an iteration"
CALMER = "lower the learning rate, or set train.bf16=false; the last good state is kept"
RISING = 30  # first steps, in which SAM's learning rate rises


def trainable(method: Method) -> dict[str, int]:
    """Numbers that learn, by network."""
    return {
        name: sum(p.numel() for p in network.parameters() if p.requires_grad)
        for name, network in method.networks().items()
    }


def make_optimizers(method: Method, config: RunConfig) -> dict[str, torch.optim.Optimizer]:
    """AdamW for SAM (published joint training: SGD 5e-4), Adam 1e-4 for a discriminator (SSL4MIS), the setting's for the rest."""
    found, fused = {}, torch.cuda.is_available()
    for name, network in method.networks().items():
        parameters = [p for p in network.parameters() if p.requires_grad]
        if not parameters:
            continue
        if name == "sam":
            found[name] = torch.optim.AdamW(
                parameters, lr=config.sam.lr, weight_decay=config.sam.weight_decay, fused=fused
            )
        elif name == "discriminator":
            found[name] = torch.optim.Adam(parameters, lr=1e-4, betas=(0.9, 0.99))
        elif config.train.optimizer == "adamw":
            found[name] = torch.optim.AdamW(
                parameters, lr=config.train.lr, weight_decay=config.train.weight_decay, fused=fused
            )
        else:
            found[name] = torch.optim.SGD(
                parameters,
                lr=config.train.lr,
                momentum=config.train.momentum,
                weight_decay=config.train.weight_decay,
                fused=fused,
            )
    return found


@dataclass
class TrainingState:
    """Everything that changes during training, and what a cut-off run resumes from.

    `recent` holds loss and slices of the steps since the losses were last looked at: looking at every step would make
    the host wait for the device.
    """

    method: Method
    optimizers: dict[str, torch.optim.Optimizer]
    generator: torch.Generator
    progress: Progress
    run: Run
    iteration: int = 0
    seconds: float = 0.0
    val_dice: float = float("nan")
    log: list[dict] = dataclasses.field(default_factory=list)
    sums: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    recent: list[tuple[int, Tensor, dict[str, Tensor]]] = dataclasses.field(default_factory=list)

    PLAIN = ("iteration", "seconds", "val_dice", "log", "sums")

    @classmethod
    def start(cls, task: Task, run: Run) -> "TrainingState":
        """A fresh state, validated once, or the one that an interrupted run left."""
        config = task.config
        state = cls(
            task.method,
            make_optimizers(task.method, config),
            torch.Generator().manual_seed(config.seed),
            Progress(config.run_id, config.train.iterations),
            run,
        )
        path = run.partial / "state.pt"
        if path.exists():
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if saved.pop("identity", None) == run.identity:
                state.load(saved, task.data.device)
                return state
            print(
                f"{config.run_id}: the state of an interrupted run is of other settings or data; training starts anew"
            )
        state.log.append({"iteration": 0} | validate(task))
        return state

    def save(self, run: Run) -> None:
        """Raises InputError, and leaves the last good state, where a loss or the weights are not finite."""
        self.refuse_broken()
        save_whole(
            {
                "identity": run.identity,
                **{key: getattr(self, key) for key in self.PLAIN},
                "networks": network_state(self.method),
                "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
                "memory": self.method.memory(),
                "generator": self.generator.get_state(),
                "random": random_states(),
            },
            run.partial / "state.pt",
        )

    def load(self, saved: dict, device: torch.device) -> None:
        for key in self.PLAIN:
            setattr(self, key, saved[key])
        self.sums = {name: value.to(device) for name, value in self.sums.items()}
        load_networks(self.method, saved["networks"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.method.recall({name: value.to(device) for name, value in saved["memory"].items()})
        self.generator.set_state(saved["generator"])
        set_random_states(saved["random"])

    def refuse_broken(self) -> None:
        """Raises InputError where a loss since the last look, or a weight now, is not finite."""
        self.refuse_broken_losses()
        named = {
            f"{network}.{name}": value
            for network, state in network_state(self.method).items()
            for name, value in state.items()
            if value.is_floating_point()
        }
        finite = torch.stack([value.isfinite().all() for value in named.values()]).cpu()
        if not finite.all():
            first = list(named)[int((~finite).nonzero()[0])]
            raise InputError(
                "the weights are not finite",
                where=f"{self.run.config.run_id}, iteration {self.iteration}",
                got=f"{int((~finite).sum())} of {len(named)} tensors, first {first}",
                do=CALMER,
            )

    def refuse_broken_losses(self) -> None:
        """Raises InputError where a loss since the last look was not finite, with the first such step and its slices.
        The step that breaks the weights has a finite loss still: see `refuse_broken`."""
        if not self.recent:
            return
        finite = torch.stack([loss for _, loss, _ in self.recent]).isfinite().cpu()
        if not finite.all():
            iteration, loss, slices = self.recent[int((~finite).nonzero()[0])]
            numbers = ", ".join(f"{name} slices {index.tolist()}" for name, index in slices.items())
            raise InputError(
                "the loss is not finite",
                where=f"{self.run.config.run_id}, iteration {iteration + 1}",
                got=f"{float(loss)} on {numbers}",
                do=CALMER,
            )
        self.recent.clear()


def random_states() -> dict[str, Tensor | list[Tensor]]:
    """Of every generator that a step may draw from."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def train_one(task: Task, state: TrainingState) -> None:
    """One iteration, and what is due after it: a log row, a validation."""
    start, config = time.monotonic(), task.config
    data = task.data
    batch = draw_batch(
        data.pool,
        data.n_labeled_slices,
        config,
        state.generator,
        state.iteration,
        unlabeled=bool(data.unlabeled),
        strong_views=task.method.strong_views,
    )
    for name, optimizer in state.optimizers.items():
        if name != "discriminator":
            optimizer.param_groups[0]["lr"] = learning_rate(config, name, state.iteration)
    for name, network in task.method.networks().items():
        network.train(name != "sam")
    with torch.autocast(data.device.type, torch.bfloat16, enabled=data.bf16):
        output = task.method.step(batch)
    descend(output, state.optimizers)
    task.method.follow(state.iteration)
    accumulate(output, state)
    slices = {
        name: index
        for name, index in (("labeled", batch.index_l), ("unlabeled", batch.index_u))
        if index is not None
    }
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
        state.val_dice = row.get("val_dice", state.val_dice)
    state.progress(state.iteration, f"val Dice {100 * state.val_dice:.1f} %")


def learning_rate(config: RunConfig, name: str, iteration: int) -> float:
    """Of one optimiser at an iteration: poly decay, for SAM after a short rise."""
    decay = (1 - iteration / config.train.iterations) ** config.train.poly_power
    return (
        config.sam.lr * min(1, (iteration + 1) / RISING) * decay
        if name == "sam"
        else config.train.lr * decay
    )


def descend(output: StepOutput, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """One step of every optimiser. The losses' graphs do not meet, since pseudo-labels carry no gradient; a network
    that no loss has reached has no gradient and stays as it is: SAM, where no image of the batch holds an object."""
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    loss = sum(output.losses.values())
    if loss.requires_grad:
        loss.backward()
    for optimizer in optimizers.values():
        optimizer.step()


def accumulate(output: StepOutput, state: TrainingState) -> None:
    """Adds to the sums, which stay on the device until a row of the log reads them: no step waits for the device."""
    with torch.no_grad():
        for name, value in output.logs.items():
            state.sums[name] = state.sums.get(name, 0) + torch.stack(
                [value.float(), torch.ones_like(value, dtype=torch.float32)]
            )
        for name, value in output.ratios.items():
            state.sums[f"ratio_{name}"] = state.sums.get(f"ratio_{name}", 0) + value


def read_log(state: TrainingState, classes: tuple[str, ...]) -> dict[str, float]:
    """Means of the scalars and quotients of the ratios since the last row; the sums start anew."""
    row = {}
    for name, value in ((name, value.cpu()) for name, value in state.sums.items()):
        if name.startswith("ratio_"):
            quotients = value[:, 0] / value[:, 1]
            row |= {
                f"{name.removeprefix('ratio_')}_{c}": float(q) for c, q in zip(classes, quotients)
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


def validate(task: Task) -> dict[str, float]:
    """Mean Dice on the validation volumes, over the classes that have one; `raw` is the student's beside its moving average's."""
    by_class = evaluate.dice_by_class(task.segment, task.data.val, task.data.manifest.classes)
    mean = evaluate.mean_of_defined(list(by_class.values()))
    row = {"val_dice": mean, **{f"val_dice_{name}": value for name, value in by_class.items()}}
    if task.raw is not None:
        raw = evaluate.dice_by_class(task.raw, task.data.val, task.data.manifest.classes)
        row["val_dice_raw"] = evaluate.mean_of_defined(list(raw.values()))
    return row


def final_evaluation(task: Task, run: Run, test: bool = True) -> pd.DataFrame:
    """The last weights on validation and, read here for the first time, the test volumes. A SAM that needs the
    reference's boxes is an upper bound, on validation alone."""
    manifest, volumes = task.data.manifest, {"val": task.data.val}

    def rows(segment: evaluate.Segment, split: str) -> pd.DataFrame:
        return evaluate.evaluate(
            segment, volumes[split.split("_")[0]], manifest.classes, split, manifest.distances
        )

    tables = [rows(task.segment, "val")]
    if test and not needs_reference(task):
        volumes["test"] = load_cases(manifest, manifest.cases_of(manifest.patients("test")))
        predictions = {volume.case.case_id: task.segment(volume) for volume in volumes["test"]}
        np.savez_compressed(run.partial / "predictions.npz", **predictions)
        tables.append(rows(lambda volume: predictions[volume.case.case_id], "test"))
    tables += [
        rows(segment, split)
        for split, segment in task.others.items()
        if split.split("_")[0] in volumes
    ]
    return pd.concat(tables, ignore_index=True)


def needs_reference(task: Task) -> bool:
    """Whether the run's way to segment is asked with the reference's boxes: no prediction."""
    return task.config.method == FINETUNE and not task.method.answers_alone


def network_state(method: Method) -> dict[str, dict[str, Tensor]]:
    """Weights of everything that learns or follows."""
    found = {name: network.state_dict() for name, network in method.networks().items()}
    return found if method.ema is None else found | {"ema": method.ema.state_dict()}


def load_networks(method: Method, saved: dict[str, dict[str, Tensor]]) -> None:
    for name, network in method.networks().items():
        network.load_state_dict(saved[name])
    if method.ema is not None:
        method.ema.load_state_dict(saved["ema"])


def kept_weights(method: Method) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds: the student is the network that is validated and tested."""
    found = {name: network.state_dict() for name, network in method.networks().items()}
    return found | ({"student": method.evaluated.state_dict()} if "student" in found else {})


def save_whole(content: dict, path) -> None:
    """torch.save, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        torch.save(content, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            "cannot write a checkpoint",
            where=path.name,
            got=str(error).splitlines()[0],
            do="free some space and run again: the run goes on from its last state",
        ) from error


def read_words(words: list[str] | None = None) -> argparse.Namespace:
    """The run that a command line names, as `config`, beside `trial` and `wait` of `train`."""
    parser = argparse.ArgumentParser(
        prog="samatch train", description="Train one run; missing parents first."
    )
    parser.add_argument("--profile", default="demo", help=", ".join(PROFILES))
    parser.add_argument("--dataset", default="phantom")
    parser.add_argument("--n-labeled", type=int, default=3, help="labeled patients")
    parser.add_argument("--method", default="samatch-fixmatch")
    parser.add_argument("--sam", default="lite_medsam")
    parser.add_argument("--seed", type=int, default=0)
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
    args = parser.parse_args(words)
    overrides = {
        key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in args.set)
    }
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


def main(words: list[str] | None = None) -> None:
    args = read_words(words)
    record = train(args.config, wait=args.wait, trial=args.trial)
    print(
        "trainable parameters:",
        ", ".join(f"{name} {count:,}" for name, count in record["trainable_parameters"].items()),
    )
    print(
        f"{record['run_id']}: validation Dice {100 * record['val_dice']:.2f} % at iteration {record['selected_iteration']}, {record['seconds']:.0f} s"
    )
