"""Whether a row of a case can be: Dice with the sizes of both masks, and rows that are complete."""

import pytest

from samatch.data.manifest import load_manifest
from samatch.results import overlaps


def row(dice, n_pred, n_ref, case="a", name="RV", run="r", split="test"):
    texts = {"dice": dice, "n_pred": n_pred, "n_ref": n_ref}
    named = {"case_id": case, "class": name, "run_id": run, "split": split}
    return named | {key: str(value) for key, value in texts.items()}


@pytest.mark.parametrize(
    "dice, n_pred, n_ref, why",
    [
        ("0.5", 2, 2, ""),  # one common pixel
        ("0.6", 2, 3, "1.500 common pixels are no whole number"),
        ("0.8", 2, 3, ""),  # two
        ("0", 4, 0, ""),
        ("1", 3, 2, "2.500 common pixels are no whole number"),
        ("1", 4, 2, "3 common pixels are too many"),
        ("", 0, 0, ""),
        ("", 1, 0, "Dice undefined of masks of 1 and 0"),
        ("0.5", 0, 0, "Dice 0.5 of masks of 0 and 0"),
        ("1", 1_000_001, 1_000_002, ""),  # six digits cannot tell
        ("0.9", 1_000_001, 3_000_002, "common pixels are too many"),
        ("0.858974", 1500, 1620, ""),  # 2 * 1340 / 3120
        ("0.858976", 1500, 1620, "no whole number"),  # two units of the sixth digit away
    ],
)
def test_what_dice_masks_of_these_sizes_can_have(dice, n_pred, n_ref, why):
    found = overlaps.impossible(row(dice, n_pred, n_ref))
    assert why in found and bool(found) == bool(why)


def test_a_reference_has_one_size():
    rows = [row("", 0, 7), row("", 0, 7, run="s"), row("", 0, 8, case="b")]
    assert overlaps.sizes_apart(rows) == []
    rows.append(row("", 0, 9, split="test_sam"))
    assert overlaps.sizes_apart(rows) == ["a, RV: the reference has 7 and 9 pixels"]


@pytest.mark.parametrize("split", ["val", "test_refined", "external"])
def test_every_split_has_a_row_of_each_case_and_class(split):
    manifest = load_manifest("phantom")
    group = "val" if split == "val" else "test"
    cases = [case.case_id for case in manifest.cases_of(manifest.patients(group))]
    rows = [row("", 0, 0, case, name, split=split) for case in cases for name in manifest.classes]
    assert cases and overlaps.incomplete(rows, manifest) == []
    lost = rows[1:]
    assert overlaps.incomplete(lost, manifest) == [f"r, {split}: {cases[0]} RV is missing"]
    twice, strange = [*rows, rows[0]], [*rows, row("", 0, 0, "no_case", split=split)]
    assert overlaps.incomplete(twice, manifest) == [f"r, {split}: two rows of one case and class"]
    assert overlaps.incomplete(strange, manifest) == [f"r, {split}: no_case RV is none of it"]


def test_a_split_without_a_name_has_no_cases():
    assert overlaps.cases_and_classes(load_manifest("phantom"), "training") == set()
