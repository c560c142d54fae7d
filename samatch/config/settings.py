"""Every setting of a run, with the paper's value as default
(a method's own settings stand in its file).

`RunConfig` is one training with one identity. `make_config` builds it from the six notebook
parameters, the profile and explicit overrides, and refuses unknown keys and impossible values.
"""

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass, field

from samatch.config.checks import checked
from samatch.config.profiles import PROFILES, VARIANTS
from samatch.system.errors import InputError, known
from samatch.system.names import checked_word

SUPERVISED, FINETUNE, GUIDED = "supervised", "finetune", "samatch-"


@dataclass(frozen=True)
class Train:
    """The training loop and the student's optimiser
    (published code: SGD .01, poly .9, 30 000 iterations)."""

    iterations: int = 30_000
    batch_labeled: int = 4
    batch_unlabeled: int = 4
    image_size: int = 256  # pixels; the student's input, square
    optimizer: str = "sgd"  # of the student: sgd | adamw
    lr: float = 0.01
    momentum: float = 0.9  # of SGD
    weight_decay: float = 1e-4
    poly_power: float = 0.9  # lr * (1 - t/T)^power
    # Of the student's moving average, which is validated and tested; 0: the student.
    ema_decay: float = 0.99
    proposer: str = "student"  # who makes pseudo-labels on weak views: student | ema
    # Iterations between validations, which choose settings and never an iteration.
    val_every: int = 500
    log_every: int = 50  # iterations averaged into one row of train_log.csv
    checkpoint_every: int = 500  # iterations between states that a cut-off run resumes from
    bf16: bool = True  # autocast to bfloat16 where the processor has it
    threads: int = 0  # CPU threads; 0 leaves torch's choice. Fixed: repeatable sums


@dataclass(frozen=True)
class Augment:
    """Weak and strong views (published FixMatch: rot90+flip
    or +-20 degrees; jitter .8 with p .8)."""

    turn_prob: float = 0.5  # quarter turn and flips with this probability, else a rotation
    rotation_deg: float = 20.0  # uniform in +-
    scale: float = 0.0  # uniform in 1 +- scale
    shift: float = 0.0  # uniform in +-, fraction of the image
    # Labeled views: standard deviation of a smooth displacement, fraction of the image.
    elastic: float = 0.0
    foreground: float = 0.0  # share of labeled slices that are drawn from those with an object
    # Labeled class maps are resized and warped as probabilities, not as nearest neighbours.
    soft_labels: bool = False
    jitter: float = 0.8  # strong view: brightness and contrast factors in 1 +- jitter
    gamma: float = 0.0  # strong view: exponent in exp(+-gamma)
    jitter_prob: float = 0.8
    blur_prob: float = 0.0  # strong view: Gaussian blur of sigma .1-2 pixels
    # Labeled images get the strong view's brightness, contrast and gamma as well.
    jitter_labeled: bool = False
    cutmix_prob: float = 0.0  # strong view: box of area .02-.4 pasted from another image


@dataclass(frozen=True)
class Sam:
    """The guiding SAM, its fine-tuning (stage 2) and its
    own optimiser in joint training (stage 3)."""

    name: str = "lite_medsam"
    pretrained: bool = True  # False: random start, for the ablation
    image_size: int = 0  # pixels; may exceed the student's. 0: what the model was trained at
    tune: str = "all"  # frozen | decoder (both: embeddings cached) | lora | all
    lora_rank: int = 4  # rank of the change to the encoder's attention weights
    # Learned per-class vector on the prompt tokens (ours, not the paper's).
    class_token: bool = True
    views: int = 0  # fixed encoder: augmented views per labeled slice whose embeddings are cached
    prompt_drop: float = 0.5  # fine-tuning: share of steps without a prompt, class queries alone
    lr: float = 5e-5  # AdamW, after 30 rising steps falling as the student's
    weight_decay: float = 0.01
    lambda_unsup: float = 0.25  # weight of SAM's loss against the student's pseudo-label
    update_every: int = 1  # joint training: SAM's own step every so many iterations


