"""Every setting of a run, with the paper's value as default, and the profiles that override some.

`RunConfig` is one training with one identity. `make_config` builds it from the six notebook
parameters, the profile and explicit overrides, and refuses unknown keys and impossible values.
"""

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass, field

from samatch.errors import InputError, known

SUPERVISED, FINETUNE, GUIDED = "supervised", "finetune", "samatch-"


@dataclass(frozen=True)
class Train:
    """The training loop and the student's optimiser (published code: SGD .01, poly .9, 30 000 iterations)."""

    iterations: int = 30_000
    batch_labeled: int = 4
    batch_unlabeled: int = 4
    image_size: int = 256            # pixels; the student's input, square
    lr: float = 0.01                 # SGD with momentum
    momentum: float = 0.9
    weight_decay: float = 1e-4
    poly_power: float = 0.9          # lr * (1 - t/T)^power
    val_every: int = 500             # iterations between validations; the best one is kept
    log_every: int = 50              # iterations averaged into one row of train_log.csv
    checkpoint_every: int = 500      # iterations between states that a cut-off run resumes from
    bf16: bool = True                # autocast to bfloat16 where the processor has it
    threads: int = 0                 # CPU threads; 0 leaves torch's choice. Fixed: repeatable sums


@dataclass(frozen=True)
class Augment:
    """Weak and strong views (published FixMatch: rot90+flip or +-20 degrees; jitter .8 with p .8)."""

    rotation_deg: float = 20.0       # uniform in +-
    scale: float = 0.0               # uniform in 1 +- scale
    jitter: float = 0.8              # strong view: brightness and contrast factors in 1 +- jitter
    gamma: float = 0.0               # strong view: exponent in exp(+-gamma)
    jitter_prob: float = 0.8
    jitter_labeled: bool = False     # labeled images get the strong view's brightness, contrast and gamma as well
    cutmix_prob: float = 0.0         # strong view: box of area .02-.4 pasted from another image


@dataclass(frozen=True)
class Match:
    """What a match method learns from unlabeled images."""

    conf_thresh: float = 0.95        # tau: a pixel is kept where the student's max softmax reaches it
    lambda_u: float = 1.0            # weight of the unlabeled term ...
    rampup: float = 0.4              # ... after this fraction of the iterations, exp(-5(1-t)^2) before


@dataclass(frozen=True)
class Sam:
    """The guiding SAM, its fine-tuning (stage 2) and its own optimiser in joint training (stage 3)."""

    name: str = "lite_medsam"
    pretrained: bool = True          # False: random start, for the ablation
    image_size: int = 256            # pixels; may exceed the student's
    tune: str = "all"                # frozen | decoder (embeddings cached) | all
    class_token: bool = True         # learned per-class vector on the prompt tokens (ours, not the paper's)
    lr: float = 5e-5                 # AdamW
    weight_decay: float = 0.01
    lambda_unsup: float = 0.25       # weight of SAM's loss against the student's pseudo-label
    update_every: int = 1            # joint training: SAM's own step every so many iterations


@dataclass(frozen=True)
class Refine:
    """How SAM's answer becomes a pseudo-label (`samatch.methods.samatch.SamMatch.refine`)."""

    prompt: str = "box"              # box | mask | box+mask
    box_margin_px: float = 10.0      # pixels at 256 on every side of the student's box; published: 10 FixMatch, 5 UniMatch, 30 BUSI
    box_jitter: float = 0.1          # fraction of the box's side; fine-tuning draws uniformly in +-
    combine: str = "replace"         # student (no SAM) | replace (the paper) | consensus | agree
    gate: str = "none"               # none | iou_pred | agreement | both
    gate_iou: float = 0.7            # least predicted IoU, and least IoU with the student's mask
    sam_conf_thresh: float = 0.95    # a pixel is kept where the refined max probability reaches it
    as_published: bool = False       # the published arithmetic (PAPER: background logit, filter, loss)


