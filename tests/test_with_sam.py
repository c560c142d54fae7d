"""SAM at test time on new images: as the run was tested, masks by the command, errors."""

import json

import numpy as np
import pytest
from PIL import Image

from samatch.__main__ import main
from samatch.config.settings import config_of, make_config
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.results.records import read_table
from samatch.system.errors import InputError
from samatch.training import predict, released, with_sam
from tests.hand_made import tiny
from tests.told import SETTINGS

ROOM = SETTINGS


@pytest.fixture
def runs(complete, tiny_profile, monkeypatch):
    """The folder of a complete SAM-Match and its parents, where this session looks for runs."""
    monkeypatch.setenv("SAMATCH_RUNS", str(complete.parent))
    return complete


def volumes():
    manifest = load_manifest("phantom")
    return load_cases(manifest, manifest.cases_of(manifest.patients("test")))


@pytest.mark.parametrize(
    "method, split", [("samatch-fixmatch", "test_refined"), ("finetune", "test")]
)
def test_it_segments_as_the_run_was_tested(runs, method, split):
    """Voxels of each case and class, and the student alone otherwise."""
    run_id = tiny(method).run_id
    segmenter, different = with_sam.of_run("demo", run_id), 0
    rows = read_table(runs / run_id / "per_case.csv").query("split == @split")
    expected = rows.set_index(["case_id", "class"]).n_pred
    for volume in volumes():
        label = segmenter.segment(4 * volume.image)  # any numbers
        for value, name in enumerate(segmenter.classes, 1):
            # Some processors add in another order here: a pixel on an edge may change sides.
            assert abs((label == value).sum() - expected[volume.case.case_id, name]) <= 3
        if method != "finetune":
            alone = released.of_run("demo", run_id).segment(volume.image)
            different += int((label != alone).sum())
    assert method == "finetune" or different


def test_masks_by_the_command(runs, tmp_path):
    image, run_id = volumes()[0].image[3], tiny("samatch-fixmatch").run_id
    folder = tmp_path / "new"
    folder.mkdir()
    grey = (255 * image).round().astype(np.uint8)
    Image.fromarray(grey).save(folder / "a.png")
    main(["predict", "--run", run_id, "--with-sam", str(folder), str(tmp_path / "masks")])
    mask = np.asarray(Image.open(tmp_path / "masks" / "a_mask.png"))
    assert (mask == with_sam.of_run("demo", run_id).segment(grey[None])[0]).all()


def test_what_has_no_sam_or_no_student_says_so(runs, tmp_path, monkeypatch, told):
    with told("predict --with-sam, a run without SAM", match="(.|\n)*method fixmatch"):
        with_sam.of_run("demo", tiny("fixmatch").run_id)
    with told("predict, a fine-tuned SAM", match=".* has no student(.|\n)*--with-sam"):
        released.of_run("demo", tiny("finetune").run_id)
    with told("predict --with-sam, a released student", match="the released student acdc has no"):
        predict.main(["--model", "acdc", "--with-sam", str(tmp_path), str(tmp_path / "masks")])
    monkeypatch.setattr(with_sam.FineTune, "answers_alone", False)
    with pytest.raises(InputError, match="cannot segment with SAM(.|\n)*method finetune"):
        with_sam.of_run("demo", tiny("finetune").run_id)


@pytest.mark.parametrize("method", ["supervised", "samatch-fixmatch", "finetune"])
def test_settings_are_read_as_they_were_written(method):
    config = make_config("laptop", "acdc", 3, method)
    written = json.loads(json.dumps(config.to_dict()))
    assert config_of(written).to_dict() == config.to_dict()
    assert config_of(written).sha256() == config.sha256()
    with pytest.raises(InputError, match="other settings than this version has"):
        config_of(written | {"train": {"momentums": 0.9}})
