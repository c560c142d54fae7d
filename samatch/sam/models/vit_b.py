"""SAM ViT-B (Kirillov et al., ICCV 2023): an encoder of some 91 M parameters, trained on SA-1B."""

import functools

from samatch.sam.models._vit import IMAGE_SIZE, adapt, build_vit  # noqa: F401

build = functools.partial(build_vit, width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11))
