"""The ViT SAMs of Kirillov et al. (ICCV 2023), from the segment-anything package's own modules.

Any input size divisible by 16: position embeddings are interpolated from those of 1024 x 1024 when
the weights are loaded, as the package does with its relative ones.
"""

import functools

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from samatch.sam.model import SamModel

IMAGE_SIZE, PATCH = 1024, 16
MEAN, STD = (
    (123.675, 116.28, 103.53),
    (58.395, 57.12, 57.375),
)  # of the pixels SAM was trained on, 0 to 255


class Encoder(nn.Module):
    """(B, 3, H, W) in [0, 1] -> (B, 256, H/16, W/16).

    standardise: by SAM's pixel statistics; MedSAM goes without.
    """

    def __init__(
        self,
        image_size: int,
        width: int,
        depth: int,
        heads: int,
        global_blocks: tuple[int, ...],
        standardise: bool,
    ):
        super().__init__()
        self.vit = ImageEncoderViT(
            img_size=image_size,
            patch_size=PATCH,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=4,
            out_chans=256,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=global_blocks,
            window_size=14,
            norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        )
        self.standardise = standardise
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 256, H/16, W/16)."""
        if self.standardise:
            image = (255 * image - self.mean) / self.std
        return self.vit(image)


def build_vit(
    *,
    image_size: int,
    num_classes: int,
    class_token: bool,
    width: int,
    depth: int,
    heads: int,
    global_blocks: tuple[int, ...],
    standardise: bool = True,
) -> SamModel:
    """A ViT SAM with random weights; image_size in pixels, divisible by 16."""
    encoder = Encoder(image_size, width, depth, heads, global_blocks, standardise)
    return SamModel(
        encoder,
        image_size=image_size,
        num_classes=num_classes,
        class_token=class_token,
        stride=PATCH,
    )


def adapt(state: dict[str, Tensor], model: SamModel) -> dict[str, Tensor]:
    """A published checkpoint for a model of another input size: names, and position embeddings
    interpolated.
    """
    expected, found = model.state_dict(), {}
    for key, value in state.items():
        key = key.replace("image_encoder.", "image_encoder.vit.", 1)
        if key in expected and value.shape != expected[key].shape:
            value = _interpolated(key, value, expected[key].shape)
        found[key] = value
    return found


def _interpolated(key: str, value: Tensor, shape: torch.Size) -> Tensor:
    if key.endswith("pos_embed"):
        return F.interpolate(
            value.movedim(-1, 1), shape[1:3], mode="bicubic", align_corners=False
        ).movedim(1, -1)
    if key.endswith(("rel_pos_h", "rel_pos_w")):
        return F.interpolate(value.T[None], shape[0], mode="linear", align_corners=False)[0].T
    return value
