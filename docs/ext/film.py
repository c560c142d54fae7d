"""A slider over the frames of a film, where a page says <div class="film" data-of="laptop/acdc">.

The frames are figures/laptop/acdc/film/00050.png and so on, named after their iteration. They are
copied into the book. Where there are none, and outside of the book, the line shows nothing.
"""

import html
import re
import shutil
from pathlib import Path

from docutils import nodes

MARK = re.compile(r'<div class="film" data-of="([\w/-]+)">\s*</div>')
PLACE = "_static/film"  # in the book


def frames_of(source: Path, of: str) -> list[Path]:
    """The pictures of a film in their order."""
    return sorted((source / "figures" / of / "film").glob("*.png"))


def slider(frames: list[Path], of: str, page: str) -> str:
    """The markup: a slider, and all frames, of which film.js shows one; without it the first."""
    up = "../" * page.count("/")
    pictures = []
    for number, frame in enumerate(frames):
        address = html.escape(f"{up}{PLACE}/{of}/{frame.name}")
        hidden = " hidden" if number else ""
        pictures.append(f'<img src="{address}" alt="iteration {int(frame.stem)}"{hidden}>')
    control = f'<input type="range" min="0" max="{len(frames) - 1}" value="0">'
    label = f"<label>{control} <output>iteration {int(frames[0].stem)}</output></label>"
    return f'<div class="film">{label}{"".join(pictures)}</div>'


def _insert(app, doctree) -> None:
    """Puts sliders in the place of the marks of a page that has been read."""
    for node in list(doctree.findall(nodes.raw)):
        if found := MARK.fullmatch(node.astext().strip()):
            frames = frames_of(Path(app.srcdir), found[1])
            text = slider(frames, found[1], app.env.docname) if frames else ""
            node.replace_self(nodes.raw("", text, format="html"))


def _copy(app, exception: Exception | None) -> None:
    if exception is None:
        figures = Path(app.srcdir) / "figures"
        for folder in figures.glob("*/*/film"):
            of = folder.parent.relative_to(figures)
            shutil.copytree(folder, Path(app.outdir) / PLACE / of, dirs_exist_ok=True)


def setup(app) -> dict:
    """Looks at every page, and copies the frames in the end."""
    app.connect("doctree-read", _insert)
    app.connect("build-finished", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
