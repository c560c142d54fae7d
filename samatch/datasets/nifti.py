"""Volumes of your own: `<case_id>.nii.gz` and `<case_id>_gt.nii.gz`, all in one folder.

Their manifest lies beside them in `manifest/` and names this reader (`reader: nifti`).
"""

from pathlib import Path

from samatch.datasets import Raw, read_nifti_pair


def load(case_id: str, folder: Path) -> Raw:
    return read_nifti_pair(folder / f"{case_id}.nii.gz", folder / f"{case_id}_gt.nii.gz")
