"""Fetching over HTTP with hashes, unpacking, the prepared file, and verifying."""

import csv
import dataclasses
import functools
import http.server
import io
import itertools
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import torch
import yaml

from samatch.data import prepared, provide
from samatch.data.batches import SlicePool
from samatch.data.curate import curate
from samatch.data.manifest import Case, load_manifest, write_cases, write_manifest
from samatch.data.volumes import load_case, load_cases
from samatch.results.predictions import labels_of
from samatch.system import paths
from samatch.system.archives import unpack
from samatch.system.errors import InputError
from samatch.system.repro import file_sha256
from tests.made import ellipse, nifti, png
from tests.told import FETCHED, READ_BACK

ROOM = FETCHED


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture
def lesions(tmp_path, monkeypatch):
    """A set `lesions` as tracked ones are: manifest in the repository's place, files at a web
    server, none on this machine."""
    home, web = tmp_path / "manifests" / "lesions", tmp_path / "web" / "lesions"
    for n in range(6):
        image, label = ellipse(n, size=40)
        png(web / "images" / f"p {n}.png", image)
        png(web / "masks" / f"p {n}.png", label * 255)
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path / "manifests")
    monkeypatch.setenv("SAMATCH_DATA", str(tmp_path / "web"))
    curate("lesions", None, ["lesion"], into=home)
    monkeypatch.setenv("SAMATCH_DATA", str(tmp_path / "data"))
    files = sorted(web.rglob("*.png"))
    with open(home / "files.csv", "w", newline="") as handle:
        csv.writer(handle).writerows(
            [
                ("path", "bytes", "sha256"),
                *[(str(p.relative_to(web)), p.stat().st_size, file_sha256(p)) for p in files],
            ]
        )
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(web))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    about = yaml.safe_load((home / "dataset.yaml").read_text())
    about["public_copy"] = {
        "url": f"http://127.0.0.1:{server.server_port}/",
        "page": "http://example.org/lesions",
    }
    (home / "dataset.yaml").write_text(yaml.safe_dump(about))
    yield web
    server.shutdown()


def test_fetch_prepare_verify(lesions, capsys):
    provide.data("lesions")
    shown = capsys.readouterr().out
    assert (
        "licence: not stated" in shown
        and "fetching 12 files" in shown
        and "prepared 6 cases" in shown
    )
    assert provide.verify("lesions") == ([], ["6 cases in files and in the prepared file"])
    with pytest.raises(SystemExit) as done:
        provide.main(["verify", "--dataset", "lesions"])
    assert done.value.code == 0


@pytest.mark.parametrize("number", [0, 1])
def test_one_file_that_is_gone_is_a_fault_whichever_it_is(lesions, number):
    provide.data("lesions")
    manifest = load_manifest("lesions")
    (paths.data_dir() / "lesions" / manifest.cases[number].image).unlink()
    faults, _ = provide.verify("lesions")
    assert len(faults) == 1 and manifest.cases[number].case_id in faults[0]


def test_labels_for_an_audit_are_absent_or_sound(lesions):
    """A faulty file is no absence, of which an audit would only take note."""
    manifest = load_manifest("lesions")
    assert labels_of(manifest) == ({}, "the files of lesions are not on this machine")
    provide.data("lesions")
    test = [case.case_id for case in manifest.cases_of(manifest.patients("test"))]
    assert sorted(labels_of(manifest)[0]) == sorted(test)
    prepared.prepared_file(manifest).unlink()
    mask = paths.data_dir() / "lesions" / "masks" / f"{test[0]}.png"
    png(mask, np.zeros((40, 40), np.uint8))
    with pytest.raises(InputError, match=test[0]):
        labels_of(manifest)


def test_the_prepared_file_gives_what_the_files_give(lesions):
    provide.data("lesions")
    manifest = load_manifest("lesions")
    ready, raw = (
        load_cases(manifest, manifest.cases),
        [load_case(manifest, case) for case in manifest.cases],
    )
    assert all(
        (a.image == b.image).all() and (a.label == b.label).all() and a.spacing == b.spacing
        for a, b in zip(ready, raw, strict=True)
    )
    for size in (prepared.SIZE, 32):
        a, b = SlicePool.from_volumes(ready, size), SlicePool.from_volumes(raw, size)
        assert torch.equal(a.image, b.image) and torch.equal(a.label, b.label)
    for path in (paths.data_dir() / "lesions").rglob("*.png"):
        path.unlink()
    assert len(load_cases(manifest, manifest.cases)) == 6


def test_one_flipped_byte_is_reported_by_name(lesions):
    provide.data("lesions")
    path = paths.data_dir() / "lesions" / "images" / "p 3.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    faults, notes = provide.verify("lesions")
    assert len(faults) == 1 and "p 3" in faults[0]
    with pytest.raises(SystemExit) as done:
        provide.main(["verify", "--dataset", "lesions"])
    assert done.value.code == 1
    whole = prepared.prepared_file(load_manifest("lesions"))
    content = bytearray(whole.read_bytes())
    content[-100] ^= 1  # in the last array
    whole.write_bytes(content)
    faults, _ = provide.verify("lesions")
    assert len(faults) == 2 and "prepared file" in faults[1]


