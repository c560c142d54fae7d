"""Formulas as MathML, made when the page is built: a browser shows them without any script.

The Sphinx math renderer `mathml`, on latex2mathml. A command that latex2mathml does not know
becomes a warning that names it, instead of a word with a backslash on the page.
"""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)
UNKNOWN = re.compile(r">(\\[A-Za-z]+)<")


def to_mathml(tex: str, display: str) -> str:
    r"""A <math> element of LaTeX without its dollars; display is `inline` or `block`.

    Raises ValueError that names what it does not know.
    """
    spelled = re.sub(r"\\arg\s*\\(max|min)(?![A-Za-z])", r"\\arg\1", tex)  # one operator there
    markup = convert(spelled, display=display)
    if unknown := sorted(set(UNKNOWN.findall(markup))):
        raise ValueError(f"latex2mathml does not know {', '.join(unknown)}")
    return markup


def _markup(node: nodes.Element, display: str) -> str:
    try:
        return to_mathml(node.astext(), display)
    except Exception as error:  # latex2mathml has a dozen of its own
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        return f"<code>{nodes.unescape(node.astext())}</code>"


def _inline(self, node: nodes.math) -> None:
    self.body.append(_markup(node, "inline"))
    raise nodes.SkipNode


def _block(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{_markup(node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app) -> dict:
    """Adds the renderer; conf.py chooses it by html_math_renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
