"""Cross pseudo-supervision (Chen et al., CVPR 2021): each of two networks learns the other's map.

    loss of network 1 = L(f_1(x_l), y_l) + lambda CE(f_1(x), argmax f_2(x))

x are labeled and unlabeled images together, and likewise for network 2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from samatch.data.batches import Batch
from samatch.methods._families import ConsistencySettings, TwoStudents
from samatch.networks.losses import cross_entropy


@dataclass(frozen=True)
class CpsSettings(ConsistencySettings):
    """Defaults are the paper's."""

    lambda_u: float = 1.5
    rampup: float = 0.0


class Cps(TwoStudents):
    """Two students; see the module."""

    Settings = CpsSettings

    def cross(self, predictions: dict[str, Tensor], mine: str, other: str, batch: Batch) -> Tensor:
        """Cross-entropy against the other's class map, over labeled and unlabeled images."""
        taught, teaching = (
            torch.cat([predictions["logits_l" + suffix], predictions["logits_w" + suffix]])
            for suffix in (mine, other)
        )
        return cross_entropy(taught.float(), teaching.detach().argmax(1))


METHOD = Cps
