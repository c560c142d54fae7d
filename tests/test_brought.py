"""Sets as people bring them: other layouts, masks in parts, folders one too high or too low."""

import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from samatch.data.curate import curate
from samatch.data.listing import from_folder
from samatch.data.manifest import Case, load_manifest, manifest_folders
from samatch.data.readers import acdc, busi, chaos, files
from samatch.data.volumes import Raw, array_faults, load_cases
from samatch.system import paths
from samatch.system.errors import InputError
from tests.made import AFFINE, CSV_HEAD, ellipse, nifti, pictures, png, stack, table


def named(case_id, **files):
    return Case(case_id, case_id, 0, 0, 0, None, "", "", **files)


@pytest.fixture
def folder():
    return pictures(paths.data_dir() / "lesions", 8)


def halves(label):
    """A mask's left and right part, which together are it."""
    left, right = label.copy(), label.copy()
    left[:, 24:], right[:, :24] = 0, 0
    return left, right


def test_several_masks_of_an_image_are_united_and_told(folder, told):
    for n in (2, 5):
        (folder / "masks" / f"p{n}.png").unlink()
        for ending, part in zip(("", "_1"), halves(ellipse(n)[1]), strict=True):
            png(folder / "masks" / f"p{n}_mask{ending}.png", part * 255)
    manifest, report = curate("lesions", None, ["lesion"], allow_empty=True)
    assert "several masks of an image, united: in 2 cases: p2, p5" in report
    found = {v.case.case_id: v.label[0] for v in load_cases(manifest, manifest.cases)}
    assert all((found[f"p{n}"] == ellipse(n)[1]).all() for n in range(8))
    shutil.rmtree(folder / "manifest")
    with told(
        "several masks of an image in a set of several classes",
        match="p2: several masks in a set of several classes",
    ):
        curate("lesions", None, ["cyst", "tumour"])


def test_masks_that_cannot_be_united(tmp_path, told):
    one, two = (np.full((1, 4, 4), value, np.uint8) for value in (1, 2))
    assert (files.united([one, 0 * one], "a|b") == 1).all()
    assert (files.united([two, 0 * one], "a|b") == 2).all()
    with told(
        "masks of an image that hold other values than 0 and one class", match=r"classes \[1, 2\]"
    ):
        files.united([one, two], "a|b")
    with told(
        "masks of an image that differ in shape",
        match="cannot be united(.|\n)*where: a, b(.|\n)*shapes",
    ):
        files.united([one, one[:, :2]], "a|b")


def test_a_colour_is_one_class_in_all_palettes(folder, told):
    """Palettes that each file numbered by itself: red is class 1 here, and class 2 there."""
    black, red, green = (0, 0, 0), (255, 0, 0), (0, 255, 0)
    for n in range(8):
        of = Image.fromarray(ellipse(n, 2)[1], "P")
        of.putpalette([*black, *(red + green if n != 4 else green + red)])
        of.save(folder / "masks" / f"p{n}.png")
    with told("palettes that differ between masks", match="2 faults(.|\n)*class number 1") as error:
        curate("lesions", None, ["cyst", "tumour"])
    assert "(255, 0, 0) in p0, p1, p2, ...; (0, 255, 0) in p4;" in str(error.value)
    of = Image.fromarray(ellipse(4, 2)[1], "P")
    of.putpalette([*black, *red, *green])
    of.save(folder / "masks" / "p4.png")
    assert curate("lesions", None, ["cyst", "tumour"])[0].num_classes == 3


def test_what_a_label_leaves_doubtful_is_warned_of(folder):
    """A mask without background; labels of a patient who has an unlabeled case too."""
    png(folder / "masks" / "p3.png", np.ones_like(ellipse(3)[1]))
    (folder / "masks" / "p7.png").unlink()
    rows = [f"p{n},p{n},images/p{n}.png,masks/p{n}.png" for n in range(6)]
    rows += ["p6,p6,images/p6.png,masks/p6.png", "p7,p6,images/p7.png,"]
    _, report = curate("lesions", table(folder, rows, CSV_HEAD), ["lesion"])
    assert "warning: a label without any background: is it a mask? In 1 cases: p3" in report
    (lost,) = (line for line in report if "labels are not used" in line)
    assert lost.startswith("warning: 1 labels") and lost.endswith("Patients: p6")


