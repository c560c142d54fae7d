import dataclasses
import re
from collections import Counter

import pytest
import yaml

from samatch.data.curate import draw_splits
from samatch.data.manifest import (
    Case,
    load_manifest,
    manifest_faults,
    manifest_folders,
    write_manifest,
)
from samatch.data.splits import budgets, draw, sizes
from samatch.data.volumes import Entry
from samatch.system import paths
from samatch.system.errors import InputError

ABOUT = dict(
    title="t",
    classes=["a"],
    normalisation="n",
    licence="l",
    source="s",
    citation="c",
    known_faults="k",
    budgets=[1, 2],
)


def case(name, patient, digest=""):
    return Case(name, patient, 2, 8, 8, (1.0, 2.0, 3.0), digest, "")


def row(patient, split, rank=""):
    return {"patient_id": patient, "split": split, "labeled_rank": rank}


def test_tracked_manifests_load():
    acdc, phantom = load_manifest("acdc"), load_manifest("phantom")
    assert len(acdc.cases) == 200 and acdc.num_classes == 4
    assert [len(acdc.patients(s)) for s in ("train", "val", "test")] == [70, 10, 20]
    assert [
        sum(c.n_slices for c in acdc.cases_of(acdc.labeled_patients(n))) for n in (1, 3, 7, 14, 70)
    ] == [32, 68, 136, 256, 1312]
    assert acdc.labeled_patients(7)[3:] == ("patient100", "patient058", "patient021", "patient049")
    assert len(phantom.patients("test")) == 8


def test_busi_and_chaos_follow_from_their_own_declarations():
    """Splits redrawn from the manifest alone, without images, are the tracked ones."""
    for name, counts in (
        ("chaos", [13, 2, 5]),
        ("busi", [303, 46, 156]),
        ("busi_with_normal", [358, 54, 184]),
    ):
        manifest = load_manifest(name)
        about = yaml.safe_load((paths.MANIFESTS / name / "dataset.yaml").read_text())["drawn"]
        entries = [
            Entry(
                c.case_id, c.patient_id, stratum=c.case_id.split(" ")[0] if "busi" in name else ""
            )
            for c in manifest.cases
        ]
        drawn = draw_splits(entries, about["fractions"], about["seed"], about.get("unused", ()))
        assert [list(manifest.patients(s)) for s in ("train", "val", "test")] == [
            drawn[s] for s in ("train", "val", "test")
        ]
        assert [len(manifest.patients(s)) for s in ("train", "val", "test")] == counts


def test_busi_budgets_count_pictures_of_both_classes():
    busi, whole = load_manifest("busi"), load_manifest("busi_with_normal")
    for n in busi.budgets:
        cases = busi.cases_of(busi.labeled_patients(n))
        assert (
            len(cases) == n
            and 0.2 < sum(c.case_id.startswith("malignant") for c in cases) / n <= 0.5
        )
    assert not any(
        c.case_id.startswith("normal")
        for s in ("val", "test")
        for c in busi.cases_of(busi.patients(s))
    )
    lesions = {c.patient_id for c in busi.cases if not c.case_id.startswith("normal")}
    for split in ("train", "val", "test"):
        assert set(busi.patients(split)) & lesions == set(whole.patients(split)) & lesions
    assert (
        whole.cases == busi.cases
        and busi.split_of["benign (433)"]
        and "malignant (145)" in {c.case_id for c in busi.cases_of(["benign (433)"])}
    )


def test_round_trip(tmp_path):
    cases = [case("a1", "a"), case("b1", "b"), case("c1", "c"), case("d1", "d")]
    write_manifest(tmp_path, ABOUT, cases, {"train": ["b", "a"], "val": ["c"], "test": ["d"]})
    found = load_manifest("mine", tmp_path)
    assert (
        found.cases == tuple(cases)
        and found.labeled_patients(1) == ("b",)
        and found.patients("val") == ("c",)
    )


def test_all_faults_are_found_together():
    cases = (case("x", "a", "h1"), case("x", "a", "h2"), case("y", "b", "h1"), case("z", "lost"))
    rows = [
        row("a", "train", "1"),
        row("a", "test"),
        row("b", "val"),
        row("ghost", "train", "3"),
        row("b2", "holdout"),
    ]
    faults = "\n".join(manifest_faults(cases, rows, [9]))
    for expected in (
        "case x is listed twice",
        "patient a is in train and test",
        "the same image in two splits: x (test), y (val)",
        "b2: unknown split 'holdout'",
        "lost has a case but no split",
        "ghost has a split but no case",
        "without a gap",
        "budget 9 exceeds",
    ):
        assert expected in faults


def test_a_patient_in_two_splits_stops_the_reading(tmp_path):
    write_manifest(
        tmp_path,
        ABOUT,
        [case(p, p) for p in "abcd"],
        {"train": ["a", "b"], "val": ["c"], "test": ["d"]},
    )
    with open(tmp_path / "splits.csv", "a") as handle:
        handle.write("a,test,\n")
    with pytest.raises(InputError, match="patient a is in train and test"):
        load_manifest("mine", tmp_path)


