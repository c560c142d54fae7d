"""The profiles, the variants and the ablation grid: every run that has a name, in one place.

A setting is a dotted name: `train.lr`, or `method.conf_thresh` for a setting of the method's own. A callable
changes the value that stands there. Tables are keyed by stage: warm_up (supervised), match, finetune, joint.
"""

import typing
from dataclasses import dataclass

Settings = dict[str, typing.Any]


def half(count: int) -> int:
    return count // 2


def fivefold(count: int) -> int:
    return 5 * count


def half_size(size: int) -> int:
    return (size or 256) // 2  # 0 stands for LiteMedSAM's own 256


# A profile overrides, in this order: everywhere ("all"), by match method, by stage.
# All use a margin of 2 pixels: at the published 10 the box of a cavity is that of the ring around it, and SAM
# answers with the ring (notebook 03).
# demo: minutes on any CPU. laptop: real data, an afternoon on two cores. paper: the paper's sizes.
_MARGIN = {"refine.box_margin_px": 2.0}
_SMALL_AUGMENT = {"augment.scale": 0.15, "augment.jitter": 0.5, "augment.gamma": 0.4, "augment.cutmix_prob": 0.5, "augment.jitter_labeled": True}
_LATE_CROSS = {"method.rampup": 0.3}  # CPS: at this length a second network from a random start teaches background otherwise
_UNIMATCH_AUGMENT = {"augment.jitter": 0.5, "augment.blur_prob": 0.5, "augment.cutmix_prob": 0.5}  # official UniMatch
PROFILES: dict[str, dict[str, Settings]] = {
    "demo": {
        "all": {"train.image_size": 64, "train.batch_labeled": 4, "train.batch_unlabeled": 4, "train.val_every": 50,
                "train.log_every": 10, "train.checkpoint_every": 100, "train.threads": 1, "sam.image_size": 128,
                "sam.tune": "decoder", "train.bf16": False, **_SMALL_AUGMENT},
        "cps": _LATE_CROSS,
        "warm_up": {"train.iterations": 200},
        "match": {"train.iterations": 300, "train.lr": 0.01},
        "finetune": {"train.iterations": 60, "train.batch_labeled": 4, "sam.lr": 3e-4},
        "joint": {"train.iterations": 60, "train.lr": 0.005, "sam.lr": 1e-4, "sam.update_every": 5, "method.rampup": 0.0, **_MARGIN},
    },
    "laptop": {
        "all": {"train.image_size": 128, "train.batch_labeled": 8, "train.batch_unlabeled": 8, "train.val_every": 250,
                "train.threads": 1, "train.checkpoint_every": 250, "sam.image_size": 256, "sam.tune": "decoder", **_SMALL_AUGMENT},
        "fixmatch": {"method.lambda_u": 0.5, "method.rampup": 0.3},
        "unimatch": {"augment.blur_prob": 0.5},
        "cps": _LATE_CROSS,
        "warm_up": {"train.iterations": 1500},
        "match": {"train.iterations": 1500},
        "finetune": {"train.iterations": 400, "train.batch_labeled": 4, "train.val_every": 100, "sam.lr": 2e-4, "train.log_every": 20},
        "joint": {"train.iterations": 300, "train.lr": 0.005, "train.val_every": 100, "method.rampup": 0.0,
                  "sam.lr": 5e-5, "sam.update_every": 10, **_MARGIN},
    },
    "paper": {
        "all": {"train.val_every": 1000, "train.checkpoint_every": 2000},
        "fixmatch": {"augment.cutmix_prob": 0.5},
        "unimatch": _UNIMATCH_AUGMENT,
        "warm_up": {},
        "match": {},
        "finetune": {},
        "joint": _MARGIN,
    },
}

# Variants of SAM-Match that need a name of their own in the run's identity, by the stages that they change.
# A parent run has the variant too where its stage is changed.
_BOTH_SAM_STAGES = ("finetune", "joint")


def _sam(**changes) -> dict[str, Settings]:
    return {stage: {f"sam.{key}": value for key, value in changes.items()} for stage in _BOTH_SAM_STAGES}


def _joint(key: str, value: typing.Any) -> dict[str, Settings]:
    return {"joint": {key: value}}


def _tau(value: float) -> dict[str, Settings]:
    """The threshold of the student's map, and of the refined one that takes its place."""
    return {"joint": {"method.conf_thresh": value, "refine.sam_conf_thresh": value}}


