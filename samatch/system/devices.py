"""The device that a run uses, and how small things reach it without the host waiting for it."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from samatch.system.errors import InputError


def find_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """For a run's record: the GPU's name, or the CPU's threads and vector instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the processor has bfloat16 arithmetic of its own; emulated it is slower than none."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def send(values: Tensor, device: torch.device) -> Tensor:
    """Host values on the device. A GPU fetches them in its own time:
    from pageable memory every copy would stop the host."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def home_of(size: int, device: torch.device | str, what: str) -> torch.device:
    """Where `size` bytes lie that every step takes a few rows of: on the device, or, where they
    would fill more than half of what a GPU has free, in the host's memory, which is said."""
    device = torch.device(device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2 * size
    if size <= free / 2:
        return device
    print(f"{what} stay in the host's memory: {size:,} bytes, and the GPU has {free:,} free")
    return torch.device("cpu")


@contextlib.contextmanager
def memory_checked(where: str, do: str) -> Iterator[None]:
    """Within it, running out of memory is an InputError; `do` says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        first = (str(error).splitlines() or ["no memory left"])[0]
        raise InputError("not enough memory", where=where, got=first[:160], do=do) from None


def out_of_memory(error: Exception) -> bool:
    """Whether memory was lacking: torch has an error of its own for a GPU, none for the host's."""
    return isinstance(
        error, MemoryError | torch.OutOfMemoryError
    ) or "can't allocate memory" in str(error)
