"""Masks for unlabeled images: a student, or SAM too, on every image of a folder, written with the
image's own geometry.

    samatch predict --model acdc IMAGES MASKS                                  a released student
    samatch predict --profile laptop --run hearts-n3-fixmatch-s0 IMAGES MASKS  one of a finished run
    ... --with-sam   student and SAM of a SAM-Match run together, or a fine-tuned SAM alone

NIfTI gives NIfTI with the same header, a DICOM series NIfTI in its place in space, a picture a PNG
of its size (0 and 255 for one class, class numbers for more; turned as a viewer shows the picture),
a TIFF of several pages a TIFF, h5 an h5 file. Beside each mask lies an overlay picture of the slice
with the largest object, beside all of them `contact_sheet.png` and `volumes.csv`.
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from PIL import Image

from samatch.data.images import HDF5, PICTURES, Picture, read, stem_of, suffix_of
from samatch.data.listing import VOLUME_COLUMNS, VOLUMES, from_folder, is_predicted, predicted_in
from samatch.data.volumes import Raw, array_faults
from samatch.results import plots
from samatch.system import paths, whole
from samatch.system.devices import memory_checked
from samatch.system.errors import InputError, raise_all
from samatch.system.progress import Progress
from samatch.training import with_sam
from samatch.training.released import Segmenter, load, model_names, of_run

SHEET = 48  # images on a contact sheet
Panel = tuple[str, np.ndarray, np.ndarray]  # title, image (H, W), class map (H, W)

NO_GPU = "free the GPU's memory, or set CUDA_VISIBLE_DEVICES= to work on the CPU"


def predict(segmenter: Segmenter, images: Path, into: Path) -> list[Path]:
    """Writes a mask and an overlay per image, a contact sheet and a table of volumes; returns the
    masks.

    images: a folder, or one file. into: a new or empty folder, or one that an earlier call wrote,
    whose table keeps its rows of other images. Raises InputError on another folder, and with every
    unreadable image, before anything is written.
    """
    found = images_in(images)
    refuse_among_other_files(images, into)
    raise_all(
        f"images in {paths.shown(images)}",
        [fault for path in found for fault in _faults(path)],
        "correct or remove these files; nothing was written",
    )
    paths.make_folder(into, "the second argument")
    rows = rows_of_others(into, found)
    write_volumes(into, rows)  # by which a later call knows this folder, finished or not
    progress, masks = Progress("predicting", len(found)), []
    panels: list[Panel] = []
    for number, path in enumerate(found, 1):
        picture = read(path)
        with memory_checked(picture.source, NO_GPU):
            label = segmenter.segment(picture.array)
        doubts = [*picture.doubts, *segmenter.doubts(picture.array)]
        for doubt in doubts if label.any() else [*doubts, "no foreground was found"]:
            print(f"warning: {picture.source}: {doubt}")
        panel = largest_slice(stem_of(path), picture.array, label)
        panels += [panel] if len(panels) < SHEET else []
        with _writing(into, path) as aside:
            mask = write_mask(aside, path, picture, label, len(segmenter.classes))
            overlay = aside / f"{stem_of(path)}_overlay.png"
            save_panels(overlay, [panel], segmenter.classes, columns=1)
        masks.append(into / mask.name)
        rows += volumes_of(path.name, picture, label, segmenter.classes)
        progress(number)
    with _writing(into, images) as aside:
        save_panels(aside / "contact_sheet.png", panels, segmenter.classes, columns=6)
    write_volumes(into, rows)
    return masks


def rows_of_others(into: Path, found: list[Path]) -> list[dict]:
    """The rows that an earlier call wrote of images that are not among these."""
    if not is_predicted(into):
        return []
    table = pd.read_csv(into / VOLUMES, dtype={"image": str, "class": str}, keep_default_na=False)
    return table[~table.image.isin([path.name for path in found])].to_dict("records")


def write_volumes(into: Path, rows: list[dict]) -> None:
    """The table of volumes, a row per image and class."""
    table = pd.DataFrame(rows, columns=VOLUME_COLUMNS)
    whole.write_text(into / VOLUMES, table.to_csv(index=False, float_format="%.6g"))


def images_in(images: Path) -> list[Path]:
    """The image files of a folder, labels and what earlier calls wrote below it left out; or the
    one file, or the one DICOM series, that is named."""
    if images.is_file():
        return [images]
    earlier = predicted_in(images) - {images}
    do = "move or rename these files, or name one image in the place of the folder"
    return [images / entry.image for entry in from_folder(images, earlier, do)]


def refuse_among_other_files(images: Path, into: Path) -> None:
    """Raises InputError where masks would lie among files that no earlier call wrote: `x_mask.png`
    may be a label that is there already, and images beside masks are not found by a later call."""
    if into.resolve() == (images.parent if images.is_file() else images).resolve():
        raise InputError(
            "masks and images cannot share a folder",
            where=paths.shown(into),
            do="name another folder for the masks; nothing was written",
        )
    there = sorted(path.name for path in into.glob("*") if not path.name.startswith("."))
    if there and not is_predicted(into):
        raise InputError(
            "masks go into a folder of their own",
            where=paths.shown(into),
            got=f"{len(there)} files that samatch predict has not written: {', '.join(there[:3])}",
            do="name a new or empty folder for the masks; nothing was written",
        )


def volumes_of(
    name: str, picture: Picture, label: np.ndarray, classes: tuple[str, ...]
) -> list[dict]:
    """One row per class: voxels, and ml where the file tells the spacing of a volume's voxels
    (empty elsewhere).
    """
    ml = np.nan
    if picture.spacing is not None and len(label) > 1:
        ml = float(np.prod(picture.spacing)) / 1000
    counts = np.bincount(label.ravel(), minlength=len(classes) + 1)[1:]
    return [
        {"image": name, "class": of, "voxels": int(count), "volume_ml": count * ml}
        for of, count in zip(classes, counts, strict=True)
    ]


@contextlib.contextmanager
def _writing(into: Path, path: Path) -> Iterator[Path]:
    """A hidden folder, whose files come into `into` when all of them are written. Within it, a full
    or forbidden folder is an InputError that names the image."""
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=into) as aside:
            yield Path(aside)
            for file in Path(aside).iterdir():
                file.replace(into / file.name)
    except OSError as error:
        raise InputError(
            "cannot write a mask or an overlay",
            where=f"{into.name}, of {path.name}",
            got=whole.reason(error),
            do="free some space, or name another folder, and run again",
        ) from error


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
        pages: dict[str, Any] = {"save_all": True, "append_images": others} if others else {}
        first.save(target, **pages)
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
        assert picture.spacing is not None  # a series tells it
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


def largest_slice(title: str, image: np.ndarray, label: np.ndarray) -> Panel:
    """The slice with most foreground: copies, which do not keep the volume in memory."""
    z = int((label > 0).sum((1, 2)).argmax())
    return f"{title}, slice {z}", image[z].copy(), label[z].copy()


def save_panels(
    target: Path,
    panels: list[Panel],
    classes: tuple[str, ...],
    columns: int,
) -> None:
    """A picture of slices with their contours."""
    figure = plots.slices_with_contours(panels, classes, columns=min(columns, len(panels)))
    figure.savefig(target)
    plt.close(figure)


def main(words: list[str] | None = None) -> None:
    """Command line of `samatch predict`."""
    parser = argparse.ArgumentParser(
        prog="samatch predict", description="Masks for the images of a folder."
    )
    parser.add_argument(
        "--model", default="", help="a released student: " + ", ".join(model_names())
    )
    parser.add_argument("--run", default="", help="or a finished run: a folder of runs/<profile>/")
    parser.add_argument("--profile", default="demo", help="of the run")
    parser.add_argument(
        "--with-sam",
        action="store_true",
        help="the run's SAM too: both maps of SAM-Match together, or SAM alone after fine-tuning",
    )
    parser.add_argument("images", help="folder of images or of one DICOM series, or one image")
    parser.add_argument("masks", help="folder for the masks")
    args = parser.parse_args(words)
    if not args.images or not args.masks:
        raise InputError(
            "name the images and a folder for the masks",
            got=f"images {args.images!r}, masks {args.masks!r}",
            do="samatch predict --model acdc IMAGES MASKS, or make predict IMAGES=DIR MASKS=DIR",
        )
    if bool(args.model) == bool(args.run):
        raise InputError(
            "name either a model or a run", do="--model acdc, or --run RUN_ID --profile laptop"
        )
    if args.model and args.with_sam:
        raise InputError(
            f"the released student {args.model} has no SAM with it",
            expected="--with-sam beside --run",
            do="train a SAM-Match run, or leave --with-sam out",
        )
    if args.model:
        segmenter: Segmenter = load(args.model)
    else:
        segmenter = (with_sam.of_run if args.with_sam else of_run)(args.profile, args.run)
    images, masks = (Path(os.path.abspath(word)) for word in (args.images, args.masks))
    written = predict(segmenter, images, masks)  # "." has no name to give to a series
    print(f"{len(written)} masks and overlays written to {paths.shown(masks)}")
