"""Which cases a table or a folder holds, by columns and by names."""

import h5py
import numpy as np
import pytest

from samatch.data.curate import curate
from samatch.data.listing import from_csv, from_folder, predicted_in
from samatch.data.volumes import Entry
from samatch.system.errors import InputError
from samatch.training.predict import images_in
from tests.made import CSV_HEAD, nifti, write_series


@pytest.mark.parametrize(
    "encoding, separator", [("utf-8", ","), ("utf-8-sig", ";"), ("utf-8-sig", ","), ("utf-8", "\t")]
)
def test_csv_with_mark_and_semicolons(tmp_path, encoding, separator):
    text = "\n".join([CSV_HEAD, "é1,é,images/a.png,masks/a.png", "b1,b,images/b.png,"]) + "\n"
    (tmp_path / "c.csv").write_text(text.replace(",", separator), encoding=encoding)
    assert from_csv(tmp_path / "c.csv") == [
        Entry("é1", "é", "images/a.png", "masks/a.png"),
        Entry("b1", "b", "images/b.png"),
    ]


def test_faults_of_a_csv(tmp_path, told):
    (tmp_path / "c.csv").write_text("case_id;picture\n1;a\n")
    with told(
        "a table without the columns it needs",
        match="column patient_id is missing; there are case_id, picture\n.*column image is missing",
    ):
        from_csv(tmp_path / "c.csv")
    (tmp_path / "c.csv").write_text(f"{CSV_HEAD},split\na,p,,x,train\nb,p,i,x,dev\nc,q,i,x,\n")
    with told("a table with an empty cell, an unknown split and a case without one") as error:
        from_csv(tmp_path / "c.csv")
    assert all(
        text in str(error.value)
        for text in (
            "line 2: image is empty",
            "line 3: unknown split 'dev'",
            "1 of 3 cases have no split",
        )
    )
    with told("a table that is not there", match="no such table of cases"):
        from_csv(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "name",
    [
        "x_GT.NII.GZ",
        "x_Mask.png",
        "x_segmentation.png",
        "x_mask_1.png",
        "x-Seg.tif",
        "x label2.png",
        "x_Ground_Truth.png",
        "Masks/x.png",
        "labelsTr/x.nii.gz",
        "GT/x.png",
    ],
)
def test_names_of_labels(tmp_path, name):
    for file in ("x.png", name):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    assert from_folder(tmp_path) == [Entry("x", "x", "x.png", name)]


