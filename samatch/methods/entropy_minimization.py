"""Entropy minimisation (Vu et al., ADVENT, CVPR 2019): unlabeled predictions should be sure.

unsupervised = mean over pixels of H(softmax f(w)) / log C
"""

import math

from torch import Tensor

from samatch.data.batches import Batch
from samatch.methods._families import ConsistencyMethod, entropy


class EntropyMinimization(ConsistencyMethod):
    """The student alone; see the module."""

    def unsupervised(self, predictions: dict[str, Tensor], batch: Batch) -> Tensor:
        """Mean entropy over its greatest value, in [0, 1]."""
        probs = predictions["logits_w"].float().softmax(1)
        return entropy(probs).mean() / math.log(probs.shape[1])


METHOD = EntropyMinimization
