"""What `make` is asked for: folders, names and the profile, looked at before training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from samatch.system.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import choose_profile  # noqa: E402


def choice(monkeypatch, capsys, *words, here=(), gpu=True):
    """(profile, data set, why) that main() prints; `here`: sets whose data lie on this machine."""
    monkeypatch.setattr(sys, "argv", ["choose_profile.py", *words])
    monkeypatch.setattr(choose_profile.torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(choose_profile, "is_here", lambda dataset: dataset in here)
    choose_profile.main()
    found = capsys.readouterr()
    return found.out.split(), found.err


def test_the_set_that_is_asked_for_decides(monkeypatch, capsys):
    for words, here, expected in (
        (("", "busi"), ("busi",), ["paper", "busi"]),
        (("", "busi"), ("acdc",), ["laptop", "busi"]),
        (("", ""), ("acdc",), ["paper", "acdc"]),
        (("", ""), ("busi",), ["demo", "phantom"]),
        (("", "phantom"), ("acdc", "phantom"), ["demo", "phantom"]),
        (("laptop", ""), (), ["laptop", "acdc"]),
    ):
        assert choice(monkeypatch, capsys, *words, here=here)[0] == expected, words
    said = choice(monkeypatch, capsys, "", "busi", here=("acdc",))[1]
    assert "busi asked for, its data is not here yet" in said
    assert choice(monkeypatch, capsys, "", "phantom", gpu=False)[0] == ["demo", "phantom"]


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ("", "", "fixmach", ""),
            r"unknown match method \(METHOD\): 'fixmach'.*\n.*fixmatch, unimatch",
        ),
        (("", "", "supervised", ""), "unknown match method"),
        (("", "", "samatch-fixmatch", ""), "unknown match method"),
        (("", "", "fixmatch", "vit_x"), "unknown SAM: 'vit_x'(.|\n)*lite_medsam"),
        (("laptp", "", "fixmatch", "tiny"), "unknown profile"),
        (("", "bsui", "fixmatch", "tiny"), "unknown data set"),
        (["", "", "", "", "many"], "N is no whole number"),
        (["", "", "", "", "300"], "impossible label budget"),
    ],
)
def test_what_is_misspelt_stops_before_the_first_training(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit, match=message):
        choice(monkeypatch, capsys, *words)
    assert capsys.readouterr().out == ""


def test_every_match_method_and_sam_may_be_asked_for():
    for method in ("fixmatch", "unimatch", "bcp"):
        choose_profile.check_names(method, "lite_medsam")
    choose_profile.check_names("", "")
    with pytest.raises(InputError):
        choose_profile.check_names("mean_teacher", "")


def shown_folder(value, cwd, variable="DATA"):
    """What a process and its child make of SAMATCH_<variable>; the child has another folder."""
    code = (
        "import os, subprocess, sys; from samatch.system import paths; os.chdir('/');"
        "print(paths.data_dir()); sys.stdout.flush();"
        "subprocess.run([sys.executable, '-c',"
        " 'from samatch.system import paths; print(paths.data_dir())'])"
    )
    environment = os.environ | {
        f"SAMATCH_{variable}": value,
        "PYTHONPATH": str(ROOT),
        "HOME": "/home/x",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def test_relative_folders_are_made_absolute_once(tmp_path):
    assert shown_folder("my data/../sets", tmp_path) == [str(tmp_path / "sets")] * 2
    assert shown_folder("~/sets", tmp_path) == ["/home/x/sets"] * 2
    assert (
        shown_folder("~nobody_of_this_name/x", tmp_path)
        == [str(tmp_path / "~nobody_of_this_name" / "x")] * 2
    )


def test_make_hands_a_folder_with_a_blank_on(tmp_path):
    """A Makefile of our own that includes the project's and shows what its recipes get."""
    mine = tmp_path / "Makefile"
    mine.write_text(f'include {ROOT}/Makefile\nshow:\n\t@echo "[$$SAMATCH_DATA]"\n')
    for value, expected in (("/my data", "[/my data]"), ("~/a b", "[~/a b]"), ("rel", "[rel]")):
        done = subprocess.run(
            ["make", "-s", "-f", mine, "show", f"DATA={value}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == expected, done.stderr


def made(tmp_path, *words):
    """What a recipe of the real Makefile hands to Python, and what make says, of these words."""
    fake, owned = tmp_path / "python", tmp_path / "owned"
    fake.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >{tmp_path}/words\n')
    fake.chmod(0o755)
    words = [word.replace("OWNED", str(owned)) for word in words]
    done = subprocess.run(
        ["make", "-C", ROOT, "-o", ".venv/.installed", f"PY={fake}", *words],
        capture_output=True,
        text=True,
    )
    assert not owned.exists()
    seen = tmp_path / "words"
    return (seen.read_text().splitlines() if seen.exists() else []), done.stderr


@pytest.mark.parametrize("mark", ["; touch OWNED", "$$(touch OWNED)", "`touch OWNED`", "'", " x"])
@pytest.mark.parametrize("name", ["DATASET", "PROFILE"])
def test_no_word_of_make_is_run_by_a_shell(tmp_path, name, mark):
    seen, told = made(tmp_path, "verify", f"{name}=acdc{mark}")
    assert not seen and "is no name: it holds" in told


def test_paths_and_names_reach_the_program_as_they_are(tmp_path):
    odd = 'a "b" `touch OWNED`; touch OWNED'
    seen, _ = made(tmp_path, "manifest", f"NAME={odd}", "CLASSES=a,b", "CSV=/my data/x's.csv")
    odd = odd.replace("OWNED", str(tmp_path / "owned"))
    assert seen[2:] == ["manifest", "--name", odd, "--classes", "a,b", "--seed", "0"] + [
        "--csv",
        "/my data/x's.csv",
    ]
    seen, _ = made(tmp_path, "predict", "MODEL=acdc", "IMAGES=my 'images'", "MASKS=$$HOME")
    assert seen[2:] == ["predict", "--model", "acdc", "my 'images'", "$HOME"]
