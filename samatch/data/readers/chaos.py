"""CHAOS T2-SPIR abdominal MRI (Kavur et al., Medical Image Analysis 2021), liver against the rest:
the public stand-in for MRLiver.

Twenty scans as NIfTI pairs `image_1.nii.gz`, `label_1.nii.gz`. Of the labels (1 liver, 2 and 3
kidneys, 4 spleen) only the liver is kept."""

import re
from pathlib import Path

import numpy as np

from samatch.data.images import check_geometry, read, read_label
from samatch.data.manifest import Case
from samatch.data.volumes import Entry, Raw
from samatch.system.names import file_of

LIVER = 1


def load(case: Case, folder: Path) -> Raw:
    """`case_id` is scan<number>, one scan a patient."""
    number = case.case_id.removeprefix("scan")
    image = read(file_of(folder, number, "image_", ".nii.gz"))
    label = read_label(file_of(folder, number, "label_", ".nii.gz"))
    check_geometry(image, label)
    liver = (label.array == LIVER).astype(np.uint8)
    return Raw(image.array, liver, image.spacing, image.source, label_source=label.source)


def entries(folder: Path) -> list[Entry]:
    """A case an `image_<number>.nii.gz`, by number."""
    names = [re.fullmatch(r"image_(\d+)\.nii\.gz", path.name) for path in folder.glob("image_*")]
    numbers = sorted(int(found[1]) for found in names if found)
    return [Entry(f"scan{number}", f"scan{number}") for number in numbers]