@dataclass(frozen=True)
class RunConfig:
    """One training with one identity."""

    profile: str
    dataset: str
    n_labeled: int                   # labeled patients (images for BUSI)
    method: str
    sam_name: str                    # "" where no SAM takes part
    seed: int
    variant: str = ""
    train: Train = field(default_factory=Train)
    augment: Augment = field(default_factory=Augment)
    match: Match = field(default_factory=Match)
    sam: Sam = field(default_factory=Sam)
    refine: Refine = field(default_factory=Refine)
    parents: tuple[str, ...] = ()    # run ids: the student's start, then SAM's

    @property
    def run_id(self) -> str:
        return run_id(self.dataset, self.n_labeled, self.method, self.sam_name, self.seed, self.variant)

    def to_dict(self) -> dict:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def run_id(dataset: str, n_labeled: int, method: str, sam: str, seed: int, variant: str = "") -> str:
    """<set>-n<n_labeled>-<method>[-<sam>]-s<seed>[-<variant>]"""
    return "-".join([dataset, f"n{n_labeled}", method, *([sam] if sam else []), f"s{seed}", *([variant] if variant else [])])


# A profile overrides, in this order: everywhere ("all"), then by stage.
# All use a margin of 2 pixels: at the published 10 the box of a cavity is that of the ring around it, and SAM
# answers with the ring (notebook 03).
# demo: minutes on any CPU. laptop: real data, an afternoon on two cores. paper: the paper's sizes.
_MARGIN = {"refine.box_margin_px": 2.0}
_SMALL_AUGMENT = {"augment.scale": 0.15, "augment.jitter": 0.5, "augment.gamma": 0.4, "augment.cutmix_prob": 0.5, "augment.jitter_labeled": True}
PROFILES: dict[str, dict[str, dict[str, typing.Any]]] = {
    "demo": {
        "all": {"train.image_size": 64, "train.batch_labeled": 4, "train.batch_unlabeled": 4, "train.val_every": 50,
                "train.log_every": 10, "train.checkpoint_every": 100, "train.threads": 1, "sam.image_size": 128,
                "sam.tune": "decoder", "train.bf16": False, **_SMALL_AUGMENT},
        "warm_up": {"train.iterations": 200},
        "match": {"train.iterations": 300, "train.lr": 0.01},
        "finetune": {"train.iterations": 60, "train.batch_labeled": 4, "sam.lr": 3e-4},
        "joint": {"train.iterations": 60, "train.lr": 0.005, "sam.lr": 1e-4, "sam.update_every": 5, "match.rampup": 0.0, **_MARGIN},
    },
    "laptop": {
        "all": {"train.image_size": 128, "train.batch_labeled": 8, "train.batch_unlabeled": 8, "train.val_every": 250,
                "train.threads": 1, "train.checkpoint_every": 250, "sam.tune": "decoder", **_SMALL_AUGMENT},
        "warm_up": {"train.iterations": 1500},
        "match": {"train.iterations": 1500, "match.lambda_u": 0.5, "match.rampup": 0.3},
        "finetune": {"train.iterations": 400, "train.batch_labeled": 4, "train.val_every": 100, "sam.lr": 2e-4, "train.log_every": 20},
        "joint": {"train.iterations": 300, "train.lr": 0.005, "train.val_every": 100, "match.lambda_u": 0.5, "match.rampup": 0.0,
                  "sam.lr": 5e-5, "sam.update_every": 10, **_MARGIN},
    },
    "paper": {
        "all": {"train.val_every": 1000, "train.checkpoint_every": 2000},
        "warm_up": {},
        "match": {"augment.cutmix_prob": 0.5},
        "finetune": {},
        "joint": {"augment.cutmix_prob": 0.5, **_MARGIN},
    },
}

# Variants of one method that need a name of their own in the run's identity.
VARIANTS: dict[str, dict[str, typing.Any]] = {
    "": {},
    "no_sam": {"refine.combine": "student"},
    # A mean of two maps reaches .95 only where both do; .75 also keeps a sure map beside an unsure one.
    "consensus": {"refine.combine": "consensus", "refine.sam_conf_thresh": 0.75},
    "agree": {"refine.combine": "agree"},
    "margin10": {"refine.box_margin_px": 10.0},
    "as_published": {"refine.as_published": True},
}

