"""The one training loop: a config in, a complete run out.

    python -m samatch.train --profile demo --dataset phantom --method fixmatch

Missing parent runs are trained first. A run that was cut off goes on from its last state and ends with
the same weights as an uninterrupted one.
"""

import argparse
import dataclasses
import math
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor

from samatch import evaluate
from samatch.config import FINETUNE, PROFILES, RunConfig, make_config, parent_configs
from samatch.data import draw_batch
from samatch.datasets import load_cases
from samatch.devices import device_name
from samatch.errors import InputError
from samatch.methods import Method, StepOutput
from samatch.progress import Progress
from samatch.records import Run
from samatch.task import Task, check_names, prepare
from samatch.weights import weights_sha256


def train(config: RunConfig, wait: bool = False) -> dict:
    """Trains one run, its missing parents first, and returns its record (run.json).

    A run that another process trains is refused, or waited for: parents are, so that their children can start side by side.
    """
    check_names(config)
    run = Run(config)
    if run.complete:
        return run.read()
    for parent in parent_configs(config):
        train(parent, wait=True)
    run.open(wait)
    if run.complete:
        run.close()
        return run.read()
    task = prepare(config)
    state = TrainingState.start(task, run)
    while state.iteration < config.train.iterations:
        train_one(task, state)
        if state.iteration % config.train.checkpoint_every == 0:
            state.save(run)
    per_case = final_evaluation(task, run)
    facts = {"val_dice": state.best_dice, "selected_iteration": state.best_iteration, "seconds": round(state.seconds, 1),
             "selection_rule": "highest mean validation Dice over volumes and classes", "device": device_name(task.data.device),
             "manifest_sha256": task.data.manifest.sha256, "splits_sha256": task.data.manifest.splits_sha256,
             "weights_sha256": weights_sha256(config.sam_name) if config.sam_name and config.sam.pretrained else "",
             "trainable_parameters": trainable(task.method), "method_settings": dataclasses.asdict(task.method.settings)}
    run.finish(facts, pd.DataFrame(state.log), per_case)
    return run.read()


def trainable(method: Method) -> dict[str, int]:
    """Numbers that learn, by network."""
    return {name: sum(p.numel() for p in network.parameters() if p.requires_grad) for name, network in method.networks().items()}


def make_optimizers(method: Method, config: RunConfig) -> dict[str, torch.optim.Optimizer]:
    """AdamW for SAM (published joint training: SGD 5e-4), Adam 1e-4 for a discriminator (SSL4MIS), SGD for the rest."""
    found, fused = {}, torch.cuda.is_available()
    for name, network in method.networks().items():
        parameters = [p for p in network.parameters() if p.requires_grad]
        if not parameters:
            continue
        if name == "sam":
            found[name] = torch.optim.AdamW(parameters, lr=config.sam.lr, weight_decay=config.sam.weight_decay, fused=fused)
        elif name == "discriminator":
            found[name] = torch.optim.Adam(parameters, lr=1e-4, betas=(0.9, 0.99))
        else:
            found[name] = torch.optim.SGD(parameters, lr=config.train.lr, momentum=config.train.momentum,
                                          weight_decay=config.train.weight_decay, fused=fused)
    return found


