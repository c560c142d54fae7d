"""Getting and checking data.

    samatch data --dataset busi                      # fetch the public copy, or use the data folder
    samatch data --dataset busi --archive FILE.zip   # unpack an archive first
    samatch verify --dataset busi                    # every file and array against the manifest

`data` ends with one prepared file (samatch/data/prepared.py), which trainings then read instead of
the single files."""

import argparse
import os
import re
import sys
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from samatch.data import prepared
from samatch.data.about import read_about
from samatch.data.batches import resized
from samatch.data.manifest import Case, Manifest, load_manifest, manifest_folders
from samatch.data.sheets import read_rows, whole
from samatch.data.volumes import Volume, any_case_in, data_folder, from_prepared, load_case
from samatch.system import paths, repro
from samatch.system.archives import unpack
from samatch.system.download import download
from samatch.system.errors import InputError, known, raise_all
from samatch.system.names import inside
from samatch.system.progress import Progress

AT_ONCE = 8  # downloads


def data(name: str, archive: Path | None = None) -> None:
    """Brings a set onto this machine, checks every case and writes the prepared file. Raises
    InputError with every fault."""
    manifest = load_manifest(name)
    print(f"{manifest.title}\n  licence: {manifest.licence}\n  cite: {manifest.citation}")
    folder = data_folder(manifest.folder)
    if archive:
        folder = paths.data_dir() / manifest.folder
        print(f"unpacked {unpack(archive, folder)} files of {archive.name}")
    if not any_case_in(manifest, folder) or (not archive and half_fetched(manifest)):
        check_nothing_was_brought(manifest, archive)
        folder = paths.data_dir() / manifest.folder
        fetch(manifest, folder)
    path = prepared.write(manifest, _checked(manifest, folder))
    print(
        f"prepared {len(manifest.cases)} cases: {paths.shown(path)}, "
        f"{path.stat().st_size / 1e6:.0f} MB, sha256 {repro.file_sha256(path)[:16]}..."
    )


def check_nothing_was_brought(manifest: Manifest, archive: Path | None) -> None:
    """Raises InputError where an archive or a folder was named that does not hold the set: its
    owner means those files, not a download.

    An own folder of the set that is empty, or holds files of the public copy, is one to fetch into;
    folders of other sets beside it say nothing.
    """
    data, known_sets = paths.data_dir(), manifest_folders()
    own = data / manifest.folder
    strange = [] if archive else [p for p in _shown_files(data) if p.name not in known_sets]
    if own.is_dir() and not archive:
        copy = {Path(row["path"]).parts[0] for row in public_files(manifest)}
        strange = [path for path in _shown_files(own) if path.name not in copy]
    if archive or (strange and os.environ.get("SAMATCH_DATA")):
        raise InputError(
            f"{archive.name if archive else paths.shown(data)} does not hold {manifest.name}",
            where=paths.shown(own if own.is_dir() else data),
            expected=f"the layout of data_manifests/README.md; first {manifest.cases[0].case_id}",
            got=", ".join(path.name for path in (strange or _shown_files(own))[:5]),
            do="name the folder that holds the set's files with DATA=DIR; to fetch the public copy "
            f"there, make an empty folder {own.name} in it",
        )


def half_fetched(manifest: Manifest) -> bool:
    """Whether a download of the public copy was cut off: some of its files are here, some are not,
    and nothing else lies beside them."""
    own = paths.data_dir() / manifest.folder
    try:
        files = public_files(manifest)
    except InputError:  # told where they are to be fetched
        return False
    here = [row for row in files if (own / row["path"]).exists()]
    names = {Path(row["path"]).parts[0] for row in files}
    return 0 < len(here) < len(files) and all(path.name in names for path in _shown_files(own))


