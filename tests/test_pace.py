"""How long trainings will take: what is tried, and what is made of it."""

import dataclasses
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from samatch.config.settings import make_config
from samatch.data.manifest import load_manifest
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.training import pace
from samatch.training.lists import read_list
from tests.hand_made import tiny

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import list_runs  # noqa: E402


def labels_told(capsys):
    """What `samatch time` calls its rows: the words behind the durations."""
    rows = capsys.readouterr().out.splitlines()
    return [row[14:] for row in rows if row.startswith("  ")]


def slices_of(manifest, patients):
    return sum(case.n_slices for case in manifest.cases_of(patients))


def test_a_few_patients_stand_for_all():
    acdc = load_manifest("acdc")
    few, n_labeled = pace.few_of(acdc, 3)
    train = few.patients("train")
    assert train[:n_labeled] == acdc.labeled_patients(n_labeled)
    assert train[n_labeled] == acdc.patients("train")[3]  # the first without a label
    for patients in (train[:n_labeled], train[n_labeled:], few.patients("val")):
        slices = [slices_of(acdc, [patient]) for patient in patients]
        assert sum(slices) >= pace.SLICES > sum(slices[:-1])
    assert few.sha256 == acdc.sha256 and few.cases == acdc.cases


def test_all_labeled_leaves_none_to_try_unlabeled():
    acdc = load_manifest("acdc")
    few, n_labeled = pace.few_of(acdc, 70)
    assert few.patients("train") == acdc.patients("train")[:n_labeled]


def test_steps_validations_and_the_end_make_a_run():
    config = make_config("laptop", "acdc", 3, "supervised")  # 1000 steps, 1 + 4 validations
    acdc = load_manifest("acdc")
    val, test = (slices_of(acdc, acdc.patients(split)) for split in ("val", "test"))
    told = pace.expected_seconds(config, pace.Pace(step=2.0, validation=0.5, end=3.0))
    assert told == 2000 + 5 * val * 0.5 + (val + test) * 3


def test_parents_come_first_and_once():
    runs = pace.runs_left(pace.runs_of(tiny()))
    assert [(run.method, run.variant) for run in runs] == [
        ("supervised", ""),
        ("fixmatch", ""),
        ("finetune", ""),
        ("samatch-fixmatch", ""),
        ("fixmatch", "guided_from_start"),  # the supervised network, by no iteration
        ("samatch-fixmatch", "guided_from_start"),
        ("finetune", "box"),
        ("samatch-fixmatch", "box"),
        ("fixmatch", "whole_chain"),
        ("supervised", "all_stages"),
        ("samatch-fixmatch", "no_sam"),
        ("fixmatch", "whole_chain_no_ramp"),
        ("fixmatch", "whole_chain_no_ramp_75"),
    ]


def test_make_trains_what_is_told():
    told = {(run.method, run.variant) for run in pace.runs_of(tiny())[1:]}
    lines = [line.split() for line in list_runs.runs("reproduce", "fixmatch")]
    assert told == {(words[1], words[3]) for words in lines}


@pytest.fixture()
def less_wanted(monkeypatch):
    """`make reproduce` with the joint run alone, and one run beside it where it is asked for."""

    def want(*named):
        monkeypatch.setattr(pace, "reproduced", lambda match: list(named))

    want()
    return want


def test_what_has_ended_is_not_counted(tiny_profile, complete, capsys, less_wanted):
    paths.runs_dir("demo").mkdir(parents=True)
    for run in complete.glob("phantom-*"):
        shutil.copytree(run, paths.runs_dir("demo") / run.name)
    pace.main(["--sam", "tiny"])
    assert "every training of these has ended already" in capsys.readouterr().out
    less_wanted(("samatch-fixmatch", "no_sam"))
    left = pace.runs_left(pace.runs_of(tiny()))
    assert [run.variant for run in left] == ["no_sam"]


def test_a_table_is_told_and_no_run_is_begun(tiny_profile, capsys, less_wanted):
    less_wanted(("samatch-fixmatch", "no_sam"), ("fixmatch", "guided_from_start"))
    pace.main(["--sam", "tiny"])
    rows = labels_told(capsys)
    assert rows[:5] == [
        "Supervised",
        "FixMatch",
        "SAM alone",
        "SAM-Match (FixMatch)",
        "FixMatch, continued",
    ]
    assert "SAM's embeddings of" in rows[5] and rows[6] == "in all, one after the other"
    begun = [path.name for path in paths.runs_dir("demo").glob("*")]
    assert begun == [], begun


@pytest.fixture
def clock(monkeypatch):
    """Time as it is told: `clock.passes(name, of)` makes a call of pace take `of(*words)` seconds,
    and does nothing else."""
    told = SimpleNamespace(now=0.0, calls=[])

    def passes(name, of, answer=None):
        def call(*words):
            told.now += of(*words)
            told.calls.append(name)
            return answer

        monkeypatch.setattr(pace, name, call)

    told.passes = passes
    monkeypatch.setattr(pace.time, "monotonic", lambda: told.now)
    return told


