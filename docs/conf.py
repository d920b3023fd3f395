"""The site: `make docs` builds it into build/site from the repository's own pages, warnings being errors.

Sphinx reads this file.  The pages are the Markdown files that are read on a forge as well; where one of them has a
mark such as `<!-- filled: command line -->`, the site puts what the code says (docs/filled.py).
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
sys.path.insert(0, str(ROOT))

import filled

import zeronorm

project, author = "zeronorm", "the zeronorm authors"
release = version = zeronorm.__version__
copyright = "the zeronorm authors, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = list(filled.PATTERNS)
exclude_patterns = [".*", "build", "runs", "tests", "zeronorm", "models"]  # not even looked into

html_theme, html_title = "furo", "zeronorm"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "redirect.html"}
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_show_search_summary = False  # it would be fetched, which a page opened from disk may not
templates_path = ["templates"]
pygments_style, pygments_dark_style = "friendly", "github-dark"
# no script and no font from elsewhere
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
# an attribute such as `low` belongs to several classes: its link may lead to any
suppress_warnings = ["ref.python"]

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
default_role = "literal"  # single backticks are code, as in Markdown
add_module_names = False
napoleon_use_rtype = False
napoleon_use_ivar = True


class _AsWritten(str):
    """An annotation, shown as the source has it: Float[Tensor, "b c"]."""

    __repr__ = str.__str__


def _signature(_app: Any, what: str, _name: str, obj: Any, *_: Any) -> tuple[str, str | None] | None:
    """Shapes as they are written, not as jaxtyping expands them."""
    if what not in ("class", "function", "method"):
        return None
    try:
        found = inspect.signature(obj)
    except (TypeError, ValueError):
        return None
    parameters = [
        p.replace(annotation=_AsWritten(p.annotation)) if isinstance(p.annotation, str) else p
        for p in found.parameters.values()
        if not (what == "method" and p.name == "self")
    ]
    returned = found.return_annotation
    text = str(found.replace(parameters=parameters, return_annotation=found.empty))
    return text, returned if isinstance(returned, str) and what != "class" else None


def _docstring(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Bars of formulas are no markup, and what is set in by four spaces between paragraphs is code."""
    told: list[str] = []
    before, code = "", False
    for line in lines:
        if line.startswith("    ") and told and not told[-1] and re.match(r"[^\s:.*-]", before):
            told, code = [*told, "::", ""], True
        elif line and not line.startswith("    "):
            code = False
        told.append(line if code else re.sub(r"(?<!\\)\|", r"\\|", line))
        before = line or before
    lines[:] = told


def _fill(_app: Any, docname: str, source: list[str]) -> None:
    source[0] = filled.fill(docname, source[0])


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _docstring, priority=900)
    app.connect("source-read", _fill)
