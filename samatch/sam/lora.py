"""LoRA: a low-rank change to the attention weights of an image encoder (Hu et al., ICLR 2022)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization


class LowRank(nn.Module):
    """A parametrisation of a weight: W -> W + B A, A (rank, in), B (out, rank) and 0 at first."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, weight.shape[1], device=weight.device))
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight, of the same shape."""
        return weight + self.b @ self.a


def add_lora(encoder: nn.Module, rank: int) -> None:
    """Low-rank changes to the qkv weights of every attention of the image encoder, in place."""
    for module in list(encoder.modules()):
        if isinstance(qkv := getattr(module, "qkv", None), nn.Linear):
            register_parametrization(qkv, "weight", LowRank(qkv.weight, rank))
