"""LiteMedSAM: TinyViT encoder, 9.8 M parameters, distilled from MedSAM.

Ma et al., Nature Communications 2024. LiteMedSAM made the patch embedding 1x1 without stride. Any
input size divisible by 32. Its training data is a large public collection that may include ACDC and
BUSI.
"""

from timm.models.tiny_vit import ConvNorm, TinyVit
from torch import Tensor

from samatch.sam.model import SamModel
from samatch.sam.models import _tiny_vit

IMAGE_SIZE = 256


class Encoder(_tiny_vit.Encoder):
    """(B, 3, H, W) in [0, 1] -> (B, 256, H/4, W/4)."""

    def set_patch_embedding(self, backbone: TinyVit) -> None:
        """Without stride."""
        backbone.patch_embed.conv1 = ConvNorm(3, 32)
        backbone.patch_embed.conv2 = ConvNorm(32, 64)


def build(*, image_size: int, num_classes: int, class_token: bool) -> SamModel:
    """The model with random weights; image_size in pixels, divisible by 32."""
    return SamModel(
        Encoder(), image_size=image_size, num_classes=num_classes, class_token=class_token
    )


def adapt(state: dict[str, Tensor], model: SamModel) -> dict[str, Tensor]:
    """The published checkpoint under the names that tensors have here."""
    return {_tiny_vit.rename(key): value for key, value in state.items()}
