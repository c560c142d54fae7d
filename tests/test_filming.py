"""The film of a joint training: it changes nothing, survives a cut, and draws what it holds."""

import json

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from samatch.results import films, strips
from samatch.results.runs import FILM, Run
from samatch.system.errors import InputError
from samatch.training import filming, metrics, train
from samatch.training.filming import Camera
from samatch.training.task import prepare
from tests.conftest import shrink_demo
from tests.hand_made import bring_parents, differing_pixels, killed_after, tiny

CLASSES = ("RV", "MYO", "LV")


@pytest.fixture
def parents(complete, tiny_profile, monkeypatch):
    """This test's own runs folder, with the parents alone."""
    monkeypatch.setattr(metrics, "surface_distances", differing_pixels)
    bring_parents(complete, tiny())


@pytest.fixture(scope="module")
def filmed(complete, tmp_path_factory):
    """Folder of the same training, filmed."""
    runs = tmp_path_factory.mktemp("filmed")
    with pytest.MonkeyPatch.context() as patch:
        shrink_demo(patch)
        patch.setenv("SAMATCH_RUNS", str(runs))
        patch.setattr(metrics, "surface_distances", differing_pixels)
        torch.set_num_threads(1)
        bring_parents(complete, tiny())
        train.train(tiny(), watch=Camera(tiny()))
    return runs / "demo" / tiny().run_id


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_filmed_training_ends_with_the_same_weights_bit_for_bit(complete, filmed):
    plain = complete / filmed.name
    expected, found = (
        torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (plain, filmed)
    )
    for network, state in expected.items():
        for name, value in state.items():
            assert torch.equal(value, found[network][name]), f"{network}.{name}"
    for name in ("train_log.csv", "per_case.csv"):
        assert (filmed / name).read_text() == (plain / name).read_text()
    records = [json.loads((folder / "run.json").read_text()) for folder in (plain, filmed)]
    assert records[0]["config_sha256"] == records[1]["config_sha256"]
    assert FILM not in records[0]["files_sha256"] and FILM in records[1]["files_sha256"]


def test_a_film_holds_what_is_said_at_each_iteration(filmed, monkeypatch, tiny_profile):
    film = films.film_of_run(filmed)
    assert list(film.frames) == list(range(7))  # of six iterations each one, and the start
    first, last = film.frames[0], film.frames[6]
    assert (first.hidden == last.hidden).all() and set(np.unique(first.hidden)) == {0, 1, 2, 3}
    assert (first.confidence != last.confidence).any() and (first.iou != last.iou).any()
    assert first.confidence.dtype == np.float16 and first.student.dtype == np.uint8
    # The last frame is of the weights that the run keeps.
    monkeypatch.setenv("SAMATCH_RUNS", str(filmed.parents[1]))
    task = prepare(tiny())
    weights = torch.load(filmed / "checkpoint.pt", weights_only=True)
    task.method.ema.load_state_dict(weights["student"])
    task.method.sam.load_state_dict(weights["sam"])
    place = filming.place_of(film, task)
    said = filming.opinions(filming.pair_of(task), place)
    for name in ("student", "sam", "both", "keep"):
        assert (getattr(said, name) == getattr(last, name)).all(), name


def test_the_slice_has_the_median_dice_at_the_start(filmed, monkeypatch, tiny_profile):
    monkeypatch.setenv("SAMATCH_RUNS", str(filmed.parents[1]))
    task, film = prepare(tiny()), films.film_of_run(filmed)
    places = filming.places_of(task.data.unlabeled, tiny().train.image_size, CLASSES)
    values = sorted(filming.dice_of_student(task, places), reverse=True)
    assert film.slices == len(places)
    assert film.dice("student")[0] == pytest.approx(values[(len(values) - 1) // 2])
    cache = task.method.embeddings
    place = filming.place_of(film, task)
    own = cache.of_case(film.case_id)[film.slice]
    assert torch.equal(cache[torch.tensor([place.number])][0], own)


@pytest.mark.parametrize("before", [True, False])
def test_a_training_that_was_cut_off_goes_on_with_its_film(parents, filmed, before):
    """Killed after iteration 5, one past a saved state; the frame of 5 is made again. Without a
    film before, one begins there."""
    with killed_after(5):
        train.train(tiny(), watch=Camera(tiny()) if before else None)
    assert (Run(tiny()).partial / FILM).exists() == before
    train.train(tiny(), watch=Camera(tiny()))
    expected, found = (films.film_of_run(folder) for folder in (filmed, Run(tiny()).folder))
    assert list(found.frames) == (list(range(7)) if before else [5, 6])
    if before:
        assert (found.case_id, found.slice) == (expected.case_id, expected.slice)
        assert all((found.dice(name) == expected.dice(name)).all() for name in strips.MAPS)


def test_what_cannot_be_filmed_is_refused(tiny_profile, complete, monkeypatch):
    for config in (tiny("fixmatch"), tiny("finetune"), tiny(variant="no_sam")):
        with pytest.raises(InputError, match="a student and a SAM that train together"):
            Camera(config)
    monkeypatch.setenv("SAMATCH_RUNS", str(complete.parent))
    with pytest.raises(InputError, match="no film of this run"):
        train.main(["--sam", "tiny", "--film"])


@pytest.mark.parametrize("must", [True, False])
def test_a_set_without_a_hidden_label_to_film(parents, monkeypatch, must):
    """An own set whose unlabeled patients nobody has labeled: who asks for a film is told, a
    notebook trains on without one."""
    monkeypatch.setattr(filming, "places_of", lambda *_: [])
    watch = Camera(tiny(), must=must)
    if must:
        with pytest.raises(InputError, match="no slice to film"):
            train.train(tiny(), watch=watch)
        return
    assert train.train(tiny(), watch=watch)["status"] == "complete"
    assert not (Run(tiny()).folder / FILM).exists()


def test_a_damaged_film_is_refused(filmed, tmp_path):
    path = tmp_path / FILM
    path.write_bytes((filmed / FILM).read_bytes()[:-40])
    with pytest.raises(InputError, match="a film cannot be used"):
        films.read(path)
    np.savez(path, a=1)
    with pytest.raises(InputError, match="it is no film"):
        films.read(path)


def test_iterations_are_spread_from_the_first_to_the_last():
    assert films.spread([0, 10, 20], 6) == [0, 10, 20]
    assert films.spread(list(range(0, 1050, 50)), 6) == [0, 200, 400, 600, 800, 1000]


def test_pictures_and_table_say_what_the_film_holds(filmed, tmp_path, tiny_profile):
    film = films.film_of_run(filmed)
    table = films.record(film, CLASSES)
    assert len(table) == 7 * 3 and set(table["map"]) == {"student", "SAM", "combined"}
    figure = films.draw(film, CLASSES, 0.75, ["Images: made by hand."])
    words = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    for iteration in films.spread(list(film.frames)):
        rows = table[table.iteration == iteration]
        assert f"iteration {iteration}" in words
        assert {f"Dice {value:.1f}" for value in rows.dice[:2]} <= set(words)
        assert f"Dice {rows.dice.iloc[2]:.1f}\n{rows.kept.iloc[2]:.1f} % kept" in words
    assert any("Images: made by hand." in text for text in words)
    short = film.until(2)
    written = films.save_film(tiny(), short, into=tmp_path)
    assert [path.name for path in written] == ["film.png", "00000.png", "00001.png", "film.csv"]
    assert Image.open(written[1]).text["Copyright"] and (tmp_path / "film.csv").exists()
