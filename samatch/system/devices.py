"""The device that a run uses, and how small things reach it without the host waiting for it."""

import torch
from torch import Tensor


def find_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """For a run's record: the GPU's name, or the CPU's threads and vector instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the processor has bfloat16 arithmetic of its own."""
    return (
        torch.cuda.is_bf16_supported()
        if device.type == "cuda"
        else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def send(values: Tensor, device: torch.device) -> Tensor:
    """Host values on the device. A GPU fetches them in its own
    time: from pageable memory every copy would stop the host."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
