"""Released students: what is written, what is refused, what is warned of."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from samatch.__main__ import main
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.results.records import collect
from samatch.results.runs import Run
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.training import released
from samatch.training.predict import predict
from tests.conftest import shrink_demo
from tests.hand_made import tiny


def in_home(home, patch):
    """Everything that an export reads and writes lies below this folder."""
    patch.setattr(paths, "MODELS", home / "models")
    patch.setattr(paths, "TRACKED_RESULTS", home / "tracked")
    for name in ("RUNS", "OUT", "PREPARED"):
        patch.setenv(f"SAMATCH_{name}", str(home / name.lower()))


@pytest.fixture(scope="module")
def exported_home(complete, tmp_path_factory):
    """A short SAM-Match run of the phantoms, on record and exported once."""
    home = tmp_path_factory.mktemp("exported")
    shutil.copytree(complete, home / "runs" / "demo")
    folder = home / "tracked" / "demo" / "phantom"
    with pytest.MonkeyPatch.context() as patch:
        shrink_demo(patch)
        in_home(home, patch)
        collect("demo", "phantom", folder)
        rows = {"run_id": [tiny().run_id] * 2 + ["other"], "case_id": list("aba")}
        rows |= {"split": ["external"] * 3, "dice": [0.5, 0.25, 1.0]}
        pd.DataFrame(rows).to_csv(folder / "external_there.csv")
        released.export("demo", "phantom")
    return home


@pytest.fixture
def exported(exported_home, tiny_profile, tmp_path, monkeypatch):
    """(record of the run, folder of the model), a copy of a test's own."""
    home = shutil.copytree(exported_home, tmp_path / "home")
    in_home(home, monkeypatch)
    return Run(tiny()).read(), home / "models" / "phantom"


def phantom_volumes(split):
    manifest = load_manifest("phantom")
    return load_cases(manifest, manifest.cases_of(manifest.patients(split)))


def test_what_is_exported_is_the_run_in_half_precision(exported):
    record, folder = exported
    kept = torch.load(
        paths.runs_dir("demo") / record["run_id"] / "checkpoint.pt", weights_only=True
    )["student"]
    halved, student = load_file(folder / "student.safetensors"), released.load("phantom")
    assert all(value.dtype != torch.float32 for value in halved.values())
    for name, value in student.network.state_dict().items():
        assert torch.allclose(value, kept[name], atol=1e-3, rtol=1e-3), name
    facts = json.loads((folder / "model.json").read_text())
    assert facts["run_id"] == record["run_id"]
    assert facts["val_dice"] == pytest.approx(100 * record["val_dice"], abs=0.006)
    card = (folder / "README.md").read_text()
    assert "Not for clinical use" in card
    assert "| Dice on there, of another source | 37.50 %, 2 cases |" in card


def test_a_failed_export_leaves_the_model_as_it_was(exported, monkeypatch):
    before = {path.name: path.read_bytes() for path in exported[1].iterdir()}

    def broken(*_):
        raise InputError("no images", do="get them")

    for name in ("load_cases", "facts_from", "mean_dice"):
        with monkeypatch.context() as patch:
            patch.setattr(released, name, broken)
            with pytest.raises(InputError, match="no images"):
                released.export("demo", "phantom")
        assert {path.name: path.read_bytes() for path in exported[1].iterdir()} == before


def test_validation_chooses_the_run_of_both_orders_and_of_no_other_variant(monkeypatch):
    runs = pd.DataFrame(
        [
            ("first", "samatch-fixmatch", "", 0.70),
            ("start", "samatch-fixmatch", "guided_from_start", 0.72),
            ("again", "samatch-fixmatch", "", 0.71),
            ("box", "samatch-fixmatch", "box", 0.80),
            ("alone", "fixmatch", "guided_from_start", 0.90),
        ],
        columns=["run_id", "method", "variant", "val_dice"],
    )
    monkeypatch.setattr(released, "read_results", lambda *place: (runs, None))
    assert released.best_run("laptop", "acdc") == "start"
    monkeypatch.setattr(released, "read_results", lambda *place: (runs[3:], None))
    with pytest.raises(InputError, match="no SAM-Match run of acdc on record"):
        released.best_run("laptop", "acdc")


def test_one_flipped_byte_is_refused(exported):
    file = exported[1] / "student.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged weights"):
        released.load("phantom")
    file.unlink()
    with pytest.raises(InputError, match="damaged weights"):
        released.load("phantom")


def test_masks_sheet_and_volumes_without_a_training(exported, tmp_path, capsys):
    """A picture has no spacing, so its class has no ml."""
    shutil.rmtree(paths.runs_dir("demo"))
    folder, volume = tmp_path / "new", phantom_volumes("test")[0]
    folder.mkdir()
    grey = (255 * volume.image[3]).round().astype(np.uint8)
    Image.fromarray(grey).save(folder / "a.png")
    main(["predict", "--model", "phantom", str(folder), str(tmp_path / "masks")])
    mask = np.asarray(Image.open(tmp_path / "masks" / "a_mask.png"))
    expected = released.load("phantom").segment(grey[None])[0]
    assert mask.shape == grey.shape and (mask == expected).all()
    table = pd.read_csv(tmp_path / "masks" / "volumes.csv")
    classes = load_manifest("phantom").classes
    assert table["class"].tolist() == list(classes) and table.volume_ml.isna().all()
    assert table.voxels.tolist() == [(mask == n + 1).sum() for n in range(len(classes))]
    assert (tmp_path / "masks" / "contact_sheet.png").exists()
    assert "number of slices is 1.00" in capsys.readouterr().out