@dataclass
class TrainingState:
    """Everything that changes during training, and what a cut-off run resumes from."""

    method: Method
    optimizers: dict[str, torch.optim.Optimizer]
    generator: torch.Generator
    progress: Progress
    run: Run
    iteration: int = 0
    best_dice: float = -1.0
    best_iteration: int = 0
    seconds: float = 0.0
    log: list[dict] = dataclasses.field(default_factory=list)
    sums: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    PLAIN = ("iteration", "best_dice", "best_iteration", "seconds", "log", "sums")

    @classmethod
    def start(cls, task: Task, run: Run) -> "TrainingState":
        """A fresh state, validated once, or the one that an interrupted run left."""
        config = task.config
        state = cls(task.method, make_optimizers(task.method, config), torch.Generator().manual_seed(config.seed),
                    Progress(config.run_id, config.train.iterations), run)
        path = run.partial / "state.pt"
        if path.exists():
            saved = torch.load(path, map_location=task.data.device, weights_only=True)
            if saved.pop("config_sha256") == config.sha256():
                state.load(saved)
                return state
        state.log.append({"iteration": 0} | validate(task, state))
        return state

    def save(self, run: Run) -> None:
        save_whole({"config_sha256": run.config.sha256(), **{key: getattr(self, key) for key in self.PLAIN},
                    "networks": network_state(self.method), "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
                    "generator": self.generator.get_state(), "torch_rng": torch.get_rng_state()}, run.partial / "state.pt")

    def load(self, saved: dict) -> None:
        for key in self.PLAIN:
            setattr(self, key, saved[key])
        for name, network in self.method.networks().items():
            network.load_state_dict(saved["networks"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.generator.set_state(saved["generator"].cpu())
        torch.set_rng_state(saved["torch_rng"].cpu())


def train_one(task: Task, state: TrainingState) -> None:
    """One iteration, and what is due after it: a log row, a validation."""
    start, config = time.monotonic(), task.config
    data = task.data
    batch = draw_batch(data.pool, data.n_labeled_slices, config, state.generator, state.iteration, unlabeled=bool(data.unlabeled),
                       strong_views=task.method.strong_views)
    for optimizer in state.optimizers.values():
        if isinstance(optimizer, torch.optim.SGD):
            optimizer.param_groups[0]["lr"] = config.train.lr * (1 - batch.progress) ** config.train.poly_power
    for name, network in task.method.networks().items():
        network.train(name != "sam")
    with torch.autocast(data.device.type, torch.bfloat16, enabled=data.bf16):
        output = task.method.step(batch)
    descend(output, state.optimizers)
    accumulate(output, state)
    state.iteration += 1
    row = {}
    if state.iteration % config.train.log_every == 0:
        row = read_log(state, data.manifest.classes)
    if state.iteration % config.train.val_every == 0 or state.iteration == config.train.iterations:
        row |= validate(task, state)
    state.seconds += time.monotonic() - start
    if row:
        state.log.append({"iteration": state.iteration} | row)
    state.progress(state.iteration, f"val Dice {100 * state.best_dice:.1f} %")


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
            state.sums[name] = state.sums.get(name, 0) + torch.stack([value.float(), torch.ones_like(value, dtype=torch.float32)])
        for name, value in output.ratios.items():
            state.sums[f"ratio_{name}"] = state.sums.get(f"ratio_{name}", 0) + value


def read_log(state: TrainingState, classes: tuple[str, ...]) -> dict[str, float]:
    """Means of the scalars and quotients of the ratios since the last row; the sums start anew."""
    row = {}
    for name, value in ((name, value.cpu()) for name, value in state.sums.items()):
        if name.startswith("ratio_"):
            quotients = value[:, 0] / value[:, 1]
            row |= {f"{name.removeprefix('ratio_')}_{c}": float(q) for c, q in zip(classes, quotients)}
        else:
            row[name] = float(value[0] / value[1])
    if broken := {name: value for name, value in row.items() if name.startswith("loss") and not math.isfinite(value)}:
        raise InputError("the loss is not finite", where=f"{state.run.config.run_id}, up to iteration {state.iteration}", got=broken,
                         do="lower the learning rate, or set train.bf16=false")
    row |= {f"lr_{name}": optimizer.param_groups[0]["lr"] for name, optimizer in state.optimizers.items()}
    state.sums = {}
    return row


def validate(task: Task, state: TrainingState) -> dict[str, float]:
    """Mean Dice on the validation volumes; the best weights so far are kept."""
    by_class = evaluate.dice_by_class(task.segment, task.data.val, task.data.manifest.classes)
    mean = float(np.mean(list(by_class.values())))
    if mean > state.best_dice:
        state.best_dice, state.best_iteration = mean, state.iteration
        save_whole(network_state(task.method), state.run.partial / "checkpoint.pt")
    return {"val_dice": mean, **{f"val_dice_{name}": value for name, value in by_class.items()}}


def final_evaluation(task: Task, run: Run) -> pd.DataFrame:
    """The selected weights on the test volumes, read here for the first time; SAM's upper bound on validation."""
    manifest = task.data.manifest
    weights = torch.load(run.partial / "checkpoint.pt", map_location=task.data.device, weights_only=True)
    for name, network in task.method.networks().items():
        network.load_state_dict(weights[name])
    if task.config.method == FINETUNE:
        return evaluate.evaluate(task.segment, task.data.val, manifest.classes, "val", manifest.distances)
    test = load_cases(manifest, manifest.cases_of(manifest.patients("test")))
    predictions = {volume.case.case_id: task.segment(volume) for volume in test}
    np.savez_compressed(run.partial / "predictions.npz", **predictions)
    tables = [evaluate.evaluate(task.segment, task.data.val, manifest.classes, "val", manifest.distances),
              evaluate.evaluate(lambda volume: predictions[volume.case.case_id], test, manifest.classes,
                                "test", manifest.distances)]
    return pd.concat(tables, ignore_index=True)


def network_state(method: Method) -> dict[str, dict[str, Tensor]]:
    return {name: network.state_dict() for name, network in method.networks().items()}


def save_whole(content: dict, path) -> None:
    """torch.save, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        torch.save(content, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise InputError("cannot write a checkpoint", where=path.name, got=str(error).splitlines()[0], do="free some space and run again: "
                         "the run goes on from its last state") from error


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m samatch.train", description="Train one run; missing parents first.")
    parser.add_argument("--profile", default="demo", help=", ".join(PROFILES))
    parser.add_argument("--dataset", default="phantom")
    parser.add_argument("--n-labeled", type=int, default=3, help="labeled patients")
    parser.add_argument("--method", default="samatch-fixmatch")
    parser.add_argument("--sam", default="lite_medsam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", default="", help="name of a variant; needed with --set")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, e.g. train.iterations=100")
    args = parser.parse_args(words)
    try:
        overrides = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in args.set)}
        record = train(make_config(args.profile, args.dataset, args.n_labeled, args.method, args.sam, args.seed, args.variant, overrides))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    print("trainable parameters:", ", ".join(f"{name} {count:,}" for name, count in record["trainable_parameters"].items()))
    print(f"{record['run_id']}: validation Dice {100 * record['val_dice']:.2f} % at iteration {record['selected_iteration']}, {record['seconds']:.0f} s")


if __name__ == "__main__":
    main()
