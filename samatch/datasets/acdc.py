"""ACDC cardiac MRI (Bernard et al., IEEE TMI 2018): 100 patients, end-diastole (frame01) and end-systole (frame02).

Two forms are read: SSL4MIS's h5 volumes (`patient001_frame01.h5`, no spacing in them) and the original tree
(`patient001/patient001_frame01.nii.gz` with `_gt.nii.gz`). The original numbers a patient's second frame by its
time (frame12, say); here it is frame02. Labels: 1 right ventricle, 2 myocardium, 3 left ventricle.
"""

import re
from pathlib import Path

import h5py

from samatch import paths
from samatch.datasets import Raw, read_nifti_pair
from samatch.errors import InputError


def load(case_id: str, folder: Path) -> Raw:
    """`case_id` is patientNNN_frame01 or _frame02. Raises InputError on a missing or broken file."""
    if (h5 := folder / f"{case_id}.h5").exists():
        return _load_h5(h5)
    patient, number = case_id.split("_frame")
    frames = _frames(patient, folder)
    if len(frames) < int(number):
        raise InputError(f"{case_id} is missing", where=paths.shown(folder), expected=f"{case_id}.h5, or {patient}/ with two frames as NIfTI",
                         got=f"{len(frames)} frames of {patient}", do="see data_manifests/README.md for where to get ACDC")
    image = frames[int(number) - 1]
    return read_nifti_pair(image, image.with_name(image.name.replace(".nii", "_gt.nii")))


def _frames(patient: str, folder: Path) -> list[Path]:
    """The 3-D images of a patient by time; the 4-D series and Info.cfg beside them are left alone."""
    return sorted(p for p in folder.rglob(f"{patient}_frame*.nii*") if re.search(r"_frame\d+\.nii(\.gz)?$", p.name))


def _load_h5(path: Path) -> Raw:
    try:
        with h5py.File(path) as file:
            return Raw(file["image"][:], file["label"][:], None, path.name)
    except (OSError, KeyError) as error:
        raise InputError("unreadable h5 volume", where=path.name, expected="an h5 file with 'image' and 'label'", got=str(error)[:120],
                         do="get the file again") from error
