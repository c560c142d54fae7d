"""Weight files: downloads that resume, hashes, and what is said without network."""

import hashlib
import http.server
import threading

import pytest

from samatch.sam import weights
from samatch.system.download import download
from samatch.system.errors import InputError

CONTENT = bytes(range(256)) * 5000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, ranges too; `cut` bytes into an answer it hangs up, once."""

    cut, asked = None, []

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
        Server.asked.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop, Server.cut = Server.cut, None
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *words):
        pass


@pytest.fixture
def url():
    Server.cut, Server.asked = None, []
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/file.pth"
    server.shutdown()


def test_an_interrupted_download_goes_on_where_it_stopped(url, tmp_path):
    Server.cut = 500_000
    with pytest.raises(InputError, match="cannot download the file") as error:
        download(url, tmp_path / "file.pth", "the file")
    assert (
        url in str(error.value)
        and "file.pth" in str(error.value)
        and not (tmp_path / "file.pth").exists()
    )
    download(url, tmp_path / "file.pth", "the file")
    assert (tmp_path / "file.pth").read_bytes() == CONTENT
    assert Server.asked == [0, 500_000]


def test_weights_are_downloaded_once_and_checked(url, tmp_path, monkeypatch):
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
    with pytest.raises(InputError, match="wrong hash"):
        weights.weights_file("vit_b")


def test_without_network_the_error_names_file_and_place(monkeypatch):
    row = weights.sam_weights()["vit_h"] | {"url": "http://127.0.0.1:9/sam_vit_h_4b8939.pth"}
    monkeypatch.setattr(weights, "sam_weights", lambda: {"vit_h": row})
    with pytest.raises(
        InputError,
        match=r"2560 MB(.|\n)*127\.0\.0\.1:9/sam_vit_h_4b8939\.pth(.|\n)*put the file to",
    ) as error:
        weights.weights_file("vit_h")
    assert "sam_vit_h_4b8939.pth yourself" in str(error.value)


def test_every_sam_with_weights_has_a_row():
    from samatch.sam.model import sam_names

    assert set(weights.sam_weights()) == set(sam_names()) - {"tiny"}
