"""Reading: every set in its forms, and real broken files."""

import dataclasses
import gzip

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from samatch.data.listing import from_folder
from samatch.data.manifest import Case, load_manifest, write_manifest
from samatch.data.readers import acdc, busi, chaos, files, phantom
from samatch.data.volumes import UNKNOWN, Entry, Raw, array_faults, load_case, load_cases, normalise
from samatch.methods.base import overlap
from samatch.system import repro
from samatch.system.errors import InputError
from tests.told import SETTINGS

AFFINE = np.diag([1.5, 1.4, 10.0, 1.0])

ABOUT = {
    "title": "t",
    "classes": ["RV", "MYO", "LV"],
    "normalisation": "n",
    "licence": "l",
    "source": "s",
    "citation": "c",
    "known_faults": "",
    "budgets": [1],
}


@pytest.fixture
def volume():
    image, label = phantom.volume("phantom001_frame01")
    return (image * 200).astype(np.int16), label


def named(case_id, **files):
    """A case of which only its name counts."""
    return Case(case_id, case_id, 0, 0, 0, None, "", "", **files)


PAIR = named("a", image="a.nii.gz", label="a_gt.nii.gz")


def write_h5(path, image, label):
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label


def write_nifti(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


def manifest_of(tmp_path, volume, image_sha="", label_sha=""):
    cases = [
        Case(
            f"{p}_frame01",
            p,
            *volume[0].shape,
            None,
            image_sha if p == "patient001" else "",
            label_sha,
        )
        for p in ("patient001", "patient002", "patient003")
    ]
    about = ABOUT | {"reader": "acdc"}
    write_manifest(
        tmp_path / "m",
        about,
        cases,
        {"train": ["patient001"], "val": ["patient002"], "test": ["patient003"]},
    )
    return load_manifest("mine", tmp_path / "m")


def test_both_forms_of_acdc_give_the_same(tmp_path, volume):
    image, label = volume
    as_float = (image - image.min()) / (image.max() - image.min())
    (tmp_path / "h5").mkdir()
    write_h5(tmp_path / "h5" / "patient001_frame01.h5", as_float, label)
    tree = tmp_path / "tree" / "training" / "patient001"
    write_nifti(tree / "patient001_frame01.nii.gz", image)
    write_nifti(tree / "patient001_frame01_gt.nii.gz", label)
    write_nifti(tree / "patient001_frame12.nii.gz", image)
    write_nifti(tree / "patient001_frame12_gt.nii.gz", label)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 2, 3)), AFFINE), tree / "patient001_4d.nii.gz")
    (tree / "Info.cfg").write_text("ED: 1\nES: 12\n")
    h5, tree1, tree2 = (
        acdc.load(named(c), tmp_path / f)
        for c, f in (
            ("patient001_frame01", "h5"),
            ("patient001_frame01", "tree"),
            ("patient001_frame02", "tree"),
        )
    )
    assert (
        repro.array_sha256(normalise(h5.image))
        == repro.array_sha256(normalise(tree1.image))
        == repro.array_sha256(normalise(tree2.image))
    )
    assert (h5.label == tree1.label).all()
    assert h5.spacing is None and tree1.spacing == pytest.approx((10, 1.4, 1.5))
    assert tree2.source == "patient001_frame12.nii.gz"


def test_a_changed_voxel_changes_the_hash_and_is_reported_by_name(tmp_path, volume, told):
    image, label = volume
    write_h5(tmp_path / "patient001_frame01.h5", image, label)
    manifest = manifest_of(
        tmp_path, volume, repro.array_sha256(normalise(image)), repro.array_sha256(label)
    )
    load_case(manifest, manifest.cases[0], tmp_path)
    changed = label.copy()
    changed[2, 40, 40] ^= 1
    write_h5(tmp_path / "patient001_frame01.h5", image, changed)
    with told(
        "a label changed after its manifest was made",
        match=r"patient001_frame01.h5: label has another content",
    ):
        load_case(manifest, manifest.cases[0], tmp_path)


def break_shape(image, label):
    return image, label[:, :-1]


def break_nan(image, label):
    image = image.astype(float)
    image[0, 0, 0] = np.nan
    return image, label


def break_class(image, label):
    label = label.copy()
    label[0, 0, 0] = 7
    return image, label


