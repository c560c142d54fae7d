"""Votes of students and shared errors: by hand, from made-up records, and as the audit counts."""

import numpy as np
import pandas as pd
import pytest

from samatch.config.profiles import WHOLE_CHAIN
from samatch.data.manifest import load_manifest
from samatch.data.volumes import Volume
from samatch.results import audit, predictions, recomputed, revoted, votes
from samatch.results.records import RUN_COLUMNS
from samatch.results.runs import write_predictions
from samatch.system import paths
from samatch.system.errors import InputError

FIRST = np.array([[[1, 1, 2, 0, 3]]])
SECOND = np.array([[[1, 2, 2, 1, 3]]])
THIRD = np.array([[[2, 3, 2, 2, 0]]])


@pytest.mark.parametrize(
    "most", [votes.vote, lambda maps: revoted.most_votes(list(maps), num_classes=4)]
)
def test_most_votes_win_and_a_tie_is_background(most):
    assert most([FIRST, SECOND, THIRD]).tolist() == [[[1, 0, 2, 0, 3]]]


@pytest.fixture
def on_record(tmp_path, monkeypatch):
    """FixMatch at equal length with three seeds, SAM alone with one: random maps of the phantom's
    test cases, random labels."""
    monkeypatch.setattr(paths, "TRACKED_RESULTS", tmp_path)
    folder, manifest = tmp_path / "laptop" / "phantom", load_manifest("phantom")
    rng, runs, rows = np.random.default_rng(0), [], []
    cases = manifest.cases_of(manifest.patients("test"))

    def draw(case):
        return rng.integers(0, 4, (case.n_slices, case.height, case.width)).astype(np.uint8)

    for method, sam, variant, seed in (
        *(("fixmatch", "", WHOLE_CHAIN, seed) for seed in range(3)),
        ("finetune", "lite_medsam", "", 1),
    ):
        facts = {"run_id": f"{method}-s{seed}", "method": method, "sam": sam, "variant": variant}
        runs.append(dict.fromkeys(RUN_COLUMNS, "") | facts | {"n_labeled": 3, "seed": seed})
        runs[-1] |= {"val_dice": 0.5, "manifest_sha256": manifest.sha256}
        runs[-1] |= {"splits_sha256": manifest.splits_sha256}
        path = predictions.tracked_file(folder, facts["run_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(path, {case.case_id: draw(case) for case in cases})
        row = {"run_id": facts["run_id"], "split": "test", "patient_id": "p", "case_id": "c"}
        rows.append(row | {"class": "LV", "dice": 0.5, "n_pred": 1, "n_ref": 1, "status": "ok"})
        rows[-1] |= dict.fromkeys(("hd95", "asd", "hd95_mm", "asd_mm"), 1.0)
        rows[-1]["distance_unit"] = "mm"
    for name, table in (("runs", runs), ("per_case", rows)):
        pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)
    labels = {case.case_id: Volume(case, None, draw(case), None) for case in cases}
    monkeypatch.setattr(predictions, "labels_of", lambda manifest: (labels, ""))
    return folder, manifest, labels


def test_both_tables_are_what_the_predictions_say(on_record):
    folder, manifest, labels = on_record
    votes.main(["--dataset", "phantom"])
    voted, shared = (pd.read_csv(folder / f"{name}.csv") for name in ("votes", "shared_errors"))
    assert set(voted.method) == {"fixmatch"} and set(voted.seeds) == {"0 1 2"}
    assert len(voted) == len(labels) * len(manifest.classes)
    case_id, volume = next(iter(labels.items()))
    names = [f"fixmatch-s{seed}" for seed in range(3)]
    maps = {
        name: predictions.read(predictions.tracked_file(folder, name))
        for name in (*names, "finetune-s1")
    }
    first = manifest.classes[0]
    mine = sum((maps[name][case_id] == 1).astype(int) for name in names) >= 2  # a majority
    ref = volume.label == 1
    row = voted[(voted.case_id == case_id) & (voted["class"] == first)].iloc[0]
    assert (row.n_pred, row.n_ref) == (mine.sum(), ref.sum())
    assert row.dice == pytest.approx(2 * (mine & ref).sum() / (mine.sum() + ref.sum()), rel=1e-5)
    assert len(shared) == 6  # pairs of four runs
    pair = shared[(shared["first"] == names[0]) & (shared.second == "finetune-s1")].iloc[0]
    wrong = [
        np.concatenate([(maps[run][case] != labels[case].label).ravel() for case in labels])
        for run in (names[0], "finetune-s1")
    ]
    expected = [wrong[0].sum(), wrong[1].sum(), (wrong[0] & wrong[1]).sum()]
    assert pair[["first_wrong", "second_wrong", "both_wrong"]].tolist() == expected


@pytest.mark.parametrize("name, column", [("votes", "dice"), ("shared_errors", "both_wrong")])
def test_the_audit_notices_one_changed_number(on_record, name, column):
    folder, manifest, labels = on_record
    votes.main(["--dataset", "phantom"])

    def faults():
        records = recomputed.Records.read(folder)
        found = audit.audit_votes(folder, records, manifest, labels)
        assert {outcome.name for outcome in found} == {"votes.csv", "shared_errors.csv"}
        return [fault for outcome in found for fault in outcome.faults]

    assert faults() == []
    table = pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)
    table.loc[2, column] = f"{float(table.loc[2, column]) * 1.01:.6g}"
    table.to_csv(folder / f"{name}.csv", index=False)
    (fault,) = faults()
    assert fault.startswith(f"{name}.csv: ") and f", {column}: " in fault


def test_what_is_missing_or_of_other_cases_is_one_error(on_record, monkeypatch):
    folder, manifest, _ = on_record
    path = predictions.tracked_file(folder, "fixmatch-s1")
    maps = predictions.read(path)
    write_predictions(path, dict(list(maps.items())[1:]))
    with pytest.raises(InputError, match="predictions are not of the test cases"):
        votes.main(["--dataset", "phantom"])
    monkeypatch.setattr(predictions, "labels_of", lambda manifest: ({}, "no files are here"))
    with pytest.raises(InputError, match="votes need the labels"):
        votes.main(["--dataset", "phantom"])
    assert not (folder / "votes.csv").exists()
