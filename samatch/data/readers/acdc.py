"""ACDC cardiac MRI (Bernard et al., IEEE TMI 2018): 100 patients, end-diastole (frame01) and
end-systole (frame02).

Two forms are read: SSL4MIS's h5 volumes (`patient001_frame01.h5`, no spacing in them: the manifest
has it) and the original tree (`patient001/patient001_frame01.nii.gz` with `_gt.nii.gz`). The
original numbers a patient's second frame by its time (frame12, say); here it is frame02. Labels: 1
right ventricle, 2 myocardium, 3 left ventricle."""

import re
from pathlib import Path

from samatch.data.images import check_geometry, read, read_label
from samatch.data.manifest import Case
from samatch.data.volumes import Raw
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.system.names import file_of, inside


def load(case: Case, folder: Path) -> Raw:
    """Raises InputError on a missing or broken file."""
    if (h5 := file_of(folder, case.case_id, after=".h5")).exists():
        return Raw(read(h5).array, read_label(h5).array, None, h5.name)
    patient, number = _patient_and_frame(case.case_id)
    frames = _frames(patient, folder)
    if len(frames) < number:
        raise InputError(
            f"{case.case_id} is missing",
            where=paths.shown(folder),
            expected=f"{case.case_id}.h5, or {patient}/ with two frames as NIfTI",
            got=f"{len(frames)} frames of {patient}",
            do="see data_manifests/README.md for where to get ACDC",
        )
    path = frames[number - 1]
    image, label = read(path), read_label(path.with_name(path.name.replace(".nii", "_gt.nii")))
    check_geometry(image, label)
    return Raw(image.array, label.array, image.spacing, path.name, label_source=label.source)


def _patient_and_frame(case_id: str) -> tuple[str, int]:
    found = re.fullmatch(r"(.+)_frame(\d+)", case_id)
    if not found or int(found[2]) < 1:
        raise InputError(
            "a case of ACDC has another name",
            expected="patient001_frame01, for example",
            got=repr(case_id),
            do="restore cases.csv",
        )
    return found[1], int(found[2])


def _frames(patient: str, folder: Path) -> list[Path]:
    """The 3-D images of a patient by time; the 4-D series and Info.cfg beside them are left
    alone."""
    return sorted(
        inside(folder, str(p.relative_to(folder)))
        for p in folder.rglob(f"{patient}_frame*.nii*")
        if re.search(r"_frame\d+\.nii(\.gz)?$", p.name)
    )
