"""Masks for unlabeled images: a finished run's student on
every image of a folder, written with the image's own geometry.

    samatch predict --profile laptop --run hearts-n3-fixmatch-s0 --images DIR --into DIR

NIfTI gives NIfTI with the same header, a DICOM series NIfTI in its place in space, a picture a PNG
of its size (0 and 255 for one class, class numbers for more; turned as a viewer shows the picture),
a TIFF of several pages a TIFF, h5 an h5 file. Beside each mask lies an overlay picture of the slice
with the largest object.
"""

import argparse
from pathlib import Path

import h5py
import nibabel
import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from samatch.data.images import HDF5, PICTURES, Picture, read, stem_of, suffix_of
from samatch.data.listing import from_folder
from samatch.data.manifest import load_manifest
from samatch.data.volumes import Raw, array_faults, normalise
from samatch.results import plots
from samatch.results.runs import complete_run
from samatch.system import paths, whole
from samatch.system.devices import find_device, memory_checked
from samatch.system.errors import InputError, raise_all
from samatch.system.progress import Progress
from samatch.training.evaluate import segment_with_student
from samatch.training.task import student_in

NO_GPU = "free the GPU's memory, or set CUDA_VISIBLE_DEVICES= to work on the CPU"


def predict(profile: str, run_id: str, images: Path, into: Path) -> list[Path]:
    """Writes a mask and an overlay an image; returns the masks. Raises InputError with every
    unreadable image, before anything is written."""
    folder, record = complete_run(profile, run_id)
    classes = load_manifest(record["config"]["dataset"]).classes
    student = student_in(folder, len(classes) + 1).to(find_device())
    size = record["config"]["train"]["image_size"]
    found = [images / entry.image for entry in from_folder(images)]
    faults = [fault for path in found for fault in _faults(path)]
    raise_all(
        f"images in {paths.shown(images)}",
        faults,
        "correct or remove these files; nothing was written",
    )
    paths.make_folder(into, "--into")
    progress, masks = Progress("predicting", len(found)), []
    for number, path in enumerate(found, 1):
        picture = read(path)
        image = normalise(picture.array)
        with memory_checked(picture.source, NO_GPU):
            label = segment_with_student(student, image, size)
        for doubt in picture.doubts:
            print(f"warning: {picture.source}: {doubt}")
        try:
            masks.append(write_mask(into, path, picture, label, len(classes)))
            overlay(into / f"{stem_of(path)}_overlay.png", stem_of(path), image, label, classes)
        except OSError as error:
            raise InputError(
                "cannot write a mask or its overlay",
                where=f"{into.name}, of {path.name}",
                got=whole.reason(error),
                do="free some space, or choose another folder with --into, and run again",
            ) from error
        progress(number)
    return masks


def _faults(path: Path) -> list[str]:
    try:
        picture = read(path)
    except InputError as error:
        return [error.brief]
    return array_faults(Raw(picture.array, None, picture.spacing, picture.source), 1)


def write_mask(
    into: Path, path: Path, picture: Picture, label: np.ndarray, num_foreground: int
) -> Path:
    """Writes a class map (D, H, W) as `<stem>_mask`, in the kind that suits the image."""
    if suffix_of(path) in PICTURES:
        target = into / f"{stem_of(path)}_mask{'.png' if len(label) == 1 else '.tif'}"
        grey = label * np.uint8(255 if num_foreground == 1 else 1)
        first, *others = (Image.fromarray(page) for page in grey)
        first.save(target, **({"save_all": True, "append_images": others} if others else {}))
    elif suffix_of(path) in HDF5:
        target = into / f"{stem_of(path)}_mask.h5"
        with h5py.File(target, "w") as file:
            file["label"] = label
    else:
        target = into / f"{stem_of(path)}_mask.nii.gz"
        nibabel.save(_nifti(label.transpose(2, 1, 0), picture), target)
    return target


def _nifti(label: np.ndarray, picture: Picture) -> nibabel.Nifti1Image:
    """A class map (x, y, z) under the image's own header, its codes, unit and extensions with it,
    so that every reader puts both to one place. Of a DICOM series under a new one."""
    if picture.header is None:
        volume = nibabel.Nifti1Image(label, picture.affine)
        volume.header.set_zooms(picture.spacing[::-1])
        volume.header.set_xyzt_units("mm")
        return volume
    kind = (
        nibabel.Nifti2Image
        if isinstance(picture.header, nibabel.Nifti2Header)
        else nibabel.Nifti1Image
    )
    header = picture.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    header["cal_min"], header["cal_max"] = 0, 0  # grey levels of the image
    return kind(label, None, header)


def overlay(
    target: Path, title: str, image: np.ndarray, label: np.ndarray, classes: tuple[str, ...]
) -> None:
    """The slice with most foreground, with its contours."""
    z = int((label > 0).sum((1, 2)).argmax())
    figure = plots.slices_with_contours(
        [(f"{title}, slice {z}", image[z], label[z])], classes, columns=1
    )
    figure.savefig(target)
    plt.close(figure)


def main(words: list[str] | None = None) -> None:
    """`samatch predict`: writes masks and overlays, and says how many."""
    parser = argparse.ArgumentParser(
        prog="samatch predict", description="Masks for the images of a folder, by a finished run."
    )
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--run", required=True, help="run_id, a folder of runs/<profile>/")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    args = parser.parse_args(words)
    masks = predict(args.profile, args.run, args.images, args.into)
    print(f"{len(masks)} masks and overlays written to {paths.shown(args.into)}")
