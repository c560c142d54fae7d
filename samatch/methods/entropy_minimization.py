"""Entropy minimisation (Vu et al., ADVENT, CVPR 2019): unlabeled predictions should be sure.

unsupervised = mean over pixels of H(softmax f(w)) / log C
"""

import math

from samatch.methods._families import ConsistencyMethod, entropy


class EntropyMinimization(ConsistencyMethod):
    def unsupervised(self, predictions, batch):
        probs = predictions["logits_w"].float().softmax(1)
        return entropy(probs).mean() / math.log(probs.shape[1])


METHOD = EntropyMinimization