def test_the_background_is_no_class_to_name(folder, told):
    with told("the background among the classes", match="number 0 is the background's"):
        curate("lesions", None, ["background", "lesion"])


def test_h5_files_with_both_become_a_set():
    folder = paths.data_dir() / "hearts"
    folder.mkdir(parents=True)
    for n in range(8):
        image, label = stack(10 * n)
        with h5py.File(folder / f"h{n}.h5", "w") as file:
            file["image"], file["label"] = image, label
    manifest, _ = curate("hearts", None, ["lv"], join_near=False)
    assert len(manifest.cases) == 8 and not manifest.unlabeled
    volume = load_cases(manifest, manifest.cases[:1])[0]
    assert (volume.label == stack(10 * int(volume.case.case_id[1:]))[1]).all()


def test_data_may_be_the_sets_own_folder(folder, monkeypatch, told):
    monkeypatch.setenv("SAMATCH_DATA", str(folder))
    with told(
        "DATA that is another set's own folder", match="no folder hearts(.|\n)*give NAME=lesions"
    ):
        curate("hearts", None, ["a"])
    manifest, _ = curate("lesions", None, ["a"])
    assert manifest_folders()["lesions"] == folder / "manifest"
    loaded = load_manifest("lesions")
    assert loaded == manifest and len(load_cases(loaded, loaded.cases)) == 8


def test_every_reader_finds_its_files_one_folder_down(tmp_path):
    image, label = stack(3, slices=2)
    down = tmp_path / "as_unpacked"
    for name, array in (
        ("image_3", image),
        ("label_3", label),
    ):
        nifti(down / f"{name}.nii.gz", array, AFFINE)
    with h5py.File(down / "patient001_frame01.h5", "w") as file:
        file["image"], file["label"] = image, label
    png(down / "benign" / "benign (1).png", image[0])
    png(down / "benign" / "benign (1)_mask.png", label[0] * 255)
    for reader, case in (
        (chaos, "scan3"),
        (acdc, "patient001_frame01"),
    ):
        assert (reader.load(named(case), tmp_path).label == label).all(), reader
    assert (busi.load(named("benign (1)"), tmp_path).label == label[:1]).all()
    assert [entry.case_id for entry in busi.entries(tmp_path)] == ["benign (1)"]


def test_hidden_twins_of_macos_are_no_cases(tmp_path):
    for name in ("image_1.nii.gz", "._image_2.nii.gz", "benign/._benign (1).png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [entry.case_id for entry in chaos.entries(tmp_path)] == ["scan1"]
    assert busi.entries(tmp_path) == []


def test_a_case_of_acdc_with_another_name_is_an_error(tmp_path):
    for name in ("patient001", "patient001_frame", "patient001_frame00", "_frame01x"):
        with pytest.raises(InputError, match="a case of ACDC has another name"):
            acdc.load(named(name), tmp_path)


def test_nnunets_test_images_may_be_predicted(tmp_path):
    """They take no part in a manifest, but their folder may be asked for."""
    for name in ("dataset.json", "imagesTr/a_0000.png", "imagesTs/b_0000.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [entry.image for entry in from_folder(tmp_path)] == ["imagesTr/a_0000.png"]
    assert [entry.image for entry in from_folder(tmp_path / "imagesTs")] == ["b_0000.png"]


def test_values_too_wide_for_a_difference_and_a_negative_seed_are_faults(folder, told):
    image = np.array([[[-1e308, 1e308, 0]]])
    assert "-1e+308 to 1e+308" in array_faults(Raw(image, None, None, "a"), 2)[0]
    with told("a negative seed", match="impossible seed"):
        curate("lesions", None, ["a"], seed=-1)


def test_what_lies_where_a_manifest_belongs(tmp_path, told):
    folder = pictures(tmp_path / "data" / "lesions")
    (folder / "manifest").write_text("a file")
    with told("a file where the folder of a manifest belongs", match="cannot write to a folder"):
        curate("lesions", None, ["lesion"])
    (folder / "manifest").unlink()
    (folder / "manifest" / "cases.csv").mkdir(parents=True)
    with told("a folder called cases.csv", match="cannot write a file(.|\n)*Is a directory"):
        curate("lesions", None, ["lesion"])
