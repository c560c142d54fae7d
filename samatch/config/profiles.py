"""The profiles, the variants and the ablation grid: every run that has a name, in one place.

A setting is a dotted name: `train.lr`, or `method.conf_thresh` for a
setting of the method's own. A callable changes the value that stands there.
Tables are keyed by stage: warm_up (supervised), match, finetune, joint.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass

Settings = dict[str, typing.Any]
Number = typing.TypeVar("Number", int, float)


def half(count: int) -> int:
    """For a variant that trains half as long."""
    return count // 2


def triple(count: int) -> int:
    """For a variant that trains three times as long."""
    return 3 * count


def double(value: Number) -> Number:
    """For a variant that trains twice as long, or with steps twice as large."""
    return 2 * value


# A profile overrides, in this order: everywhere ("all"), by match method, by stage, by variant.
# SAM is asked without a prompt, from its class queries alone, and what it says is averaged with the
# student's map (results/laptop/acdc/trials.csv has the trials on validation). Where boxes are
# asked, they have a margin of 2 pixels: at the published 10 the box of a cavity is that of the ring
# around it, and SAM answers with the ring (notebook 03).
# Joint training is as long as the match stage in every profile, as in the paper.
# demo: minutes on any CPU. laptop: real data, an afternoon on two cores. paper: the paper's sizes.
_SECOND_OPINION = {
    "refine.prompt": "none",
    "refine.combine": "consensus",
    "refine.sam_conf_thresh": 0.75,
    "refine.box_margin_px": 2.0,
}
_SMALL_AUGMENT = {
    "augment.scale": 0.25,
    "augment.shift": 0.05,
    "augment.elastic": 0.02,
    "augment.jitter": 0.5,
    "augment.gamma": 0.4,
    "augment.cutmix_prob": 0.5,
    "augment.jitter_labeled": True,
    "augment.soft_labels": True,
}
# In so few iterations SGD is still at its start.
_SMALL_STUDENT = {"train.optimizer": "adamw", "train.lr": 1e-3, "train.weight_decay": 0.01}
_SMALL_JOINT = {
    "train.lr": 5e-4,
    "refine.renew": 0.25,
    "sam.lr": 1e-4,
    "sam.update_every": 8,
    **_SECOND_OPINION,
}
_LATE_CROSS = {
    "method.rampup": 0.3
}  # CPS: at this length a second network from a random start teaches background otherwise
_UNMIXED = {"augment.cutmix_prob": 0.0}  # DAN: mixed pictures would be told from labeled ones
_UNIMATCH_AUGMENT = {
    "augment.jitter": 0.5,
    "augment.blur_prob": 0.5,
    "augment.cutmix_prob": 0.5,
}  # official UniMatch
PROFILES: dict[str, dict[str, Settings]] = {
    "demo": {
        "all": {
            "train.image_size": 64,
            "train.batch_labeled": 4,
            "train.batch_unlabeled": 4,
            "train.val_every": 50,
            "train.log_every": 10,
            "train.checkpoint_every": 100,
            "train.threads": 1,
            "sam.image_size": 128,
            "sam.tune": "decoder",
            "sam.views": 3,
            "train.bf16": False,
            **_SMALL_AUGMENT,
            **_SMALL_STUDENT,
        },
        "cps": _LATE_CROSS,
        "adversarial": _UNMIXED,
        "warm_up": {"train.iterations": 200},
        "match": {"train.iterations": 200},
        "finetune": {"train.iterations": 120, "sam.lr": 1e-3, "sam.prompt_drop": 1.0},
        "joint": {"train.iterations": 200, **_SMALL_JOINT},
        "samatch-fixmatch": {"method.rampup": 0.0},  # its unlabeled term has grown already
    },
    "laptop": {
        "all": {
            "train.image_size": 128,
            "train.batch_labeled": 8,
            "train.batch_unlabeled": 8,
            "train.val_every": 250,
            "train.threads": 1,
            "train.checkpoint_every": 250,
            "sam.image_size": 256,
            "sam.tune": "decoder",
            "sam.views": 9,
            **_SMALL_AUGMENT,
            **_SMALL_STUDENT,
        },
        "fixmatch": {"method.lambda_u": 0.5, "method.rampup": 0.3},
        "unimatch": {"augment.blur_prob": 0.5},
        "cps": _LATE_CROSS,
        "adversarial": _UNMIXED,
        "warm_up": {"train.iterations": 1000},
        "match": {"train.iterations": 1000},
        "finetune": {
            "train.iterations": 500,
            "train.val_every": 100,
            "sam.lr": 5e-4,
            "train.log_every": 20,
            "sam.prompt_drop": 1.0,
        },
        "joint": {"train.iterations": 1000, **_SMALL_JOINT},
        # Its unlabeled term has grown already; from the start it has full weight at once.
        "samatch-fixmatch": {"method.rampup": 0.0},
    },
    "paper": {
        "all": {"train.val_every": 1000, "train.checkpoint_every": 200},
        "fixmatch": {"augment.cutmix_prob": 0.5},
        "unimatch": _UNIMATCH_AUGMENT,
        "warm_up": {},
        "match": {},
        "finetune": {},
        "joint": _SECOND_OPINION,
        "all_stages": {"train.iterations": 60_000},  # there is no warm-up before a match method
    },
}

# Variants of SAM-Match that need a name of their own in the run's identity, by the stages that they
# change. A parent run has the variant too where its stage is changed; a word in the place of a
# stage's settings names the variant of the parent.
_BOTH_SAM_STAGES = ("finetune", "joint")


def _sam(**changes) -> dict[str, Settings]:
    return {
        stage: {f"sam.{key}": value for key, value in changes.items()} for stage in _BOTH_SAM_STAGES
    }


def _joint(**changes) -> dict[str, Settings]:
    return {"joint": {f"refine.{key}": value for key, value in changes.items()}}


def _boxed(prompt: str = "box", **changes) -> dict[str, Settings | str]:
    """The paper's way: SAM fine-tuned with prompts, asked
    about the student's map, its answer in that map's place."""
    return {"finetune": "box", "joint": _asked(prompt, **changes)}


def _asked(prompt: str = "box", **changes) -> Settings:
    settings = {"prompt": prompt, "combine": "replace", "sam_conf_thresh": 0.95, **changes}
    return _joint(**settings)["joint"]


_CLASS_BOXES: dict[str, Settings] = {
    "finetune": {"sam.prompt_drop": 0.0, "refine.prompt": "class_boxes"},
    "joint": {"refine.prompt": "class_boxes"},
}
# No match stage, and joint training as long as both.
_BOTH_STAGES: Settings = {"train.iterations": double, "train.lr": double}
_WHOLE_CHAIN: Settings = {"train.iterations": double}
# Variants of training without SAM for as many iterations as SAM-Match's student has in all. The
# last two have what else sets SAM-Match from the start apart from a match method of its length: an
# unlabeled term of full weight at once, and pixels kept from another probability on.
ALL_STAGES, WHOLE_CHAIN = "all_stages", "whole_chain"
NO_RAMP, NO_RAMP_75 = "whole_chain_no_ramp", "whole_chain_no_ramp_75"
EQUAL_LENGTH = (ALL_STAGES, WHOLE_CHAIN, NO_RAMP, NO_RAMP_75)
# Variants of SAM-Match without a match stage that are tested as the default is.
NO_MATCH_STAGE = FROM_START, BOXES_FROM_START = "guided_from_start", "guided_class_boxes"


def _from_start(joint: Settings, sam: str = "") -> dict[str, Settings | str]:
    """As FROM_START, with more settings of joint training, and the SAM of the variant `sam`."""
    return {"finetune": sam, "match": FROM_START, "joint": {**_BOTH_STAGES, **joint}}


def _boxes_from_start(**joint) -> dict[str, Settings | str]:
    """BOXES_FROM_START, with more settings of joint training."""
    return _from_start({**_CLASS_BOXES["joint"], **joint}, sam="class_boxes")


VARIANTS: dict[str, Mapping[str, Settings | str]] = {
    "": {},
    "no_sam": _joint(combine="student"),
    # Supervised training alone, for as many iterations as SAM-Match's student has in its three
    # stages; a match method for as many as it has in two, after the supervised start.
    ALL_STAGES: {"warm_up": {"train.iterations": triple}},
    WHOLE_CHAIN: {"match": _WHOLE_CHAIN},
    NO_RAMP: {"match": {**_WHOLE_CHAIN, "method.rampup": 0.0}},
    NO_RAMP_75: {"match": {**_WHOLE_CHAIN, "method.rampup": 0.0, "method.conf_thresh": 0.75}},
    # One box per class asks the decoder once per class: half as many steps.
    "box": _boxed() | {"finetune": {"sam.prompt_drop": 0.0, "train.iterations": half}},
    "mask": _boxed("mask"),
    "points": _boxed("points"),
    "margin0": _boxed(box_margin_px=0.0),
    "margin10": _boxed(box_margin_px=10.0),
    "replace": _joint(combine="replace"),
    "agree": _joint(combine="agree"),
    "weighted": _joint(combine="weighted", sam_weight=1.0),
    "gate": _joint(gate="agreement", rejected="ignore"),
    "renew1": _joint(renew=1.0),
    "renew8th": _joint(renew=0.125),
    "sam_frozen": {"joint": {"sam.tune": "frozen"}},  # the fine-tuned SAM, fixed from then on
    "sam_untuned": {
        "finetune": {"train.iterations": 0, "sam.prompt_drop": 0.0},
        "joint": _asked() | {"sam.tune": "frozen"},
    },
    "sam_lora": _sam(tune="lora"),
    "sam_all": _sam(tune="all"),
    "sam_random": _sam(pretrained=False),
    # For a SAM whose embeddings have a sixteenth of its input's side, as all but LiteMedSAM's.
    "sam_512": _sam(image_size=512),
    # SAM guides from the supervised start, as long as both stages: no student has to learn alone.
    FROM_START: {
        "match": {"train.iterations": 0},
        "joint": _BOTH_STAGES,
    },
    # The same, and a pixel is kept from 0.6 on: at 0.75 a kept class has at least one half from the
    # student, so that SAM never names another; at 0.6 a sure SAM can.
    "guided_thresh60": _from_start({"refine.sam_conf_thresh": 0.6}),
    # The boxes of all classes in one question to the class queries, which costs as much as asking
    # without a prompt; averaged with the student's map.
    "class_boxes": _CLASS_BOXES,
    BOXES_FROM_START: _boxes_from_start(),
    # The same, and the unlabeled term weighs 2, where laptop's FixMatch has 0.5 and the others 1:
    # does the student follow its better teacher when it is told to with more weight?
    "guided_weight2": _boxes_from_start(**{"method.lambda_u": 2.0}),
    # The same with the usual weight, and every pixel taught its mean probabilities, sure or not.
    "guided_soft": _boxes_from_start(**{"refine.combine": "soft", "refine.sam_conf_thresh": 0.0}),
    "half_joint": {"joint": {"train.iterations": half}},
    "no_sam_half": {"joint": {"train.iterations": half, "refine.combine": "student"}},
    "published_background": _boxed(published="background"),
    "published_filter": _boxed(published="filter"),
    "published_loss": _boxed(published="loss"),
    "as_published": _boxed(published="all"),
}

# What `make reproduce` trains beside the stages of SAM-Match, the longest first: stage, variant.
REPRODUCED = (
    ("joint", FROM_START),
    ("joint", "box"),
    ("match", WHOLE_CHAIN),
    ("warm_up", ALL_STAGES),
    ("joint", "no_sam"),
)
# And beside these, of a match method with a ramp or a threshold of its own, without the ramp and
# with SAM-Match's threshold: UniMatch has no ramp, BCP neither.
CONTROLS = {"fixmatch": (NO_RAMP, NO_RAMP_75), "unimatch": (NO_RAMP_75,)}


@dataclass(frozen=True)
class Level:
    """One cell of the ablation grid: SAM-Match with one factor at another level; variant "" is the
    default's cell. A factor's first level is what its others are compared with."""

    factor: str
    level: str
    variant: str


def _factor(name: str, **levels: str) -> list[Level]:
    return [Level(name, level.replace("_", " "), variant) for level, variant in levels.items()]


# `make ablations` runs it, notebook 05 shows it. The default's levels are called as demo and laptop
# have them: paper tunes all of SAM and asks it anew about every slice.
ABLATIONS: list[Level] = [
    *_factor(
        "what SAM is asked",
        nothing="",
        box_in_its_place="box",
        mask="mask",
        points="points",
        boxes_of_all_classes_at_once="class_boxes",
    ),
    *_factor("margin of the box, px at 256", **{"2": "box", "0": "margin0", "10": "margin10"}),
    *_factor(
        "combine",
        consensus="",
        replace="replace",
        agree="agree",
        weighted_by_reliability="weighted",
        no_SAM="no_sam",
    ),
    *_factor("what is rejected", nothing="", by_agreement_and_ignored="gate"),
    *_factor("asked anew", quarter="", all="renew1", eighth="renew8th"),
    *_factor(
        "SAM's tuning",
        decoder="",
        untuned="sam_untuned",
        frozen_after_fine_tuning="sam_frozen",
        LoRA="sam_lora",
        all_weights="sam_all",
    ),
    *_factor("SAM's start", pretrained="", random="sam_random"),
    *_factor(
        "joint training",
        after_a_match_stage="",
        from_the_start=FROM_START,
        half="half_joint",
        half_without_SAM="no_sam_half",
    ),
    *_factor("guided from the start, kept from", **{"0.75": FROM_START, "0.6": "guided_thresh60"}),
    *_factor(
        "guided from the start, asked",
        nothing=FROM_START,
        boxes_of_all_classes_at_once=BOXES_FROM_START,
    ),
    *_factor(
        "guided from the start with boxes at once, weight of the unlabeled term",
        **{"the_method's": BOXES_FROM_START, "2": "guided_weight2"},
    ),
    *_factor(
        "guided from the start with boxes at once, taught",
        class_map_where_sure=BOXES_FROM_START,
        probabilities_everywhere="guided_soft",
    ),
    *_factor(
        "arithmetic, with boxes",
        corrected="box",
        published_background="published_background",
        published_filter="published_filter",
        published_loss="published_loss",
        as_published="as_published",
    ),
]
