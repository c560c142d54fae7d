"""Validation Dice: which volumes count for a class, and which classes for the mean."""

from types import SimpleNamespace

import numpy as np
import pytest

from samatch.data.manifest import Case
from samatch.data.volumes import Volume
from samatch.training.evaluate import dice_by_class
from samatch.training.task import validate


def volume(*classes):
    """One slice of four pixels with these classes."""
    label = np.array(classes, np.uint8).reshape(1, 2, 2)
    return Volume(Case("a", "a", 1, 2, 2, None, "", ""), label.astype(np.float32), label, None)


def scores(pairs):
    """Of pairs of a reference and what is predicted for it, four pixels each."""
    volumes = [volume(*ref) for ref, _ in pairs]
    predicted = {
        id(v): np.array(pred, np.uint8).reshape(1, 2, 2)
        for v, (_, pred) in zip(volumes, pairs, strict=True)
    }
    return dice_by_class(lambda v: predicted[id(v)], volumes, ("a", "b"))


def test_a_class_that_is_rightly_absent_does_not_count():
    """Class a: 2 of 2 + 1 pixels agree in one volume; in
    the other nobody sees it. Class b is right in both."""
    found = scores([((1, 1, 0, 2), (1, 0, 0, 2)), ((0, 0, 0, 2), (0, 0, 0, 2))])
    assert found == pytest.approx({"a": 2 / 3, "b": 1.0})


def test_an_invented_class_counts_nothing_and_a_missed_one_too():
    assert scores([((1, 1, 0, 2), (1, 1, 0, 2)), ((0, 0, 0, 2), (1, 0, 0, 2))]) == pytest.approx(
        {"a": 0.5, "b": 1.0}
    )
    assert scores([((1, 1, 0, 2), (1, 1, 0, 0))]) == pytest.approx({"a": 1.0, "b": 0.0})


def test_a_class_that_nobody_has_or_shows_is_undefined():
    found = scores([((1, 0, 0, 0), (1, 0, 0, 0))])
    assert found["a"] == 1 and np.isnan(found["b"])
    assert all(np.isnan(value) for value in scores([((0, 0, 0, 0), (0, 0, 0, 0))]).values())


def test_validation_is_the_mean_over_the_classes_that_are_defined():
    averaged, raw = volume(1, 1, 0, 0).label, volume(1, 1, 1, 0).label
    data = SimpleNamespace(val=[volume(1, 0, 0, 0)], manifest=SimpleNamespace(classes=("a", "b")))
    row = validate(SimpleNamespace(segment=lambda _: averaged, raw=lambda _: raw, data=data))
    assert row["val_dice"] == row["val_dice_a"] == pytest.approx(2 / 3)
    assert np.isnan(row["val_dice_b"]) and row["val_dice_raw"] == 0.5
    assert type(row["val_dice"]) is float  # a saved state holds it