VARIANTS: dict[str, dict[str, Settings]] = {
    "": {},
    "no_sam": _joint("refine.combine", "student"),
    # A mean of two maps reaches .95 only where both do; .75 also keeps a sure map beside an unsure one.
    "consensus": {"joint": {"refine.combine": "consensus", "refine.sam_conf_thresh": 0.75}},
    "agree": _joint("refine.combine", "agree"),
    "mask": _joint("refine.prompt", "mask"),
    "points": _joint("refine.prompt", "points"),
    "box_mask": _joint("refine.prompt", "box+mask"),
    "box_points": _joint("refine.prompt", "box+points"),
    "margin0": _joint("refine.box_margin_px", 0.0),
    "margin5": _joint("refine.box_margin_px", 5.0),
    "margin10": _joint("refine.box_margin_px", 10.0),
    "margin30": _joint("refine.box_margin_px", 30.0),
    "no_class_token": _sam(class_token=False),
    "gate_iou_pred": _joint("refine.gate", "iou_pred"),
    "gate_agreement": _joint("refine.gate", "agreement"),
    "gate_both": _joint("refine.gate", "both"),
    "sam_half_size": _sam(image_size=half_size),
    "sam_frozen": {"joint": {"sam.tune": "frozen"}},  # the fine-tuned SAM, fixed from then on
    "sam_untuned": {"finetune": {"train.iterations": 0}, "joint": {"sam.tune": "frozen"}},
    "sam_lora": _sam(tune="lora"),
    "sam_all": _sam(tune="all"),
    "sam_random": _sam(pretrained=False),
    "tau80": _tau(0.8),
    "tau99": _tau(0.99),
    "lambda_u25": _joint("method.lambda_u", 0.25),
    "lambda_u100": _joint("method.lambda_u", 1.0),
    "joint_x5": _joint("train.iterations", fivefold),
    "no_sam_x5": {"joint": {"train.iterations": fivefold, "refine.combine": "student"}},
    "half_warm_up": {"match": {"train.iterations": half}},
    "published_background": _joint("refine.published", "background"),
    "published_filter": _joint("refine.published", "filter"),
    "published_loss": _joint("refine.published", "loss"),
    "as_published": _joint("refine.published", "all"),
}


@dataclass(frozen=True)
class Level:
    """One cell of the ablation grid: SAM-Match with one factor at another level; variant "" is the default's cell."""

    factor: str
    level: str
    variant: str


def _factor(name: str, **levels: str) -> list[Level]:
    return [Level(name, level.replace("_", " "), variant) for level, variant in levels.items()]


# `make ablations` runs it, notebook 05 shows it. "By default" means the profile's setting.
ABLATIONS: list[Level] = [
    *_factor("prompt", box="", mask="mask", points="points", box_and_mask="box_mask", box_and_points="box_points"),
    *[Level("margin, px at 256", level, variant) for level, variant in (("0", "margin0"), ("2", ""), ("5", "margin5"), ("10", "margin10"), ("30", "margin30"))],
    *_factor("class token", learned="", none="no_class_token"),
    *_factor("combine", replace="", consensus="consensus", agree="agree", student_alone="no_sam"),
    *_factor("gate", none="", predicted_IoU="gate_iou_pred", agreement="gate_agreement", both="gate_both"),
    *_factor("SAM's input", default="", half="sam_half_size"),
    *_factor("SAM's tuning", default="", untuned="sam_untuned", frozen_after_fine_tuning="sam_frozen", LoRA="sam_lora", all_weights="sam_all"),
    *_factor("SAM's start", pretrained="", random="sam_random"),
    *[Level("threshold tau", level, variant) for level, variant in ((".80", "tau80"), (".95", ""), (".99", "tau99"))],
    *[Level("lambda_u", level, variant) for level, variant in ((".25", "lambda_u25"), ("default", ""), ("1", "lambda_u100"))],
    *_factor("warm-up", default="", half="half_warm_up"),
    # The small profiles train jointly for a fifth of the match stage; in the paper both are as long.
    *_factor("joint training", default="", five_times_as_long="joint_x5", five_times_as_long_without_SAM="no_sam_x5"),
    *_factor("arithmetic", corrected="", published_background="published_background", published_filter="published_filter",
             published_loss="published_loss", as_published="as_published"),
]
