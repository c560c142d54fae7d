"""A set of one's own: from files to a manifest, to a training, to masks; and everything wrong with
it in one message."""

import shutil

import nibabel
import numpy as np
import pytest

from samatch.config.settings import make_config
from samatch.data.curate import curate, main
from samatch.data.images import read_label
from samatch.data.readers import phantom
from samatch.data.volumes import load_cases
from samatch.system import paths
from samatch.training.predict import predict
from samatch.training.released import of_run
from samatch.training.train import train
from tests.made import (
    AFFINE,
    CSV_HEAD,
    ellipse,
    nifti,
    pictures,
    png,
    stack,
    table,
    tiff,
    turned,
    write_series,
)
from tests.told import SETTINGS


@pytest.fixture
def folder():
    return pictures(paths.data_dir() / "lesions")


def test_a_folder_of_pictures_becomes_a_manifest(folder):
    manifest, report = curate("lesions", None, ["lesion"])
    assert [len(manifest.patients(s)) for s in ("train", "val", "test")] == [
        7,
        1,
        2,
    ] and manifest.budgets == (1, 3, 7)
    volume = load_cases(manifest, manifest.cases_of(manifest.patients("test")))[0]
    assert volume.image.shape == (1, 48, 48) and set(np.unique(volume.label)) == {0, 1}
    assert "class 1 lesion: in 10 cases" in report
    assert curate("lesions", None, ["lesion"])[0].splits_sha256 == manifest.splits_sha256


def test_every_fault_of_a_set_in_one_message(folder, told):
    """Real broken files, one a fault."""
    image, label = ellipse(1)
    png(folder / "masks" / "p0.png", label[:, :40] * 255)  # smaller than its image
    png(
        folder / "masks" / "p1.png", np.arange(48 * 48).reshape(48, 48).astype(np.uint8)
    )  # grey values
    png(folder / "masks" / "p2.png", np.stack([label * 255, label * 0, label * 0], -1))  # colours
    png(folder / "masks" / "p3.png", label * 0)  # empty
    (folder / "images" / "p4.png").write_bytes(b"\x89PNG no")  # unreadable
    png(folder / "images" / "p5.png", image * 0 + 9)  # constant
    with told("a set of pictures with six broken files") as error:
        curate("lesions", None, ["lesion"])
    text = str(error.value)
    for expected in (
        "6 faults",
        "p0: images/p0.png and masks/p0.png: image and label differ in shape",
        "p1: masks/p1.png: label outside the classes",
        "was a mask resized",
        "p2: a colour mask",
        "p3: masks/p3.png: the label is empty",
        "p4: unreadable picture",
        "p5: images/p5.png: image is constant",
    ):
        assert expected in text
    assert not (folder / "manifest").exists()


def test_faults_of_volumes(tmp_path, told):
    folder = paths.data_dir() / "v"
    image, label = phantom.volume("phantom001_frame01")
    turned = AFFINE.copy()
    turned[:2, :2] = [[0, 1.5], [1.5, 0]]
    for name, array, affine in (
        ("nan", np.where(label == 1, np.nan, image), AFFINE),
        ("turned", image, turned),
        ("good", image, AFFINE),
    ):
        nifti(folder / f"{name}.nii.gz", array.astype(np.float32), affine)
        nifti(folder / f"{name}_gt.nii.gz", label)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 3, 2)), AFFINE), folder / "four.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 0)), AFFINE), folder / "none.nii.gz")
    write_series(folder / "gap", positions=[0, 4, 8, 16, 20])
    with told("a set of volumes with five broken ones") as error:
        curate("v", None, ["a", "b", "c"])
    text = str(error.value)
    for expected in (
        "5 faults",
        "nan: nan.nii.gz: image holds",
        "turned: image and label lie differently in space",
        "axes turned by",
        "four: not a 3-D volume",
        "none: none.nii.gz: image is not a volume",
        "gap: slices of a DICOM series are missing",
    ):
        assert expected in text


