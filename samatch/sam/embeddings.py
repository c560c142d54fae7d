"""SAM's image embeddings of unaugmented slices, computed once and kept on disk.

With a frozen image encoder the embedding of a slice never changes, so that fine-tuning of the
decoder and joint training need no encoder pass at all. One file a volume, named after the image's
content, so that a changed image never meets the embeddings of the old one; float16; memory-mapped
on a CPU, all on the device on a GPU that has room for them (a slice of a 256 x 256 LiteMedSAM or of
a ViT at 1024 takes 2 MiB).

Each file ends with the sha256 of everything before it, behind the array, where numpy does not look:
file and hash are one, and are replaced in one go. It is checked once a process; a file that is
damaged, or of an earlier version and without a hash, is made again.
"""

import functools
import hashlib
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samatch.sam.model import SamModel
from samatch.system import paths, repro, whole
from samatch.system.devices import home_of, send
from samatch.system.errors import InputError

DIGEST = hashlib.sha256().digest_size


def encoder_key(sam: SamModel, bf16: bool) -> str:
    """Name of a cache folder: changes with the encoder's weights, input size and arithmetic."""
    digest = hashlib.sha256()
    for name, value in sorted(sam.image_encoder.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return f"{sam.image_size}-{'bf16' if bf16 else 'f32'}-{digest.hexdigest()[:12]}"


class EmbeddingCache:
    """Embeddings of the slices of some volumes, indexed as the slices of a SlicePool.

    Makes the missing files; an interrupted build goes on where it stopped. `progress(done, total)`
    is called after every volume. `key` is the encoder's key, where the caller has it already: its
    hash of a large encoder takes seconds.
    """

    def __init__(
        self,
        sam: SamModel,
        volumes: list,
        folder: Path,
        *,
        bf16: bool = True,
        device: torch.device | str = "cpu",
        progress: Callable[[int, int], None] = lambda done, total: None,
        key: str = "",
    ):
        folder = paths.make_folder(folder / (key or encoder_key(sam, bf16)), "SAMATCH_RUNS")
        sam.image_encoder.eval()
        total = sum(volume.image.shape[0] for volume in volumes)
        done, self._arrays, problems = 0, {}, []
        for volume in volumes:
            path = file_of(folder, repro.array_sha256(volume.image))
            if problem := fault(path, volume.image.shape[0]):
                problems += [problem] if path.exists() else []
                _write(path, encode(sam, volume.image, bf16, device))
            self._arrays[volume.case.case_id] = np.load(path, mmap_mode="r")
            done += volume.image.shape[0]
            progress(done, total)
        if problems:
            why = ", ".join(sorted(set(problems)))
            print(f"{len(problems)} files of cached embeddings were made again ({why})")
        self._where = [(array, row) for array in self._arrays.values() for row in range(len(array))]
        self.device = torch.device(device)
        size = sum(array.nbytes for array in self._arrays.values())
        self._resident = (
            None
            if home_of(size, device, "SAM's embeddings").type == "cpu"
            else torch.cat(
                [torch.tensor(array, device=self.device) for array in self._arrays.values()]
            )
        )

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: Tensor) -> Tensor:
        """(B,) slice numbers -> (B, C, h, w) float32 embeddings."""
        if self._resident is not None:
            return self._resident[index].float()
        rows = np.stack([self._where[i][0][self._where[i][1]] for i in index.tolist()])
        return send(torch.from_numpy(rows), self.device).float()

    def of_case(self, case_id: str) -> Tensor:
        """(D, C, h, w) embeddings of all slices of a case."""
        return torch.from_numpy(np.array(self._arrays[case_id])).to(self.device).float()


def cache_folder(dataset: str, sam_name: str) -> Path:
    """Folder of a set's embeddings by one SAM, shared by all profiles and seeds."""
    return paths.runs_dir("embeddings") / dataset / sam_name


def file_of(folder: Path, image_sha256: str) -> Path:
    """A volume's file in the folder of its encoder; the hash is that of the manifest's cases."""
    return folder / f"{image_sha256[:24]}.npy"


@torch.no_grad()
def encode(sam: SamModel, image: np.ndarray, bf16: bool, device) -> np.ndarray:
    """(D, H, W) in [0, 1] -> (D, C, h, w) float16, slice by slice."""
    rows = []
    for piece in image:
        batch = torch.from_numpy(piece)[None, None].to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            rows.append(sam.encode(batch)[0].float().cpu().numpy())
    return np.stack(rows).astype(np.float16)


def fault(path: Path, n_slices: int) -> str:
    """Why the file cannot be used for a volume of so many slices; "" where it can.
    Raises InputError where a folder has its place."""
    if path.is_dir():
        raise InputError(
            "a folder lies where cached embeddings belong",
            where=f"{path.parent.name}/{path.name}",
            do="move it away",
        )
    if problem := whole.fault(path):
        return problem
    about = path.stat()
    return _content_fault(path, n_slices, about.st_ino, about.st_size, about.st_mtime_ns)


@functools.cache
def _content_fault(path: Path, n_slices: int, *_: int) -> str:
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
    ):
        same = hashlib.sha256(view[:-DIGEST]).digest() == bytes(view[-DIGEST:])
    if not same:
        return "damaged, or without a hash"
    try:
        return "" if len(np.load(path, mmap_mode="r")) == n_slices else "of another volume"
    except ValueError as error:
        return f"no array ({whole.reason(error)})"


def _write(path: Path, array: np.ndarray) -> None:
    """The first to write a file has it: one that another process has mapped is not replaced, unless
    it is damaged."""
    if path.exists() and not fault(path, len(array)):
        return

    def write(partial: Path) -> None:
        with open(partial, "wb") as file:
            np.save(file, array)
        digest = bytes.fromhex(repro.file_sha256(partial))
        with open(partial, "ab") as file:
            file.write(digest)

    whole.write_whole(path, write, "cached embeddings")
