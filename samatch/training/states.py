"""What changes during training: its state, saved whole or not at all, and what a checkpoint has."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from samatch.methods.base import Method
from samatch.results.runs import Run
from samatch.system import paths, whole
from samatch.system.errors import InputError
from samatch.system.progress import Progress
from samatch.training.optimizers import make_optimizers
from samatch.training.task import Task, validate

NEWEST, OLDER = "state.pt", "state_older.pt"  # the last two states of a run that is going
CALMER = "lower the learning rate, or set train.bf16=false; the last good state is kept"


@dataclass
class TrainingState:
    """Everything that changes during training, and what a cut-off run resumes from.

    `recent` holds loss and slices of the steps since the losses were last looked at: looking at
    every step would make the host wait for the device.
    """

    method: Method
    optimizers: dict[str, torch.optim.Optimizer]
    generator: torch.Generator
    progress: Progress
    run: Run
    case_ids: list[str]  # of each slice of the pool
    iteration: int = 0
    seconds: float = 0.0
    log: list[dict] = dataclasses.field(default_factory=list)
    sums: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    recent: list[tuple[int, Tensor, dict[str, Tensor]]] = dataclasses.field(default_factory=list)

    PLAIN = ("iteration", "seconds", "log", "sums")
    SAVED = {"identity", *PLAIN, "networks", "optimizers", "memory", "generator", "random"}

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
            task.data.case_ids,
        )
        saved = read_state(run)
        if saved is None:
            state.log.append({"iteration": 0} | validate(task))
        else:
            state.load(saved, task.data.device)
        return state

    @property
    def val_dice(self) -> float:
        """That of the last validation; there is one before the first step."""
        return next(row["val_dice"] for row in reversed(self.log) if "val_dice" in row)

    def save(self, run: Run) -> None:
        """Raises InputError, and leaves the last good state,
        where a loss or the weights are not finite."""
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
            run.partial / NEWEST,
            older=run.partial / OLDER,
        )

    def load(self, saved: dict, device: torch.device) -> None:
        """Takes back what `save` wrote: networks, optimisers, sums, every generator."""
        for key in self.PLAIN:
            setattr(self, key, saved[key])
        self.sums = {name: value.to(device) for name, value in self.sums.items()}
        try:
            load_networks(self.method, saved["networks"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(saved["optimizers"][name])
            self.method.recall({name: value.to(device) for name, value in saved["memory"].items()})
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                "the state of an interrupted run does not fit its networks",
                where=paths.shown(self.run.partial),
                got=whole.reason(error),
                do="delete that folder, and train the run from its start",
            ) from error
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
        """Raises InputError where a loss since the last look was not
        finite, with the first such step and its slices. The step that
        breaks the weights has a finite loss still: see `refuse_broken`."""
        if not self.recent:
            return
        finite = torch.stack([loss for _, loss, _ in self.recent]).isfinite().cpu()
        if not finite.all():
            iteration, loss, slices = self.recent[int((~finite).nonzero()[0])]
            numbers = "; ".join(self._named(name, index) for name, index in slices.items())
            raise InputError(
                "the loss is not finite",
                where=f"{self.run.config.run_id}, iteration {iteration + 1}",
                got=f"{float(loss)} on {numbers}",
                do=CALMER,
            )
        self.recent.clear()

    def _named(self, kind: str, index: Tensor) -> str:
        """Slices of a batch by number and case."""
        numbers = index.tolist()
        cases = sorted({self.case_ids[number] for number in numbers})
        return f"{kind} slices {numbers} of cases {', '.join(cases)}"


def read_state(run: Run) -> dict | None:
    """The newest whole state of an interrupted run, or None where training starts anew.

    A state that cannot be used, and what is done without it, is said in one line. Raises InputError
    where a folder has a state's place: none could be saved.
    """
    name, problems = run.config.run_id, []
    states = [run.partial / NEWEST, run.partial / OLDER]
    if not any(os.path.lexists(path) for path in states):
        return None
    for path in states:
        if path.is_dir():
            raise InputError(
                "a folder lies where a state belongs",
                where=f"{path.parent.name}/{path.name}",
                do="move it away",
            )
    for path in states:
        saved, problem = _loaded(path)
        if problem:
            problems.append(f"{path.name} cannot be used, {problem}")
        elif saved.pop("identity") != run.identity:
            problems.append("the state of an interrupted run is of other settings or data")
            break
        else:
            if problems:
                print(f"{name}: {problems[0]}; going on from iteration {saved['iteration']}")
                path.replace(run.partial / NEWEST)  # else the next save would put it away
            return saved
    print(f"{name}: {'; '.join(problems)}; training starts anew")
    return None


def _loaded(path: Path) -> tuple[dict, str]:
    """A saved state, and what is wrong with it."""
    if problem := whole.fault(path):
        return {}, problem
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a file that is none of its own
        return {}, f"it is no state ({whole.reason(error)})"
    if not isinstance(saved, dict) or not saved.keys() >= TrainingState.SAVED:
        return {}, "it is no state of a training"
    return saved, ""


def random_states() -> dict[str, Tensor | list[Tensor]]:
    """Of every generator that a step may draw from."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict) -> None:
    """Takes back what `random_states` gave; a GPU's where there is one."""
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def network_state(method: Method) -> dict[str, dict[str, Tensor]]:
    """Weights of everything that learns or follows."""
    found = {name: network.state_dict() for name, network in method.networks().items()}
    return found if method.ema is None else found | {"ema": method.ema.state_dict()}


def load_networks(method: Method, saved: dict[str, dict[str, Tensor]]) -> None:
    """Takes back what `network_state` gave."""
    for name, network in method.networks().items():
        network.load_state_dict(saved[name])
    if method.ema is not None:
        method.ema.load_state_dict(saved["ema"])


def kept_weights(method: Method) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds: the student is the network that is validated and tested."""
    found = {name: network.state_dict() for name, network in method.networks().items()}
    return found | ({"student": method.evaluated.state_dict()} if "student" in found else {})


def save_whole(content: dict, path: Path, older: Path | None = None) -> None:
    """torch.save, whole or not at all; what stood there goes to `older`, where that is named."""
    whole.write_whole(
        path,
        lambda partial: torch.save(content, partial),
        "a checkpoint",
        older,
        do="free some space and run again: the run goes on from its last state",
    )
