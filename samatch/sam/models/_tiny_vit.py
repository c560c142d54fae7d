"""The TinyViT image encoder that two small SAMs share.

timm's (Wu et al., ECCV 2022) with SAM's neck. Both took the stride from the last stage, and their
checkpoints name tensors alike, see `rename`.
"""

import re

import torch
from segment_anything.modeling.common import LayerNorm2d
from timm.models import tiny_vit
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    """(B, 3, H, W), in the range that the weights were trained on -> (B, 256, H/16, W/16)."""

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
        self.set_patch_embedding(backbone)
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

    def set_patch_embedding(self, backbone: TinyVit) -> None:
        """Where a SAM changed it, replaces the patch embedding in place; here timm's, stride 4."""

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        x = self.backbone.patch_embed(image)
        for number, stage in enumerate(self.backbone.stages):
            again = torch.is_grad_enabled() and number < recomputed_stages(x.device)
            x = (
                checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False)
                if again
                else stage(x)
            )
        return self.neck(x)


def rename(key: str) -> str:
    """A tensor's name in a published checkpoint -> its name here."""
    key = key.replace("image_encoder.", "image_encoder.backbone.", 1).replace(
        "backbone.neck", "neck"
    )
    key = key.replace("patch_embed.seq.0", "patch_embed.conv1").replace(
        "patch_embed.seq.2", "patch_embed.conv2"
    )
    # timm puts a stage's downsampling at its start, checkpoints at the end of the stage before.
    key = re.sub(
        r"layers\.(\d)\.downsample", lambda found: f"stages.{int(found[1]) + 1}.downsample", key
    )
    return re.sub(
        r"\.c\.(weight|bias)$", r".conv.\1", key.replace("backbone.layers.", "backbone.stages.")
    )
