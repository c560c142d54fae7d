"""Weight files: downloads that resume, hashes, and what is said without network."""

import fcntl
import hashlib
import http.server
import threading

import pytest

from samatch.sam import weights
from samatch.system import paths
from samatch.system.download import download
from tests.told import FETCHED

ROOM = FETCHED

CONTENT = bytes(range(256)) * 5000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, ranges too; `cut` bytes into an answer it hangs up, once.

    length: what it says of the size in the place of the right one.
    """

    cut, asked, length = None, [], None

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
        Server.asked.append(start)
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", Server.length or str(len(CONTENT) - start))
        self.end_headers()
        stop, Server.cut = Server.cut, None
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *words):
        pass


@pytest.fixture
def url():
    Server.cut, Server.asked, Server.length = None, [], None
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/file.pth"
    server.shutdown()


def test_an_interrupted_download_goes_on_where_it_stopped(url, tmp_path, told):
    Server.cut = 500_000
    with told("a download that is cut off", match="cannot download the file") as error:
        download(url, tmp_path / "file.pth", "the file")
    assert (
        url in str(error.value)
        and "file.pth" in str(error.value)
        and not (tmp_path / "file.pth").exists()
    )
    download(url, tmp_path / "file.pth", "the file")
    assert (tmp_path / "file.pth").read_bytes() == CONTENT
    assert Server.asked == [0, 500_000]


@pytest.mark.parametrize("more, asked", [(b"", [len(CONTENT)]), (b"x", [len(CONTENT) + 1, 0])])
def test_a_part_that_the_server_has_no_more_of(url, tmp_path, more, asked):
    """Whole, it gets its name; longer than the file, it is none of its, and begun anew."""
    (tmp_path / "file.pth.part").write_bytes(CONTENT + more)
    download(url, tmp_path / "file.pth", "the file")
    assert (tmp_path / "file.pth").read_bytes() == CONTENT and Server.asked == asked
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]


@pytest.mark.parametrize(
    "length, got, what",
    [
        ("many", "no size: 'many'", "a Content-Length that is no number"),
        ("-5", "no size: '-5'", "a negative Content-Length"),
        (
            str(len(CONTENT) + 9),
            f"ended after {len(CONTENT)} of {len(CONTENT) + 9} bytes",
            "a Content-Length above what comes",
        ),
    ],
)
def test_a_wrong_size_ends_with_a_message(url, tmp_path, length, got, what, told):
    Server.length = length
    with told(what, match=got):
        download(url, tmp_path / "file.pth", "the file")
    assert not (tmp_path / "file.pth").exists()


@pytest.mark.parametrize("finishes, asked", [(True, []), (False, [0])])
def test_two_processes_get_one_file_once(url, tmp_path, finishes, asked, capsys):
    """The second waits; where the first gives up, it gets the file itself."""
    path, part = tmp_path / "file.pth", tmp_path / "file.pth.part"
    with open(part, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        second = threading.Thread(target=download, args=(url, path, "the file"), daemon=True)
        second.start()
        second.join(0.3)
        assert second.is_alive() and not Server.asked
        part.replace(path) if finishes else part.unlink()
    second.join(60)
    assert Server.asked == asked and path.exists() and not part.exists()
    assert "waiting for another process that gets the file" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_is_one_error(url, tmp_path, told):
    (tmp_path / "weights").write_text("a file")
    with told("a file where the folder of weights belongs", match="cannot download the file"):
        download(url, tmp_path / "weights" / "file.pth", "the file")


def test_where_no_sha256_is_known_that_is_said_and_the_files_own_named(
    tmp_path, monkeypatch, capsys
):
    found = hashlib.sha256(CONTENT).hexdigest()
    for number, (published, said) in enumerate(
        [
            (f"sha256:{found}", ""),
            (f"md5:{hashlib.md5(CONTENT).hexdigest()[:6]}", "the first 6 digits of its md5 are"),
            ("", "no hash is published"),
        ]
    ):
        row = {"file": f"{number}.pth", "hash": published, "package": ""}
        monkeypatch.setattr(weights, "sam_weights", lambda row=row: {"some": row})
        path = paths.weights_dir() / row["file"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(CONTENT)
        assert weights.weights_file("some") == path and weights.weights_sha256("some") == found
        shown = capsys.readouterr().out
        assert said in shown and (found in shown) is bool(said) and shown.count("\n") == bool(said)


@pytest.mark.parametrize(
    "content, what",
    [
        (b"", "an empty file of weights"),
        (CONTENT[:-1], "a cut file of weights"),
        (b"<html>", "a web page as a file of weights"),
    ],
)
def test_a_wrong_weights_file_is_named_and_stays(content, what, monkeypatch, told):
    row = {
        "file": "some.pth",
        "hash": f"sha256:{hashlib.sha256(CONTENT).hexdigest()}",
        "package": "",
    }
    monkeypatch.setattr(weights, "sam_weights", lambda: {"some": row})
    path = paths.weights_dir() / "some.pth"
    path.parent.mkdir()
    path.write_bytes(content)
    with told(what, match="the weights of some(.|\n)*some.pth(.|\n)*move the file"):
        weights.weights_file("some")
    assert path.read_bytes() == content


def test_weights_are_downloaded_once_and_checked(url, tmp_path, monkeypatch, told):
    md5 = hashlib.md5(CONTENT).hexdigest()
    row = {
        "sam": "vit_b",
        "file": "file.pth",
        "hash": f"md5:{md5[:6]}",
        "package": "",
        "url": url,
        "megabytes": "1",
        "licence": "none",
    }
    monkeypatch.setattr(weights, "sam_weights", lambda: {"vit_b": row})
    assert weights.weights_file("vit_b").read_bytes() == CONTENT
    weights.weights_file("vit_b")
    assert Server.asked == [0]
    row["hash"] = "md5:000000"
    with told("weights with another hash", match="wrong hash"):
        weights.weights_file("vit_b")


def test_without_network_the_error_names_file_and_place(monkeypatch, told):
    row = weights.sam_weights()["vit_h"] | {"url": "http://127.0.0.1:9/sam_vit_h_4b8939.pth"}
    monkeypatch.setattr(weights, "sam_weights", lambda: {"vit_h": row})
    with told(
        "weights without network",
        match=r"2560 MB(.|\n)*127\.0\.0\.1:9/sam_vit_h_4b8939\.pth(.|\n)*put the file to",
    ) as error:
        weights.weights_file("vit_h")
    assert "sam_vit_h_4b8939.pth yourself" in str(error.value)


def test_every_sam_with_weights_has_a_row():
    from samatch.sam.model import sam_names

    assert set(weights.sam_weights()) == set(sam_names()) - {"tiny"}
