"""Hostile and broken input: one InputError, nothing outside the folder, no traceback."""

import os
import shutil

import pytest
import yaml

from samatch.config.settings import make_config
from samatch.data.about import read_about
from samatch.data.curate import curate
from samatch.data.listing import from_csv
from samatch.data.manifest import Case, load_manifest, read_cases, write_manifest
from samatch.data.readers import chaos, files
from samatch.data.sheets import read_rows, whole
from samatch.data.volumes import load_case
from samatch.system import paths
from samatch.system.errors import InputError
from samatch.system.names import file_of, found_in, inside, name_fault
from tests.damages import outcomes
from tests.made import CSV_HEAD, VOLUME, pictures, png, stack, table, write_series
from tests.told import SETTINGS

ABOUT = {
    "title": "t",
    "classes": ["a"],
    "normalisation": "n",
    "licence": "l",
    "source": "s",
    "citation": "c",
    "known_faults": "k",
    "budgets": [1],
    "reader": "files",
}


@pytest.fixture
def home(tmp_path):
    """Folder of a sound manifest of four patients, one slice each."""
    cases = [
        Case(p, p, 1, 8, 8, (1.0, 0.5, 0.5), "", "", f"{p}.png", f"{p}_gt.png") for p in "abcd"
    ]
    splits = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    write_manifest(tmp_path / "m", ABOUT, cases, splits)
    return tmp_path / "m"


@pytest.mark.parametrize(
    "name", ["a", "benign (1)", "sub-01_ses-2", "é1", "患者7", "v1.2", "x" * 100, "e\u0301", "a+b"]
)
def test_names_that_are_allowed(name):
    assert name_fault(name) == ""


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", ".a", "a..b", "..", "a/b", "a\\b", "/a", "a\nb", "a\0", "a:b", "a|b", "a*b"]
    + ["x" * 101, "患" * 70, 7, None, "a\u202eb"],
)
def test_names_that_are_refused(name):
    assert name_fault(name)


def test_names_of_sets_and_variants_are_words(told):
    assert name_fault("chaos_fold2", word=True) == "" and name_fault("my set", word=True)
    for words, what in (
        (("../x", "q"), "a set called ../x"),
        (("phantom", "../../x"), "a variant called ../../x"),
        (("phantom", "a b"), "a variant with a blank"),
    ):
        with told(what, match="impossible name of a (data set|variant)", room=SETTINGS):
            make_config(
                "demo", words[0], 3, "fixmatch", variant=words[1], overrides={"train.lr": 1.0}
            )
    with pytest.raises(InputError, match="impossible name of a data set"):
        curate("../acdc", None, ["a"])


def test_the_ids_of_tracked_manifests_are_names():
    for name in ("acdc", "busi", "chaos", "phantom"):
        manifest = load_manifest(name)
        ids = {x for case in manifest.cases for x in (case.case_id, case.patient_id)}
        assert not [fault for fault in map(name_fault, ids) if fault] and ids


def test_names_of_files_that_are_none_come_in_one_list(told):
    folder = pictures(paths.data_dir() / "lesions", 8)
    for old, new in (("p0", "p..0"), ("p1", "p:1"), ("p2", "p*2")):
        for kind in ("images", "masks"):
            (folder / kind / f"{old}.png").rename(folder / kind / f"{new}.png")
    with told("files whose names are no ids") as error:
        curate("lesions", None, ["a"])
    assert "3 faults" in str(error.value) and "rename" in str(error.value)
    assert all(
        f"images/{name}.png: '{name}'" in str(error.value) for name in ("p..0", "p:1", "p*2")
    )
    rows = [
        "p/0,q|0,images/p..0.png,masks/p..0.png",
        *(f"p{n},p{n},images/p{n}.png,masks/p{n}.png" for n in range(3, 8)),
    ]
    with told(
        "ids with a slash or a bar in a table",
        match="2 faults(.|\n)*case 'p/0' holds '/'(.|\n)*patient 'q|0'",
    ):
        curate("lesions", table(folder, rows, CSV_HEAD), ["a"])