def test_a_repacked_picture_still_verifies(lesions):
    provide.data("lesions")
    image, _ = ellipse(2, size=40)
    path = paths.data_dir() / "lesions" / "images" / "p 2.png"
    png(path, np.stack([image] * 3, -1))
    faults, notes = provide.verify("lesions")
    assert not faults and "1 files have other bytes than the public copy: images/p 2.png" in notes


def test_without_network_one_message_with_urls_sizes_and_places(lesions, told):
    home = paths.MANIFESTS / "lesions" / "dataset.yaml"
    about = yaml.safe_load(home.read_text())
    about["public_copy"]["url"] = "http://127.0.0.1:9/"
    home.write_text(yaml.safe_dump(about))
    with told("no network") as error:
        provide.data("lesions")
    text = str(error.value)
    assert (
        "12 of 12 files" in text
        and "http://127.0.0.1:9/images/p%200.png" in text
        and "bytes) from" in text
        and "... and 2 more" in text
    )
    assert (
        str(paths.data_dir() / "lesions") in text
        and "example.org" in text
        and not prepared.prepared_file(load_manifest("lesions")).exists()
    )


def test_a_wrong_download_is_refused_and_a_fault_keeps_the_prepared_file_away(lesions, told):
    (lesions / "images" / "p 1.png").write_bytes(b"something else")
    with told("a download with another content", match="p 1.png: wrong content"):
        provide.data("lesions")
    assert not (paths.data_dir() / "lesions" / "images" / "p 1.png").exists()
    (paths.data_dir() / "lesions" / "images" / "p 1.png").write_bytes(b"broken")
    with pytest.raises(InputError, match="p 1.png"):
        provide.data("lesions")
    assert not list(paths.prepared_dir().glob("*"))


def test_a_prepared_file_of_another_manifest_is_not_used(lesions, told):
    provide.data("lesions")
    cases = paths.MANIFESTS / "lesions" / "cases.csv"
    cases.write_text(cases.read_text() + "\n")
    assert prepared.Prepared.find(load_manifest("lesions")) is None
    prepared.prepared_file(load_manifest("lesions")).write_bytes(b"\x00" * 40)
    with told("a prepared file that is none", room=READ_BACK, match="unreadable prepared file"):
        prepared.Prepared.find(load_manifest("lesions"))