_CHOICES = {
    "sam.tune": ("frozen", "decoder", "all"),
    "refine.prompt": ("box", "mask", "box+mask"),
    "refine.combine": ("student", "replace", "consensus", "agree"),
    "refine.gate": ("none", "iou_pred", "agreement", "both"),
}
_UNIT_INTERVAL = ("match.conf_thresh", "match.rampup", "refine.gate_iou", "refine.sam_conf_thresh", "augment.jitter_prob",
                  "augment.cutmix_prob", "train.momentum")
_MAY_BE_ZERO = ("train.threads", "train.batch_unlabeled", "seed")


def stage_of(method: str) -> str:
    """warm_up (supervised), match (a match method), finetune (SAM) or joint (SAM-guided)."""
    return {SUPERVISED: "warm_up", FINETUNE: "finetune"}.get(method, "joint" if method.startswith(GUIDED) else "match")


def make_config(profile: str, dataset: str, n_labeled: int, method: str, sam: str = "lite_medsam", seed: int = 0,
                variant: str = "", overrides: dict[str, typing.Any] | None = None) -> RunConfig:
    """The RunConfig of one run.

    `overrides` maps dotted names ("train.iterations") to values; a variant outside VARIANTS must
    come with overrides, so that two different runs never share an identity.
    Raises InputError on an unknown profile, key, type or an impossible value.
    """
    known(profile, PROFILES, "profile")
    if not overrides:
        known(variant, VARIANTS, "variant")
    elif not variant:
        raise InputError("overrides without a variant", got=overrides, do="name the changed run with variant=...")
    stage = stage_of(method)
    settings = PROFILES[profile]["all"] | PROFILES[profile][stage] | VARIANTS.get(variant, {}) | (overrides or {})
    uses_sam = stage in ("finetune", "joint") and settings.get("refine.combine") != "student"
    sam_name = sam if uses_sam else ""
    if not uses_sam:  # so that one SAM-free run serves all SAMs
        settings = {key: value for key, value in settings.items() if not key.startswith(("sam.", "refine."))}
    config = RunConfig(profile, dataset, n_labeled, method, sam_name, seed, variant)
    config = dataclasses.replace(config, parents=tuple(parent.run_id for parent in parent_configs(config)), sam=dataclasses.replace(config.sam, name=sam_name))
    for key, value in settings.items():
        config = _with(config, key, value)
    return config


def parent_configs(config: RunConfig) -> list[RunConfig]:
    """Runs whose weights this one starts from: stage 3 from 1 and 2; small profiles warm up supervised."""
    stage = stage_of(config.method)
    methods = []
    if stage == "match" and config.profile != "paper":
        methods = [SUPERVISED]
    if stage == "joint":
        methods = [config.method.removeprefix(GUIDED)] + ([FINETUNE] if config.sam_name else [])
    sam = config.sam_name or "lite_medsam"
    return [make_config(config.profile, config.dataset, config.n_labeled, method, sam, config.seed) for method in methods]


def _with(config: RunConfig, key: str, value: typing.Any) -> RunConfig:
    """`config` with one dotted setting replaced, checked for name, type and range."""
    group, _, name = key.partition(".")
    settable = {f"{g}.{f.name}" for g in ("train", "augment", "match", "sam", "refine")
                for f in dataclasses.fields(getattr(config, g))}
    known(key, settable, "setting")
    old = getattr(getattr(config, group), name)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(old):
        raise InputError(f"{key} has the wrong type", expected=type(old).__name__, got=repr(value), do=f"for example {key}={old}")
    _check(key, value)
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{name: value})})


def _check(key: str, value: typing.Any) -> None:
    if key in _CHOICES:
        known(value, _CHOICES[key], key)
    elif key in _UNIT_INTERVAL and not 0 <= value <= 1:
        raise InputError(f"{key} is impossible", expected="a number from 0 to 1", got=value, do="correct it")
    elif isinstance(value, int) and not isinstance(value, bool) and value < (0 if key in _MAY_BE_ZERO else 1):
        raise InputError(f"{key} is impossible", expected="a positive whole number", got=value, do="correct it")
    elif isinstance(value, float) and value < 0:
        raise InputError(f"{key} is impossible", expected="a number not below 0", got=value, do="correct it")
    if key.endswith("image_size") and value % 32:
        raise InputError(f"{key} does not fit the networks", expected="a multiple of 32", got=value, do="for example 128 or 256")
