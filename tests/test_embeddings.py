"""The cache of image embeddings: what the encoder says, by slice number, computed once."""

import numpy as np
import pytest
import torch

from samatch.datasets import load_cases
from samatch.embeddings import EmbeddingCache
from samatch.manifest import load_manifest
from samatch.sam import build_sam


@pytest.fixture
def volumes():
    manifest = load_manifest("phantom")
    return load_cases(manifest, manifest.cases_of(manifest.patients("train")[:2]))


def test_rows_are_the_encoders_and_are_computed_once(volumes, tmp_path, monkeypatch):
    sam, seen = build_sam("tiny", image_size=64, num_classes=4).eval(), []
    cache = EmbeddingCache(sam, volumes, tmp_path, bf16=False, progress=lambda done, total: seen.append((done, total)))
    slices = torch.from_numpy(np.concatenate([volume.image for volume in volumes]))[:, None]
    index = torch.tensor([len(slices) - 1, 0, 3, 3])
    with torch.no_grad():
        assert torch.allclose(cache[index], sam.encode(slices[index]), atol=2e-3)  # half precision
        of_case = sam.encode(torch.from_numpy(volumes[1].image)[:, None])
    assert torch.allclose(cache.of_case(volumes[1].case.case_id), of_case, atol=2e-3)
    assert len(cache) == len(slices) == seen[-1][0] == seen[-1][1]
    monkeypatch.setattr(sam, "encode", lambda image: pytest.fail("encoded again"))
    assert torch.equal(EmbeddingCache(sam, volumes, tmp_path)[index], cache[index])


def test_other_weights_or_sizes_have_a_folder_of_their_own(volumes, tmp_path):
    for size in (64, 32):
        EmbeddingCache(build_sam("tiny", image_size=size, num_classes=4), volumes[:1], tmp_path, bf16=False)
    EmbeddingCache(build_sam("tiny", image_size=64, num_classes=4), volumes[:1], tmp_path, bf16=False)  # new random weights
    assert len(list(tmp_path.iterdir())) == 3
