"""A SAM of some 0.1 M parameters with random weights: for tests, not for results."""

from torch import nn

from samatch.sam.model import SamModel

IMAGE_SIZE, EMBED_DIM = 64, 32


def build(*, image_size: int, num_classes: int, class_token: bool) -> SamModel:
    """The model with random weights; image_size in pixels, divisible by 4."""
    encoder = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.GELU(), nn.Conv2d(16, EMBED_DIM, 3, 2, 1))
    return SamModel(
        encoder,
        image_size=image_size,
        num_classes=num_classes,
        class_token=class_token,
        embed_dim=EMBED_DIM,
        decoder_heads=2,
        decoder_mlp=64,
    )
