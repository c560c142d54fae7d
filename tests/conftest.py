import dataclasses
import functools

import pytest
import torch
from hypothesis import HealthCheck, settings

from samatch.config.settings import PROFILES, make_config
from samatch.data.batches import SlicePool, draw_batch
from samatch.data.readers import phantom
from samatch.training import metrics
from samatch.training.train import train
from tests.hand_made import differing_pixels, tiny
from tests.told import BROUGHT, Told

# The same examples everywhere, none kept between calls, no time limit on a busy machine. A test
# writes each example over the one before, into its own folder.
settings.register_profile(
    "samatch",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("samatch")

_GENERATED = functools.cache(
    phantom.generate
)  # a third of the time of a short training is spent on phantoms


def generated(*args, **changes):
    """A phantom that was generated before, as arrays of the caller's own: a test may spoil them."""
    return tuple(array.copy() for array in _GENERATED(*args, **changes))


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Every test has its own runs and outputs, and one thread, so that sums repeat and a busy
    machine does not stall it.
    """
    for name in ("RUNS", "OUT", "FIGURES", "WEIGHTS", "DATA", "PREPARED"):
        monkeypatch.setenv(f"SAMATCH_{name}", str(tmp_path / name.lower()))
    torch.set_num_threads(1)
    torch.manual_seed(0)


def pytest_addoption(parser):
    parser.addoption("--write-faults", action="store_true", help="write docs/faults.md")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--write-faults"):
        items[:] = [item for item in items if "told" in item.fixturenames]


@pytest.fixture
def told(request, tmp_path):
    """See tests/told.py. A module names the room of its faults: ROOM."""
    room = getattr(request.module, "ROOM", BROUGHT)
    return Told(tmp_path, room, request.config.getoption("--write-faults"))


@pytest.fixture
def tiny_profile(monkeypatch):
    shrink_demo(monkeypatch)


def shrink_demo(monkeypatch):
    """The demo profile at a size for tests, and every phantom generated once."""
    monkeypatch.setattr(phantom, "generate", generated)
    small = {
        "train.image_size": 32,
        "sam.image_size": 64,
        "train.iterations": 6,
        "train.val_every": 3,
        "train.log_every": 3,
        "train.checkpoint_every": 2,
        "train.batch_labeled": 2,
        "train.batch_unlabeled": 2,
        "train.threads": 1,
    }
    demo = {
        stage: {k: v for k, v in settings.items() if k not in small}
        for stage, settings in PROFILES["demo"].items()
    }
    demo["all"] = demo["all"] | small
    monkeypatch.setitem(PROFILES, "demo", demo)


@pytest.fixture(scope="session")
def complete(tmp_path_factory):
    """Folder of the runs of a complete SAM-Match and its parents: trained once, for the tests that
    only read them."""
    home = tmp_path_factory.mktemp("complete")
    with pytest.MonkeyPatch.context() as patch:
        shrink_demo(patch)
        for name in ("RUNS", "OUT", "PREPARED"):
            patch.setenv(f"SAMATCH_{name}", str(home))
        patch.setattr(metrics, "surface_distances", differing_pixels)
        torch.set_num_threads(1)
        train(tiny())
    return home / "demo"


@pytest.fixture
def config():
    """A small SAM-Match config: SAM tuned whole, at the student's size, so that no view is warped
    or resized.
    """
    base = make_config("demo", "phantom", 3, "samatch-fixmatch", "tiny")
    return dataclasses.replace(
        base,
        train=dataclasses.replace(base.train, image_size=32, bf16=False),
        sam=dataclasses.replace(base.sam, image_size=32, tune="all"),
    )


@pytest.fixture
def batch(config):
    """Of twenty random slices, eight of them labeled, at the size of `config`."""
    generator = torch.Generator().manual_seed(0)
    pool = SlicePool(
        torch.rand(20, 1, 32, 32, generator=generator),
        torch.randint(0, 4, (20, 32, 32), generator=generator),
    )
    return draw_batch(pool, 8, config, generator, iteration=0, unlabeled=True)
