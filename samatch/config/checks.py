"""What the value of a setting may be: its type, its choices, its range."""

import itertools
import typing

from samatch.system.errors import InputError, known

_PROMPT_PARTS = ("box", "points", "mask")
_CHOICES = {
    "train.optimizer": ("sgd", "adamw"),
    "train.proposer": ("student", "ema"),
    "sam.tune": ("frozen", "decoder", "lora", "all"),
    "refine.combine": ("student", "replace", "consensus", "agree", "weighted", "soft"),
    "refine.rejected": ("student", "ignore"),
    "refine.gate": ("none", "iou_pred", "agreement", "both"),
    "refine.published": ("none", "background", "filter", "loss", "all"),
}
_UNIT_INTERVAL = (
    "turn_prob",
    "sam_weight",
    "sam_rampup",
    "foreground",
    "prompt_drop",
    "renew",
    "conf_thresh",
    "rampup",
    "gate_iou",
    "gate_area_ratio",
    "sam_conf_thresh",
    "jitter_prob",
    "blur_prob",
    "cutmix_prob",
    "momentum",
    "ema_decay",
    "drop",
    "side",
)
_MAY_BE_ZERO = (
    "train.threads",
    "sam.views",
    "train.batch_unlabeled",
    "train.iterations",
    "sam.image_size",
    "refine.points_foreground",
    "refine.points_background",
)


def prompt_kinds() -> tuple[str, ...]:
    """No prompt, every combination of prompt parts, in one order, the boxes of all classes."""
    prompts = (
        "+".join(parts) for n in (1, 2, 3) for parts in itertools.combinations(_PROMPT_PARTS, n)
    )
    return ("none", *prompts, "class_boxes")


def _number(text: str) -> float | str:
    """The number that a text is, else the text."""
    try:
        return float(text)
    except ValueError:
        return text


def checked(key: str, old: typing.Any, value: typing.Any) -> typing.Any:
    """`value` for the setting `key` whose value was `old`,
    of the same type and possible. Raises InputError."""
    value = value(old) if callable(value) else value
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(old, float) and isinstance(value, str):
        value = _number(value)  # YAML takes 1e-3 for a text
    if type(value) is not type(old):
        raise InputError(
            f"{key} has the wrong type",
            expected=type(old).__name__,
            got=repr(value),
            do=f"for example {key}={old}",
        )
    name = key.rpartition(".")[2]
    if key in _CHOICES:
        known(value, _CHOICES[key], key)
    elif key == "refine.prompt":
        known(value, prompt_kinds(), key)
    elif name in _UNIT_INTERVAL and not 0 <= value <= 1:
        raise InputError(
            f"{key} is impossible", expected="a number from 0 to 1", got=value, do="correct it"
        )
    elif (
        isinstance(value, int)
        and not isinstance(value, bool)
        and value < (0 if key in _MAY_BE_ZERO else 1)
    ):
        raise InputError(
            f"{key} is impossible", expected="a positive whole number", got=value, do="correct it"
        )
    elif isinstance(value, float) and not 0 <= value < float("inf"):
        raise InputError(
            f"{key} is impossible", expected="a finite number >= 0", got=value, do="correct it"
        )
    if name == "image_size" and value % 32:
        raise InputError(
            f"{key} does not fit the networks",
            expected="a multiple of 32",
            got=value,
            do="for example 128 or 256",
        )
    return value