def test_doubles_leaks_and_paths_outside(folder, told):
    rows = [
        "a,p,images/p0.png,masks/p0.png,train",
        "a,q,images/p1.png,masks/p1.png,val",
        "c,p,images/p2.png,masks/p2.png,test",
        "d,r,../lesions/../../secret.png,masks/p3.png,train",
        f"e,s,{folder / 'images' / 'p4.png'},masks/p4.png,train",
        "f,t,images/p0.png,masks/p0.png,train",
    ]
    (folder / "c.csv").write_text("\n".join([f"{CSV_HEAD},split", *rows]) + "\n")
    with told("a table with doubles, leaks and paths out of the folder") as error:
        curate("lesions", folder / "c.csv", ["lesion"])
    text = str(error.value)
    for expected in (
        "case a is listed 2 times",
        "image images/p0.png belongs to 2 cases",
        "patient p is in test and train",
        "d: a path leads out of",
        "e: a path leads out of",
        "label masks/p0.png belongs to several patients: p, t",
        "6 faults",
    ):
        assert expected in text


def test_no_empty_split_passes(folder, told):
    def rows(bare=(), **split):
        return [
            ",".join([f"p{n},p{n},images/p{n}.png", "" if n in bare else f"masks/p{n}.png", s])
            for s in ("train", "val", "test")
            for n in split.get(s, ())
        ]

    for split, message, what in (
        (
            {"train": range(8), "test": [8, 9]},
            "val is empty: no patient is in it",
            "a split column without validation",
        ),
        (
            {"val": range(8), "test": [8, 9]},
            "train is empty: no labeled patient is in it",
            "a split column without training",
        ),
        (
            {"train": [0, 1], "bare": [0, 1], "val": [2], "test": [3]},
            "train is empty: no labeled patient",
            "a split column without a labeled training patient",
        ),
    ):
        with told(what, match=message):
            curate("lesions", table(folder, rows(**split)), ["lesion"])


def test_a_second_manifest_has_todays_files_and_never_silently_other_classes(folder, told):
    first, _ = curate("lesions", None, ["lesion"])
    home = folder / "manifest" / "dataset.yaml"
    home.write_text(home.read_text().replace("licence: not stated", "licence: ours"))
    for n in range(4):
        (folder / "images" / f"p{n}.png").unlink()
        (folder / "masks" / f"p{n}.png").unlink()
    second, _ = curate("lesions", None, ["lesion"])
    assert (
        (first.budgets, second.budgets) == ((1, 3, 7), (1, 3, 4))
        and len(second.cases) == 6
        and second.licence == "ours"
    )
    with told(
        "a second manifest of a set with other classes",
        match="manifest with other classes\n.*\n  expected: lesion\n  got: cyst,lesion\n.*give "
        "CLASSES=lesion, or delete",
    ):
        curate("lesions", None, ["cyst", "lesion"])
    assert curate("lesions", None, [])[0].classes == (
        "lesion",
    )  # none asked for: those that are there


def test_a_name_of_the_projects_own_sets_is_refused(told):
    (paths.data_dir() / "acdc").mkdir(parents=True)
    with told(
        "a set of your own called as one of the project",
        room=SETTINGS,
        match="the name acdc is taken",
    ):
        curate("acdc", None, ["a"])


def test_a_label_under_a_name_of_its_own_is_no_unlabeled_image(folder, told):
    """A mask that no name gives away, binary or of classes, and a real unlabeled image beside it;
    and image and label swapped in a table."""
    png(folder / "images" / "outline.png", ellipse(20)[1] * 255)
    png(folder / "images" / "classes.png", ellipse(21, 4)[1])
    png(folder / "images" / "unlabeled.png", ellipse(22)[0])
    with told("masks that no name gives away among the images") as error:
        curate("lesions", None, ["lesion"])
    assert "2 faults" in str(error.value) and all(
        f"{name}: images/{name}.png: an unlabeled image of" in str(error.value)
        for name in ("outline", "classes")
    )
    for name in ("outline", "classes"):
        (folder / "images" / f"{name}.png").unlink()
    binary = (ellipse(9)[1] * 255).astype(np.uint8)
    png(folder / "images" / "p9.png", np.where(binary, 200, 10).astype(np.uint8))
    manifest, report = curate("lesions", None, ["lesion"])
    assert "unlabeled: 1 cases, all in train" in report and manifest.unlabeled == {"unlabeled"}
    assert (
        "warning: an image of hardly more values than a label has: are image and label swapped? "
        "In 1 cases: p9" in report
    )
    rows = [f"p{n},p{n},images/p{n}.png,masks/p{n}.png" for n in range(9)] + [
        "s,s,masks/p9.png,images/p8.png"
    ]
    with told("image and label swapped in a table", match="images/p8.png is an image and a label"):
        curate("lesions", table(folder, rows, CSV_HEAD), ["lesion"])


