"""Images that occur twice: one patient where splits are drawn, told where they are given."""

import numpy as np
import pytest

from samatch.data.curate import curate, main
from samatch.data.duplicates import NEAR_BITS, groups_of, perceptual_hash, put_together
from samatch.data.findings import left_apart
from samatch.data.manifest import Case
from samatch.data.volumes import Entry
from samatch.system import paths
from tests.made import ellipse, nifti, pictures, png, stack, table


@pytest.fixture
def folder():
    return pictures(paths.data_dir() / "lesions")


def test_near_duplicates_become_one_patient_and_stay_together(folder):
    image, label = ellipse(3)
    brighter = (image.astype(float) * 0.9 + 10).astype(np.uint8)
    png(folder / "images" / "copy.png", brighter)
    png(folder / "masks" / "copy.png", label * 255)
    manifest, report = curate("lesions", None, ["lesion"], seed=1)
    of = {case.case_id: case.patient_id for case in manifest.cases}
    assert of["copy"] == of["p3"] and len(set(of.values())) == 10
    assert "near-duplicates, taken as one patient: copy, p3" in report
    assert manifest.split_of[of["copy"]] == "train"  # by this seed
    assert manifest.labeled_order[-1] == of["copy"]  # a budget of n is n pictures: pairs come last


def test_near_groups_by_hand():
    base = np.random.default_rng(0).random((3, 256)) > 0.5
    close = base[0].copy()
    close[:78] ^= True
    far = base[1].copy()
    far[:79] ^= True
    hashes = {"a": base[0], "b": base[1], "c": close, "d": far}
    assert groups_of(dict.fromkeys("abcd", "") | {n: n for n in "abcd"}, hashes) == [["a", "c"]]
    assert groups_of({"a": "1", "b": "2", "c": "3", "d": "2", "e": "5", "f": "3"}, hashes) == [
        ["a", "c", "f"],
        ["b", "d"],
    ]
    assert groups_of({"a": "1", "b": "2"}, {}) == [] and groups_of({}, {}) == []
    entries = [Entry(n, f"p{n}") for n in "abcd"]
    moved, twins = put_together(entries, [["a", "c"], ["c", "d"]])
    assert [e.patient_id for e in moved] == ["pa", "pb", "pa", "pa"] and twins == ["pa"]


def test_a_brighter_copy_shares_most_bits_and_another_picture_does_not():
    image, brighter = ellipse(3)[0] / 255, ellipse(3)[0] / 255 * 0.9 + 0.04
    other = np.random.default_rng(0).random(image.shape)
    bits = perceptual_hash(image)
    assert (bits != perceptual_hash(brighter)).sum() <= NEAR_BITS
    assert (bits != perceptual_hash(other)).sum() > NEAR_BITS


def lookalikes(folder, count):
    """`count` pictures that differ by little: every pair is nearer than NEAR_BITS."""
    base, label = ellipse(7)
    for n in range(count):
        noise = np.random.default_rng(n).normal(0, 3, base.shape)
        png(folder / "images" / f"n{n}.png", (base + noise).clip(0, 255).astype(np.uint8))
        png(folder / "masks" / f"n{n}.png", label * 255)


def test_given_splits_are_never_changed(capsys):
    """Near-duplicates of eight patients over all three splits: told with their splits, and every
    patient stays where the table has it."""
    folder = paths.data_dir() / "near"
    lookalikes(folder, 8)
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    given = {f"n{n}": split for n, split in enumerate(splits)}
    csv = table(
        folder,
        [
            f"{case},p{case},images/{case}.png,masks/{case}.png,{split}"
            for case, split in given.items()
        ],
    )
    main(["--name", "near", "--csv", str(csv), "--classes", "a"])
    assert (
        "warning: near-duplicates in different splits, left as they are: n0 (train), n1 (train), "
        "n2 (train), n3 (train), n4 (val), "
        "n5 (val), n6 (test), n7 (test)"
    ) in capsys.readouterr().out
    manifest, _ = curate("near", csv, ["a"])
    assert manifest.split_of == {f"p{case}": split for case, split in given.items()}
    assert [case.patient_id for case in manifest.cases] == [f"p{case}" for case in given]


def test_too_few_patients_after_joining_names_the_joined_cases(told):
    folder = paths.data_dir() / "near"
    lookalikes(folder, 5)
    with told(
        "too few patients after near-duplicates were joined",
        match="too few patients(.|\n)*taken as one patient: n0, n1, n2, n3, "
        "n4(.|\n)*--keep-near-duplicates",
    ):
        curate("near", None, ["a"])
    manifest, report = curate("near", None, ["a"], join_near=False)
    assert len(manifest.split_of) == 5 and any(
        "in different splits, left as they are: n0 (" in line for line in report
    )


@pytest.mark.parametrize("seed", range(4))
def test_one_volume_twice_is_one_patient_whatever_the_seed(seed, told):
    """Equal images in 3-D, one of them on another scale and with another label: two readers of one
    scan."""
    folder = paths.data_dir() / "v"
    for n in range(8):
        image, label = stack(10 * n)
        nifti(folder / f"v{n}.nii.gz", image)
        nifti(folder / f"v{n}_gt.nii.gz", label)
    twice = np.stack([ellipse(z)[0] for z in range(3)])
    nifti(folder / "v1.nii.gz", 2 * twice.astype(np.int16))
    manifest, report = curate("v", None, ["a"], seed=seed, join_near=False)
    assert "near-duplicates, taken as one patient: v0, v1" in report and len(manifest.split_of) == 7
    rows = [
        f"v{n},v{n},v{n}.nii.gz,v{n}_gt.nii.gz,{('train', 'test', 'train', 'val')[n % 4]}"
        for n in range(8)
    ]
    with told(
        "one volume in two splits",
        match=r"same image in two splits: v0 \(train\), v1 \(test\)(.|\n)*correct the column split",
    ):
        curate("v", table(folder, rows), ["a"])


def test_near_duplicates_of_one_patient_or_one_split_are_no_warning():
    cases = [
        Case(n, p, 1, 8, 8, None, n, n) for n, p in (("a", "p"), ("b", "p"), ("c", "q"), ("d", "r"))
    ]
    drawn = {"train": ["p", "q"], "val": ["r"]}
    assert left_apart([["a", "b"]], cases, drawn) == []
    assert left_apart([["a", "c"]], cases, drawn) == [
        "near-duplicates, left as they are: a (train), c (train)"
    ]
