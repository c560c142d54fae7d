"""SAM's mask decoder for many prompts of many images, and for class queries without any prompt.

The weights and the transformer are the segment-anything package's (Kirillov et al., ICCV 2023).
"""

import copy

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn

QUERY_DEVIATION = 0.1  # of the class queries' tokens at the start, near that of the mask tokens


class ClassQueries(nn.Module):
    """What asks SAM for each of K classes without a prompt: a token and a head per class.

    tokens (K, C) are added to the single-mask token; the heads are at first copies of the single
    mask's. Equal tokens would ask the same at first and part slowly: they start apart.
    """

    def __init__(self, num_classes: int, embed_dim: int, head: nn.Module):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(num_classes - 1, embed_dim) * QUERY_DEVIATION)
        self.heads = nn.ModuleList(copy.deepcopy(head) for _ in range(num_classes - 1))


class BatchedMaskDecoder(MaskDecoder):
    """The official decoder for N prompts of N images; that one repeats one image's embedding."""

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """image_embeddings (N, C, h, w), one a prompt -> masks (N, 1, 4h, 4w), iou_pred (N, 1)."""
        count, _, height, width = image_embeddings.shape
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        output_tokens = output_tokens.expand(count, -1, -1)
        tokens = torch.cat([output_tokens, sparse_prompt_embeddings], dim=1)
        decoded, keys = self.transformer(
            image_embeddings + dense_prompt_embeddings, image_pe.expand(count, -1, -1, -1), tokens
        )
        # Only the single-mask token is used here (token 1 of iou, mask 0, mask 1, ...).
        weights = self.output_hypernetworks_mlps[0](decoded[:, 1:2])
        masks = self._draw_masks(keys, weights, height, width)
        return masks, self.iou_prediction_head(decoded[:, 0])[:, :1]

    def predict_classes(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        dense: Tensor,
        classes: ClassQueries,
        prompts: Tensor,
    ) -> Tensor:
        """All K classes of an image in one pass, as SAMed asks (Zhang & Liu, 2023).

        image_embeddings (N, C, h, w), dense (1, C, h, w) -> mask_logits (N, K, 4h, 4w). Each class
        is asked by its query; the queries see one another, and the prompts (N, tokens, C).
        """
        count, _, height, width = image_embeddings.shape
        queries = self.mask_tokens.weight[:1] + classes.tokens
        tokens = torch.cat([self.iou_token.weight, queries]).expand(count, -1, -1)
        tokens = torch.cat([tokens, prompts], dim=1)
        decoded, keys = self.transformer(
            image_embeddings + dense, image_pe.expand(count, -1, -1, -1), tokens
        )
        weights = [head(decoded[:, 1 + k]) for k, head in enumerate(classes.heads)]
        return self._draw_masks(keys, torch.stack(weights, dim=1), height, width)

    def _draw_masks(self, keys: Tensor, weights: Tensor, height: int, width: int) -> Tensor:
        """Upscaled features times the weights of each mask: keys (N, h w, C), weights (N, K, C/8).

        A transposed convolution of kernel and stride 2 is a matrix product a pixel, whose four
        answers lie beside each other here until the one channel of the mask is left: no map of many
        channels changes its layout. -> (N, K, 4h, 4w)
        """
        first, norm, activation, second, _ = self.output_upscaling
        fine = four_pixels(first, keys)
        fine = F.layer_norm(fine, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        finest = activation(four_pixels(second, activation(fine)))
        masks = weights @ finest.flatten(1, -2).transpose(1, 2)
        masks = masks.view(*weights.shape[:2], height, width, 2, 2, 2, 2)
        masks = masks.permute(0, 1, 2, 4, 6, 3, 5, 7)
        return masks.reshape(*weights.shape[:2], 4 * height, 4 * width)


def four_pixels(convolution: nn.ConvTranspose2d, features: Tensor) -> Tensor:
    """A transposed convolution of kernel and stride 2, pixel by pixel.

    (..., C) features of a pixel -> (..., 4, C') of the 2 x 2 pixels made of it, in reading order.
    """
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    four = F.linear(features, weight, convolution.bias.repeat(4))
    return four.unflatten(-1, (4, convolution.out_channels))
