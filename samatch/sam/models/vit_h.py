"""SAM ViT-H (Kirillov et al., ICCV 2023): an encoder of some 636 M parameters, trained on SA-1B."""

import functools

from samatch.sam.models._vit import IMAGE_SIZE, adapt, build_vit  # noqa: F401

build = functools.partial(build_vit, width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31))