def test_paths_stay_inside(tmp_path):
    data = paths.data_dir()
    (data / "set").mkdir(parents=True)
    (data / "other").mkdir()
    assert inside(data / "set", "a/b.png") == data / "set" / "a" / "b.png"
    for name in ("", "..", "../other/x", "/etc/passwd", "a/../../x", "../sets"):
        with pytest.raises(InputError, match="a path leads out"):
            inside(data / "set", name)
    for name in ("a\0b", "a\nb", "a\udcffb"):
        with pytest.raises(InputError, match="characters that are no text"):
            inside(data / "set", name)
    assert inside(data / "set", "at 9\u202fpm.png")
    (tmp_path / "secret.png").write_bytes(b"x")
    (data / "other" / "y.png").write_bytes(b"x")
    (data / "set" / "out.png").symlink_to(tmp_path / "secret.png")
    (data / "set" / "folder").symlink_to(tmp_path)
    (data / "set" / "near.png").symlink_to(data / "other" / "y.png")
    (data / "set" / "loop").symlink_to(data / "set" / "loop")
    for name in ("out.png", "folder/secret.png"):
        with pytest.raises(InputError, match="a link leads out of the data folder"):
            inside(data / "set", name)
    assert inside(data / "set", "near.png").exists()
    assert not inside(data / "set", "loop").exists()
    with pytest.raises(InputError, match="impossible name of a case"):
        file_of(data / "set", "../other/y", after=".png")


def test_a_name_may_hold_its_accents_composed_or_apart(tmp_path):
    """As a Mac writes é, two characters, and as a table has it, one."""
    apart, composed = "re\u0301sume\u0301.png", "r\u00e9sum\u00e9.png"
    (tmp_path / apart).write_bytes(b"")
    assert inside(tmp_path, composed).exists() and inside(tmp_path, apart).exists()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / apart).symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="a link leads out of the data folder"):
        inside(tmp_path / "set", composed)
    assert inside(tmp_path, "other\u00e9.png") == tmp_path / "other\u00e9.png"
    assert inside(tmp_path, 300 * "x").name == 300 * "x"


def test_a_data_folder_may_itself_be_a_link(tmp_path):
    (tmp_path / "disk" / "set").mkdir(parents=True)
    (tmp_path / "disk" / "set" / "a.png").write_bytes(b"x")
    paths.data_dir().symlink_to(tmp_path / "disk")
    assert inside(paths.data_dir() / "set", "a.png").exists()


def test_a_link_to_elsewhere_is_no_image(tmp_path, told):
    folder = pictures(paths.data_dir() / "lesions", 8)
    (tmp_path / "private.png").write_bytes((folder / "images" / "p3.png").read_bytes())
    (folder / "images" / "p3.png").unlink()
    (folder / "images" / "p3.png").symlink_to(tmp_path / "private.png")
    with told(
        "an image that is a link to a file outside the data folder",
        match="1 fault\n.*p3: a link leads out of the data folder",
    ):
        curate("lesions", None, ["a"])


def test_no_slice_of_a_series_is_a_link_to_elsewhere(tmp_path, told):
    folder, case = paths.data_dir() / "set", Case("s", "s", 0, 0, 0, None, "", "", "s")
    write_series(folder / "s")
    assert files.load(case, folder).image.shape == VOLUME.shape
    (folder / "s" / "02.dcm").rename(tmp_path / "02.dcm")
    (folder / "s" / "02.dcm").symlink_to(tmp_path / "02.dcm")
    with told(
        "a DICOM slice that is a link to a file elsewhere", match="a link leads out(.|\n)*02.dcm"
    ):
        files.load(case, folder)


def test_one_folder_down_is_found_and_two_are_told(tmp_path, told):
    (tmp_path / "Dataset").mkdir()
    (tmp_path / ".hidden").mkdir()
    for below in ("Dataset", ".hidden"):
        (tmp_path / below / "image_1.nii.gz").write_bytes(b"")
    assert found_in(tmp_path, "image_1.nii.gz") == tmp_path / "Dataset" / "image_1.nii.gz"
    assert found_in(tmp_path, "image_2.nii.gz") == tmp_path / "image_2.nii.gz"
    shutil.copytree(tmp_path / "Dataset", tmp_path / "Copy")
    with told(
        "a set unpacked twice, into two folders", match="several folders(.|\n)*Copy, Dataset"
    ):
        found_in(tmp_path, "image_1.nii.gz")
    with pytest.raises(InputError, match="several folders"):
        chaos.load(Case("scan1", "scan1", 0, 0, 0, None, "", ""), tmp_path)


