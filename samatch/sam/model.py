"""Segment Anything models behind one call: (image, Prompt) -> (mask_logits, iou_pred).

One file a model; `build_sam(name, ...)` finds it by its file name. The prompt encoder and the mask
decoder are the segment-anything package's (Kirillov et al., ICCV 2023).
"""

import copy
import importlib
import math
import pkgutil

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from samatch.networks.losses import sam_loss, segmentation_loss
from samatch.sam import models
from samatch.sam.prompts import Prompt, boxes_of, class_masks, jitter
from samatch.sam.weights import load_weights, weights_file
from samatch.system.errors import InputError, known

CPU_PROMPTS = 6  # decoded at once on a CPU: the features of many more fall out of its caches
QUERY_DEVIATION = 0.1  # of the class queries' tokens at the start, near that of the mask tokens
ABSENT_LOGIT = -30.0  # mask logit of a class that was not asked for: probability 1e-13


class BatchedMaskDecoder(MaskDecoder):
    """The official decoder for N prompts of N images; the official one repeats one image's embedding."""

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """image_embeddings (N, C, h, w), one a prompt -> masks (N, 1, 4h, 4w), iou_pred (N, 1)."""
        count, channels, height, width = image_embeddings.shape
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(
            count, -1, -1
        )
        tokens = torch.cat([output_tokens, sparse_prompt_embeddings], dim=1)
        decoded, keys = self.transformer(
            image_embeddings + dense_prompt_embeddings, image_pe.expand(count, -1, -1, -1), tokens
        )
        # Only the single-mask token is used here (token 1 of iou, mask 0, mask 1, ...).
        weights = self.output_hypernetworks_mlps[0](decoded[:, 1:2])
        return self._draw_masks(keys, weights, height, width), self.iou_prediction_head(
            decoded[:, 0]
        )[:, :1]

    def predict_classes(
        self, image_embeddings: Tensor, image_pe: Tensor, dense: Tensor, classes: "ClassQueries"
    ) -> Tensor:
        """One pass per image for all K classes, each asked by its query alone, as SAMed asks (Zhang & Liu, 2023).

        image_embeddings (N, C, h, w), dense (1, C, h, w) -> mask_logits (N, K, 4h, 4w). The queries see one another.
        """
        count, _, height, width = image_embeddings.shape
        tokens = torch.cat(
            [self.iou_token.weight, self.mask_tokens.weight[:1] + classes.tokens]
        ).expand(count, -1, -1)
        decoded, keys = self.transformer(
            image_embeddings + dense, image_pe.expand(count, -1, -1, -1), tokens
        )
        weights = torch.stack(
            [head(decoded[:, 1 + k]) for k, head in enumerate(classes.heads)], dim=1
        )
        return self._draw_masks(keys, weights, height, width)

    def _draw_masks(self, keys: Tensor, weights: Tensor, height: int, width: int) -> Tensor:
        """The upscaled features times each mask's weights: keys (N, h w, C), weights (N, K, C/8) -> (N, K, 4h, 4w).

        A transposed convolution of kernel and stride 2 is a matrix product a pixel, whose four answers lie beside
        each other here until the one channel of the mask is left: no map of many channels changes its layout.
        """
        first, norm, activation, second, _ = self.output_upscaling
        fine = F.layer_norm(
            four_pixels(first, keys), norm.weight.shape, norm.weight, norm.bias, norm.eps
        )
        finest = activation(four_pixels(second, activation(fine)))
        masks = weights @ finest.flatten(1, -2).transpose(1, 2)
        masks = masks.view(*weights.shape[:2], height, width, 2, 2, 2, 2).permute(
            0, 1, 2, 4, 6, 3, 5, 7
        )
        return masks.reshape(*weights.shape[:2], 4 * height, 4 * width)


def four_pixels(convolution: nn.ConvTranspose2d, features: Tensor) -> Tensor:
    """(..., C) features of a pixel -> (..., 4, C') of the 2 x 2 pixels that the convolution makes of it, in reading order."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return F.linear(features, weight, convolution.bias.repeat(4)).unflatten(
        -1, (4, convolution.out_channels)
    )


class ClassQueries(nn.Module):
    """What asks SAM for each of K classes without a prompt: a token (K, C) on the single-mask token, and a head per class,
    at first a copy of the single mask's. Equal tokens would ask the same at first and part slowly: they start apart."""

    def __init__(self, num_classes: int, embed_dim: int, head: nn.Module):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(num_classes - 1, embed_dim) * QUERY_DEVIATION)
        self.heads = nn.ModuleList(copy.deepcopy(head) for _ in range(num_classes - 1))


