"""Reading: both forms of ACDC, phantoms, and real broken files."""

import gzip

import h5py
import nibabel
import numpy as np
import pytest

from samatch import repro
from samatch.datasets import Raw, acdc, array_faults, load_case, load_cases, nifti, normalise, phantom
from samatch.errors import InputError
from samatch.manifest import Case, load_manifest, write_manifest

AFFINE = np.diag([1.5, 1.4, 10.0, 1.0])


@pytest.fixture
def volume():
    raw = phantom.load("phantom001_frame01")
    return (raw.image * 200).astype(np.int16), raw.label


def write_h5(path, image, label):
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label


def write_nifti(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


def manifest_of(tmp_path, volume, image_sha="", label_sha=""):
    cases = [Case(f"{p}_frame01", p, *volume[0].shape, None, image_sha if p == "patient001" else "", label_sha) for p in ("patient001", "patient002", "patient003")]
    about = dict(title="t", classes=["RV", "MYO", "LV"], normalisation="n", licence="l", source="s", citation="c", known_faults="", budgets=[1], reader="acdc")
    write_manifest(tmp_path / "m", about, cases, {"train": ["patient001"], "val": ["patient002"], "test": ["patient003"]})
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
    h5, tree1, tree2 = (acdc.load(c, tmp_path / f) for c, f in (("patient001_frame01", "h5"), ("patient001_frame01", "tree"), ("patient001_frame02", "tree")))
    assert repro.array_sha256(normalise(h5.image)) == repro.array_sha256(normalise(tree1.image)) == repro.array_sha256(normalise(tree2.image))
    assert (h5.label == tree1.label).all()
    assert h5.spacing is None and tree1.spacing == pytest.approx((10, 1.4, 1.5))
    assert tree2.source == "patient001_frame12.nii.gz"


def test_a_changed_voxel_changes_the_hash_and_is_reported_by_name(tmp_path, volume):
    image, label = volume
    write_h5(tmp_path / "patient001_frame01.h5", image, label)
    manifest = manifest_of(tmp_path, volume, repro.array_sha256(normalise(image)), repro.array_sha256(label))
    load_case(manifest, manifest.cases[0], tmp_path)
    changed = label.copy()
    changed[2, 40, 40] ^= 1
    write_h5(tmp_path / "patient001_frame01.h5", image, changed)
    with pytest.raises(InputError, match=r"patient001_frame01.h5: label has another content"):
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


@pytest.mark.parametrize("broken, message", [
    (break_shape, "differ in shape"), (break_nan, "1 NaN or infinite"), (break_class, r"expected 0 to 3, got \[7\]"),
    (lambda i, l: (np.ones_like(i), l), "constant"), (lambda i, l: (i[:0], l[:0]), "not a volume"), (lambda i, l: (i[0], l[0]), "not a volume")])
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
        acdc.load("patient001_frame01", tmp_path)
    with h5py.File(path, "w") as file:
        file["image"] = volume[0]
    with pytest.raises(InputError, match="'image' and 'label'"):
        acdc.load("patient001_frame01", tmp_path)

    for ending, array in (("", volume[0]), ("_gt", volume[1])):
        write_nifti(tmp_path / f"a{ending}.nii.gz", array)
    whole = (tmp_path / "a.nii.gz").read_bytes()
    for broken in (whole[: len(whole) // 2], gzip.compress(gzip.decompress(whole)[:2000]), b"not a nifti"):
        (tmp_path / "a.nii.gz").write_bytes(broken)
        with pytest.raises(InputError, match="unreadable NIfTI"):
            nifti.load("a", tmp_path)


def test_geometry_and_missing_labels(tmp_path, volume):
    write_nifti(tmp_path / "a.nii.gz", volume[0])
    with pytest.raises(InputError, match="a_gt.nii.gz"):
        nifti.load("a", tmp_path)
    moved = AFFINE.copy()
    moved[:3, 3] = 30
    write_nifti(tmp_path / "a_gt.nii.gz", volume[1], moved)
    with pytest.raises(InputError, match="lie differently in space"):
        nifti.load("a", tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 2, 3)), AFFINE), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="not a 3-D volume"):
        nifti.load("a", tmp_path)


def test_faults_of_all_cases_come_together(tmp_path, volume):
    write_h5(tmp_path / "patient002_frame01.h5", *break_class(*volume))
    manifest = manifest_of(tmp_path, volume)
    with pytest.raises(InputError) as error:
        load_cases(manifest, manifest.cases, tmp_path)
    text = str(error.value)
    assert "3 faults" in text and "patient001_frame01 is missing" in text and "label outside the classes" in text and "patient003_frame01 is missing" in text


def test_array_faults_lists_several():
    image, label = np.zeros((2, 4, 4)), np.full((2, 4, 4), 9)
    image[0, 0, 0] = np.inf
    assert len(array_faults(Raw(image, label, None, "f"), 2)) == 2


def test_phantom_is_deterministic_and_varied():
    first, again, other = (phantom.load(c) for c in ("phantom001_frame01", "phantom001_frame01", "phantom002_frame01"))
    assert (first.image == again.image).all() and (first.label == again.label).all()
    assert not np.allclose(first.image, other.image)
    systole = phantom.load("phantom001_frame02")
    assert (systole.label == 3).sum() < (first.label == 3).sum()
    assert set(np.unique(first.label)) == {0, 1, 2, 3}