@pytest.mark.parametrize(
    "iterations, enough, tried, step",
    [
        (8, 1e9, 8, 1.0),
        (100, 1e9, 26, 1.0),
        (100, 21.5, 24, 1.0),
        (8, 5.0, 1, 10.0),
        (0, 1e9, 0, 0),
    ],
)
def test_the_pace_of_a_step(tiny_profile, clock, iterations, enough, tried, step):
    """The first two steps are slower and do not count, unless there is no time for more."""
    config = tiny("supervised")
    train = dataclasses.replace(config.train, iterations=iterations)
    none = (None, SimpleNamespace(losses={}))
    clock.passes("take_step", lambda *words: 10.0 if words[-1] < 2 else 1.0, none)
    clock.passes("validate", lambda task: 2.0 * sum(len(v.image) for v in task.data.val))
    found = pace.pace_of(dataclasses.replace(config, train=train), enough)
    assert clock.calls.count("take_step") == tried
    assert found.step == pytest.approx(step) and found.validation == pytest.approx(2.0)


def test_embeddings_that_are_missing_are_counted_with_the_views(tiny_profile, clock):
    config, manifest = tiny(), load_manifest("phantom")
    clock.passes("encode", lambda sam, image, *_: 3.0 * len(image))
    labeled = slices_of(manifest, manifest.labeled_patients(3))
    count = sum(case.n_slices for case in manifest.cases) + labeled * config.sam.views
    assert pace.embedding_seconds(config) == (count, pytest.approx(3.0 * count))


@pytest.mark.parametrize("profile, before", [("paper", "laptop"), ("laptop", "demo"), ("demo", "")])
def test_a_shorter_profile_is_named(profile, before):
    assert pace.shorter(profile) == before


@pytest.mark.parametrize("seconds, told", [(59, "1 min"), (5940, "99 min"), (6001, "1.7 hours")])
def test_durations(seconds, told):
    assert pace.duration(seconds) == told


def test_make_asks_before_anything_long():
    recipe = (Path(__file__).parents[1] / "Makefile").read_text().split("reproduce: ")[1]
    assert recipe.index("samatch time") < recipe.index("$(MAKE) --no-print-directory run")
    recipe = (Path(__file__).parents[1] / "Makefile").read_text().split("comparisons seeds: ")[1]
    assert recipe.index("--list -") < recipe.index("$(MAKE) --no-print-directory run-$@")


def test_a_list_is_told_one_line_for_all_seeds(tiny_profile, tmp_path, capsys):
    """Two seeds of one training count twice and are tried once, their parents with them."""
    runs = tmp_path / "runs.txt"
    runs.write_text("# two seeds\n--method fixmatch --seed 1\n\n--method fixmatch --seed 2\n")
    pace.main(["--sam", "tiny", "--list", str(runs)])
    told = capsys.readouterr().out
    assert "Supervised, 2 seeds" in told and "FixMatch, 2 seeds" in told
    assert told.splitlines()[-1].endswith("in all, one after the other")
    assert "SAM" not in told and "shorter" not in told


def test_a_line_may_name_its_own_data_and_profile():
    joint = make_config("laptop", "acdc", 3, "samatch-fixmatch", seed=4)
    lines = ["--method unimatch", "--dataset chaos --method bcp --variant whole_chain --seed 1"]
    runs = pace.runs_of_list(lines, joint)
    assert [(r.dataset, r.method, r.variant, r.seed) for r in runs] == [
        ("acdc", "unimatch", "", 4),
        ("chaos", "bcp", "whole_chain", 1),
    ]


@pytest.mark.parametrize("lines", [[], ["", "# nothing"]])
def test_an_empty_list_is_refused(lines):
    with pytest.raises(InputError, match="holds no run"):
        pace.runs_of_list(lines, tiny())


def test_all_lines_that_name_no_run_are_told_at_once():
    lines = ["--method fixmatsh", "--method fixmatch", "--method 'fixmatch", "--sed 1"]
    with pytest.raises(InputError) as refusal:
        pace.runs_of_list(lines, tiny())
    told = str(refusal.value)
    assert all(f"line {n}: " in told for n in (1, 3, 4)) and "line 2" not in told


def test_runs_of_several_sets_are_told_apart(tiny_profile, monkeypatch):
    """Each with its set, and the embeddings of each set."""
    monkeypatch.setattr(pace, "pace_of", lambda *_: pace.Pace(1.0, 0.0, 0.0))
    monkeypatch.setattr(pace, "embedding_seconds", lambda config: (7, 60.0))
    lines = [
        f"--dataset {name} --method finetune --seed {n}"
        for name in ("acdc", "busi")
        for n in (1, 2)
    ]
    told = list(pace.lines_of(pace.runs_of_list(lines, tiny())))
    assert [line[14:] for line in told] == [
        "SAM alone, 2 seeds, acdc",
        "SAM alone, 2 seeds, busi",
        "SAM's embeddings of 7 slices of acdc, once for all runs",
        "SAM's embeddings of 7 slices of busi, once for all runs",
        "in all, one after the other",
    ]


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "list").write_bytes(b"\xff\xfe\x00")
    for name in (tmp_path / "list", tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="cannot read the list of runs"):
            read_list(str(name))