YAMLS = {
    "a dataset.yaml with a Python tag": "title: !!python/object/apply:os.system ['touch owned']\n",
    "a dataset.yaml with a second colon in a line": "title: Hearts: first series\n",
    "a dataset.yaml with nothing": "",
    "a dataset.yaml with remarks alone": "# nothing\n",
    "a dataset.yaml with a list": "- a\n- b\n",
    "a dataset.yaml with one text": "hello\n",
    "a dataset.yaml with 5000 open brackets": "a: " + "[" * 5000,
    "a dataset.yaml with references that grow to a billion": "a0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)),
    "a dataset.yaml with a list that does not end": "classes: [a, b\n",
    "a dataset.yaml with a control character": "title: a\x01b\n",
    "a dataset.yaml with an impossible date": "title: 2024-99-99\n",
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yaml_that_is_no_manifest(home, kind, told):
    (home / "dataset.yaml").write_text(YAMLS[kind])
    with told(kind, match="dataset.yaml"):
        load_manifest("mine", home)
    assert not os.path.exists("owned")


def test_bytes_that_are_no_text(home, told):
    (home / "dataset.yaml").write_bytes(b"title: \xff\xfe\xe9\n")
    with told("a dataset.yaml of bytes that are no text", match="unreadable dataset.yaml"):
        read_about(home / "dataset.yaml")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"classes": "a"}, "classes must be a list"),
        ({"classes": []}, "classes must be a list"),
        ({"classes": [False]}, "False is no text"),
        ({"classes": ["a", "a"]}, "class a is named twice"),
        ({"classes": ["../a"]}, "class '../a'"),
        ({"budgets": None}, "budgets must be"),
        ({"budgets": ["3"]}, "budgets must be"),
        ({"budgets": [True]}, "budgets must be"),
        ({"title": ["t"]}, "title must be a text"),
        ({"licence": None}, "licence must be a text"),
        ({"reader": "../files"}, "reader: "),
        ({"clinical": [1]}, "clinical must be a mapping"),
        ({"drawn": 3}, "drawn must be a mapping"),
        ({"drawn": {"fractions": ["a"]}}, "drawn: fractions must be numbers"),
        ({"drawn": {"fractions": [0.5, 0.5]}}, "drawn: fractions must be three"),
        ({"drawn": {"seed": -1, "unused": "x"}}, "drawn: seed(.|\n)*drawn: unused"),
        ({"public_copy": "http://x"}, "public_copy must have"),
        ({"public_copy": {"url": 3, "page": ""}}, "public_copy must have"),
        ({"files_of": "../../etc"}, "impossible name of a data set"),
        ({"distances": ["mm"]}, "unknown unit of distances"),
        ({"clinical": {"ventricle": "a", "ed": 1, "es": 2}}, "clinical of dataset.yaml"),
    ],
)
def test_yaml_of_another_shape(home, change, message):
    (home / "dataset.yaml").write_text(yaml.safe_dump(ABOUT | change))
    with pytest.raises(InputError, match=message):
        load_manifest("mine", home)


def test_all_faults_of_a_manifest_come_together(home, told):
    (home / "dataset.yaml").write_text(yaml.safe_dump(ABOUT | {"budgets": 3, "source": None}))
    text = (home / "cases.csv").read_text()
    (home / "cases.csv").write_text(text.replace("a,a,1,", "a/b,a,many,").replace("1 0.5", "0 0.5"))
    splits = (home / "splits.csv").read_text()
    (home / "splits.csv").write_text(splits.replace("train,2", "train,two"))
    with told("a manifest with faults in its three files") as error:
        load_manifest("mine", home)
    for expected in (
        "budgets must be",
        "source must be a text",
        "cases.csv, line 2: case_id 'a/b' holds '/'",
        "line 2: 'many' is not a whole number",
        "line 3: spacing '0 0.5 0.5' is not positive",
        "splits.csv, line 3: labeled_rank: 'two'",
    ):
        assert expected in str(error.value)


