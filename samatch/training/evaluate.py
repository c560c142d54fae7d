"""Evaluation per volume at native size."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samatch.data.batches import resize_image
from samatch.data.volumes import Volume
from samatch.methods.sam_match import SamMatch
from samatch.sam.model import SamModel, class_logits, resize
from samatch.sam.prompts import Prompt, boxes_of, class_masks, widen
from samatch.training import metrics

AT_ONCE = 64  # slices in one forward pass of the student
SAM_AT_ONCE = 8  # slices that SAM's decoder is asked about at once, all of their classes

Segment = Callable[[Volume], np.ndarray]  # Volume -> class map (D, H, W) uint8 at native size


@torch.no_grad()
def student_probs(student: nn.Module, image: np.ndarray, size: int, bf16: bool = False) -> Tensor:
    """(D, H, W) in [0, 1] -> class probabilities (D, C,
    size, size) by the student alone, slice by slice."""
    device = next(student.parameters()).device
    slices = resize_image(torch.from_numpy(image)[:, None].to(device), size)
    was_training = student.training
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        student.eval()
        logits = torch.cat([student(part).float() for part in slices.split(AT_ONCE)])
    student.train(was_training)
    return logits.softmax(1)


def class_map(probs: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Class probabilities (D, C, S, S) -> class map (D, H, W) uint8 at native size."""
    native = F.interpolate(probs, shape, mode="bilinear", align_corners=False)
    return native.argmax(1).to(torch.uint8).cpu().numpy()


def segment_with_student(
    student: nn.Module, image: np.ndarray, size: int, bf16: bool = False
) -> np.ndarray:
    """(D, H, W) in [0, 1] -> class map (D, H, W) uint8, by the student alone.

    Slices are resized to `size`, the probabilities back to the native size.
    """
    return class_map(student_probs(student, image, size, bf16), image.shape[-2:])


@torch.no_grad()
def segment_with_sam_alone(
    sam: SamModel, image_embeddings: Tensor, shape: tuple[int, int]
) -> np.ndarray:
    """SAM's class map (D, H, W) uint8 of a volume without
    any prompt; image_embeddings (D, C, h, w)."""
    logits = [class_logits(sam.decode_classes(part)) for (part,) in for_sam(image_embeddings)]
    return class_map(torch.cat(logits).softmax(1), shape)


@torch.no_grad()
def segment_with_both(
    method: SamMatch,
    student: nn.Module,
    image: np.ndarray,
    image_embeddings: Tensor,
    size: int,
    bf16: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Class maps (D, H, W) uint8 of a volume (D, H, W) in [0, 1]: the student's map refined once by
    the method's SAM, and SAM's own as it is asked there. size: the student's input;
    image_embeddings (D, C, h, w)."""
    probs = student_probs(student, image, size, bf16)
    with torch.autocast(probs.device.type, torch.bfloat16, enabled=bf16):
        parts = [method.refine_slices(*part) for part in for_sam(probs, image_embeddings)]
        refined, sam = ([part.both.probs for part in parts], [part.sam_probs for part in parts])
        shape = image.shape[-2:]
        return class_map(torch.cat(refined), shape), class_map(torch.cat(sam), shape)


def for_sam(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors of a volume's slices (D, ...) in parts that a GPU's memory has room for. On a CPU
    whole: there SAM splits them itself, and another split would change the last bits."""
    if tensors[0].device.type == "cpu":
        return [tensors]
    return list(zip(*(tensor.split(SAM_AT_ONCE) for tensor in tensors), strict=True))


@torch.no_grad()
def segment_with_reference_boxes(
    sam: SamModel,
    volume: Volume,
    image_embeddings: torch.Tensor,
    num_classes: int,
    box_margin_px: float = 0.0,
    at_once: bool = False,
) -> np.ndarray:
    """SAM's class map of a volume prompted with the
    reference's own boxes: an upper bound, not a prediction.

    image_embeddings: (D, C, h, w) of the volume's slices;
    box_margin_px: pixels at 256 added on every side; at_once: the boxes of all classes make one
    question.
    """
    label = torch.from_numpy(volume.label)[:, None].float()
    size, device = sam.image_size, image_embeddings.device
    label = F.interpolate(label, (size, size), mode="nearest-exact")[:, 0].long().to(device)
    boxes, present = boxes_of(class_masks(label, num_classes))
    boxes = widen(boxes, box_margin_px * size / 256, size)
    maps = []
    for embeddings, some_boxes, some_present in for_sam(image_embeddings, boxes, present):
        prompt = Prompt(some_boxes, some_present, size)
        mask_logits = (
            sam.decode_classes(embeddings, prompt) if at_once else sam.decode(embeddings, prompt)[0]
        )
        mask_logits = F.interpolate(
            resize(mask_logits, size), volume.label.shape[-2:], mode="bilinear", align_corners=False
        )
        best, label = mask_logits.max(1)
        maps.append(torch.where(best > 0, label + 1, 0).to(torch.uint8).cpu())
    return torch.cat(maps).numpy()


def evaluate(
    segment: Segment,
    volumes: list[Volume],
    classes: tuple[str, ...],
    split: str,
    distances: str = "mm",
) -> pd.DataFrame:
    """Full metrics: one row a case and class; `distances`
    is the protocol's unit (metrics.case_metrics)."""
    rows = []
    for volume in volumes:
        for row in metrics.case_metrics(
            segment(volume), volume.label, classes, volume.spacing, distances
        ):
            rows.append(
                {
                    "split": split,
                    "patient_id": volume.case.patient_id,
                    "case_id": volume.case.case_id,
                    **row,
                }
            )
    return pd.DataFrame(rows)


def dice_by_class(
    segment: Segment, volumes: list[Volume], classes: tuple[str, ...]
) -> dict[str, float]:
    """Mean Dice over volumes for each class, for validation; distances are left out.

    A volume where the class is rightly absent does not count, one where
    it is invented counts 0. A class that no volume has or shows is NaN.
    """
    scores = []
    for volume in volumes:
        pred = segment(volume)
        scores.append(
            [
                metrics.dice(pred == value, volume.label == value)
                for value in range(1, len(classes) + 1)
            ]
        )
    return pd.DataFrame(scores, columns=classes).mean().to_dict()