@dataclass(frozen=True)
class Refine:
    """How SAM's answer becomes a pseudo-label (`samatch.methods.sam_match.SamMatch.refine`)."""

    # none (class queries alone), or of the student's map: box, points and mask, joined by +, a
    # question for each class, or class_boxes, those of all classes in one question to the queries.
    prompt: str = "box"
    # Pixels at 256 on every side of the student's box; published: 10 FixMatch, 5 UniMatch, 30 BUSI.
    box_margin_px: float = 10.0
    box_jitter: float = 0.1  # fraction of the box's side; reference boxes are drawn uniformly in +-
    prompt_jitter: float = 0.0  # the same for the student's boxes
    points_foreground: int = 3  # prompt "points": most confident interior pixels of the object ...
    points_background: int = 1  # ... and least confident ones around it
    # student (no SAM) | replace (the paper) | consensus | agree | weighted | soft
    combine: str = "replace"
    # Fixed encoder: share of SAM's answers that are asked anew; the others are remembered.
    renew: float = 1.0
    # What an object that the gate rejects teaches: student (its map) | ignore (nothing).
    rejected: str = "student"
    gate: str = "none"  # none | iou_pred | agreement | both
    gate_iou: float = 0.7  # least predicted IoU, and least IoU with the student's mask
    # "agreement": least quotient of the smaller and the larger of both areas.
    gate_area_ratio: float = 0.7
    sam_weight: float = 0.5  # SAM's share in a consensus ...
    # ... after this fraction of the joint training, exp(-5(1-t)^2) of it before.
    sam_rampup: float = 0.0
    sam_conf_thresh: float = 0.95  # a pixel is kept where the refined max probability reaches it
    # Wrong arithmetic kept for comparison: none | background | filter | loss | all.
    published: str = "none"


@dataclass(frozen=True)
class RunConfig:
    """One training with one identity."""

    profile: str
    dataset: str
    n_labeled: int  # labeled patients (images for BUSI)
    method: str
    sam_name: str  # "" where no SAM takes part
    seed: int
    variant: str = ""
    train: Train = field(default_factory=Train)
    augment: Augment = field(default_factory=Augment)
    method_settings: tuple[
        tuple[str, typing.Any], ...
    ] = ()  # that differ from the method's own defaults
    sam: Sam = field(default_factory=Sam)
    refine: Refine = field(default_factory=Refine)
    parents: tuple[str, ...] = ()  # run ids: the student's start, then SAM's

    @property
    def run_id(self) -> str:
        """Name of the run and of its folder, see `run_id`."""
        return run_id(
            self.dataset, self.n_labeled, self.method, self.sam_name, self.seed, self.variant
        )

    def to_dict(self) -> dict:
        """What the run uses: without SAM's groups where no SAM takes part."""
        found = dataclasses.asdict(self) | {"method_settings": dict(self.method_settings)}
        unused = () if self.sam_name else ("sam", "refine")
        return json.loads(
            json.dumps({key: value for key, value in found.items() if key not in unused})
        )

    def sha256(self) -> str:
        """Hash of everything that the run uses: runs of one name and different settings differ."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def run_id(
    dataset: str, n_labeled: int, method: str, sam: str, seed: int, variant: str = ""
) -> str:
    """<set>-n<n_labeled>-<method>[-<sam>]-s<seed>[-<variant>]"""
    return "-".join(
        [
            dataset,
            f"n{n_labeled}",
            method,
            *([sam] if sam else []),
            f"s{seed}",
            *([variant] if variant else []),
        ]
    )


def config_of(found: dict[str, typing.Any]) -> RunConfig:
    """The RunConfig whose `to_dict` is `found`; a setting that an earlier version did not have gets
    its default. Raises InputError on settings that today's version does not have."""
    groups = {"train": Train, "augment": Augment, "sam": Sam, "refine": Refine}
    try:
        values = {name: groups[name](**value) for name, value in found.items() if name in groups}
        rest = {name: value for name, value in found.items() if name not in groups}
        rest["method_settings"] = tuple(sorted(rest["method_settings"].items()))
        return RunConfig(**rest | values | {"parents": tuple(rest["parents"])})
    except (TypeError, KeyError) as error:
        raise InputError(
            "a run of other settings than this version has",
            where=found.get("dataset"),
            got=str(error),
            do="use the commit that its run.json names",
        ) from error


