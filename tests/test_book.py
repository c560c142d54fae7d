"""The book: pages of notebooks as executed, formulas as MathML, nothing loaded from elsewhere.

The builds need the tools of `make book` (.venv-book, or Sphinx beside pytest) and are skipped else.
"""

import base64
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import write_lock  # noqa: E402

spec = importlib.util.spec_from_file_location("offline", ROOT / "docs" / "ext" / "offline.py")
offline = importlib.util.module_from_spec(spec)
spec.loader.exec_module(offline)

PIXEL = (  # one, as a PNG
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)


def tools() -> str | None:
    """The Python that has the book's tools."""
    own = ROOT / ".venv-book" / "bin" / "python"
    if own.exists():
        return str(own)
    found = all(importlib.util.find_spec(name) for name in ("myst_nb", "furo", "latex2mathml"))
    return sys.executable if found else None


needs_tools = pytest.mark.skipif(tools() is None, reason="the book's tools: make book")


def build(folder, *text, code="raise SystemExit('never run')"):
    """The page of one notebook in `folder`; returns the finished process and the page's path."""
    cell = new_code_cell(code, execution_count=1)
    cell.outputs = [
        new_output("stream", name="stdout", text="as executed\n"),
        new_output("display_data", data={"image/png": PIXEL, "text/plain": "<Figure>"}),
    ]
    (folder / "notebooks").mkdir()
    cells = [new_markdown_cell("# Tiny"), *(new_markdown_cell(part) for part in text), cell]
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    nbformat.write(
        new_notebook(cells=cells, metadata=language), folder / "notebooks" / "00_tiny.ipynb"
    )
    words = ["-q", "-W", "--keep-going", "-c", ROOT / "docs", "-D", "root_doc=notebooks/00_tiny"]
    command = [tools(), "-m", "sphinx", *words, folder, folder / "out" / "html"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return done, folder / "out" / "html" / "notebooks" / "00_tiny.html"


@needs_tools
def test_a_notebook_becomes_a_page_as_executed_with_formulas_and_nothing_from_elsewhere(tmp_path):
    done, path = build(tmp_path, r"Inline $\arg\max_c P$ and", "$$\\frac{1}{2}$$")
    assert done.returncode == 0, done.stderr
    page = path.read_text()
    assert "as executed" in page and "never run" in page and '<img alt="' in page
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">' in page
    assert "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>" in page
    assert "\\arg" not in page and "$$" not in page
    assert offline.elsewhere(tmp_path / "out" / "html") == []
    assert "url=notebooks/00_tiny.html" in (tmp_path / "out" / "html" / "index.html").read_text()


@needs_tools
def test_a_picture_from_elsewhere_and_an_unknown_formula_fail_the_build(tmp_path):
    done, _ = build(tmp_path, "![far](https://example.org/far.png)", r"$\nosuch x$")
    assert done.returncode != 0
    assert "notebooks/00_tiny.html: <img> https://example.org/far.png" in done.stderr
    assert "latex2mathml does not know \\nosuch" in done.stderr


@needs_tools
def test_a_film_has_a_slider_over_its_frames_and_no_film_leaves_no_trace(tmp_path):
    frames = tmp_path / "figures" / "demo" / "phantom" / "film"
    frames.mkdir(parents=True)
    for name in ("00050.png", "00000.png"):
        (frames / name).write_bytes(base64.b64decode(PIXEL))
    marks = [f'<div class="film" data-of="{of}"></div>' for of in ("demo/phantom", "laptop/none")]
    done, path = build(tmp_path, *marks)
    assert done.returncode == 0, done.stderr
    page = path.read_text()
    assert page.count('class="film"') == 1 and "laptop/none" not in page
    assert '<input type="range" min="0" max="1" value="0">' in page and "film.js" in page
    pictures = re.findall(r'<img src="(\S+)" alt="(iteration \d+)"( hidden)?>', page)
    assert [picture[1:] for picture in pictures] == [
        ("iteration 0", ""),
        ("iteration 50", " hidden"),
    ]
    assert all((path.parent / picture[0]).exists() for picture in pictures)


@pytest.mark.parametrize(
    ("loads", "found"),
    [
        ('<script src="https://a.org/x.js"></script>', ["<script> https://a.org/x.js"]),
        ('<script src="//a.org/x.js"></script>', ["<script> //a.org/x.js"]),
        ('<link rel="stylesheet" href="http://a.org/x.css">', ["<link> http://a.org/x.css"]),
        ('<link rel="preconnect" href="https://a.org">', ["<link> https://a.org"]),
        ('<img src="a.png" srcset="a.png, https://a.org/b.png 2x">', ["<img> https://a.org/b.png"]),
        ('<iframe src="https://a.org"></iframe>', ["<iframe> https://a.org"]),
        ("<style>@import 'https://a.org/x.css';</style>", ["<style> https://a.org/x.css"]),
        ('<p style="background: url(//a.org/x)">', ["<p style> //a.org/x"]),
        ('<a href="https://a.org">a link may be followed</a>', []),
        ('<link rel="canonical" href="https://a.org"><img src="data:image/png;base64,AA">', []),
        ('<script src="_static/x.js"></script><link rel="stylesheet" href="../x.css">', []),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(tmp_path, loads, found):
    (tmp_path / "page.html").write_text(f"<html><body>{loads} url(//b.org)</body></html>")
    assert offline.elsewhere(tmp_path) == [f"page.html: {one}" for one in found]


def test_a_font_from_elsewhere_is_found_in_a_style_sheet(tmp_path):
    (tmp_path / "x.css").write_text(
        "@font-face { src: url('https://a.org/f.woff2') } a { background: url(near.png) }"
    )
    assert offline.elsewhere(tmp_path) == ["x.css: https://a.org/f.woff2"]


def test_the_books_lock_pins_every_tool_that_its_group_names():
    assert set(write_lock.direct_names("book")) <= set(write_lock.locked("requirements-book.lock"))
    assert not {"torch", "samatch"} & set(write_lock.locked("requirements-book.lock"))