def test_archives(lesions, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in lesions.rglob("*.png"):
            archive.write(path, path.relative_to(lesions))
    provide.data("lesions", tmp_path / "set.zip")
    assert len(list((paths.data_dir() / "lesions").rglob("*.png"))) == 12


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, size in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, size, "/etc/passwd"
            archive.addfile(member, io.BytesIO(b"x" * size))
    return path


def test_unsafe_archives_are_refused_whole(tmp_path, told):
    bad = tar_of(
        tmp_path / "a.tgz",
        ("../out.txt", tarfile.REGTYPE, 3),
        ("/abs.txt", tarfile.REGTYPE, 3),
        ("link", tarfile.SYMTYPE, 0),
        ("hard", tarfile.LNKTYPE, 0),
        ("good.txt", tarfile.REGTYPE, 3),
    )
    with told("a tar with ../, an absolute path and links") as error:
        unpack(bad, tmp_path / "into")
    text = str(error.value)
    assert (
        "4 faults" in text
        and "../out.txt: leads out" in text
        and "link: not a plain file" in text
        and not (tmp_path / "into").exists()
    )
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("..\\out.txt", "x")
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with told("a zip with a Windows path and a link", match="2 faults"):
        unpack(tmp_path / "b.zip", tmp_path / "into")
    big = tar_of(tmp_path / "c.tgz", ("a", tarfile.REGTYPE, 3000))
    with pytest.raises(InputError, match="are allowed"):
        unpack(big, tmp_path / "into", most_bytes=1000)
    assert unpack(big, tmp_path / "into") == 1
    (tmp_path / "d.zip").write_bytes(b"no archive")
    with told("an archive that is none", match="unreadable archive"):
        unpack(tmp_path / "d.zip", tmp_path / "into")


def test_the_prepared_file_keeps_the_manifests_spacing(tmp_path, monkeypatch):
    """Pictures have no spacing; one that the manifest names reaches the volumes from the prepared
    file."""
    for n in range(6):
        image, label = ellipse(n, size=40)
        png(paths.data_dir() / "p" / "images" / f"{n}.png", image)
        png(paths.data_dir() / "p" / "masks" / f"{n}.png", label * 255)
    curate("p", None, ["lesion"])
    path = paths.data_dir() / "p" / "manifest" / "cases.csv"
    provide.data("p")
    mm = (1.0, 0.5, 0.25)
    write_cases(path, [dataclasses.replace(case, spacing=mm) for case in load_manifest("p").cases])
    assert prepared.Prepared.find(load_manifest("p")) is None
    provide.data("p")
    manifest = load_manifest("p")
    assert prepared.Prepared.find(manifest)
    assert {volume.spacing for volume in load_cases(manifest, manifest.cases)} == {mm}


def declare(lesions, **changes):
    """The set's dataset.yaml with other values."""
    home = paths.MANIFESTS / "lesions" / "dataset.yaml"
    home.write_text(yaml.safe_dump(yaml.safe_load(home.read_text()) | changes))


@pytest.mark.parametrize("path", ["../out.png", "/tmp/out.png", "a/../../out.png", "", "a\tb.png"])
def test_a_list_of_files_never_leads_out_of_the_sets_folder(lesions, path):
    table = paths.MANIFESTS / "lesions" / "files.csv"
    row = table.read_text().splitlines()[1].split(",")
    with open(table, "a", newline="") as handle:
        csv.writer(handle).writerow([path, *row[1:]])
        csv.writer(handle).writerow(["b.png", "many", "0" * 63])
    with pytest.raises(InputError, match="3 faults(.|\n)*line 14: a path (leads|holds)") as error:
        provide.data("lesions")
    assert "line 15: bytes: 'many'" in str(error.value) and "sha256 '000000000000'" in str(
        error.value
    )
    assert not list(paths.data_dir().rglob("*.png"))


@pytest.mark.parametrize(
    "url, what",
    [
        ("file:///etc/", "an address file:///"),
        ("ftp://example.org/", "an address ftp://"),
        ("", "an empty address"),
        ("/etc/", "a folder as an address"),
        ("javascript:x", "a script as an address"),
    ],
)
def test_only_http_is_fetched(lesions, url, what, told):
    declare(lesions, public_copy={"url": url, "page": ""})
    with told(what, match="cannot be fetched(.|\n)*at http:// or https://"):
        provide.data("lesions")


def test_a_link_in_the_data_folder_is_not_written_through(lesions, tmp_path, told):
    """A folder of the set that leads elsewhere: nothing is written there."""
    (tmp_path / "elsewhere").mkdir()
    (paths.data_dir() / "lesions").mkdir(parents=True)
    (paths.data_dir() / "lesions" / "images").symlink_to(tmp_path / "elsewhere")
    with told(
        "a folder of the set that is a link to elsewhere",
        match="a link leads out of the data folder",
    ):
        provide.data("lesions")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_was_brought_is_meant_and_nothing_is_fetched(lesions, tmp_path, told):
    """An archive or folder without the set is told; an empty folder is one to fetch into."""
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "not the set")
    with told(
        "an archive of something else",
        match="other.zip does not hold lesions(.|\n)*got: readme.txt",
    ):
        provide.data("lesions", tmp_path / "other.zip")
    with told("a folder of something else", match="does not hold lesions(.|\n)*got: readme.txt"):
        provide.data("lesions")
    (paths.data_dir() / "lesions" / "readme.txt").rename(paths.data_dir() / "mine.png")
    (paths.data_dir() / "lesions").rmdir()
    with told(
        "DATA that holds other files",
        match="got: mine.png(.|\n)*make an empty folder lesions in it",
    ):
        provide.data("lesions")
    assert not list(paths.data_dir().rglob("p ?.png"))
    (paths.data_dir() / "lesions").mkdir()
    provide.data("lesions")
    assert len(list(paths.data_dir().rglob("p ?.png"))) == 12


def test_an_interrupted_download_goes_on(lesions):
    provide.data("lesions")
    for some in (slice(3), slice(9, None)):  # with the first case, and without it
        for path in sorted(paths.data_dir().rglob("p ?.png"))[some]:
            path.unlink()
        provide.data("lesions")
    assert len(list(paths.data_dir().rglob("p ?.png"))) == 12


def test_an_archive_with_one_folder_more_is_found(lesions, tmp_path):
    """A set of known layout, one folder down, is no reason to fetch."""
    home = paths.MANIFESTS / "livers"
    home.mkdir()
    for kind, array in zip(("image", "label"), ellipse(0), strict=True):
        nifti(tmp_path / f"{kind}.nii.gz", array[None])
    cases = [Case(f"scan{n}", n, 1, 48, 48, None, "", "") for n in "123"]
    about = yaml.safe_load((paths.MANIFESTS / "lesions" / "dataset.yaml").read_text())
    write_manifest(
        home,
        about | {"reader": "chaos", "budgets": [1]},
        cases,
        {"train": ["1"], "val": ["2"], "test": ["3"]},
    )
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for kind, n in itertools.product(("image", "label"), "123"):
            archive.write(tmp_path / f"{kind}.nii.gz", f"Livers v2/{kind}_{n}.nii.gz")
    provide.data("livers", tmp_path / "set.zip")
    assert provide.verify("livers")[0] == []