def test_black_and_white_labels_have_one_class(folder, told):
    with told(
        "masks of 0 and 255 in a set of two classes",
        match="10 faults(.|\n)*p0.png: a label that is a picture of 0 and 255; which of the 2 "
        "classes is 255",
    ):
        curate("lesions", None, ["cyst", "tumour"])
    for n in range(10):
        png(folder / "masks" / f"p{n}.png", ellipse(n)[1] * 2)
    assert "class 2 tumour: in 10 cases" in curate("lesions", None, ["cyst", "tumour"])[1]


def test_stacks_and_turned_pictures_in_a_set(tiny_profile, tmp_path, capsys):
    """TIFF stacks are volumes, in and out; pictures stored turned are told once, with their
    cases."""
    folder = paths.data_dir() / "stacks"
    for n in range(8):
        image, label = stack(10 * n)
        tiff(folder / "images" / f"s{n}.tif", image)
        tiff(folder / "masks" / f"s{n}.tif", label * 255)
    manifest, report = curate("stacks", None, ["a"])
    assert [case.n_slices for case in manifest.cases] == [3] * 8 and not any(
        "warning" in line for line in report
    )
    record = train(make_config("demo", "stacks", 1, "supervised"))
    tiff(tmp_path / "new" / "x.tiff", np.stack([ellipse(z)[0] for z in range(4)]))
    turned(tmp_path / "new" / "y.png", ellipse(3, size=40)[0][:30], 6)
    masks = predict(of_run("demo", record["run_id"]), tmp_path / "new", tmp_path / "masks")
    assert [path.name for path in masks] == ["x_mask.tif", "y_mask.png"] and read_label(
        masks[0]
    ).array.shape == (4, 48, 48)
    assert (
        read_label(masks[1]).array.shape == (1, 30, 40)
        and "warning: y.png: stored turned" in capsys.readouterr().out
    )


def test_doubts_name_their_cases(folder):
    for n in (2, 5):
        turned(folder / "images" / f"p{n}.png", ellipse(n)[0], 3)
    report = curate("lesions", None, ["lesion"])[1]
    assert (
        sum("stored turned" in line and line.endswith("In 2 cases: p2, p5") for line in report) == 1
    )


def test_doubtful_geometry_stands_in_the_manifests_report(told):
    """Faults and warnings of headers, one volume each; the slices of h5 volumes have no spacing,
    but a shape."""
    folder = paths.data_dir() / "v"
    for n in range(8):
        image, label = stack(10 * n)
        for name, array in ((f"v{n}", image), (f"v{n}_gt", label)):
            volume = nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([1.5, 1.5, 8, 1]))
            if n == 3:
                volume.set_sform(None, 0)
                volume.set_qform(None, 0)
            if n in (5, 6):
                volume.set_sform(np.diag([3, 3, 16, 1]))
            folder.mkdir(parents=True, exist_ok=True)
            nibabel.save(volume, folder / f"{name}.nii.gz")
    with told(
        "two voxel spacings in a header",
        match="2 faults\n  1. v5: the header gives two voxel spacings.*\n  2. v6: the header "
        "gives two",
    ):
        curate("v", None, ["a"])
    for n in (5, 6):
        for ending in ("", "_gt"):
            (folder / f"v{n}{ending}.nii.gz").unlink()
    report = curate("v", None, ["a"])[1]
    assert (
        "warning: no orientation codes in the NIfTI header: where the volume lies is unknown. In "
        "1 cases: v3" in report
    )
    assert sum("warning" in line for line in report) == 1


