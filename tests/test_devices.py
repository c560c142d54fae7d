"""No step waits for the device: on torch's meta device,
which has no values, whatever asks for one fails."""

import dataclasses
import types

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from samatch.__main__ import main
from samatch.data.batches import SlicePool, draw_batch
from samatch.methods.base import method_class, method_names
from samatch.methods.sam_match import SamMatch
from samatch.networks.unet import UNet
from samatch.sam import prompts
from samatch.sam.model import build_sam
from samatch.system import devices
from samatch.system.errors import InputError
from samatch.training import released, task
from samatch.training.evaluate import for_sam
from tests.told import MACHINE

META, CLASSES, SIZE = torch.device("meta"), 4, 64  # Swin UNETR's smallest


class NoWaiting(TorchDispatchMode):
    """Refuses a copy from the host that the host waits for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (
            func is torch.ops.aten._to_copy.default
            and args[0].device.type == "cpu"
            and kwargs.get("device") == META
        ):
            assert kwargs.get("non_blocking"), "a copy to the device that waits: use devices.send"
        return func(*args, **kwargs)


def method_on(device, name, config):
    student = UNet(CLASSES).to(device)
    config = dataclasses.replace(
        config,
        method=name,
        method_settings=(),
        train=dataclasses.replace(config.train, image_size=SIZE),
    )
    if name == "finetune":
        return method_class(name)(
            build_sam("tiny", image_size=SIZE, num_classes=CLASSES).to(device), config, CLASSES
        ), config
    method = method_class(name)(student, config)
    if name.startswith("samatch-"):
        method = SamMatch(
            method, build_sam("tiny", image_size=SIZE, num_classes=CLASSES).to(device), config
        )
    return method, config


@pytest.mark.parametrize("prompt", ["none", "box"])
@pytest.mark.parametrize("name", method_names())
def test_a_step_never_waits_for_the_device(name, prompt, config, monkeypatch):
    """Batch, views, step and gradients. One wait is left, where
    boxes or BCP ask: whether connected components have settled."""
    config = dataclasses.replace(config, refine=dataclasses.replace(config.refine, prompt=prompt))
    asked = []
    monkeypatch.setattr(
        prompts, "largest_by_propagation", lambda masks: asked.append(len(masks)) or masks
    )
    method, config = method_on(META, name, config)
    pool = SlicePool(
        torch.empty(20, 1, SIZE, SIZE, device=META),
        torch.empty(20, SIZE, SIZE, dtype=torch.long, device=META),
    )
    with NoWaiting():
        batch = draw_batch(
            pool,
            8,
            config,
            torch.Generator().manual_seed(0),
            iteration=0,
            unlabeled=True,
            strong_views=method.strong_views,
        )
        sum(method.step(batch).losses.values()).backward()
    assert len(asked) == (name.removeprefix("samatch-") == "bcp") + (
        name.startswith("samatch-") and prompt == "box"
    )
    assert any(
        p.grad is not None for network in method.networks().values() for p in network.parameters()
    )


def test_slices_that_do_not_fit_stay_on_the_host_and_batches_reach_the_device(config):
    """The batch is that of slices on the device: the same numbers are drawn."""
    soft = dataclasses.replace(config.augment, soft_labels=True)
    config = dataclasses.replace(config, augment=soft)
    image, label = torch.rand(20, 1, SIZE, SIZE), torch.zeros(20, SIZE, SIZE, dtype=torch.uint8)
    probs = torch.rand(8, CLASSES, SIZE, SIZE)

    def drawn(pool):
        return draw_batch(pool, 8, config, torch.Generator().manual_seed(0), 0, unlabeled=True)

    with NoWaiting():
        far = drawn(SlicePool(image, label.to(META, non_blocking=True), probs))
    near = drawn(SlicePool(image, label, probs))
    for name in ("image_l", "label_l", "image_w", "image_s1", "hidden_label_u"):
        there, here = getattr(far, name), getattr(near, name)
        assert there.device == META and (there.shape, there.dtype) == (here.shape, here.dtype)
    pool = SlicePool(image, label, probs)
    numbers = torch.tensor([3, 1])
    assert torch.equal(pool.rows(pool.image, numbers, numbers), image[[3, 1]])


def test_a_gpu_keeps_what_takes_half_of_its_free_memory(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert devices.home_of(500, "cuda", "the slices") == torch.device("cuda")
    assert devices.home_of(10**12, "cpu", "the slices") == torch.device("cpu")
    assert not capsys.readouterr().out
    assert devices.home_of(501, "cuda", "the slices") == torch.device("cpu")
    assert capsys.readouterr().out.startswith("the slices stay in the host's memory: 501 bytes")


def test_this_test_can_fail():
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        torch.ones(3).to(META)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.ones(3, device=META).any())


def test_emulated_bfloat16_is_not_fast(monkeypatch):
    """A GPU without it emulates it: torch counts that as support unless it is asked otherwise."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert devices.bf16_is_fast(torch.device("cuda")) is False


