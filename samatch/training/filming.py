"""Films a joint training: one unlabeled slice as student and SAM see it, every few iterations.

    samatch train --profile laptop --dataset acdc --method samatch-fixmatch --film

The camera looks between two iterations, without gradient, and gives every random number back that
it draws: the weights are those of a training that nobody films. The film lies in the run's folder
from its first frame on, so that a run that was cut off goes on with it.
"""

from pathlib import Path

import numpy as np
import torch

from samatch.config.settings import FINETUNE, RunConfig
from samatch.data.batches import resized
from samatch.results import films, strips
from samatch.results.films import Film
from samatch.results.runs import FILM, Run
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.training.evaluate import student_probs
from samatch.training.task import Task
from samatch.training.walkthrough import Pair, Place, embedder_of_places, opinions, places_of

FRAMES = 20  # from the start of a training to its end; the start is one more


class Camera:
    """A `watch` of `samatch.training.train.train` that keeps a film in a run's folder.

    Of a run that began without it the film starts where the run goes on, of a complete run it sees
    nothing. must: whether a training without a slice to film is an error; else it goes unfilmed.
    Raises InputError where the run has no SAM beside a student.
    """

    def __init__(self, config: RunConfig, trial: str = "", must: bool = True):
        refuse_unfilmable(config)
        self.must = must
        self.path = Run(config, trial).partial / FILM
        self.every = max(1, config.train.iterations // FRAMES)
        self.film: Film | None = None

    def __call__(self, task: Task, iteration: int) -> None:
        """Adds a frame if one is due after so many iterations."""
        if iteration % self.every and iteration != task.config.train.iterations:
            return
        if self.film is None:
            self.film = continued(self.path, iteration) or begun(task, self.must)
        if self.film is None:
            return
        progress = iteration / task.config.train.iterations
        with torch.random.fork_rng():  # a box's jitter is drawn, though it is 0
            said = opinions(pair_of(task), place_of(self.film, task), progress)
        self.film.frames[iteration] = said
        films.write(self.film, self.path)


def refuse_unfilmable(config: RunConfig) -> None:
    """Raises InputError unless the run trains a student and a SAM together."""
    if config.method == FINETUNE or not config.sam_name:
        raise InputError(
            "a film shows a student and a SAM that train together",
            where=config.run_id,
            expected="a method samatch-..., with its SAM",
            got=config.method if config.method == FINETUNE else f"{config.method}, without a SAM",
            do="leave out --film",
        )


def continued(path: Path, iteration: int) -> Film | None:
    """The frames that an interrupted run has left from before `iteration`; None without any."""
    film = films.read(path).until(iteration) if path.exists() else None
    return film if film and film.frames else None


def begun(task: Task, must: bool = True) -> Film | None:
    """A film without frames of the slice that RULE chooses by today's student; where there is none
    to choose, None, or an InputError if there must be one."""
    data, size = task.data, task.config.train.image_size
    places = places_of(data.unlabeled, size, data.manifest.classes)
    if not places:
        if not must:
            return None
        raise InputError(
            "no slice to film",
            where=data.manifest.name,
            expected="an unlabeled training slice whose hidden label shows every class",
            do="leave out --film, or choose a data set whose training patients have labels",
        )
    order = np.argsort(-dice_of_student(task, places), kind="stable")
    chosen = places[order[(len(order) - 1) // 2]]
    case_id = chosen.volume.case.case_id
    return Film(task.config.run_id, case_id, chosen.slice, len(places), {})


def dice_of_student(task: Task, places: list[Place]) -> np.ndarray:
    """(N,) percent of the evaluated student on each slice, mean over classes."""
    size, count = task.config.train.image_size, len(task.data.manifest.classes)
    maps, hidden = {}, {}
    for volume in {place.volume.case.case_id: place.volume for place in places}.values():
        probs = student_probs(task.method.evaluated, volume.image, size, task.data.bf16)
        maps[volume.case.case_id] = probs.argmax(1).cpu().numpy()
        hidden[volume.case.case_id] = resized(volume, size)[1].numpy()
    found = []
    for place in places:
        case = place.volume.case.case_id
        by_class = strips.dice_by_class(maps[case][place.slice], hidden[case][place.slice], count)
        found.append(strips.mean_dice(by_class))
    return np.array(found)


def place_of(film: Film, task: Task) -> Place:
    """The film's slice among the unlabeled volumes; its number counts the pool's slices."""
    before = task.data.n_labeled_slices
    for volume in task.data.unlabeled:
        if volume.case.case_id == film.case_id:
            return Place(volume, film.slice, before + film.slice)
        before += len(volume.image)
    raise InputError(
        "the slice of the film is not among the unlabeled ones",
        where=paths.shown(Path(FILM)),
        expected="the data with which the film began",
        got=film.case_id,
        do="delete the film, and train again",
    )


def pair_of(task: Task) -> Pair:
    """The networks in training as `opinions` asks them; embeddings are the training's own."""
    cache = task.method.embeddings

    def cached(place: Place) -> torch.Tensor:
        return cache[torch.tensor([place.number])]

    encoded = embedder_of_places(task.method.sam, task.config, task.data) if cache is None else None
    return Pair(task.config, task.data, task.method, encoded or cached)
