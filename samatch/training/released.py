"""Released students: `models/<set>/`, small enough to be tracked, used without any training.

    student = released.load("acdc")
    label = student.segment(image)        # (slices, height, width) of any numbers -> class map

A folder holds `student.safetensors` (half precision), `model.json` (what it is, what it saw,
hashes) and a card for readers, README.md. `samatch models --export acdc` writes all three from
the best SAM-Match run on validation, in the paper's order or from the start.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from samatch.config.profiles import NO_MATCH_STAGE
from samatch.config.settings import FINETUNE, GUIDED
from samatch.data.about import class_faults, read_about
from samatch.data.manifest import Manifest, load_manifest, manifest_folders
from samatch.data.volumes import Raw, Volume, array_faults, load_cases, normalise
from samatch.networks.unet import UNet
from samatch.results.records import read_results, read_table
from samatch.results.runs import classes_of, complete_run
from samatch.system import paths, repro, whole
from samatch.system.devices import find_device
from samatch.system.errors import InputError, known, raise_all
from samatch.training.evaluate import dice_by_class, segment_with_student
from samatch.training.task import student_in

WEIGHTS, FACTS, CARD = "student.safetensors", "model.json", "README.md"
LIMITS = """Limits: trained on one data set of one kind of image, with few labels. Images of another
kind give masks without meaning. `predict` warns where slices, grey levels or smoothness leave the
range of the training volumes: a plain check that catches noise, turned axes and inverted images,
not every other organ.
"""
SIDE, MOST_SIDE = 32, 4096  # an input's side is a multiple of the one, and at most the other
MARGIN = 0.5  # a feature may leave the training volumes' range by this share of its width


@dataclass(frozen=True)
class Segmenter:
    """What segments images of no data set.

    classes: foreground, in label order; seen: feature -> (lowest, highest) over the volumes it was
    trained on, see `features`, empty where unknown.
    """

    name: str
    classes: tuple[str, ...]
    seen: dict[str, tuple[float, float]]

    def segment(self, image: np.ndarray) -> np.ndarray:
        """(D, H, W) of finite numbers, not all equal -> class map (D, H, W) uint8; min-max over the
        volume first. Raises InputError on another array."""
        faults = array_faults(Raw(image, None, None, "the array"), 1)
        raise_all("an image to segment", faults, "give one volume, or a picture as image[None]")
        return self.answer(normalise(image))

    def answer(self, image: np.ndarray) -> np.ndarray:
        """The class map of an image in [0, 1]."""
        raise NotImplementedError

    def doubts(self, image: np.ndarray) -> list[str]:
        """What sets (D, H, W) apart from every volume of the training, one line each."""
        found = []
        for name, value in features(normalise(image)).items():
            low, high = self.seen.get(name, (-np.inf, np.inf))
            room = MARGIN * (high - low) if np.isfinite(low) else 0
            if not low - room <= value <= high + room:
                found.append(
                    f"unlike what {self.name} was trained on: {name} is {value:.2f}, "
                    f"there {low:.2f} to {high:.2f}"
                )
        return found


@dataclass(frozen=True)
class Student(Segmenter):
    """A trained student that segments alone; image_size: side of its input in pixels."""

    network: UNet
    image_size: int

    def answer(self, image: np.ndarray) -> np.ndarray:
        """See `Segmenter`."""
        return segment_with_student(self.network, image, self.image_size)


def features(image: np.ndarray) -> dict[str, float]:
    """Of a volume (D, H, W) in [0, 1]: its slices, where grey levels lie, how smooth it is.

    The smoothness along an axis is the correlation of neighbouring pixels, near 0 for noise; across
    the slices only where there are several.
    """
    pairs = {
        "smoothness along x": (image[:, :, 1:], image[:, :, :-1]),
        "smoothness along y": (image[:, 1:], image[:, :-1]),
        "smoothness across slices": (image[1:], image[:-1]),
    }
    found = {
        "number of slices": float(len(image)),
        "mean grey level": float(image.mean()),
        "spread of grey levels": float(image.std()),
    }
    return found | {
        name: float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
        for name, (a, b) in pairs.items()
        if a.size and a.std() and b.std()
    }


def seen_by(volumes: list[Volume]) -> dict[str, tuple[float, float]]:
    """feature -> (lowest, highest) over volumes."""
    rows = [features(volume.image) for volume in volumes]
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: (
            min(row[name] for row in rows if name in row),
            max(row[name] for row in rows if name in row),
        )
        for name in names
    }


def of_run(profile: str, run_id: str) -> Student:
    """The student of a finished run on this machine, with the classes that it was trained on."""
    folder, record = complete_run(profile, run_id)
    if record["config"]["method"] == FINETUNE:
        raise InputError(
            f"{run_id} has no student",
            got="a fine-tuned SAM",
            do="name another run, or predict with SAM: --with-sam",
        )
    classes = classes_of(record)
    network = student_in(folder, len(classes) + 1).to(find_device())
    return Student(run_id, classes, {}, network, record["config"]["train"]["image_size"])


def model_names() -> list[str]:
    """Names of the released students."""
    return sorted(path.parent.name for path in paths.MODELS.glob(f"*/{FACTS}"))


def facts_of(name: str) -> dict:
    """model.json of a released student. Raises InputError for an unknown name, and where it is not
    what `export` writes."""
    path = paths.MODELS / known(name, model_names(), "released model") / FACTS
    problem, facts = whole.fault(path), {}
    if not problem:
        try:
            facts = json.loads(path.read_bytes())
            problem = facts_fault(facts)
        except (ValueError, RecursionError) as error:
            problem = f"it is no JSON ({whole.reason(error)})"
    if problem:
        raise InputError(
            "what is said of a released model cannot be used",
            where=paths.shown(path),
            got=problem,
            do="get the file again from the repository",
        )
    return facts


def facts_fault(facts) -> str:
    """What keeps a model.json from being one, in a few words; "" where nothing does."""
    kinds = {"sha256": str, "n_labeled": int, "test_dice": float, "image_size": int, "seen": dict}
    for key, kind in kinds.items():
        if not isinstance(facts, dict) or type(facts.get(key)) is not kind:
            return f"its {key} is missing or of another kind"
    if fault := class_faults(facts.get("classes")):
        return fault[0]
    if facts["image_size"] not in range(SIDE, MOST_SIDE + 1, SIDE):
        return f"its image_size is {facts['image_size']}"
    for name, bounds in facts["seen"].items():
        if not (isinstance(bounds, list) and list(map(type, bounds)) == [float, float]):
            return f"its bounds of {name!r} are no two numbers"
    return ""


def load(name: str) -> Student:
    """A released student in full precision; InputError unless the weights are the recorded ones."""
    facts, file = facts_of(name), paths.MODELS / name / WEIGHTS
    network, problem = UNet(len(facts["classes"]) + 1), whole.fault(file, facts["sha256"] or "none")
    if not problem:
        try:
            network.load_state_dict(
                {
                    key: value.float() if value.is_floating_point() else value
                    for key, value in load_file(file).items()
                }
            )
        except RuntimeError as error:  # of other classes than model.json names
            problem = whole.reason(error)
    if problem:
        raise InputError(
            "damaged weights of a released model",
            where=paths.shown(file),
            got=problem,
            do="get the file again from the repository",
        )
    seen = {feature: tuple(bounds) for feature, bounds in facts["seen"].items()}
    return Student(
        name, tuple(facts["classes"]), seen, network.eval().to(find_device()), facts["image_size"]
    )


def best_run(profile: str, dataset: str) -> str:
    """The SAM-Match run with the best validation Dice among the tracked ones of either order: after
    its match stage, or from the start."""
    runs, _ = read_results(profile, dataset, paths.TRACKED_RESULTS / profile / dataset)
    own = runs[runs.method.str.startswith(GUIDED) & runs.variant.isin(("", *NO_MATCH_STAGE))]
    if own.empty:
        raise InputError(
            f"no SAM-Match run of {dataset} on record",
            where=f"results/{profile}/{dataset}",
            do=f"train one, then samatch tables --profile {profile} --dataset {dataset} "
            f"--into results/{profile}/{dataset}",
        )
    return own.loc[own.val_dice.idxmax(), "run_id"]


def export(profile: str, dataset: str) -> Path:
    """Writes `models/<dataset>/` from the best run; returns the folder.

    The run and the data must lie on this machine.
    """
    run_id, manifest = best_run(profile, dataset), load_manifest(dataset)
    student = of_run(profile, run_id)
    facts = facts_from(profile, run_id, manifest, student)
    val = load_cases(manifest, manifest.cases_of(manifest.patients("val")))
    facts["val_dice"] = mean_dice(student, val)
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in student.network.state_dict().items()
    }
    student.network.load_state_dict(half)  # in single precision again, but for what was lost
    facts["val_dice_half"] = mean_dice(student, val)
    folder = paths.MODELS / dataset
    folder.mkdir(parents=True, exist_ok=True)
    whole.write_whole(folder / WEIGHTS, lambda partial: save_file(half, partial), "the weights")
    (folder / WEIGHTS).chmod(0o644)
    facts["sha256"] = repro.file_sha256(folder / WEIGHTS)
    whole.write_text(folder / FACTS, json.dumps(facts, indent=1) + "\n")
    whole.write_text(folder / CARD, card(facts, manifest))
    return folder


def mean_dice(student: Student, volumes: list[Volume]) -> float:
    """Mean Dice over classes and cases in percent."""
    by_class = dice_by_class(
        lambda volume: segment_with_student(student.network, volume.image, student.image_size),
        volumes,
        student.classes,
    )
    return round(100 * pd.Series(by_class).mean(), 2)


def facts_from(profile: str, run_id: str, manifest: Manifest, student: Student) -> dict:
    """What the card says, from the run's records and its training volumes."""
    _, record = complete_run(profile, run_id)
    _, per_case = read_results(
        profile, manifest.name, paths.TRACKED_RESULTS / profile / manifest.name
    )
    of_run = per_case[(per_case.run_id == run_id) & (per_case.split == "test")]
    by_patient = of_run.groupby("patient_id").dice.mean()
    volumes = load_cases(manifest, manifest.cases_of(manifest.patients("train")))
    config = record["config"]
    return {
        "name": manifest.name,
        "run_id": run_id,
        "profile": profile,
        "commit": record["commit"],
        "classes": list(student.classes),
        "image_size": student.image_size,
        "n_labeled": config["n_labeled"],
        "labeled_patients": list(manifest.labeled_patients(config["n_labeled"])),
        "test_dice": round(100 * float(by_patient.mean()), 2),
        "test_patients": int(of_run.patient_id.nunique()),
        "external": external_tests(profile, manifest.name, run_id),
        "seen": {name: [round(v, 4) for v in bounds] for name, bounds in seen_by(volumes).items()},
    }