def test_one_image_twice_in_one_split_is_allowed():
    """ACDC itself: patient074 and patient076 share images, both are training patients."""
    cases = (case("x", "a", "h"), case("y", "b", "h"), case("z", "c"), case("t", "d"))
    rows = [row("a", "train", "1"), row("b", "train", "2"), row("c", "val"), row("d", "test")]
    assert manifest_faults(cases, rows, []) == []
    assert manifest_faults(cases[:3], rows[:3], []) == ["test is empty: no patient is in it"]


def test_errors_name_what_exists(tmp_path):
    sets = "acdc, busi, busi_with_normal, chaos, chaos_fold2, chaos_fold3, chaos_fold4, phantom"
    with pytest.raises(InputError, match=sets):
        load_manifest("acdcc")
    with pytest.raises(InputError, match="cases.csv is missing"):
        (tmp_path / "dataset.yaml").write_text("a: 1")
        load_manifest("mine", tmp_path)
    with pytest.raises(InputError, match="1 to 70"):
        load_manifest("acdc").labeled_patients(71)


def test_a_manifest_beside_the_users_own_data_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMATCH_DATA", str(tmp_path))
    write_manifest(
        paths.data_dir() / "mine" / "manifest",
        ABOUT | {"reader": "files"},
        [case(p, p) for p in "abcd"],
        {"train": ["a", "b"], "val": ["c"], "test": ["d"]},
    )
    assert load_manifest("mine").reader == "files"


def test_acdc_has_a_spacing_and_a_diagnosis_for_every_patient():
    cases = load_manifest("acdc").cases
    assert load_manifest("acdc").distances == "voxel" and load_manifest("chaos").distances == "mm"
    assert Counter(case.group for case in cases) == dict.fromkeys(
        ("NOR", "MINF", "DCM", "HCM", "RV"), 40
    )
    assert Counter(case.spacing[0] for case in cases) == {10: 172, 5: 24, 6.5: 2, 7: 2}
    assert all(
        0.70 < case.spacing[1] < 1.93 and case.spacing[1] == case.spacing[2] for case in cases
    )
    assert {case.group for case in load_manifest("phantom").cases} == {""}


def test_groups_make_the_round_trip_and_belong_to_a_patient(tmp_path):
    cases = [
        dataclasses.replace(case(p, p), group=group)
        for p, group in zip("abcd", ("x", "x", "y", ""), strict=True)
    ]
    write_manifest(tmp_path, ABOUT, cases, {"train": ["b", "a"], "val": ["c"], "test": ["d"]})
    assert load_manifest("mine", tmp_path).cases == tuple(cases)
    cases.append(dataclasses.replace(cases[0], case_id="a2", group="y"))
    write_manifest(tmp_path, ABOUT, cases, {"train": ["b", "a"], "val": ["c"], "test": ["d"]})
    with pytest.raises(InputError, match="patient a is of two groups"):
        load_manifest("mine", tmp_path)


def test_an_unknown_unit_of_distances_is_refused(tmp_path):
    splits = {"train": ["b", "a"], "val": ["c"], "test": ["d"]}
    write_manifest(tmp_path, ABOUT | {"distances": "inch"}, [case(p, p) for p in "abcd"], splits)
    with pytest.raises(InputError, match="unknown unit of distances: 'inch'"):
        load_manifest("mine", tmp_path)


def test_sizes_and_draws_by_hand():
    assert (
        sizes(20, (0.62, 0.12, 0.25)) == [13, 2, 5]
        and sizes(3, (0.9, 0.05, 0.05)) == [1, 1, 1]
        and sizes(10, (0.7, 0.1, 0.2)) == [7, 1, 2]
    )
    assert budgets(7) == [1, 3, 7] and budgets(2) == [1, 2]
    strata = (
        {f"b{i}": "b" for i in range(20)}
        | {f"m{i}": "m" for i in range(10)}
        | {f"n{i}": "n" for i in range(4)}
    )
    found = draw(
        strata,
        (0.6, 0.1, 0.3),
        0,
        unused=["n"],
        only_train=frozenset({"b19"}),
        last=frozenset({"b0"}),
    )
    assert sorted(p for group in found.values() for p in group) == sorted(strata) and set(
        found["unused"]
    ) == {f"n{i}" for i in range(4)}
    assert found["train"][-1] == "b19" and sum(p[0] == "m" for p in found["train"][:6]) == 2
    assert "b0" not in found["train"][:-2]
    assert found == draw(
        strata,
        (0.6, 0.1, 0.3),
        0,
        unused=["n"],
        only_train=frozenset({"b19"}),
        last=frozenset({"b0"}),
    )
    assert found["test"] != draw(strata, (0.6, 0.1, 0.3), 1, unused=["n"])["test"]
    with pytest.raises(InputError, match="too few patients"):
        draw({"a": "", "b": ""}, (0.7, 0.1, 0.2), 0)


def test_whose_images_are_used_stands_in_the_citation_file():
    """Every data set that has a DOI, with its first author."""
    cited = (paths.ROOT / "CITATION.cff").read_text()
    named = {name: load_manifest(name).citation for name in manifest_folders()}
    dois = {name: re.search(r"doi (\S+)", text) for name, text in named.items() if "doi" in text}
    assert {"acdc", "busi", "chaos", "stu_hospital"} <= set(dois)
    for name, doi in dois.items():
        assert f"doi: {doi[1]}" in cited, name
        assert f"family-names: {named[name].split(' et al.')[0]}" in cited, name
