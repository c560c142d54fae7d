"""BUSI breast ultrasound (Al-Dhabyani et al., Data in Brief 2020): 437 benign, 210 malignant and
133 normal pictures.

Two forms are read: the original folder (`benign/benign (1).png`, `benign/benign (1)_mask.png`,
`_mask_1.png`, ...) and the public copy with `benign/images/` and `benign/mask/`. A picture's masks
are united. Label 1 is the lesion, benign or malignant; normal pictures have none."""

from pathlib import Path

import numpy as np

from samatch.data.images import read, read_label
from samatch.data.manifest import Case
from samatch.data.volumes import Entry, Raw
from samatch.system import paths
from samatch.system.errors import InputError, raise_all
from samatch.system.names import file_of, found_in, inside

KINDS = ("benign", "malignant", "normal")


def load(case: Case, folder: Path) -> Raw:
    """`case_id` is the picture's name, "benign (1)". Raises InputError on a missing or broken
    file."""
    kind = case.case_id.split(" ")[0]
    image, masks = _files(file_of(folder, kind), case.case_id)
    if image is None or not masks:
        raise InputError(
            f"{case.case_id} is missing",
            where=paths.shown(folder),
            expected=f"{case.case_id}.png and its _mask.png in {kind}/",
            got=f"{'a picture' if image else 'no picture'} and {len(masks)} masks",
            do="see data_manifests/README.md for where to get BUSI",
        )
    found, labels = read(image), [read_label(mask) for mask in masks]
    other = [label for label in labels if label.array.shape != found.array.shape]
    raise_all(
        f"masks of {case.case_id}",
        (
            f"{m.source}: shape {m.array.shape[1:]}, the picture has {found.array.shape[1:]}"
            for m in other
        ),
        "get the file again",
    )
    united = np.maximum.reduce([label.array for label in labels])
    names = ", ".join(label.source for label in labels)
    return Raw(found.array, united, None, image.name, label_source=names)


def entries(folder: Path) -> list[Entry]:
    """All pictures; benign, malignant and normal ones are strata."""
    names = [
        (kind, path.stem)
        for kind in KINDS
        for path in sorted(found_in(folder, kind).rglob("*.png"), key=_number)
        if "_mask" not in path.stem and not path.name.startswith(".")
    ]
    return [Entry(name, name, stratum=kind) for kind, name in names]


def _files(folder: Path, name: str) -> tuple[Path | None, list[Path]]:
    """A picture and its masks in a kind's folder, in one of the two forms."""
    for images, masks in (("images", "mask"), ("", "")):
        if (image := file_of(folder / images, name, after=".png")).exists():
            found = sorted(path.name for path in (folder / masks).glob("*"))
            names = [file for file in found if file.startswith(f"{name}_mask")]
            return image, [inside(folder / masks, file) for file in names]
    return None, []


def _number(path: Path) -> int:
    return int("".join(c for c in path.stem.split("(")[-1].split(")")[0] if c.isdigit()) or 0)