def external_tests(profile: str, dataset: str, run_id: str) -> dict[str, dict]:
    """External set -> mean Dice (%) of a run and how many cases, of the tracked external tests."""
    folder, found = paths.TRACKED_RESULTS / profile / dataset, {}
    for path in sorted(folder.glob("external_*.csv")):
        rows = read_table(path).query("run_id == @run_id and split == 'external'")
        if len(rows):
            dice, cases = 100 * float(rows.dice.mean()), int(rows.case_id.nunique())
            found[path.stem.removeprefix("external_")] = {"dice": round(dice, 2), "cases": cases}
    return found


def card(facts: dict, manifest: Manifest) -> str:
    """README.md of a released student."""
    classes, size = ", ".join(facts["classes"]), facts["image_size"]
    rows = {
        "Data": manifest.title,
        "Licence of the data": manifest.licence,
        "Cite": manifest.citation,
        "Labels used": f"{facts['n_labeled']} (first of the training split); "
        "all other training images without labels",
        "Run": f"`{facts['run_id']}`, profile {facts['profile']}, commit {facts['commit']}; "
        "the best on validation of those on record",
        "Dice on validation": f"{facts['val_dice']:.2f} %, computed in single precision (the "
        "record's may be in bfloat16); "
        f"with the half-precision weights here {facts['val_dice_half']:.2f} %",
        "Dice on test": f"{facts['test_dice']:.2f} %, mean over classes and "
        f"{facts['test_patients']} test units (patients, or pictures where none is known)"
        + "; of the first of the set's folds, other folds differ"
        * has_folds(manifest),
        **{
            f"Dice on {name}, of another source": f"{test['dice']:.2f} %, {test['cases']} cases"
            for name, test in facts["external"].items()
        },
        f"sha256 of `{WEIGHTS}`": f"`{facts['sha256']}`",
    }
    return "\n".join(
        [
            f"# {facts['name']}: a student of SAM-Match\n",
            f"**Not for clinical use.** A 2-D U-Net (1.8 M parameters) that segments {classes} "
            f"slice by slice at {size} x {size} pixels, without SAM.\n",
            "| | |\n|---|---|",
            *(f"| {name} | {text} |" for name, text in rows.items()),
            f"\n    samatch predict --model {facts['name']} IMAGES MASKS\n",
            LIMITS,
        ]
    )


def has_folds(manifest: Manifest) -> bool:
    """Whether the set is the first of several folds, so that most patients are tested elsewhere."""
    return "folds" in read_about(manifest_folders()[manifest.name] / "dataset.yaml")


def main(words: list[str] | None = None) -> None:
    """Command line of `samatch models`."""
    parser = argparse.ArgumentParser(
        prog="samatch models", description="List the released students, or export one."
    )
    parser.add_argument(
        "--export", metavar="DATASET", help="write models/<DATASET> from its best run"
    )
    parser.add_argument("--profile", default="laptop", help="of the run that is exported")
    args = parser.parse_args(words)
    if args.export:
        return print(f"written: {paths.shown(export(args.profile, args.export))}")
    for name in model_names():
        facts = facts_of(name)
        print(
            f"{name:12}{', '.join(facts['classes']):16}{facts['n_labeled']} labeled, test Dice "
            f"{facts['test_dice']:.1f} % (n {facts['test_patients']})   "
            f"samatch predict --model {name} IMAGES MASKS"
        )
    print("\nNot for clinical use. Each model's card: models/<name>/README.md")
