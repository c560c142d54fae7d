import json

import pytest

from samatch.config.settings import (
    GUIDED,
    PROFILES,
    VARIANTS,
    make_config,
    parent_configs,
    run_id,
    stage_of,
    variant_of,
)
from samatch.methods.base import method_names
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.training.task import check_names
from tests.told import SETTINGS

ROOM = SETTINGS


def test_identity():
    assert run_id("acdc", 3, "fixmatch", "", 0) == "acdc-n3-fixmatch-s0"
    assert (
        make_config("laptop", "acdc", 3, "samatch-fixmatch", "lite_medsam", 1, "agree").run_id
        == "acdc-n3-samatch-fixmatch-lite_medsam-s1-agree"
    )


def test_sam_may_be_fine_tuned_in_other_ways_than_the_joint_run_goes_on():
    for changed in ({"sam.tune": "frozen"}, {"sam.lora_rank": 2}, {"sam.lr": 1.0}):
        make_config("demo", "phantom", 3, "samatch-fixmatch", variant="x", overrides=changed)
    without = {"sam.class_token": False, "refine.prompt": "box"}
    config = make_config("demo", "phantom", 3, "finetune", variant="x", overrides=without)
    assert not config.sam.class_token
    for variant in VARIANTS:  # each changes both stages where it changes the weights
        if variant_of(variant, "joint") == variant:
            make_config("laptop", "acdc", 3, "samatch-fixmatch", variant=variant)


def test_stages_have_their_parents():
    joint = make_config("laptop", "acdc", 3, "samatch-fixmatch")
    assert [p.run_id for p in parent_configs(joint)] == [
        "acdc-n3-fixmatch-s0",
        "acdc-n3-finetune-lite_medsam-s0",
    ]
    assert [
        p.run_id
        for p in parent_configs(
            make_config("laptop", "acdc", 3, "samatch-fixmatch", variant="no_sam")
        )
    ] == ["acdc-n3-fixmatch-s0"]
    assert parent_configs(make_config("paper", "acdc", 3, "fixmatch")) == []
    assert [p.method for p in parent_configs(make_config("demo", "phantom", 3, "fixmatch"))] == [
        "supervised"
    ]


@pytest.mark.parametrize(
    "method, variant",
    [
        ("supervised", "whole_chain"),
        ("fixmatch", "all_stages"),
        ("finetune", "guided_class_boxes"),  # which begins with the SAM of class_boxes
    ],
)
def test_a_variant_of_another_stage_is_refused(method, variant):
    with pytest.raises(InputError, match=f"variant {variant} changes nothing of {method}"):
        make_config("laptop", "acdc", 3, method, variant=variant)


def iterations(config):
    """Of a run and of all that its student was before."""
    return config.train.iterations + sum(map(iterations, parent_configs(config)[:1]))


@pytest.mark.parametrize("profile", PROFILES)
def test_equal_length_is_that_of_the_student_of_sam_match(profile):
    whole = iterations(make_config(profile, "acdc", 3, "samatch-fixmatch"))
    for method, variant in (
        ("supervised", "all_stages"),
        ("fixmatch", "whole_chain"),
        ("samatch-fixmatch", "guided_from_start"),
    ):
        assert iterations(make_config(profile, "acdc", 3, method, variant=variant)) == whole


def test_a_run_without_sam_is_the_same_run_whatever_sam_is_chosen():
    assert (
        make_config("demo", "phantom", 3, "fixmatch", "tiny").sha256()
        == make_config("demo", "phantom", 3, "fixmatch", "lite_medsam").sha256()
    )


def test_paper_defaults():
    train = make_config("paper", "acdc", 3, "supervised").train
    assert (train.iterations, train.image_size, train.lr, train.momentum, train.weight_decay) == (
        30_000,
        256,
        0.01,
        0.9,
        1e-4,
    )


def test_the_paper_profile_saves_a_state_every_200_iterations():
    """A setting of the run's identity: changed, it would be another run."""
    assert make_config("paper", "acdc", 3, "samatch-fixmatch").train.checkpoint_every == 200


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_profile_and_variant_is_valid(profile, variant):
    """For a method of each stage that it changes: some stage, unless it is the default."""
    stages = {stage_of(method): method for method in ("supervised", "finetune", "fixmatch")}
    stages["joint"] = "samatch-fixmatch"
    changed = [method for stage, method in stages.items() if variant_of(variant, stage) == variant]
    assert changed
    for method in changed:
        make_config(profile, "acdc", 3, method, variant=variant)


@pytest.mark.parametrize("text, number", [("1e-3", 1e-3), ("2E2", 200.0), (".5", 0.5), (3, 3.0)])
def test_numbers_that_yaml_takes_for_texts(text, number):
    changed = {"overrides": {"train.lr": text}, "variant": "x"}
    assert make_config("demo", "phantom", 3, "fixmatch", **changed).train.lr == number