@pytest.mark.parametrize(
    "name",
    ["x.png", "masked.png", "x_1.png", "seg.png", "mask1.png", "x_unmasked.png", "maskset/x.png"],
)
def test_names_of_images(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    assert [(entry.image, entry.label) for entry in from_folder(tmp_path)] == [(name, "")]


@pytest.mark.parametrize(
    "names, label",
    [
        (["b (1)_mask.png", "b (1)_mask_1.png"], "b (1)_mask.png|b (1)_mask_1.png"),
        (["m/b (1)_Mask1.png", "m/b (1)_mask2.png"], "m/b (1)_Mask1.png|m/b (1)_mask2.png"),
    ],
)
def test_numbered_masks_of_an_image_are_named_together(tmp_path, names, label):
    for name in ("b (1).png", *names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert from_folder(tmp_path) == [Entry("b (1)", "b (1)", "b (1).png", label)]


@pytest.mark.parametrize(
    "names",
    [
        ["b_mask.png", "b_seg.png"],
        ["b_mask.png", "other/b_mask.png"],
        ["masks/b.png", "b_mask.png"],
    ],
)
def test_two_kinds_of_labels_of_an_image_are_told(tmp_path, names):
    for name in ("b.png", *names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="b: several labels: (.|\n)*unite the labels"):
        from_folder(tmp_path)


def test_the_layout_of_nnunet(tmp_path):
    """The channel's number is no part of the id; nnU-Net's own test cases take no part."""
    for name in (
        "dataset.json",
        "imagesTr/c_000_0000.nii.gz",
        "imagesTr/c_001_0000.nii.gz",
        "labelsTr/c_000.nii.gz",
        "imagesTs/c_002_0000.nii.gz",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert from_folder(tmp_path) == [
        Entry("c_000", "c_000", "imagesTr/c_000_0000.nii.gz", "labelsTr/c_000.nii.gz"),
        Entry("c_001", "c_001", "imagesTr/c_001_0000.nii.gz"),
    ]
    (tmp_path / "imagesTr" / "c_000_0001.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="c_000: several images: .*_0000.nii.gz, .*_0001.nii.gz"):
        from_folder(tmp_path)
    (tmp_path / "dataset.json").unlink()  # elsewhere a number of four digits is part of the id
    (tmp_path / "labelsTr" / "c_000.nii.gz").unlink()
    assert [entry.case_id for entry in from_folder(tmp_path)][:2] == ["c_000_0000", "c_000_0001"]


def test_an_h5_file_may_hold_image_and_label(tmp_path):
    """SSL4MIS's form; without a label in it, a label beside it, and a broken one."""
    for name, keys in (("a", ("image", "label")), ("b", ("image",)), ("b_gt", ("label",))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for key in keys:
                file[key] = np.zeros((2, 3, 4))
    (tmp_path / "c.h5").write_bytes(b"broken")
    assert [(e.image, e.label) for e in from_folder(tmp_path)] == [
        ("a.h5", "a.h5"),
        ("b.h5", "b_gt.h5"),
        ("c.h5", ""),
    ]


def test_folders_in_bids_and_beside_each_other(tmp_path):
    for p in ("01", "02"):
        nifti(tmp_path / f"sub-{p}" / "anat" / f"sub-{p}_T1w.nii.gz", np.zeros((2, 3, 4)))
    nifti(
        tmp_path / "derivatives" / "hand" / "sub-01" / "sub-01_space-T1w_dseg.nii.gz",
        np.zeros((2, 3, 4)),
    )
    assert from_folder(tmp_path) == [
        Entry(
            "sub-01",
            "sub-01",
            "sub-01/anat/sub-01_T1w.nii.gz",
            "derivatives/hand/sub-01/sub-01_space-T1w_dseg.nii.gz",
        ),
        Entry("sub-02", "sub-02", "sub-02/anat/sub-02_T1w.nii.gz"),
    ]
    nifti(tmp_path / "sub-01" / "anat" / "sub-01_T2w.nii.gz", np.zeros((2, 3, 4)))
    nifti(tmp_path / "lost_gt.nii.gz", np.zeros((2, 3, 4)))
    with pytest.raises(
        InputError, match="sub-01: several images(.|\n)*lost_gt.nii.gz: a label without an image"
    ):
        from_folder(tmp_path)


def test_what_predict_wrote_into_a_set_is_told(tmp_path, told):
    """Taken for labels, a student's own masks would be the truth that it is tested against."""
    names = ("x.png", "masks/x_mask.png", "masks/x_overlay.png", "masks/contact_sheet.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "masks" / "volumes.csv").write_text("image,class,voxels,volume_ml\n")
    with told(
        "masks that samatch predict wrote in a set of your own",
        match="1 fault\n.*masks/: masks and overlays that",
    ):
        from_folder(tmp_path)
    found = from_folder(tmp_path, aside=predicted_in(tmp_path))
    assert [(entry.image, entry.label) for entry in found] == [("x.png", "")]
    for name in ("x_overlay.png", "contact_sheet.png", "volumes.csv"):
        (tmp_path / "masks" / name).unlink()
    assert from_folder(tmp_path) == [Entry("x", "x", "x.png", "masks/x_mask.png")]


def test_links_that_a_search_does_not_follow_are_told(tmp_path, told):
    """A folder that is a link, and a link to nothing; a link to a file is that file."""
    folder, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for file in (folder / "x.png", elsewhere / "y.png"):
        file.parent.mkdir()
        file.write_bytes(b"")
    (folder / "z.png").symlink_to(folder / "x.png")
    assert [entry.image for entry in from_folder(folder)] == ["x.png", "z.png"]
    (folder / "more").symlink_to(elsewhere)
    (folder / "lost.png").symlink_to(tmp_path / "nothing")
    with told("links to a folder and to nothing", match="2 faults") as error:
        from_folder(folder)
    assert "lost.png: a link to nothing" in str(error.value)
    assert "more: a link to a folder" in str(error.value)


def test_dicom_files_are_known_by_their_first_bytes(tmp_path):
    """As a scanner stores them, without an ending; a folder that is itself a series is one case."""
    scan = tmp_path / "scan"
    write_series(scan)
    for file in scan.iterdir():
        file.rename(file.with_suffix(""))
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes.txt").write_text("no image")
    assert [(e.case_id, e.image) for e in from_folder(tmp_path)] == [("scan", "scan")]
    assert [(e.case_id, e.image) for e in from_folder(scan)] == [("scan", ".")]
    assert images_in(scan) == [scan] and images_in(tmp_path) == [scan]


def test_a_set_whose_files_cannot_be_listed_says_so(tmp_path, told):
    """ACDC's reader finds a case by its name and lists none."""
    (tmp_path / "data" / "acdc").mkdir(parents=True)
    with told("a set of a reader that lists no files", match="acdc cannot be listed from a folder"):
        curate("acdc", None, ["RV", "MYO", "LV"], into=tmp_path / "manifest")
