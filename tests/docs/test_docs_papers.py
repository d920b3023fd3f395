"""docs/papers.md names objects that exist, where it says, and every attack."""

from __future__ import annotations

import re
from importlib import import_module

from pages import ROOT

from zeronorm.attacks import catalogue

NAMED = re.findall(r"^\|.*`([\w/]+)\.py:(\w+)` \|$", (ROOT / "docs/papers.md").read_text(), re.MULTILINE)


def test_every_name_is_where_the_page_says():
    assert len(NAMED) >= 85
    for path, name in NAMED:
        module = import_module(f"zeronorm.{path.replace('/', '.')}")
        assert getattr(module, name).__module__ == module.__name__, f"{path}.py:{name}"


def test_every_row_names_something():
    rows = [line for line in (ROOT / "docs/papers.md").read_text().splitlines() if line.startswith("| ")]
    headings = [line for line in rows if line == "| In the paper | What | In the code |"]
    assert len(rows) - len(headings) == len(NAMED) and len(headings) >= 8


def test_every_attack_has_its_row():
    homes = {
        (row.function.__module__.removeprefix("zeronorm.").replace(".", "/"), name)
        for name, row in catalogue.items()
    }
    assert homes <= set(NAMED)
