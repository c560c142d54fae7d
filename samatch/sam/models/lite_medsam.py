"""LiteMedSAM: TinyViT encoder, 9.8 M parameters, distilled from MedSAM.

Ma et al., Nature Communications 2024. The encoder is timm's TinyViT (Wu et al., ECCV 2022) with
three changes that LiteMedSAM made: a 1x1 patch embedding without stride, no stride into the last
stage, and SAM's neck. Any input size divisible by 32. Its training data is a large public
collection that may include ACDC and BUSI.
"""

import re

import torch
from segment_anything.modeling.common import LayerNorm2d
from timm.models import tiny_vit
from timm.models.tiny_vit import ConvNorm, TinyVit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samatch.sam.model import SamModel

IMAGE_SIZE = 256
RECOMPUTED = 2


def recomputed_stages(device: torch.device) -> int:
    """Of so many first stages only the input is kept; the backward pass computes them again.

    Some more time for half of the memory, so that the paper's joint step fits into 8 GB of a GPU
    (tests/test_sam.py counts). On a CPU memory is not what is short.
    """
    return 0 if device.type == "cpu" else RECOMPUTED


class Attention(tiny_vit.Attention):
    """timm's, but the biases have four axes and are not kept.

    torch's fast kernel on a CPU takes no three, and timm would go on with biases of older weights.
    """

    def get_attention_biases(self, device: torch.device) -> Tensor:
        """(1, heads, n, n) of a window's n pixels, added to the attention's logits."""
        return self.attention_biases[:, self.attention_bias_idxs][None]


class Encoder(nn.Module):
    """(B, 3, H, W) in [0, 1] -> (B, 256, H/4, W/4)."""

    def __init__(self):
        super().__init__()
        backbone = TinyVit(
            num_classes=0,
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            drop_path_rate=0.0,
        )
        backbone.patch_embed.conv1 = ConvNorm(3, 32)
        backbone.patch_embed.conv2 = ConvNorm(32, 64)
        backbone.stages[3].downsample.conv2.conv.stride = (1, 1)
        backbone.head = nn.Identity()
        for module in backbone.modules():
            if isinstance(module, tiny_vit.Attention):
                module.__class__ = Attention
        self.backbone = backbone
        self.neck = nn.Sequential(
            nn.Conv2d(320, 256, 1, bias=False),
            LayerNorm2d(256),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            LayerNorm2d(256),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 256, H/4, W/4)."""
        x = self.backbone.patch_embed(image)
        for number, stage in enumerate(self.backbone.stages):
            again = torch.is_grad_enabled() and number < recomputed_stages(x.device)
            x = (
                checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False)
                if again
                else stage(x)
            )
        return self.neck(x)


def build(*, image_size: int, num_classes: int, class_token: bool) -> SamModel:
    """The model with random weights; image_size in pixels, divisible by 32."""
    return SamModel(
        Encoder(), image_size=image_size, num_classes=num_classes, class_token=class_token
    )


def adapt(state: dict[str, Tensor], model: SamModel) -> dict[str, Tensor]:
    """The published checkpoint under the names that tensors have here."""
    return {rename(key): value for key, value in state.items()}


def rename(key: str) -> str:
    """A tensor's name in the published checkpoint -> its name here."""
    key = key.replace("image_encoder.", "image_encoder.backbone.", 1).replace(
        "backbone.neck", "neck"
    )
    key = key.replace("patch_embed.seq.0", "patch_embed.conv1").replace(
        "patch_embed.seq.2", "patch_embed.conv2"
    )
    # timm puts a stage's downsampling at its start, the checkpoint at the end of the stage before.
    key = re.sub(
        r"layers\.(\d)\.downsample", lambda found: f"stages.{int(found[1]) + 1}.downsample", key
    )
    return re.sub(
        r"\.c\.weight$", ".conv.weight", key.replace("backbone.layers.", "backbone.stages.")
    )
