"""Cross pseudo-supervision (Chen et al., CVPR 2021): two networks, each taught by the other's class map.

    loss of network 1 = L(f_1(x_l), y_l) + lambda CE(f_1(x), argmax f_2(x))   over labeled and unlabeled x

and likewise for network 2.
"""

from dataclasses import dataclass

import torch

from samatch.methods._families import ConsistencySettings, TwoStudents
from samatch.networks.losses import cross_entropy


@dataclass(frozen=True)
class CpsSettings(ConsistencySettings):
    lambda_u: float = 1.5
    rampup: float = 0.0


class Cps(TwoStudents):
    Settings = CpsSettings

    def cross(self, predictions, mine, other, batch):
        taught, teaching = (
            torch.cat([predictions["logits_l" + suffix], predictions["logits_w" + suffix]])
            for suffix in (mine, other)
        )
        return cross_entropy(taught.float(), teaching.detach().argmax(1))


METHOD = Cps
