"""Images that occur twice in a set: equal ones, and pictures that are nearly the same.

Two images of one scene in two splits leak from the training into the test. Equal images are found
by their content hash, whatever their number of slices; near ones among single pictures only, by a
perceptual hash."""

import dataclasses

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from samatch.data.volumes import Entry

# Perceptual hashes of 256 bits. On BUSI every pair looked at (those from 36 bits on) shows one
# lesion up to 78 bits apart, and from 80 on different ones appear.
NEAR_BITS = 78
HASH_SIDE = 16


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """256 bits of an image (H, W) in [0, 1] most of which a rescaled, cropped or lightly marked
    copy shares."""
    import imagehash  # 0.3 s, and only for 2-D sets
    from PIL import Image

    grey = Image.fromarray((255 * image).round().astype(np.uint8))
    return imagehash.phash(grey, hash_size=HASH_SIDE).hash.ravel()


def groups_of(digests: dict[str, str], hashes: dict[str, np.ndarray]) -> list[list[str]]:
    """Groups of two and more cases that equal images or near-duplicates connect.

    digests: case -> content hash of the image, of every case; hashes: case -> perceptual hash,
    where that counts."""
    number = {case: n for n, case in enumerate(digests)}
    first = {digest: case for case, digest in reversed(digests.items())}
    edges = [(number[first[digest]], number[case]) for case, digest in digests.items()]
    edges += [(number[a], number[b]) for a, b in _near_pairs(hashes)]
    if not edges:
        return []
    rows, columns = np.array(edges).T
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), (len(number), len(number)))
    members: dict[int, list[str]] = {}
    for case, group in zip(
        number, connected_components(graph, directed=False)[1].tolist(), strict=True
    ):
        members.setdefault(group, []).append(case)
    return [cases for cases in members.values() if len(cases) > 1]


def _near_pairs(hashes: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    if not hashes:
        return []
    names, bits = list(hashes), np.stack(list(hashes.values())).astype(np.float32)
    distance = bits @ (1 - bits).T + (1 - bits) @ bits.T
    return [(names[a], names[b]) for a, b in np.argwhere(np.triu(distance <= NEAR_BITS, 1))]


def put_together(entries: list[Entry], groups: list[list[str]]) -> tuple[list[Entry], list[str]]:
    """Entries in which the patients of a group are one, that of the first case; and those
    patients."""
    patient, twins = {entry.patient_id: entry.patient_id for entry in entries}, []
    of_case = {entry.case_id: entry.patient_id for entry in entries}
    for group in groups:
        members = {patient[of_case[case]] for case in group}
        first = patient[of_case[group[0]]]
        if len(members) > 1:
            patient = {p: first if now in members else now for p, now in patient.items()}
            twins.append(first)
    moved = [dataclasses.replace(e, patient_id=patient[e.patient_id]) for e in entries]
    return moved, [p for p in dict.fromkeys(twins) if p in set(patient.values())]
