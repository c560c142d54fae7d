"""A finished run's SAM at test time, on images of no data set: together with the student that it
was trained with, or alone after its fine-tuning.

    both = with_sam.of_run("laptop", "acdc-n3-samatch-fixmatch-lite_medsam-s0")
    label = both.segment(image)           # (slices, height, width) of any numbers -> class map
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from samatch.config.settings import FINETUNE, RunConfig, config_of
from samatch.methods.base import method_class
from samatch.methods.finetune import FineTune
from samatch.methods.sam_match import SamMatch
from samatch.results.runs import classes_of, complete_run
from samatch.sam.embeddings import encode
from samatch.sam.model import SamModel
from samatch.system.devices import find_device
from samatch.system.errors import InputError
from samatch.training import released
from samatch.training.evaluate import segment_with_both, segment_with_sam_alone
from samatch.training.released import Segmenter, Student
from samatch.training.task import kept_weights_of, load_into, new_sam


@dataclass(frozen=True)
class Both(Student):
    """A student whose map SAM refines once, as at the end of their joint training."""

    method: SamMatch

    def answer(self, image: np.ndarray) -> np.ndarray:
        """See `Segmenter`."""
        embeddings = embeddings_of(self.method.sam, image)
        return segment_with_both(self.method, self.network, image, embeddings, self.image_size)[0]


@dataclass(frozen=True)
class SamAlone(Segmenter):
    """A fine-tuned SAM that answers without a prompt."""

    sam: SamModel

    def answer(self, image: np.ndarray) -> np.ndarray:
        """See `Segmenter`."""
        return segment_with_sam_alone(self.sam, embeddings_of(self.sam, image), image.shape[-2:])


def embeddings_of(sam: SamModel, image: np.ndarray) -> Tensor:
    """(D, H, W) in [0, 1] -> (D, C, h, w) on SAM's device, with the precision of cached ones."""
    device = next(sam.parameters()).device
    return torch.from_numpy(encode(sam, image, bf16=False, device=device)).to(device).float()


def of_run(profile: str, run_id: str) -> Both | SamAlone:
    """The SAM of a finished run on this machine, with its student where it has one.

    Raises InputError where the run has no SAM, or one that waits for boxes of a student.
    """
    folder, record = complete_run(profile, run_id)
    config = config_of(record["config"])
    classes = classes_of(record)
    sam = empty_sam(config, len(classes) + 1) if config.sam_name else None
    tuning = config.method == FINETUNE
    if sam is None or (tuning and not FineTune(sam, config, len(classes) + 1).answers_alone):
        raise InputError(
            f"{run_id} cannot segment with SAM",
            expected="a SAM-Match run, or a SAM fine-tuned to answer without a prompt",
            got=f"method {config.method}, variant {config.variant or 'none'}",
            do="leave --with-sam out, or name such a run",
        )
    load_into(sam, kept_weights_of(folder).get("sam", {}), folder)
    if tuning:
        return SamAlone(run_id, classes, {}, sam)
    student = released.of_run(profile, run_id)
    match = method_class(config.method)(student.network, config)
    method = SamMatch(match, sam, config)
    return Both(run_id, student.classes, {}, student.network, student.image_size, method)


def empty_sam(config: RunConfig, num_classes: int) -> SamModel:
    """The run's SAM, which its checkpoint will fill: no published weights are needed."""
    untrained = dataclasses.replace(config.sam, pretrained=False)
    return new_sam(dataclasses.replace(config, sam=untrained), num_classes, find_device())
