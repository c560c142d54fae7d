"""How `make book` turns README, docs and the executed notebooks into pages that need no network.

Sphinx with MyST-NB and Furo, because a page made by them holds all it needs: Jupyter Book 1 is
bound to Sphinx 7 and 2 needs Node, Material for MkDocs fetches a formula's script when it is read.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

project = "samatch"
html_title = "samatch"
copyright = "the authors of samatch, Apache-2.0"

# The sources are README, docs and notebooks where they lie, so that their links hold here too.
READ = {"CONTRIBUTING.md", "CHANGELOG.md", "README.md", "docs", "notebooks", "data_manifests"}
root_doc = "README"
include_patterns = ["README.md", "docs/*.md", "notebooks/[0-9]*.ipynb", "data_manifests/README.md"]
include_patterns += ["CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = sorted(path.name for path in ROOT.iterdir() if path.name not in READ)
exclude_patterns += ["docs/index.md", "**.partial.ipynb", "**.failed.ipynb"]

extensions = ["myst_nb", "ext.mathml", "ext.film", "ext.offline"]
nb_execution_mode = "off"  # pages show what the tracked notebooks hold
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = [("film.js", {"defer": "defer"})]
templates_path = ["_templates"]
html_additional_pages = {"index": "redirect.html"}  # book/index.html leads to the first page
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def setup(app) -> None:
    """Ends the first page with the table of contents, which GitHub's README does without."""
    app.connect("source-read", _add_contents)


def _add_contents(app, name: str, source: list[str]) -> None:
    if name == root_doc:
        source[0] += "\n" + (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