def test_a_class_that_a_split_lacks_is_a_warning(folder):
    """Class 2 in two training pictures, class 3 nowhere."""
    for n in range(10):
        label = ellipse(n)[1]
        label[:3, :3] = 2 * (n in (0, 4))
        png(folder / "masks" / f"p{n}.png", label)
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    csv = table(
        folder,
        [f"p{n},p{n},images/p{n}.png,masks/p{n}.png,{split}" for n, split in enumerate(splits)],
    )
    _, report = curate("lesions", csv, ["a", "b", "c"])
    assert [line for line in report if "class" in line] == [
        "class 1 a: in 10 cases",
        "class 2 b: in 2 cases",
        "class 3 c: in 0 cases",
        "warning: class 2 b is in no case of val, test",
        "warning: class 3 c is in no case of train, val, test",
    ]


def test_six_classes_train_and_predict_with_the_images_geometry(
    tiny_profile, tmp_path, capsys, told
):
    """A CSV with unlabeled cases, five foreground classes, NIfTI with an oblique affine: manifest,
    training, masks, overlays."""
    folder, rows = paths.data_dir() / "six", [CSV_HEAD]
    for n in range(9):
        image, label = stack(10 * n, 5)
        nifti(folder / f"c{n}.nii.gz", image)
        nifti(folder / f"l{n}.nii.gz", label)
        rows.append(
            f"c{n},p{n // 2 if n < 4 else n},c{n}.nii.gz,{'' if n in (5, 6) else f'l{n}.nii.gz'}"
        )
    (folder / "six.csv").write_text("\n".join(rows) + "\n")
    words = ["--name", "six", "--csv", str(folder / "six.csv")]
    main([*words, "--classes", "a,b,c,d,e", "--fractions", "0.5,0.2,0.3"])
    assert "unlabeled: 2 cases, all in train" in capsys.readouterr().out
    record = train(make_config("demo", "six", 1, "fixmatch"))
    target = tmp_path / "new" / "c.nii.gz"
    picture = np.stack([ellipse(z, 5)[0] for z in range(4)])
    nifti(target, picture)
    write_series(tmp_path / "new" / "scan")
    masks = predict(of_run("demo", record["run_id"]), tmp_path / "new", tmp_path / "masks")
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == [
        "c_mask.nii.gz",
        "c_overlay.png",
        "contact_sheet.png",
        "scan_mask.nii.gz",
        "scan_overlay.png",
        "volumes.csv",
    ]
    source, mask = nibabel.load(target), nibabel.load(tmp_path / "masks" / "c_mask.nii.gz")
    assert (
        mask.shape == source.shape
        and np.allclose(mask.affine, source.affine)
        and np.allclose(mask.header.get_zooms(), source.header.get_zooms())
    )
    said = of_run("demo", record["run_id"]).segment(picture)
    assert (np.asarray(mask.dataobj).transpose(2, 1, 0) == said).all() and len(masks) == 2
    with told("a run that is not there", room=SETTINGS, match="unknown complete run"):
        predict(of_run("demo", "nothing"), tmp_path / "new", tmp_path / "masks")


def test_pictures_get_pictures_and_broken_ones_stop_everything(
    tiny_profile, folder, tmp_path, told
):
    curate("lesions", None, ["lesion"])
    record = train(make_config("demo", "lesions", 3, "supervised"))
    png(tmp_path / "new" / "a.png", ellipse(50, size=40)[0])
    student = of_run("demo", record["run_id"])
    for masks in ("masks", "masks", "second"):
        (written,) = predict(student, tmp_path / "new", tmp_path / "new" / masks)
        assert read_label(written).array.shape == (1, 40, 40)
    with told(
        "masks that samatch predict wrote, given to it as images",
        match="second: 2 faults(.|\n)*wrote; where they are labels",
    ):
        predict(student, tmp_path / "new" / "second", tmp_path / "other")
    shutil.rmtree(folder / "manifest")
    curate("lesions", None, ["nodule"])
    assert of_run("demo", record["run_id"]).classes == ("lesion",)  # those it was trained on
    (tmp_path / "new" / "b.png").write_bytes(b"no")
    png(tmp_path / "new" / "c.png", np.zeros((8, 8), np.uint8))
    with told("new images of which two are broken", match="2 faults"):
        predict(student, tmp_path / "new", tmp_path / "other")
    assert not (tmp_path / "other").exists()