_OF_SAM = ("sam.", "refine.")  # settings that a run without SAM does not read


def stage_of(method: str) -> str:
    """warm_up (supervised), match (learns from unlabeled
    images), finetune (SAM) or joint (SAM-guided)."""
    return {SUPERVISED: "warm_up", FINETUNE: "finetune"}.get(
        method, "joint" if method.startswith(GUIDED) else "match"
    )


def make_config(
    profile: str,
    dataset: str,
    n_labeled: int,
    method: str,
    sam: str = "lite_medsam",
    seed: int = 0,
    variant: str = "",
    overrides: dict[str, typing.Any] | None = None,
) -> RunConfig:
    """The RunConfig of one run.

    `overrides` maps dotted names ("train.iterations", "method.conf_thresh") to values; a variant
    outside VARIANTS must come with overrides, so that two different runs never share an identity;
    one of VARIANTS must change the stage of `method`, so that no run has two.
    Raises InputError on an unknown profile, key, type or an impossible value.
    """
    known(profile, PROFILES, "profile")
    checked_word(dataset, "data set")  # both are parts of file names
    if variant:
        checked_word(variant, "variant")
    stage, table = stage_of(method), PROFILES[profile]
    if not overrides:
        _changing(variant, method, stage)
    elif not variant:
        raise InputError(
            "overrides without a variant", got=overrides, do="name the changed run with variant=..."
        )
    settings = [
        table["all"],
        table.get(method.removeprefix(GUIDED), {}) if stage != "warm_up" else {},
        table[stage],
        table.get(method, {}) if stage == "joint" else {},
        variant_settings(variant, stage),
        table.get(variant, {}) if variant_of(variant, stage) == variant else {},
        overrides or {},
    ]
    uses_sam = stage in ("finetune", "joint") and not any(
        s.get("refine.combine") == "student" for s in settings
    )
    if not uses_sam:
        _without_sam(overrides or {}, method, stage)
    config = RunConfig(profile, dataset, n_labeled, method, sam if uses_sam else "", seed, variant)
    parents = parent_configs(config)
    config = dataclasses.replace(
        config,
        parents=tuple(parent.run_id for parent in parents),
        sam=dataclasses.replace(config.sam, name=config.sam_name),
    )
    for group in settings:
        for key, value in group.items():
            if uses_sam or not key.startswith(_OF_SAM):  # one SAM-free run serves all SAMs
                config = _with(config, key, value)
    if uses_sam:
        _answerable(config)
        _as_fine_tuned(config, parents)
    return config


def _answerable(config: RunConfig) -> None:
    """Raises InputError where SAM's class queries are asked, and it has none."""
    asked = config.refine.prompt in ("none", "class_boxes")
    if asked and not config.sam.class_token:
        raise InputError(
            "SAM without class queries is asked for the answers of its class queries",
            expected="sam.class_token=true, or a prompt for each class such as refine.prompt=box",
            got=f"sam.class_token=false, refine.prompt={config.refine.prompt}",
            do="change one of the two",
        )


def _as_fine_tuned(config: RunConfig, parents: list[RunConfig]) -> None:
    """Raises InputError where a joint run's SAM has other weights than the fine-tuned one that it
    starts from."""
    for parent in parents:
        if parent.method != FINETUNE:
            continue
        mine, tuned = _weights_of(config.sam), _weights_of(parent.sam)
        if mine != tuned:
            raise InputError(
                "SAM has other weights in joint training than in its fine-tuning",
                where=f"{config.run_id}, which starts from {parent.run_id}",
                expected=", ".join(tuned),
                got=", ".join(mine),
                do="leave the setting out: --set changes one run, and not those it starts from",
            )


