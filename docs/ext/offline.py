"""Fails the build where a page would fetch anything from elsewhere: scripts, styles, fonts, images.

Links that a reader may follow are free; what a page loads by itself has to lie in the book.
"""

import re
from html.parser import HTMLParser
from pathlib import Path

LOADS = {"src", "srcset", "poster", "data"}
LOADS_HREF = {"link", "image", "use"}
NAMED_ONLY = {"canonical", "license", "author"}  # kinds of <link> that no browser follows
ELSEWHERE = re.compile(r"(?:^|,)\s*((?:https?:|ftp:)?//[^\s,]+)", re.IGNORECASE)
CSS_URL = re.compile(r"(?:url\(|@import)\s*[\"']?\s*((?:https?:)?//[^\s\"')]+)", re.IGNORECASE)


class _Page(HTMLParser):
    """Collects what a page loads by itself from another place."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.styled = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.styled = tag == "style"
        names = set(LOADS)
        if tag in LOADS_HREF and values.get("rel") not in NAMED_ONLY:
            names |= {"href", "xlink:href"}
        for name, value in values.items():
            if name in names:
                self.found += [f"<{tag}> {url}" for url in ELSEWHERE.findall(value)]
        self._css(f"<{tag} style>", values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self.styled = False

    def handle_data(self, data: str) -> None:
        if self.styled:
            self._css("<style>", data)

    def _css(self, where: str, text: str) -> None:
        self.found += [f"{where} {url}" for url in CSS_URL.findall(text)]


def elsewhere(folder: Path) -> list[str]:
    """`page: <tag> address` of all that the HTML and CSS files of a folder load from elsewhere."""
    faults = []
    for path in sorted(folder.rglob("*.html")):
        page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
        faults += [f"{path.relative_to(folder)}: {found}" for found in page.found]
    for path in sorted(folder.rglob("*.css")):
        urls = CSS_URL.findall(path.read_text(encoding="utf-8"))
        faults += [f"{path.relative_to(folder)}: {url}" for url in urls]
    return faults


def _check(app, exception: Exception | None) -> None:
    if exception is None and (faults := elsewhere(Path(app.outdir))):
        from sphinx.errors import ExtensionError

        raise ExtensionError("pages load from elsewhere:\n  " + "\n  ".join(faults))


def setup(app) -> dict:
    """Looks at all pages once they are written."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
