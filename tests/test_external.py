"""An external test: test cases alone, masks at the picture's size, students that never saw it."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from samatch.config.settings import make_config
from samatch.data.curate import curate
from samatch.data.manifest import Case, load_manifest
from samatch.data.readers import stu_hospital
from samatch.results.records import collect, read_table
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.training import released
from samatch.training.external import external, main
from samatch.training.train import train
from tests.hand_made import tiny

CASE = Case("Test_Image_7", "p", 1, 8, 8, None, "", "")


def save(path, array):
    Image.fromarray(array.astype(np.uint8)).save(path)


def test_a_soft_large_mask_is_brought_to_the_pictures_size(tmp_path):
    """Of a mask four times as large as the picture: the left half, with a grey column beside it."""
    mask = np.zeros((32, 32))
    mask[:, :16], mask[:, 16:20] = 255, 100
    save(tmp_path / "mask_7.png", mask)
    save(tmp_path / "Test_Image_7.png", np.arange(64).reshape(8, 8))
    raw = stu_hospital.load(CASE, tmp_path)
    assert raw.image.shape == raw.label.shape == (1, 8, 8)
    assert raw.label[0].sum(0).tolist() == [8, 8, 8, 8, 0, 0, 0, 0]
    (tmp_path / "mask_7.png").unlink()
    with pytest.raises(InputError, match="no mask_7.png"):
        stu_hospital.load(CASE, tmp_path)


def test_the_tracked_set_is_tested_alone():
    manifest = load_manifest("stu_hospital")
    assert len(manifest.patients("test")) == 42 and manifest.budgets == ()
    with pytest.raises(InputError, match="impossible label budget"):
        manifest.labeled_patients(1)


def test_students_are_tested_on_the_other_source(tiny_profile, tmp_path, monkeypatch):
    """Two sets of own pictures; the second is tested alone. Its rows are what the student says."""
    monkeypatch.setattr(paths, "TRACKED_RESULTS", tmp_path / "tracked")
    monkeypatch.setenv("SAMATCH_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    for name, count in (("here", 12), ("there", 2)):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for number in range(count):
            save(folder / f"a{number}.png", rng.integers(0, 200, (40, 40)))
            mask = np.zeros((40, 40))
            mask[5 + number : 20 + number, 8:25] = 255
            save(folder / f"a{number}_mask.png", mask)
    curate("here", None, ["lesion"])
    into = tmp_path / "data" / "there" / "manifest"
    into.mkdir()
    (into / "dataset.yaml").write_text(
        "title: there\nclasses: [lesion]\nnormalisation: x\nlicence: x\nsource: x\ncitation: x\n"
        "known_faults: x\nreader: files\nbudgets: []\n"
    )
    table = tmp_path / "there.csv"
    table.write_text(
        "case_id,patient_id,image,label,split\n"
        + "".join(f"a{n},a{n},a{n}.png,a{n}_mask.png,test\n" for n in range(2))
    )
    curate("there", table, ["lesion"])
    record = train(make_config("demo", "here", 3, "supervised"))
    collect("demo", "here", tmp_path / "tracked" / "demo" / "here")
    found = external("demo", "there", "here", pd.DataFrame())
    assert found.case_id.tolist() == ["a0", "a1"] and set(found.split) == {"external"}
    image = np.asarray(Image.open(tmp_path / "data" / "there" / "a1.png"))
    label = released.of_run("demo", record["run_id"]).segment(image[None])
    assert found.n_pred[1] == (label == 1).sum() and found.n_ref[1] == 15 * 17
    with pytest.raises(InputError, match="cannot test students"):
        external("demo", "phantom", "here", pd.DataFrame())
    words = ["--profile", "demo", "--dataset", "there", "--of", "here"]
    main([*words, "--into", str(tmp_path / "new" / "folder")])
    (written,) = (tmp_path / "new" / "folder").iterdir()
    assert read_table(written).dice.tolist() == pytest.approx(found.dice.tolist(), rel=1e-5)
    told = found.assign(dice=0.123)
    assert external("demo", "there", "here", told).dice.tolist() == found.dice.tolist()
    shutil.rmtree(paths.runs_dir("demo") / record["run_id"])
    kept = external("demo", "there", "here", told)
    pd.testing.assert_frame_equal(kept, told)
    with pytest.raises(InputError, match="complete run"):  # the rows are of other settings
        external("demo", "there", "here", told.assign(config_sha256="another"))
    with pytest.raises(InputError, match="complete run"):
        external("demo", "there", "here", told.assign(run_id="another"))


@pytest.fixture
def guided_on_record(complete, tiny_profile, tmp_path, monkeypatch):
    """A complete SAM-Match of the phantoms and its parents, on record; and its SAM once more under
    the name of another, of a variant that the main table does not show."""
    monkeypatch.setattr(paths, "TRACKED_RESULTS", tmp_path / "tracked")
    monkeypatch.setenv("SAMATCH_RUNS", str(tmp_path / "runs"))
    shutil.copytree(complete, tmp_path / "runs" / "demo")
    folder = tmp_path / "tracked" / "demo" / "phantom"
    collect("demo", "phantom", folder)
    for name, columns in (("runs", ["sam", "variant"]), ("per_case", [])):
        table = read_table(folder / f"{name}.csv")
        more = table[table.run_id == tiny("finetune").run_id].assign(run_id="other")
        for column in columns:
            more[column] = "other"
        pd.concat([table, more]).to_csv(folder / f"{name}.csv", index=False)


def test_sam_is_tested_too(guided_on_record, capsys):
    """The phantoms' own test cases, so that every row is one that the run's own test wrote."""
    table = external("demo", "phantom", "phantom", pd.DataFrame())
    test = {"external": "test", "external_refined": "test_refined"}
    own = read_table(paths.TRACKED_RESULTS / "demo" / "phantom" / "per_case.csv")
    found = table.assign(split=table.split.map(test)).set_index(["run_id", "split", "case_id"])
    wanted = own.set_index(["run_id", "split", "case_id"]).loc[found.index.unique()]
    # On some processors sums come in another order here, and a pixel on an edge may change sides.
    assert found.n_pred.tolist() == pytest.approx(wanted.n_pred.tolist(), abs=3)
    assert set(found.index.get_level_values("run_id")) == set(own.run_id) - {"other"}
    of = {method: {split for split in rows.split} for method, rows in table.groupby("method")}
    assert of["samatch-fixmatch"] == set(test) and of["finetune"] == {"external"}

    for method in ("samatch-fixmatch", "finetune"):  # now on record and not on this machine
        shutil.rmtree(paths.runs_dir("demo") / tiny(method).run_id)
    kept = external("demo", "phantom", "phantom", table.assign(dice=0.123))
    gone = kept.method.isin(("samatch-fixmatch", "finetune"))
    assert (kept.dice[gone] == 0.123).all() and not (kept.dice[~gone] == 0.123).any()
    students = table[(table.split == "external") & (table.method != "finetune")]
    fewer = external("demo", "phantom", "phantom", students)
    assert len(fewer) == len(students)
    said = capsys.readouterr().out
    assert "left out, not on this machine: other, external" in said  # it would be tested
    assert f"left out, not on this machine: {tiny('finetune').run_id}, external" in said
    assert f"left out, not on this machine: {tiny().run_id}, external_refined" in said