@pytest.mark.parametrize(
    "error, what",
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
            "no memory left on the GPU",
        ),
        (MemoryError(), "no memory left for Python"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B"),
            "no memory left on the CPU",
        ),
    ],
)
def test_running_out_of_memory_says_what_to_lower(error, what, told):
    with told(what, match="not enough memory", room=MACHINE) as found:
        with devices.memory_checked("acdc-n3-fixmatch-s0", "lower train.batch_unlabeled"):
            raise error
    assert "acdc-n3-fixmatch-s0" in str(found.value) and "batch_unlabeled" in str(found.value)
    assert len(str(found.value).splitlines()) == 4


def test_any_command_that_runs_out_of_memory_ends_with_one_message(monkeypatch):
    def fails(error):
        def main_of_command(words):
            raise error

        monkeypatch.setattr(released, "main", main_of_command)
        main(["models"])

    with pytest.raises(SystemExit, match="error: not enough memory for samatch models\n.*GiB$"):
        fails(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"))
    with pytest.raises(RuntimeError, match="shapes"):
        fails(RuntimeError("shapes differ"))


def test_another_error_of_torch_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes") as error:
        with devices.memory_checked("a run", "nothing"):
            raise RuntimeError("shapes differ")
    assert not isinstance(error.value, InputError)


def test_a_gpu_is_asked_about_few_slices_at_once_and_a_cpu_splits_itself():
    slices = torch.arange(19.0)[:, None]
    parts = for_sam(slices.to(META), slices.to(META))
    assert [tuple(len(t) for t in part) for part in parts] == [(8, 8), (8, 8), (3, 3)]
    (whole,) = for_sam(slices)
    assert whole[0] is slices


def test_a_learning_encoder_is_asked_for_few_slices_at_once(config):
    """As in validation of the paper profile, whose SAM learns whole and has no cache."""
    seen = []

    class Sam:
        def encode(self, image):
            seen.append(len(image))
            return image

    volume = types.SimpleNamespace(image=np.zeros((19, 4, 4), np.float32))
    embed = task.embedder(Sam(), config, types.SimpleNamespace(device=torch.device("cpu")))
    assert embed(volume).shape == (19, 1, 4, 4) and seen == [8, 8, 3]


def test_predict_works_on_the_device_that_is_found(monkeypatch, tmp_path):
    moved = []

    class Student:
        def to(self, device):
            moved.append(device)
            raise InputError("far enough")

    config = {"dataset": "phantom", "method": "fixmatch", "train": {"image_size": 32}}
    record = {"config": config}
    monkeypatch.setattr(released, "complete_run", lambda *_: (tmp_path, record))
    monkeypatch.setattr(released, "student_in", lambda *_: Student())
    monkeypatch.setattr(released, "find_device", lambda: META)
    with pytest.raises(InputError, match="far enough"):
        released.of_run("demo", "a run")
    assert moved == [META]
