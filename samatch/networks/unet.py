"""The student: the 2-D U-Net of the SSL4MIS protocol, 1.8 M parameters.

Ronneberger et al., MICCAI 2015.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (16, 32, 64, 128, 256)
DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)


def _block(channels_in: int, channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.LeakyReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.LeakyReLU(),
    )


class Decoder(nn.Module):
    """Five encoder features, finest first -> logits (B, num_classes, H, W)."""

    def __init__(self, num_classes: int, channels: tuple[int, ...] = CHANNELS):
        super().__init__()
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(deep, shallow, 1) for deep, shallow in pairs)
        self.blocks = nn.ModuleList(_block(2 * shallow, shallow, 0.0) for _, shallow in pairs)
        self.classifier = nn.Conv2d(channels[0], num_classes, 3, padding=1)

    def maps(self, features: list[Tensor]) -> list[Tensor]:
        """The four decoded maps, coarsest first: strides 8, 4, 2, 1."""
        *skips, x = features
        found = []
        for reduce, block, skip in zip(self.reduce, self.blocks, reversed(skips), strict=True):
            x = F.interpolate(reduce(x), scale_factor=2.0, mode="bilinear", align_corners=True)
            x = block(torch.cat([skip, x], dim=1))
            found.append(x)
        return found

    def forward(self, features: list[Tensor]) -> Tensor:
        """The five features as `UNet.features` gives them -> logits (B, num_classes, H, W)."""
        return self.classifier(self.maps(features)[-1])


class UNet(nn.Module):
    """(B, 1, H, W) in [0, 1], H and W divisible by 16 -> logits (B, num_classes, H, W)."""

    def __init__(self, num_classes: int, channels: tuple[int, ...] = CHANNELS):
        super().__init__()
        self.num_classes = num_classes
        self.encoder = nn.ModuleList(map(_block, (1, *channels[:-1]), channels, DROPOUT))
        self.decoder = Decoder(num_classes, channels)

    def features(self, image: Tensor) -> list[Tensor]:
        """The five encoder features, finest first."""
        found = [self.encoder[0](image)]
        for block in self.encoder[1:]:
            found.append(block(F.max_pool2d(found[-1], 2)))
        return found

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) -> logits (B, num_classes, H, W)."""
        return self.decoder(self.features(image))
