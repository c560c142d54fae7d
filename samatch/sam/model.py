"""Segment Anything models behind one call: (image, Prompt) -> (mask_logits, iou_pred).

One file a model; `build_sam(name, ...)` finds it by its file name. The prompt encoder and the mask
decoder are the segment-anything package's (Kirillov et al., ICCV 2023).
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Protocol

import torch
import torch.nn.functional as F
from segment_anything.modeling import PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from samatch.networks.losses import sam_loss, segmentation_loss
from samatch.sam import models
from samatch.sam.lora import add_lora
from samatch.sam.mask_decoder import BatchedMaskDecoder, ClassQueries
from samatch.sam.prompts import OF_QUERIES, Prompt, boxes_of, class_masks, jitter
from samatch.sam.weights import load_weights, read_checkpoint, weights_file
from samatch.system.errors import InputError, known

CPU_PROMPTS = 6  # decoded at once on a CPU: the features of many more fall out of its caches
ABSENT_LOGIT = -30.0  # mask logit of a class that was not asked for: probability 1e-13
LORA_PARAMETERS = ("qkv.parametrizations.weight.0.a", "qkv.parametrizations.weight.0.b")


class Embeddings(Protocol):
    """Image embeddings by slice: embeddings[(B,) slice numbers] -> (B, C, h, w) float32."""

    def __getitem__(self, index: Tensor, /) -> Tensor: ...


class SamModel(nn.Module):
    """image_encoder, prompt_encoder, mask_decoder, and two optional ways to say which class it is.

    The class token resolves what a box cannot say: that the ring is meant and not the cavity. It is
    added to the sparse prompt embeddings and starts at zero, so that an untuned model is the
    original. The class queries ask for all classes at once, without a prompt or with their boxes.
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
        masks, quality = [], []
        pieces = (image_index.split(at_once), sparse.split(at_once), dense.split(at_once))
        for some_images, some_sparse, some_dense in zip(*pieces, strict=True):
            some_masks, some_quality = self.mask_decoder(
                image_embeddings=image_embeddings[some_images],
                image_pe=self.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=some_sparse,
                dense_prompt_embeddings=some_dense,
                multimask_output=False,
            )
            masks.append(some_masks[:, 0].float())
            quality.append(some_quality[:, 0].float())
        where = (image_index, class_index)
        mask_logits = mask_logits.index_put(where, torch.cat(masks))
        iou_pred = iou_pred.index_put(where, torch.cat(quality))
        absent = ~present
        mask_logits = mask_logits.masked_fill(absent[..., None, None], ABSENT_LOGIT)
        return mask_logits, iou_pred.masked_fill(absent, 0)

    def decode_classes(self, image_embeddings: Tensor, prompt: Prompt | None = None) -> Tensor:
        """Every class asked by its query, in one pass, with the boxes of all of them or without.

        image_embeddings (B, C, h, w) -> mask_logits (B, K, S, S). An absent class has no box, but
        an answer. Raises InputError where the model has no class queries.
        """
        if self.class_queries is None:
            raise InputError(
                "SAM has no class queries, which answer for all classes at once",
                expected="a learned query per class",
                got="none",
                do="set sam.class_token=true, or a prompt such as refine.prompt=box",
            )
        at_once = CPU_PROMPTS if image_embeddings.device.type == "cpu" else len(image_embeddings)
        dense = self.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        boxes = self._class_boxes(prompt, image_embeddings)
        answers = [
            self.mask_decoder.predict_classes(
                some, self.prompt_encoder.get_dense_pe(), dense, self.class_queries, some_boxes
            )
            for some, some_boxes in zip(
                image_embeddings.split(at_once), boxes.split(at_once), strict=True
            )
        ]
        return torch.cat(answers).float()

    def _class_boxes(self, prompt: Prompt | None, image_embeddings: Tensor) -> Tensor:
        """Tokens (B, 2 K, C): both corners of each class's box, marked with the class they are of.

        An absent one's are the package's embedding of no point. (B, 0, C) without a prompt.
        """
        boxes = None if prompt is None else prompt.resized(self.image_size).boxes
        if prompt is None or boxes is None or self.class_queries is None:
            count, channels = image_embeddings.shape[:2]
            return image_embeddings.new_zeros(count, 0, channels)
        corners, _ = self.prompt_encoder(None, boxes.flatten(0, 1), None)
        corners = corners.unflatten(0, prompt.present.shape)
        nothing = self.prompt_encoder.not_a_point_embed.weight
        corners = torch.where(prompt.present[..., None, None], corners, nothing)
        return (corners + self.class_queries.tokens[:, None]).flatten(1, 2)

    def forward(self, image: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """One encoder pass an image, whatever K is. See `encode` and `decode`."""
        return self.decode(self.encode(image), prompt)

    def _prompt_embeddings(
        self, prompt: Prompt, image_index: Tensor, class_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """sparse (n, tokens, C) and dense (n, C, h, w) embeddings of n objects of the prompt."""
        where, count = (image_index, class_index), len(class_index)
        boxes, points, mask_prompt = None, None, None
        if prompt.boxes is not None:
            boxes = prompt.boxes[where]
        if prompt.points is not None and prompt.point_labels is not None:
            points = (prompt.points[where], prompt.point_labels[where])
        if prompt.mask_prompt is not None:
            sides = (self.mask_size, self.mask_size)
            mask_prompt = F.interpolate(prompt.mask_prompt, sides, mode="bilinear")[where][:, None]
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=mask_prompt)
        # Asked with nothing, the package returns one embedding for all.
        sparse, dense = sparse.expand(count, -1, -1), dense.expand(count, -1, -1, -1)
        if self.class_tokens is not None:
            if not sparse.shape[1]:  # neither box nor point: the class token needs a place
                sparse = sparse.new_zeros(count, 1, dense.shape[1])
            sparse = sparse + self.class_tokens[class_index][:, None]
        return sparse, dense

    def tune(self, mode: str, lora_rank: int = 4) -> int:
        """Sets which parameters learn, and returns how many numbers these are.

        frozen: none; decoder: all but the image encoder; lora: these, and a low-rank change to the
        encoder's attention weights; all: all.
        """
        if mode == "lora":
            add_lora(self.image_encoder, lora_rank)
        for name, parameter in self.named_parameters():
            in_encoder = name.startswith("image_encoder")
            learns = {
                "frozen": False,
                "decoder": not in_encoder,
                "lora": not in_encoder or name.endswith(LORA_PARAMETERS),
                "all": True,
            }
            parameter.requires_grad = learns[mode]
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def asked_pairs(present: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) bool -> image and class numbers, (n,) each, of the objects that are decoded.

    On a CPU the present ones, on a GPU all: the host would have to wait to know which are present.
    """
    return present.nonzero(as_tuple=True) if present.device.type == "cpu" else every_pair(present)


def every_pair(present: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) -> image and class numbers of all B K objects, image by image."""
    number, classes = torch.arange(present.numel(), device=present.device), present.shape[1]
    return number // classes, number % classes


def reference_boxes(label: Tensor, num_classes: int, box_jitter: float) -> Prompt:
    """The box of each class of a class map (B, S, S), jittered."""
    boxes, present = boxes_of(class_masks(label, num_classes))
    size = label.shape[-1]
    return Prompt(jitter(boxes, box_jitter, size, torch.default_generator), present, size)


def supervised_loss(
    sam: SamModel,
    image_embeddings: Tensor,
    label: Tensor,
    num_classes: int,
    prompt: str,
    box_jitter: float,
) -> Tensor:
    """SAM's loss against a class map: (CE + Dice) / 2 where its queries answer, asked with nothing
    ("none") or with the boxes of all classes ("class_boxes"), else `sam_loss`, of a box a class.
    Boxes are the reference's, jittered.

    image_embeddings (B, C, h, w); label (B, S, S) class map in the same frame, any S.
    """
    size = label.shape[-1]
    if prompt in OF_QUERIES:
        asked = None if prompt == "none" else reference_boxes(label, num_classes, box_jitter)
        mask_logits = resize(sam.decode_classes(image_embeddings, asked), size)
        return segmentation_loss(class_logits(mask_logits), label)
    boxes = reference_boxes(label, num_classes, box_jitter)
    mask_logits, iou_pred = sam.decode(image_embeddings, boxes)
    masks = class_masks(label, num_classes)
    return sam_loss(resize(mask_logits, size), iou_pred, masks, boxes.present)


def class_logits(mask_logits: Tensor) -> Tensor:
    """(B, K, H, W) -> (B, C, H, W): background has logit 0: a class wins where its own is above."""
    return torch.cat([torch.zeros_like(mask_logits[:, :1]), mask_logits], dim=1)


def resize(maps: Tensor, size: int) -> Tensor:
    """(B, K, H, W) -> (B, K, size, size), bilinear; untouched where the size is right."""
    if maps.shape[-1] == size:
        return maps
    return F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)


