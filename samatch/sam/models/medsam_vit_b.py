"""MedSAM (Ma et al., Nature Communications 2024): SAM ViT-B fine-tuned on medical images.

A large public collection, which may include ACDC and BUSI. Its images went in as [0, 1], without
SAM's pixel statistics.
"""

import functools

from samatch.sam.models._vit import IMAGE_SIZE, adapt, build_vit  # noqa: F401

build = functools.partial(
    build_vit, width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11), standardise=False
)
