"""The ViT SAMs: shapes, batching, other input sizes, and the published numbers of parameters."""

import pytest
import torch
import torch.nn.functional as F

from samatch.sam.model import build_sam
from samatch.sam.models import _vit
from samatch.sam.prompts import Prompt
from samatch.sam.weights import load_weights


@pytest.fixture(scope="module")
def small_vit():
    """The ViT SAM with two blocks, one of them windowed, with random relative positions."""
    torch.manual_seed(0)
    sam = _vit.build_vit(
        image_size=64,
        num_classes=4,
        class_token=True,
        width=32,
        depth=2,
        heads=2,
        global_blocks=(1,),
    ).eval()
    for name, parameter in sam.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return sam


def test_vit_shapes_batching_and_gradient(small_vit):
    image, boxes = (
        torch.rand(2, 1, 96, 96),
        torch.tensor([8.0, 10, 40, 50]) + torch.randint(0, 8, (2, 3, 4)),
    )
    together, quality = small_vit(image, Prompt(boxes, torch.ones(2, 3, dtype=torch.bool), 96))
    assert together.shape == (2, 3, 16, 16) and quality.shape == (2, 3)
    single, _ = small_vit(image[1:], Prompt(boxes[1:], torch.ones(1, 3, dtype=torch.bool), 96))
    assert torch.allclose(single[0], together[1], atol=1e-5)
    together.sum().backward()
    assert small_vit.image_encoder.vit.blocks[0].attn.qkv.weight.grad.abs().max() > 0


def test_vit_weights_fit_other_input_sizes(small_vit, tmp_path):
    """Loaded at its own size a checkpoint gives the same masks; at another its position embeddings
    are interpolated.
    """
    path = tmp_path / "vit.pth"
    published = {
        key.replace("image_encoder.vit.", "image_encoder."): value
        for key, value in small_vit.state_dict().items()
        if not key.startswith("class_")
    }
    torch.save(published, path)
    build = dict(num_classes=4, class_token=True, width=32, depth=2, heads=2, global_blocks=(1,))
    same, larger = (_vit.build_vit(image_size=size, **build).eval() for size in (64, 128))
    for sam in (same, larger):
        load_weights(sam, path, _vit.adapt)
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(same.encode(image), small_vit.encode(image))
        assert larger.encode(image).shape == (1, 256, 8, 8)
    coarse, fine = (sam.image_encoder.vit.pos_embed.movedim(-1, 1) for sam in (small_vit, larger))
    assert fine.std() > 0.5 * coarse.std() > 0
    smooth = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
    assert torch.corrcoef(torch.stack([fine.flatten(), smooth.flatten()]))[0, 1] > 0.95


@pytest.mark.parametrize(
    "name, millions", [("vit_b", 93.7), ("vit_l", 312.3), ("vit_h", 641.1), ("medsam_vit_b", 93.7)]
)
def test_published_sizes_of_the_vit_sams(name, millions):
    with torch.device("meta"):
        sam = build_sam(name, num_classes=4, pretrained=False)
    assert sam.image_size == 1024 and sam.mask_size == 256
    theirs = [
        p.numel() for part, p in sam.named_parameters() if not part.startswith("class_")
    ]  # ours ask for classes
    assert sum(theirs) / 1e6 == pytest.approx(millions, abs=0.05)