def _shown_files(folder: Path) -> list[Path]:
    """What lies in a folder, without hidden files and parts of downloads."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [p for p in found if not p.name.startswith(".") and p.suffix != ".part"]


def public_files(manifest: Manifest) -> list[dict[str, str]]:
    """Path, bytes and sha256 of the files of the public copy, [] where none is known. Raises
    InputError with every row that leads out of the set's folder or has no size or hash."""
    home = manifest_folders()[known(manifest.folder, manifest_folders(), "data set")]
    table = home / "files.csv"
    if not table.exists():
        return []
    rows, faults = read_rows(table, ("path", "bytes", "sha256"), "list of files"), []
    for line, row in rows:
        try:
            inside(paths.data_dir() / manifest.folder, row["path"])
            row["bytes"] = str(whole(row["bytes"]))
        except InputError as error:
            faults.append(f"line {line}: {error.brief}")
        except ValueError as error:
            faults.append(f"line {line}: bytes: {error}")
        if not re.fullmatch("[0-9a-f]{64}", row["sha256"]):
            faults.append(f"line {line}: sha256 {row['sha256'][:12]!r} is none")
    raise_all(f"files.csv of {manifest.name}", faults, "correct or restore files.csv")
    return [row for _, row in rows]


def fetch(manifest: Manifest, folder: Path) -> None:
    """Downloads the pinned public copy, several files at once; what is there and right already
    stays.

    Raises one InputError that says which files could not be had, from where, and where to put them.
    """
    home, files = manifest_folders()[manifest.folder], public_files(manifest)
    copy = read_about(home / "dataset.yaml").get("public_copy")
    if not copy or not files:
        raise InputError(
            f"{manifest.name} cannot be fetched",
            where=paths.shown(folder),
            expected="the set's files",
            got="none, and no public copy is known",
            do="see data_manifests/README.md, and name your folder with DATA=DIR",
        )
    if urllib.parse.urlsplit(copy["url"]).scheme not in ("http", "https"):
        raise InputError(
            f"{manifest.name} cannot be fetched",
            where=f"{manifest.folder}/dataset.yaml",
            expected="a public copy at http:// or https://",
            got=copy["url"],
            do="correct the url",
        )
    total = sum(int(row["bytes"]) for row in files)
    print(f"fetching {len(files)} files, {total / 1e6:.0f} MB, from {copy['page']}")
    progress, faults = Progress(f"fetching {manifest.name}", len(files)), []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done, fault in enumerate(
            pool.map(lambda row: _fetch_one(row, copy["url"], folder), files), 1
        ):
            faults += [fault] if fault else []
            progress(done)
    if faults:
        shown = faults[:10] + [
            f"... and {len(faults) - 10} more, listed in {paths.shown(home / 'files.csv')}"
        ] * (len(faults) > 10)
        raise_all(
            f"{len(faults)} of {len(files)} files of {manifest.name} could not be had",
            shown,
            f"run again, which goes on where this stopped, or get the files of {copy['page']} "
            f"and put them to {folder}, or name your folder with DATA=DIR",
        )


def _fetch_one(row: dict[str, str], base: str, folder: Path) -> str:
    """ "" or what went wrong with one file."""
    path, url = inside(folder, row["path"]), base + urllib.parse.quote(row["path"])
    if path.exists() and repro.file_sha256(path) == row["sha256"]:
        return ""
    try:
        download(url, path, row["path"])
    except InputError as error:
        return f"{row['path']} ({int(row['bytes']):,} bytes) from {url}: {dict(error.facts)['got']}"
    if (found := repro.file_sha256(path)) != row["sha256"]:
        path.unlink()
        expected = row["sha256"]
        return (
            f"{row['path']}: wrong content; expected sha256 {expected[:12]}..., got {found[:12]}..."
        )
    return ""


