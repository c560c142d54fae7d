"""The cache of image embeddings: what the encoder says, by slice number, computed once."""

import dataclasses

import numpy as np
import pytest
import torch

from samatch.config.settings import Augment
from samatch.data.batches import augmented_views
from samatch.data.manifest import load_manifest
from samatch.data.volumes import load_cases
from samatch.sam import embeddings
from samatch.sam.embeddings import EmbeddingCache
from samatch.sam.model import build_sam


@pytest.fixture
def volumes():
    manifest = load_manifest("phantom")
    return load_cases(manifest, manifest.cases_of(manifest.patients("train")[:2]))


def test_rows_are_the_encoders_and_are_computed_once(volumes, tmp_path, monkeypatch):
    sam, seen = build_sam("tiny", image_size=64, num_classes=4).eval(), []
    cache = EmbeddingCache(
        sam, volumes, tmp_path, bf16=False, progress=lambda done, total: seen.append((done, total))
    )
    slices = torch.from_numpy(np.concatenate([volume.image for volume in volumes]))[:, None]
    index = torch.tensor([len(slices) - 1, 0, 3, 3])
    with torch.no_grad():
        assert torch.allclose(cache[index], sam.encode(slices[index]), atol=2e-3)  # half precision
        of_case = sam.encode(torch.from_numpy(volumes[1].image)[:, None])
    assert torch.allclose(cache.of_case(volumes[1].case.case_id), of_case, atol=2e-3)
    assert len(cache) == len(slices) == seen[-1][0] == seen[-1][1]
    monkeypatch.setattr(sam, "encode", lambda image: pytest.fail("encoded again"))
    assert torch.equal(EmbeddingCache(sam, volumes, tmp_path, bf16=False)[index], cache[index])


def test_other_weights_sizes_or_arithmetic_have_a_folder_of_their_own(volumes, tmp_path):
    sam, other, small = (build_sam("tiny", image_size=s, num_classes=4) for s in (64, 64, 32))
    for encoder, bf16 in ((sam, False), (sam, True), (other, False), (small, False)):
        EmbeddingCache(encoder, volumes[:1], tmp_path, bf16=bf16)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_case_may_have_the_name_of_a_view(volumes, tmp_path):
    """Cases a and a_view1 of a user's own, with augmented views of a."""
    sam = build_sam("tiny", image_size=64, num_classes=4).eval()
    own = [renamed(volumes[0], "a"), renamed(volumes[1], "a_view1")]
    all_of_them = own + augmented_views(own[:1], 1, 64, Augment(), seed=0)
    cache = EmbeddingCache(sam, all_of_them, tmp_path, bf16=False)
    count = [len(volume.image) for volume in all_of_them]
    assert len(cache) == sum(count)
    index = torch.arange(count[0], count[0] + count[1])
    assert torch.equal(cache[index], cache.of_case("a_view1"))


def files(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def renamed(volume, case_id, image=None):
    image = volume.image if image is None else image
    return dataclasses.replace(
        volume, image=image, case=dataclasses.replace(volume.case, case_id=case_id)
    )


def test_a_changed_image_never_meets_the_embeddings_of_the_old_one(volumes, tmp_path):
    sam, first = build_sam("tiny", image_size=64, num_classes=4).eval(), volumes[0]
    case_id, index = first.case.case_id, torch.arange(len(first.image))
    old = EmbeddingCache(sam, [first], tmp_path, bf16=False)[index]
    image = first.image.copy()
    image[2] = 1 - image[2]
    changed = EmbeddingCache(sam, [renamed(first, case_id, image)], tmp_path, bf16=False)[index]
    with torch.no_grad():
        assert torch.allclose(changed, sam.encode(torch.from_numpy(image)[:, None]), atol=2e-3)
    same = (changed == old).flatten(1).all(1).tolist()
    assert same == [number != 2 for number in range(len(index))] and len(files(tmp_path)) == 2


def test_an_image_under_two_names_is_encoded_once(volumes, tmp_path, monkeypatch):
    sam, first = build_sam("tiny", image_size=64, num_classes=4).eval(), volumes[0]
    EmbeddingCache(sam, [first], tmp_path, bf16=False)
    monkeypatch.setattr(sam, "encode", lambda image: pytest.fail("encoded again"))
    both = EmbeddingCache(sam, [first, renamed(first, "twin")], tmp_path, bf16=False)
    assert len(both) == 2 * len(first.image) and torch.equal(
        both.of_case("twin"), both.of_case(first.case.case_id)
    )
    assert len(files(tmp_path)) == 1


def test_an_id_that_is_a_path_writes_nothing_outside(volumes, tmp_path):
    sam, home = build_sam("tiny", image_size=64, num_classes=4).eval(), tmp_path / "a" / "b"
    cache = EmbeddingCache(sam, [renamed(volumes[0], "../../x")], home, bf16=False)
    assert cache.of_case("../../x").shape[0] == len(volumes[0].image)
    assert len(files(tmp_path)) == 1 and files(tmp_path)[0].startswith("a/b/64-")


def test_embeddings_that_do_not_fit_on_the_device_are_sent_batch_by_batch(
    volumes, tmp_path, monkeypatch
):
    """The meta device has no values: what arrives there is told by its device."""
    monkeypatch.setattr(embeddings, "home_of", lambda size, device, what: torch.device("cpu"))
    monkeypatch.setattr(embeddings, "encode", lambda _, image, *__: np.zeros((len(image), 2, 3, 3)))
    sam = build_sam("tiny", image_size=32, num_classes=4)
    cache = EmbeddingCache(sam, volumes, tmp_path, bf16=False, device="meta")
    found = cache[torch.tensor([1, 0])]
    assert found.shape == (2, 2, 3, 3) and found.device.type == "meta"
    assert found.dtype == torch.float32