@pytest.mark.parametrize(
    "changes, message, what",
    [
        ({"profile": "laptp"}, "unknown profile.*\n.*demo, laptop, paper", "an unknown profile"),
        ({"variant": "agreee"}, "unknown variant", "an unknown variant"),
        (
            {"variant": "all_stages"},
            "all_stages changes nothing of samatch-fixmatch",
            "a variant that changes nothing of the method",
        ),
        (
            {"overrides": {"train.iterations": 5}},
            "overrides without a variant",
            "--set without a variant",
        ),
        (
            {"variant": "x", "overrides": {"train.iterationz": 5}},
            "unknown setting",
            "--set train.iterationz=5",
        ),
        (
            {"variant": "x", "overrides": {"train.iterations": "many"}},
            "wrong type",
            "--set train.iterations=many",
        ),
        (
            {"variant": "x", "overrides": {"train.iterations": True}},
            "wrong type",
            "--set train.iterations=true",
        ),
        (
            {"variant": "x", "overrides": {"train.iterations": -1}},
            "impossible",
            "--set train.iterations=-1",
        ),
        (
            {"variant": "x", "overrides": {"match.conf_thresh": 0.5}},
            "unknown setting",
            "--set match.conf_thresh=0.5",
        ),
        ({"variant": "x", "overrides": {"train.lr": -0.1}}, "impossible", "--set train.lr=-0.1"),
        ({"variant": "x", "overrides": {"train.lr": "fast"}}, "wrong type", "--set train.lr=fast"),
        ({"variant": "x", "overrides": {"train.lr": "nan"}}, "impossible", "--set train.lr=nan"),
        (
            {"variant": "x", "overrides": {"train.lr": float("inf")}},
            "impossible",
            "--set train.lr=.inf",
        ),
        (
            {"variant": "x", "overrides": {"train.image_size": 100}},
            "multiple of 32",
            "--set train.image_size=100",
        ),
        (
            {"variant": "x", "overrides": {"refine.combine": "vote"}},
            "unknown refine.combine",
            "--set refine.combine=vote",
        ),
        (
            {"variant": "x", "overrides": {"sam.name": "vit_b"}},
            "unknown setting",
            "--set sam.name=vit_b",
        ),
        (
            {"overrides": {"sam.class_token": False, "refine.prompt": "none"}, "variant": "x"},
            "SAM without class queries",
            "--set sam.class_token=false where SAM is asked without a prompt",
        ),
        (
            {
                "overrides": {"sam.class_token": False},
                "profile": "laptop",
                "variant": "class_boxes",
            },
            "SAM without class queries(.|\n)*prompt=class_boxes\n",
            "--set sam.class_token=false in a run with the boxes of all classes",
        ),
        (
            {"variant": "x", "overrides": {"sam.class_token": False, "refine.prompt": "box"}},
            "other weights in joint training",
            "--set sam.class_token=false in a joint run",
        ),
        (
            {"variant": "x", "overrides": {"sam.tune": "lora"}},
            "other weights in joint training(.|\n)*got: sam.class_token=true, sam.tune=lora",
            "--set sam.tune=lora in a joint run",
        ),
        (
            {"method": "fixmatch", "variant": "x", "overrides": {"sam.nonsense": 1}},
            "change nothing of fixmatch: SAM takes no part",
            "--set sam.lr=1 of a method without SAM",
        ),
        (
            {"variant": "x", "overrides": {"refine.combine": "student", "refine.prompt": "bx"}},
            "change nothing of samatch-fixmatch(.|\n)*got: refine.prompt\n",
            "--set of SAM's part where it takes none",
        ),
        (
            {"method": "fixmatch", "variant": "x", "overrides": {"refine.combine": "vote"}},
            "change nothing of fixmatch",
            "--set refine.combine=vote of a method without SAM",
        ),
    ],
)
def test_bad_settings_are_one_clear_error(changes, message, what, told):
    with told(what, match=message):
        make_config(
            **{
                "profile": "demo",
                "dataset": "phantom",
                "n_labeled": 3,
                "method": "samatch-fixmatch",
            }
            | changes
        )


@pytest.mark.parametrize(
    "method, setting", [("unimatch", "drop"), ("bcp", "side"), ("ict", "alpha")]
)
def test_a_methods_own_setting_is_checked_before_it_is_used(method, setting):
    config = make_config(
        "demo",
        "phantom",
        3,
        method,
        variant="x",
        overrides={f"method.{setting}": 0.0 if setting == "alpha" else 1.5},
    )
    with pytest.raises(InputError, match=f"method.{setting} is impossible"):
        check_names(config)


def test_tracked_runs_keep_their_identity():
    """Today's settings of every tracked run hash to what the run was trained with."""
    records = [json.loads(path.read_text()) for path in paths.TRACKED_RESULTS.rglob("run_json/*")]
    assert len(records) > 40
    for record in records:
        was = record["config"]
        sam = {"sam": was["sam_name"]} if was["sam_name"] else {}
        names = (was[key] for key in ("profile", "dataset", "n_labeled", "method"))
        today = make_config(*names, seed=was["seed"], variant=was["variant"], **sam)
        assert today.sha256() == record["config_sha256"], record["run_id"]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_match_method_has_its_guided_twin_in_every_profile(profile):
    """The twin's settings are its method's own: a ramp-up is no matter of BCP."""
    twins = [name for name in method_names() if name.startswith(GUIDED)]
    assert {"samatch-fixmatch", "samatch-unimatch", "samatch-bcp"} <= set(twins)
    for name in twins:
        check_names(make_config(profile, "phantom", 3, name))