def _checked(
    manifest: Manifest, folder: Path
) -> Iterator[tuple[str, prepared.Arrays, tuple[float, ...] | None]]:
    """Every case with its small copy; raises InputError with all faults, and so before the file is
    written."""
    faults, progress = [], Progress(f"preparing {manifest.name}", len(manifest.cases))
    for done, case in enumerate(manifest.cases, 1):
        try:
            volume = load_case(manifest, case, folder)
            image, label = resized(volume, prepared.SIZE)
            yield (
                case.case_id,
                {
                    "image": volume.image,
                    "label": volume.label,
                    "small_image": image[:, 0].numpy(),
                    "small_label": label.numpy(),
                },
                volume.spacing,
            )
        except InputError as error:
            faults.append(error.brief)
        progress(done)
    raise_all(
        f"data set {manifest.name}",
        faults,
        f"correct the files in {paths.shown(folder)}; no prepared file was written",
    )


def verify(name: str) -> tuple[list[str], list[str]]:
    """(faults, notes): every case read from its files, and every array of the prepared file,
    against the manifest's hashes."""
    manifest = load_manifest(name)
    folder, faults, notes = data_folder(manifest.folder), [], []
    ready, progress = (
        prepared.Prepared.find(manifest),
        Progress(f"verifying {name}", len(manifest.cases)),
    )
    from_files = any_case_in(manifest, folder)
    if not from_files and not ready:
        raise InputError(
            f"no data of {name}",
            where=paths.shown(folder),
            expected=f"{len(manifest.cases)} cases",
            got="none",
            do=f"run `make data DATASET={name}`",
        )
    for done, case in enumerate(manifest.cases, 1):
        faults += _file_faults(manifest, case, folder) if from_files else []
        faults += _prepared_faults(ready, case) if ready else []
        progress(done)
    notes.append(
        f"{len(manifest.cases)} cases"
        + (" in files" if from_files else "")
        + (" and" if from_files and ready else "")
        + (" in the prepared file" if ready else "")
    )
    return faults, notes + repacked(manifest, folder)


def _file_faults(manifest: Manifest, case: Case, folder: Path) -> list[str]:
    try:
        load_case(manifest, case, folder)
    except InputError as error:
        return [error.brief]
    return []


def _prepared_faults(ready: prepared.Prepared, case: Case) -> list[str]:
    try:
        volume: Volume = from_prepared(ready, case)
    except InputError as error:
        return [error.brief]
    faults = [
        f"{case.case_id}: {kind} of the prepared file has another content"
        for kind, array, expected in (
            ("image", volume.image, case.image_sha256),
            ("label", volume.label, case.label_sha256),
        )
        if expected and repro.array_sha256(array) != expected
    ]
    small = resized(Volume(case, volume.image, volume.label, None), prepared.SIZE)
    if volume.small is not None and not (
        (small[0][:, 0].numpy() == volume.small[0]).all()
        and (small[1].numpy() == volume.small[1]).all()
    ):
        faults.append(
            f"{case.case_id}: the small copy in the prepared file does not follow from the image"
        )
    return faults


def repacked(manifest: Manifest, folder: Path) -> list[str]:
    """A note where files differ from the public copy's bytes: no fault as long as the arrays are
    the same."""
    files = [(row["path"], row["sha256"]) for row in public_files(manifest)]
    other = [
        name
        for name, digest in files
        if (folder / name).exists() and repro.file_sha256(folder / name) != digest
    ]
    return (
        [f"{len(other)} files have other bytes than the public copy: {', '.join(other[:3])}"]
        if other
        else []
    )


ABOUT = {
    "data": "Get a data set and prepare it for training.",
    "verify": "Check every file and array of a data set against its manifest.",
}


def main(words: list[str] | None = None) -> None:
    """`samatch data` and `samatch verify`; the latter exits with 1 where there are faults."""
    what, *words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(prog=f"samatch {what}", description=ABOUT[what])
    parser.add_argument("--dataset", required=True)
    if what == "data":
        parser.add_argument("--archive", type=Path, help="zip or tar to unpack first")
        args = parser.parse_args(words)
        return data(args.dataset, args.archive)
    args = parser.parse_args(words)
    faults, notes = verify(args.dataset)
    print("\n".join([*faults, *notes, f"{args.dataset}: {len(faults)} faults"]))
    sys.exit(bool(faults))
