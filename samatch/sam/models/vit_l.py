"""SAM ViT-L (Kirillov et al., ICCV 2023): an encoder of some 308 M parameters, trained on SA-1B."""

import functools

from samatch.sam.models._vit import IMAGE_SIZE, adapt, build_vit  # noqa: F401

build = functools.partial(build_vit, width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23))