class SamModel(nn.Module):
    """image_encoder, prompt_encoder and mask_decoder, and two optional ways to say which class is meant.

    The class token resolves what a box cannot say: that the ring is meant and not the cavity. It is
    added to the sparse prompt embeddings and starts at zero, so that an untuned model is the original. The class queries
    ask without any prompt.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        *,
        image_size: int,
        num_classes: int,
        class_token: bool = True,
        embed_dim: int = 256,
        decoder_heads: int = 8,
        decoder_mlp: int = 2048,
        stride: int = 4,
    ):
        """stride: pixels of the input a pixel of the embedding."""
        super().__init__()
        grid = image_size // stride
        self.image_size = image_size
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(
            embed_dim, (grid, grid), (image_size, image_size), mask_in_chans=16
        )
        transformer = TwoWayTransformer(
            depth=2, embedding_dim=embed_dim, num_heads=decoder_heads, mlp_dim=decoder_mlp
        )
        self.mask_decoder = BatchedMaskDecoder(transformer_dim=embed_dim, transformer=transformer)
        self.class_tokens = (
            nn.Parameter(torch.zeros(num_classes - 1, embed_dim)) if class_token else None
        )
        head = self.mask_decoder.output_hypernetworks_mlps[0]
        self.class_queries = ClassQueries(num_classes, embed_dim, head) if class_token else None

    @property
    def mask_size(self) -> int:
        """Side of mask_logits and of mask_prompt, in pixels."""
        return 4 * self.prompt_encoder.image_embedding_size[0]

    def encode(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) image in [0, 1], any size -> image_embeddings (B, C, h, w)."""
        if image.shape[-2:] != (self.image_size, self.image_size):
            image = F.interpolate(
                image, (self.image_size, self.image_size), mode="bilinear", antialias=True
            )
        return self.image_encoder(
            image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        )

    def decode(self, image_embeddings: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """image_embeddings (B, C, h, w) and a Prompt -> mask_logits (B, K, S, S), iou_pred (B, K).

        Absent objects get ABSENT_LOGIT and 0. See `asked_pairs`; a CPU decodes a few at a time.
        """
        prompt, present = prompt.resized(self.image_size), prompt.present
        mask_logits = image_embeddings.new_full(
            (*present.shape, self.mask_size, self.mask_size), ABSENT_LOGIT, dtype=torch.float32
        )
        iou_pred = mask_logits.new_zeros(present.shape)
        image_index, class_index = asked_pairs(present)
        if not len(image_index):
            return mask_logits, iou_pred
        sparse, dense = self._prompt_embeddings(prompt, image_index, class_index)
        at_once = CPU_PROMPTS if present.device.type == "cpu" else len(image_index)
        answers = [
            self.mask_decoder(
                image_embeddings=image_embeddings[index],
                image_pe=self.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=some_sparse,
                dense_prompt_embeddings=some_dense,
                multimask_output=False,
            )
            for index, some_sparse, some_dense in zip(
                image_index.split(at_once), sparse.split(at_once), dense.split(at_once), strict=True
            )
        ]
        masks, quality = (torch.cat(parts) for parts in zip(*answers, strict=True))
        where = (image_index, class_index)
        mask_logits, iou_pred = (
            mask_logits.index_put(where, masks[:, 0].float()),
            iou_pred.index_put(where, quality[:, 0].float()),
        )
        return mask_logits.masked_fill(
            ~present[..., None, None], ABSENT_LOGIT
        ), iou_pred.masked_fill(~present, 0)

    def decode_classes(self, image_embeddings: Tensor) -> Tensor:
        """image_embeddings (B, C, h, w), no prompt -> mask_logits (B, K, S, S): every class, asked by its query alone.

        Raises InputError where the model has no class queries.
        """
        if self.class_queries is None:
            raise InputError(
                "SAM cannot be asked without a prompt",
                expected="a learned query per class",
                got="none",
                do="set sam.class_token=true, or a prompt such as refine.prompt=box",
            )
        at_once = CPU_PROMPTS if image_embeddings.device.type == "cpu" else len(image_embeddings)
        dense = self.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        answers = [
            self.mask_decoder.predict_classes(
                some, self.prompt_encoder.get_dense_pe(), dense, self.class_queries
            )
            for some in image_embeddings.split(at_once)
        ]
        return torch.cat(answers).float()

    def forward(self, image: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """One encoder pass an image, whatever K is. See `encode` and `decode`."""
        return self.decode(self.encode(image), prompt)

    def _prompt_embeddings(
        self, prompt: Prompt, image_index: Tensor, class_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        where = (image_index, class_index)
        boxes = None if prompt.boxes is None else prompt.boxes[where]
        mask_prompt = None
        if prompt.mask_prompt is not None:
            mask_prompt = F.interpolate(
                prompt.mask_prompt, (self.mask_size, self.mask_size), mode="bilinear"
            )
            mask_prompt = mask_prompt[where][:, None]
        points = (
            None if prompt.points is None else (prompt.points[where], prompt.point_labels[where])
        )
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=mask_prompt)
        # Nothing asked: the package returns one embedding for all. No token where there is neither box nor point.
        sparse, dense = (
            sparse.expand(len(class_index), -1, -1),
            dense.expand(len(class_index), -1, -1, -1),
        )
        if self.class_tokens is not None:
            sparse = (
                sparse if sparse.shape[1] else sparse.new_zeros(len(class_index), 1, dense.shape[1])
            )
            sparse = sparse + self.class_tokens[class_index][:, None]
        return sparse, dense

    def tune(self, mode: str, lora_rank: int = 4) -> int:
        """Sets which parameters learn, and returns how many numbers these are.

        frozen: none; decoder: all but the image encoder; lora: these, and a low-rank change to the encoder's
        attention weights; all: all.
        """
        if mode == "lora":
            add_lora(self.image_encoder, lora_rank)
        for name, parameter in self.named_parameters():
            in_encoder = name.startswith("image_encoder")
            learns = {
                "frozen": False,
                "decoder": not in_encoder,
                "all": True,
                "lora": not in_encoder
                or name.endswith(
                    ("qkv.parametrizations.weight.0.a", "qkv.parametrizations.weight.0.b")
                ),
            }[mode]
            parameter.requires_grad = learns
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def asked_pairs(present: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) bool -> image and class numbers of the objects that are decoded: on a CPU the present ones, on a GPU every
    one, since the host would have to wait to know which are present."""
    return present.nonzero(as_tuple=True) if present.device.type == "cpu" else every_pair(present)


def every_pair(present: Tensor) -> tuple[Tensor, Tensor]:
    number, classes = torch.arange(present.numel(), device=present.device), present.shape[1]
    return number // classes, number % classes


def reference_loss(
    sam: SamModel, image_embeddings: Tensor, label: Tensor, num_classes: int, box_jitter: float
) -> Tensor:
    """SAM's supervised loss: the reference's box of each class, jittered, against the reference's mask.

    image_embeddings (B, C, h, w); label (B, S, S) class map in the same frame, any S.
    """
    masks = class_masks(label, num_classes)
    boxes, present = boxes_of(masks)
    boxes = jitter(boxes, box_jitter, label.shape[-1], torch.default_generator)
    mask_logits, iou_pred = sam.decode(image_embeddings, Prompt(boxes, present, label.shape[-1]))
    return sam_loss(resize(mask_logits, label.shape[-1]), iou_pred, masks, present)


def class_logits(mask_logits: Tensor) -> Tensor:
    """(B, K, H, W) -> (B, C, H, W): background has logit 0, so that a class wins where its own logit is above it."""
    return torch.cat([torch.zeros_like(mask_logits[:, :1]), mask_logits], dim=1)


def classes_loss(sam: SamModel, image_embeddings: Tensor, label: Tensor) -> Tensor:
    """SAM's supervised loss without a prompt: its class map against the reference's, (CE + Dice) / 2.

    image_embeddings (B, C, h, w); label (B, S, S) class map in the same frame, any S.
    """
    return segmentation_loss(
        class_logits(resize(sam.decode_classes(image_embeddings), label.shape[-1])), label
    )


def resize(maps: Tensor, size: int) -> Tensor:
    """(B, K, H, W) -> (B, K, size, size), bilinear; untouched where the size is right."""
    return (
        maps
        if maps.shape[-1] == size
        else F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)
    )


def _files() -> list[str]:
    """Files of SAMs; one that starts with _ holds what several share."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(models.__path__)
        if not module.name.startswith("_")
    )


def sam_names() -> list[str]:
    return _files()


def input_size(name: str, image_size: int = 0) -> int:
    """Side of the model's input in pixels: `image_size`, or what the model was trained at where that is 0."""
    return image_size or _module(name).IMAGE_SIZE


def build_sam(
    name: str,
    *,
    image_size: int = 0,
    num_classes: int,
    class_token: bool = True,
    pretrained: bool = True,
) -> SamModel:
    """The SAM of file `samatch/sam/models/<name>.py`, with its pretrained weights unless told otherwise."""
    module = _module(name)
    model = module.build(
        image_size=input_size(name, image_size), num_classes=num_classes, class_token=class_token
    )
    if pretrained and hasattr(module, "adapt"):
        load_weights(model, weights_file(name), module.adapt)
        if class_token:
            for head in model.class_queries.heads:
                head.load_state_dict(model.mask_decoder.output_hypernetworks_mlps[0].state_dict())
    model.image_encoder.to(
        memory_format=torch.channels_last
    )  # quicker convolutions on CPUs and GPUs
    return model


def _module(name: str):
    return importlib.import_module(f"{models.__name__}.{known(name, sam_names(), 'SAM')}")


class LowRank(nn.Module):
    """LoRA (Hu et al., ICLR 2022) as a parametrisation of a weight: W -> W + B A, with B = 0 at the start."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, weight.shape[1], device=weight.device))
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def add_lora(encoder: nn.Module, rank: int) -> None:
    """Low-rank changes to the qkv weights of every attention of the image encoder."""
    for module in list(encoder.modules()):
        if isinstance(qkv := getattr(module, "qkv", None), nn.Linear):
            register_parametrization(qkv, "weight", LowRank(qkv.weight, rank))