def _files() -> list[str]:
    """Files of SAMs; one that starts with _ holds what several share."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(models.__path__)
        if not module.name.startswith("_")
    )


def sam_names() -> list[str]:
    """The names that `build_sam` takes, sorted: one a file of samatch/sam/models."""
    return _files()


def input_size(name: str, image_size: int = 0) -> int:
    """Side of the model's input in pixels: `image_size`, or where that is 0 its training's."""
    return image_size or _module(name).IMAGE_SIZE


def build_sam(
    name: str,
    *,
    image_size: int = 0,
    num_classes: int,
    class_token: bool = True,
    pretrained: bool = True,
) -> SamModel:
    """The SAM of samatch/sam/models/<name>.py, with its pretrained weights if asked."""
    module = _module(name)
    model = module.build(
        image_size=input_size(name, image_size), num_classes=num_classes, class_token=class_token
    )
    if pretrained and hasattr(module, "adapt"):
        read = getattr(module, "read", read_checkpoint)
        load_weights(model, weights_file(name), module.adapt, read)
        if class_token:
            for head in model.class_queries.heads:
                head.load_state_dict(model.mask_decoder.output_hypernetworks_mlps[0].state_dict())
    # Quicker convolutions on CPUs and GPUs.
    model.image_encoder.to(memory_format=torch.channels_last)
    return model


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{models.__name__}.{known(name, sam_names(), 'SAM')}")
