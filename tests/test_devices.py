"""No step waits for the device: on torch's meta device,
which has no values, whatever asks for one fails."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from samatch.data.batches import SlicePool, draw_batch
from samatch.methods.base import method_class, method_names
from samatch.methods.sam_match import SamMatch
from samatch.networks.unet import UNet
from samatch.sam import prompts
from samatch.sam.model import build_sam

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


def test_this_test_can_fail():
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        torch.ones(3).to(META)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.ones(3, device=META).any())