@pytest.mark.parametrize(
    "broken, message",
    [
        (break_shape, "differ in shape"),
        (break_nan, "1 NaN or infinite"),
        (break_class, r"expected 0 to 3, got \[7\]"),
        (lambda image, label: (np.ones_like(image), label), "constant"),
        (lambda image, label: (image[:0], label[:0]), "not a volume"),
        (lambda image, label: (image[0], label[0]), "not a volume"),
    ],
)
def test_broken_arrays_in_real_files(tmp_path, volume, broken, message):
    write_h5(tmp_path / "patient001_frame01.h5", *broken(*volume))
    manifest = manifest_of(tmp_path, volume)
    with pytest.raises(InputError, match=message) as error:
        load_case(manifest, manifest.cases[0], tmp_path)
    assert "patient001_frame01.h5" in str(error.value)


def test_truncated_and_foreign_files(tmp_path, volume):
    path = tmp_path / "patient001_frame01.h5"
    write_h5(path, *volume)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="unreadable h5"):
        acdc.load(named("patient001_frame01"), tmp_path)
    with h5py.File(path, "w") as file:
        file["image"] = volume[0]
    with pytest.raises(InputError, match="'image' and 'label'"):
        acdc.load(named("patient001_frame01"), tmp_path)

    for ending, array in (("", volume[0]), ("_gt", volume[1])):
        write_nifti(tmp_path / f"a{ending}.nii.gz", array)
    whole = (tmp_path / "a.nii.gz").read_bytes()
    for broken in (
        whole[: len(whole) // 2],
        gzip.compress(gzip.decompress(whole)[:2000]),
        b"not a nifti",
    ):
        (tmp_path / "a.nii.gz").write_bytes(broken)
        with pytest.raises(InputError, match="unreadable NIfTI"):
            files.load(PAIR, tmp_path)


def test_geometry_and_missing_labels(tmp_path, volume, told):
    write_nifti(tmp_path / "a.nii.gz", volume[0])
    with pytest.raises(InputError, match="a_gt.nii.gz"):
        files.load(PAIR, tmp_path)
    moved = AFFINE.copy()
    moved[:3, 3] = 30
    write_nifti(tmp_path / "a_gt.nii.gz", volume[1], moved)
    with told(
        "an image and a label that lie differently in space", match="lie differently in space"
    ):
        files.load(PAIR, tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 2, 3)), AFFINE), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="not a 3-D volume"):
        files.load(PAIR, tmp_path)


def test_faults_of_all_cases_come_together(tmp_path, volume, monkeypatch):
    write_h5(tmp_path / "patient002_frame01.h5", *break_class(*volume))
    manifest = manifest_of(tmp_path, volume)
    monkeypatch.setenv("SAMATCH_DATA", str(tmp_path))
    with pytest.raises(InputError) as error:
        load_cases(manifest, manifest.cases)
    text = str(error.value)
    assert (
        "3 faults" in text
        and "patient001_frame01 is missing" in text
        and "label outside the classes" in text
        and "patient003_frame01 is missing" in text
    )


def test_array_faults_lists_several():
    image, label = np.zeros((2, 4, 4)), np.full((2, 4, 4), 9)
    image[0, 0, 0] = np.inf
    assert len(array_faults(Raw(image, label, None, "f"), 2)) == 2


def test_phantom_is_deterministic_and_varied():
    (image, label), again, other = (
        phantom.volume(c)
        for c in ("phantom001_frame01", "phantom001_frame01", "phantom002_frame01")
    )
    assert (image == again[0]).all() and (label == again[1]).all()
    assert not np.allclose(image, other[0])
    systole = phantom.volume("phantom001_frame02")[1]
    assert (systole == 3).sum() < (label == 3).sum()
    assert set(np.unique(label)) == {0, 1, 2, 3}


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("public", [True, False])
def test_busi_in_both_forms_unites_masks_of_all_modes(tmp_path, public):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    one, two = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    one[1:3, 1:3], two[4, 5:7] = 255, 255
    images, masks = (tmp_path / "benign" / (part if public else "") for part in ("images", "mask"))
    picture(images / "benign (10).png", np.stack([grey] * 3, -1))
    picture(masks / "benign (10)_mask.png", one > 0)
    picture(masks / "benign (10)_mask_1.png", np.stack([two] * 3 + [np.full_like(two, 255)], -1))
    picture(images / "benign (1).png", grey)
    picture(masks / "benign (1)_mask.png", two)
    raw = busi.load(named("benign (10)"), tmp_path)
    assert (
        (raw.image == grey[None]).all()
        and (raw.label == (one + two > 0)[None]).all()
        and raw.spacing is None
    )
    assert (busi.load(named("benign (1)"), tmp_path).label == (two > 0)[None]).all()
    assert busi.entries(tmp_path) == [
        Entry(f"benign ({n})", f"benign ({n})", stratum="benign") for n in (1, 10)
    ]
    picture(masks / "benign (1)_mask.png", one[:, :5])
    with pytest.raises(
        InputError, match=r"benign \(1\)_mask.png: shape \(6, 5\), the picture has \(6, 8\)"
    ):
        busi.load(named("benign (1)"), tmp_path)
    with pytest.raises(InputError, match="benign \\(2\\) is missing"):
        busi.load(named("benign (2)"), tmp_path)


