"""STU-Hospital breast ultrasound: 42 pictures of another hospital, an external test for BUSI.

`Test_Image_1.png` is the picture, `mask_1.png` its mask: of 128 to 512 pixels, with soft edges.
The mask is brought to the picture's size (bilinear) and cut at half of 255.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from samatch.data.images import read
from samatch.data.manifest import Case
from samatch.data.volumes import Entry, Raw
from samatch.system import paths
from samatch.system.errors import InputError

HALF = 127.5


def load(case: Case, folder: Path) -> Raw:
    """`case_id` is the picture's name, "Test_Image_1". Raises InputError on a missing file."""
    number = case.case_id.rsplit("_", 1)[-1]
    image, mask = folder / f"{case.case_id}.png", folder / f"mask_{number}.png"
    missing = [path.name for path in (image, mask) if not path.exists()]
    if missing:
        raise InputError(
            f"{case.case_id} is missing",
            where=paths.shown(folder),
            expected=f"{image.name} and {mask.name}",
            got=f"no {' and no '.join(missing)}",
            do="see data_manifests/README.md for where to get STU-Hospital",
        )
    found = read(image)
    soft = Image.fromarray(read(mask).array[0]).convert("L")
    small = soft.resize(found.array.shape[:0:-1], Image.Resampling.BILINEAR)
    return Raw(found.array, (np.asarray(small) > HALF).astype(np.uint8)[None], None, image.name)


def entries(folder: Path) -> list[Entry]:
    """All pictures, all of them tested."""
    names = sorted(
        (path.stem for path in folder.glob("Test_Image_*.png")),
        key=lambda stem: int(stem.rsplit("_", 1)[-1]),
    )
    return [Entry(name, name, split="test") for name in names]