def test_masks_never_lie_among_the_images(tmp_path):
    for name in ("a.png", "a_mask.png"):
        Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(tmp_path / name)
    before = (tmp_path / "a_mask.png").read_bytes()
    for images in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(InputError, match="cannot share a folder"):
            predict(None, images, tmp_path)
    assert (tmp_path / "a_mask.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["pat0_mask.png", "volumes.csv", "notes.txt"])
def test_files_of_others_are_never_among_the_masks(tmp_path, name):
    """Labels drawn by hand in the folder that is named, a table of the user's: all stay."""
    (tmp_path / "images").mkdir()
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(image).save(tmp_path / "images" / "pat0.png")
    into = tmp_path / "masks"
    into.mkdir()
    (into / name).write_bytes(b"drawn by hand")
    with pytest.raises(InputError, match=f"folder of their own(.|\n)*{name}"):
        predict(None, tmp_path / "images", into)
    assert [path.name for path in into.iterdir()] == [name]
    assert (into / name).read_bytes() == b"drawn by hand"


@pytest.mark.parametrize(
    "image, told",
    [
        (np.zeros((2, 2)), "not a volume"),
        (np.zeros((1, 2, 2)), "constant"),
        (np.array([[[0.0, 1.0], [np.nan, 2.0]]]), "1 NaN or infinite"),
    ],
)
def test_an_array_without_an_answer_is_refused(image, told):
    """One NaN would make the minimum and maximum NaN, and every pixel background."""
    student = released.Student("made up", ("lesion",), {}, None, 8)
    with pytest.raises(InputError, match=told):
        student.segment(image)


class Half:
    """A segmenter of one class: the upper half."""

    classes = ("lesion",)

    def segment(self, image):
        label = np.zeros(image.shape, np.uint8)
        label[:, : image.shape[1] // 2] = 1
        return label

    def doubts(self, image):
        return []


def test_a_second_call_keeps_the_rows_of_other_images_and_half_a_file_is_none(
    tmp_path, monkeypatch
):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image = np.arange(16, dtype=np.uint8).reshape(4, 4)
        Image.fromarray(image).save(tmp_path / name / f"{name}.png")
    into = tmp_path / "masks"
    for name in ("a", "b", "a"):
        predict(Half(), tmp_path / name, into)
    table = pd.read_csv(into / "volumes.csv")
    assert sorted(table.image) == ["a.png", "b.png"] and set(table.voxels) == {8}
    before = {path.name: path.read_bytes() for path in into.iterdir()}
    assert set(before) > {"a_mask.png", "a_overlay.png", "b_mask.png"}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("samatch.training.predict.save_panels", full)
    with pytest.raises(InputError, match="cannot write a mask or an overlay"):
        predict(Half(), tmp_path / "b", into)
    after = {path.name: path.read_bytes() for path in into.iterdir()}
    del before["volumes.csv"], after["volumes.csv"]
    assert after == before


def test_a_model_or_a_run_is_named(tmp_path):
    for words in ([], ["--model", "a", "--run", "b"]):
        with pytest.raises(SystemExit, match="name either a model or a run"):
            main(["predict", *words, str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit, match="name the images and a folder for the masks"):
        main(["predict", "--model", "acdc", "", str(tmp_path)])
    with pytest.raises(SystemExit, match="unknown released model"):
        main(["predict", "--model", "lungs", str(tmp_path), str(tmp_path)])


def test_ctrl_c_ends_with_a_line(monkeypatch, capsys):
    def stopped(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("samatch.training.predict.main", stopped)
    with pytest.raises(SystemExit) as end:
        main(["predict", "a", "b"])
    assert end.value.code == 130 and capsys.readouterr().err == "samatch predict: stopped\n"


def test_an_image_of_another_kind_is_doubted():
    image = phantom_volumes("train")[0].image
    student = released.Student("x", (), released.seen_by(phantom_volumes("train")), None, 64)
    noise = np.random.default_rng(0).random(image.shape)
    assert student.doubts(5 + 900 * image) == []  # scaled grey levels are the same image
    assert any("smoothness along x" in line for line in student.doubts(noise))
    assert any("mean grey level" in line for line in student.doubts(image**8))
    assert any("number of slices" in line for line in student.doubts(image[:1]))


def test_features_by_hand():
    """Two slices that alternate along x and are constant along y."""
    image = np.tile(np.array([0.0, 1.0, 0.0, 1.0]), (2, 3, 1))
    found = released.features(image)
    assert found["number of slices"] == 2
    assert found["mean grey level"] == 0.5 and found["spread of grey levels"] == 0.5
    assert found["smoothness along x"] == pytest.approx(-1)
    assert found["smoothness along y"] == pytest.approx(1)
    assert found["smoothness across slices"] == pytest.approx(1)


def test_volumes_are_in_ml():
    from samatch.data.images import Picture
    from samatch.training.predict import volumes_of

    label = np.zeros((2, 4, 4), np.uint8)
    label[:, :2] = 2
    picture = Picture(label, (10.0, 2.0, 2.5), None, "x")
    rows = volumes_of("x.nii", picture, label, ("a", "b"))
    assert [row["voxels"] for row in rows] == [0, 16]
    assert [row["volume_ml"] for row in rows] == pytest.approx([0, 16 * 50 / 1000])