def test_chaos_keeps_the_liver_and_a_liver_of_ones_own_is_the_same_scan(tmp_path, volume):
    image, label = volume[0], volume[1] + (volume[1] > 0)  # 2, 3, 4: no liver yet
    label[:, :4, :4] = 1
    write_nifti(tmp_path / "image_7.nii.gz", image)
    write_nifti(tmp_path / "label_7.nii.gz", label)
    scan = chaos.load(named("scan7"), tmp_path)
    assert scan.label.sum() == 16 * len(image) and scan.spacing == pytest.approx((10, 1.4, 1.5))
    assert [e.case_id for e in chaos.entries(tmp_path)] == ["scan7"]
    own = tmp_path / "own"
    write_nifti(own / "a.nii.gz", image)
    write_nifti(own / "a_gt.nii.gz", scan.label)
    write_h5(own / "b.h5", image, scan.label)
    entries = {entry.case_id: entry for entry in from_folder(own)}
    assert list(entries) == ["a", "b"]
    for case, spacing in (("a", scan.spacing), ("b", None)):
        paired = dataclasses.replace(
            named(case), image=entries[case].image, label=entries[case].label
        )
        found = files.load(paired, own)
        assert (
            (found.image == scan.image).all()
            and (found.label == scan.label).all()
            and found.spacing == spacing
        )


def test_an_unlabeled_volume_is_unknown_everywhere_and_counts_in_no_overlap(tmp_path, volume, told):
    write_nifti(tmp_path / "a.nii.gz", volume[0])
    about = ABOUT | {"reader": "files"}
    cases = [
        Case(n, n, *volume[0].shape, None, "", "", "a.nii.gz", "" if n == "u" else "a_gt.nii.gz")
        for n in "tuvw"
    ]
    write_manifest(tmp_path / "m", about, cases, {"train": ["t", "u"], "val": ["v"], "test": ["w"]})
    manifest = load_manifest("mine", tmp_path / "m")
    found = load_case(manifest, manifest.cases[1], tmp_path)
    assert (found.label == UNKNOWN).all() and manifest.unlabeled == {"u"}
    with told("more labeled patients than have labels", room=SETTINGS, match="expected: 1 to 1"):
        manifest.labeled_patients(2)
    label = torch.from_numpy(found.label[:2]).long()
    assert not overlap(torch.ones_like(label), label, 4).any()
    write_manifest(tmp_path / "n", about, cases, {"train": ["u", "t"], "val": ["v"], "test": ["w"]})
    with told(
        "an unlabeled patient before labeled ones in splits.csv",
        match="patient u has no label and must come after",
    ):
        load_manifest("mine", tmp_path / "n")


def test_the_manifests_spacing_fills_in_and_must_agree_with_the_files(tmp_path, volume, told):
    """h5 files have none; a NIfTI file's is used where both agree within 1 %, and a fault where
    they do not."""
    spacings = {
        "patient001": (10.0, 1.4, 1.5),
        "patient002": (10.0, 1.41, 1.5),
        "patient003": (5.0, 1.4, 1.5),
    }
    manifest = manifest_of(tmp_path, volume)
    cases = [
        dataclasses.replace(case, spacing=spacings[case.patient_id]) for case in manifest.cases
    ]
    for patient in spacings:
        (tmp_path / "h5").mkdir(exist_ok=True)
        write_h5(tmp_path / "h5" / f"{patient}_frame01.h5", *volume)
        for ending, array in (("", volume[0]), ("_gt", volume[1])):
            write_nifti(tmp_path / "tree" / patient / f"{patient}_frame01{ending}.nii.gz", array)
    found = [load_case(manifest, case, tmp_path / "h5").spacing for case in cases]
    assert found == list(spacings.values())
    for case in cases[:2]:
        assert load_case(manifest, case, tmp_path / "tree").spacing == pytest.approx((10, 1.4, 1.5))
    with told(
        "a spacing in the manifest that the file contradicts",
        match=r"expected 5 x 1.4 x 1.5 mm, got 10 x 1.4 x 1.5 mm",
    ):
        load_case(manifest, cases[2], tmp_path / "tree")
