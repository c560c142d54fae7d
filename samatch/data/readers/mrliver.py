"""Liver volumes of your own, in the place of the paper's unpublished MRLiver: `<id>.nii.gz` with
`<id>_gt.nii.gz`, or `<id>.h5`.

An h5 file holds `image` and `label` as (slices, height, width), without spacing: distances are in
voxels then. Label 1 is the liver. One file a patient; `make manifest NAME=mrliver` draws the
splits."""

from pathlib import Path

from samatch.data.images import check_geometry, read, read_label
from samatch.data.manifest import Case
from samatch.data.volumes import Entry, Raw
from samatch.system.names import file_of


def load(case: Case, folder: Path) -> Raw:
    """`case_id` is the file's name. Raises InputError on a missing or broken file."""
    if (h5 := file_of(folder, case.case_id, after=".h5")).exists():
        return Raw(read(h5).array, read_label(h5).array, None, h5.name)
    image = read(file_of(folder, case.case_id, after=".nii.gz"))
    label = read_label(file_of(folder, case.case_id, after="_gt.nii.gz"))
    check_geometry(image, label)
    doubts = image.doubts + label.doubts
    return Raw(image.array, label.array, image.spacing, image.source, image.affine, doubts)


def entries(folder: Path) -> list[Entry]:
    """A case an h5 file or NIfTI image, by name; each is a patient of its own."""
    names = [p.stem for p in folder.glob("[!.]*.h5")] + [
        p.name.removesuffix(".nii.gz")
        for p in folder.glob("[!.]*.nii.gz")
        if not p.name.endswith("_gt.nii.gz")
    ]
    return [Entry(name, name) for name in sorted(names)]
