"""Real files made for tests: NIfTI, PNG, DICOM series; and records of runs that nobody trained."""

import json

import nibabel
import numpy as np
import pandas as pd
import SimpleITK as sitk
from PIL import Image

from samatch.config.settings import run_id
from samatch.data.dicom import kept_locale
from samatch.results.records import RUN_COLUMNS
from samatch.system import paths

VOLUME = np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16)
AFFINE = np.array([[1.5, 0.2, 0, -70], [-0.2, 1.5, 0, 30], [0, 0, 10, 5], [0, 0, 0, 1.0]])

CSV_HEAD = "case_id,patient_id,image,label"


def nifti(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def tiff(path, pages):
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, save_all=True, append_images=others)


def turned(path, array, orientation):
    """`array` as a viewer shows it, stored turned by 180 degrees (3) or a quarter (6, 8), with the
    EXIF tag that says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(array, {3: 2, 6: 1, 8: 3}[orientation])
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)


def ellipse(seed, classes=1, size=48):
    """A picture of ellipses on noise and its class map, both (size, size)."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[0:size, 0:size]
    image, label = rng.normal(60, 12, (size, size)), np.zeros((size, size), np.uint8)
    for value in range(1, classes + 1):
        cy, cx, ry, rx = rng.uniform(8, size - 8, 2).tolist() + rng.uniform(4, 8, 2).tolist()
        inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        image[inside], label[inside] = 90 + 150 * value / classes, value
    return image.clip(0, 255).astype(np.uint8), label


def pictures(folder, count=10):
    """Pictures of one ellipse each, images/p0.png ..., and their masks of 0 and 255; the folder."""
    for n in range(count):
        image, label = ellipse(n)
        png(folder / "images" / f"p{n}.png", image)
        png(folder / "masks" / f"p{n}.png", label * 255)
    return folder


def stack(seed, classes=1, slices=3):
    """Pictures of `ellipse` and their class maps as a volume, both (slices, size, size)."""
    images, labels = zip(*(ellipse(seed + z, classes) for z in range(slices)), strict=True)
    return np.stack(images), np.stack(labels)


def write_series(
    folder,
    array=VOLUME,
    positions=None,
    spacing=(1.5, 1.25, 4.0),
    series="1.2.3",
    first=0,
    tags=(),
    aside=0.0,
    axes="1\\0\\0\\0\\1\\0",
):
    """One DICOM series of slices (H, W) at positions along z, each `aside` mm further along x,
    written out of order; slices are numbered from `first`. axes: ImageOrientationPatient."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    positions = [10 + spacing[2] * z for z in range(len(array))] if positions is None else positions
    for z in reversed(range(len(array))):
        image = sitk.GetImageFromArray(array[z])
        image.SetSpacing(spacing[:2])
        for tag, value in (
            ("0008|0060", "MR"),
            ("0020|000e", series),
            ("0020|0032", f"{-20 + aside * z}\\30\\{positions[z]}"),
            ("0020|0037", axes),
            ("0020|0013", str(first + z)),
            ("0008|0018", f"{series}.{z}"),
            ("0018|0050", str(spacing[2])),
            *tags,
        ):
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{(z * 3) % len(array):02d}.dcm"))
        with kept_locale():
            writer.Execute(image)


def table(folder, rows, head=f"{CSV_HEAD},split"):
    """A table of cases, folder/t.csv."""
    (folder / "t.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder / "t.csv"


SPECS = [
    ("supervised", "", ""),
    ("fixmatch", "", ""),
    ("samatch-fixmatch", "lite_medsam", ""),
    ("samatch-fixmatch", "lite_medsam", "box"),
    ("samatch-fixmatch", "", "no_sam"),
    ("finetune", "lite_medsam", ""),
]
VAL = [0.5, 0.7, 0.72, 0.74, 0.71, 0.9]


def records(dataset="acdc"):
    """Runs and per-case tables of SPECS on six patients of two frames."""
    rng = np.random.default_rng(0)
    runs, cases = [], []
    for (method, sam, variant), val in zip(SPECS, VAL, strict=True):
        name = run_id(dataset, 3, method, sam, 0, variant)
        runs.append(
            {
                **dict.fromkeys(RUN_COLUMNS, ""),
                "run_id": name,
                "method": method,
                "sam": sam,
                "variant": variant,
                "n_labeled": 3,
                "seed": 0,
                "val_dice": val,
                "selected_iteration": 100,
                "manifest_sha256": "m",
                "splits_sha256": "s",
            }
        )
        for patient in (f"p{i}" for i in range(6)):
            cases += [
                {
                    "run_id": name,
                    "split": "val" if method == "finetune" else "test",
                    "patient_id": patient,
                    "case_id": f"{patient}_{f}",
                    "class": c,
                    "dice": val + rng.normal(0, 0.02),
                    "hd95": rng.uniform(1, 9),
                    "asd": 1.0,
                    "hd95_mm": np.nan,
                    "asd_mm": np.nan,
                    "distance_unit": "voxel",
                    "status": "ok",
                }
                for f in (1, 2)
                for c in ("RV", "LV")
            ]
    return pd.DataFrame(runs), pd.DataFrame(cases)


def trained(name, dice=0.5, dataset="acdc", cases=("p_1",), commit="c", status="complete"):
    """A complete run's folder, or a trial's, written as by hand."""
    folder = paths.runs_dir("laptop") / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "dataset": dataset,
        "method": "fixmatch",
        "variant": "",
        "n_labeled": 3,
        "seed": 0,
        "sam_name": "",
        "train": {"iterations": 5},
        "parents": [],
    }
    (folder / "run.json").write_text(
        json.dumps(
            {"run_id": name, "status": status, "val_dice": dice, "config": config, "commit": commit}
        )
    )
    rows = [f"{name},test,{case.split('_')[0]},{case},RV,{dice},2,1,2,1,mm" for case in cases]
    head = "run_id,split,patient_id,case_id,class,dice,hd95,asd,hd95_mm,asd_mm,distance_unit"
    (folder / "per_case.csv").write_text("\n".join([head, *rows]) + "\n")
    (folder / "train_log.csv").write_text(f"iteration,val_dice\n0,{dice}\n")
    return folder