def test_tables_as_a_spreadsheet_saves_them(home):
    """A byte order mark, semicolons, 1.0 for 1, empty cells at the end: the same manifest."""
    before = load_manifest("mine", home)
    for name, old, new in (
        ("splits.csv", "train,1", "train,1.0"),
        ("cases.csv", ",1,8,8,", ",1.0,8.0,8,"),
    ):
        path = home / name
        text = path.read_text().replace(old, new).replace(",", ";").replace("\n", ";;\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    after = load_manifest("mine", home)
    assert (after.cases, after.labeled_order, after.split_of) == (
        before.cases,
        before.labeled_order,
        before.split_of,
    )


@pytest.mark.parametrize(
    "spacing", ["0 1 1", "-1 1 1", "nan 1 1", "inf 1 1", "1 1", "a b c", "1 1 1 1"]
)
def test_a_spacing_is_three_positive_numbers(home, spacing):
    path = home / "cases.csv"
    path.write_text(path.read_text().replace("1 0.5 0.5", spacing))
    cases, faults = read_cases(path)
    assert len(faults) == 4 and all("spacing" in fault or "float" in fault for fault in faults)
    assert cases == ()


def test_whole_numbers():
    assert [whole(text) for text in ("0", "3", "3.0", "3,00", "007")] == [0, 3, 3, 3, 7]
    for text in ("", "3.5", "-1", "1e3", "x", "٣x", "9" * 30, "nan"):
        with pytest.raises(ValueError, match="not a whole number"):
            whole(text)


@pytest.mark.parametrize(
    "content, message, what",
    [
        (b"case_id,patient_id,image\na,b,\0\n", "NUL bytes", "a table with NUL bytes"),
        (
            "case_id,patient_id,image\né,b,c\n".encode("utf-16"),
            "unreadable table",
            "a table saved as UTF-16",
        ),
        (
            b"case_id,patient_id,image\n\xe9,b,c\n",
            "unreadable table",
            "a table of an older Windows",
        ),
        (
            b'case_id,patient_id,image\n"a,b,c\n',
            "unreadable table",
            "a table with a quote that does not end",
        ),
        (
            b"case_id,patient_id,image\na,b,c,d\n",
            "line 2: more cells than columns",
            "a table row with more cells than columns",
        ),
        (
            b"case_id,patient_id,image,image\na,b,c,d\n",
            "column image is there twice",
            "a table with a column twice",
        ),
        (b"", "column case_id is missing", "an empty table"),
        (b"a" * 200_000, "unreadable table", "a table of one endless line"),
    ],
)
def test_tables_that_are_none(tmp_path, content, message, what, told):
    (tmp_path / "t.csv").write_bytes(content)
    with told(what, match=message):
        from_csv(tmp_path / "t.csv")


def test_a_comma_at_the_end_of_rows_and_empty_rows_are_no_faults(tmp_path):
    (tmp_path / "t.csv").write_text(
        f"{CSV_HEAD}\na,p,i.png,l.png,\n\n,,,,\nb,q,j.png,,\nc,r,k.png\n"
    )
    assert [(e.case_id, e.label) for e in from_csv(tmp_path / "t.csv")] == [
        ("a", "l.png"),
        ("b", ""),
        ("c", ""),
    ]
    assert [line for line, _ in read_rows(tmp_path / "t.csv", ())] == [2, 5, 6]


@pytest.mark.parametrize("name", ["dataset.yaml", "cases.csv", "splits.csv"])
def test_damaged_manifests_are_read_or_refused(home, name):
    assert "refused" in outcomes(home / name, lambda path: load_manifest("mine", home))


def test_a_damaged_case_is_refused_by_its_manifest(home, tmp_path):
    """The same through the reader of one's own sets, labels and geometry included."""
    for p in "abcd":
        image, label = stack(ord(p))
        png(tmp_path / "d" / f"{p}.png", image[0])
        png(tmp_path / "d" / f"{p}_gt.png", label[0])
    manifest, path = load_manifest("mine", home), tmp_path / "d" / "a_gt.png"
    found = outcomes(path, lambda _: load_case(manifest, manifest.cases[0], tmp_path / "d"))
    assert found == {"read", "refused"}