def _weights_of(sam: Sam) -> list[str]:
    """The settings that decide which weights a SAM has."""
    lora = f"sam.tune=lora, sam.lora_rank={sam.lora_rank}" if sam.tune == "lora" else "no LoRA"
    return [f"sam.class_token={str(sam.class_token).lower()}", lora]


def _changing(variant: str, method: str, stage: str) -> None:
    """Raises InputError on a variant that is unknown, or that changes nothing of the method."""
    known(variant, VARIANTS, "variant")
    changing = [name for name in VARIANTS if name and variant_of(name, stage) == name]
    if variant and variant not in changing:
        raise InputError(
            f"variant {variant} changes nothing of {method}",
            expected=f"none, or one that changes the stage {stage}: {', '.join(changing)}",
            got=variant,
            do="leave the variant out, or name a method of a stage that it changes",
        )


def _without_sam(overrides: dict[str, typing.Any], method: str, stage: str) -> None:
    """Raises InputError on overrides that only a run with SAM would read, but for the one that says
    that a joint run has none."""
    read = "refine.combine" if stage == "joint" else ""
    if unread := [key for key in overrides if key.startswith(_OF_SAM) and key != read]:
        raise InputError(
            f"settings that change nothing of {method}: SAM takes no part in it",
            got=", ".join(unread),
            do="leave them out, or name a method with SAM",
        )


def parent_configs(config: RunConfig) -> list[RunConfig]:
    """Runs whose weights this one starts from: stage 3 from
    1 and 2; small profiles warm up supervised.

    A parent has the run's variant where the variant changes the parent's stage, and else none.
    """
    stage = stage_of(config.method)
    methods = []
    if stage == "match" and config.profile != "paper":
        methods = [SUPERVISED]
    if stage == "joint":
        methods = [config.method.removeprefix(GUIDED)] + ([FINETUNE] if config.sam_name else [])
    sam = config.sam_name or "lite_medsam"
    return [
        make_config(
            config.profile,
            config.dataset,
            config.n_labeled,
            method,
            sam,
            config.seed,
            variant_of(config.variant, stage_of(method)),
        )
        for method in methods
    ]


def variant_of(variant: str, stage: str) -> str:
    """The variant that a run's parent of this stage has: the run's
    own where it changes the stage, one that it names, or none."""
    found = VARIANTS.get(variant, {}).get(stage, {})
    return found if isinstance(found, str) else variant if found else ""


def variant_settings(variant: str, stage: str) -> dict[str, typing.Any]:
    """What a variant of VARIANTS changes at a stage; {} for one of the user's own."""
    if variant not in VARIANTS:
        return {}
    found = VARIANTS.get(variant_of(variant, stage), {}).get(stage, {})
    return {} if isinstance(found, str) else found


def _with(config: RunConfig, key: str, value: typing.Any) -> RunConfig:
    """`config` with one dotted setting replaced, checked for name, type and range."""
    group, _, name = key.partition(".")
    if group == "method":  # its name and type are checked where the method is known
        return dataclasses.replace(
            config,
            method_settings=tuple(sorted((dict(config.method_settings) | {name: value}).items())),
        )
    settable = {
        f"{g}.{f.name}"
        for g in ("train", "augment", "sam", "refine")
        for f in dataclasses.fields(getattr(config, g))
    } - {"sam.name"}  # which the run's id has: --sam
    known(key, settable | {"method.<setting>"}, "setting")
    value = checked(key, getattr(getattr(config, group), name), value)
    return dataclasses.replace(
        config, **{group: dataclasses.replace(getattr(config, group), **{name: value})}
    )
