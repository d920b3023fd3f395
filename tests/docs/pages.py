"""What the pages say: their code blocks, tables and links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The lines of console blocks after the prompt, as words; a backslash joins lines; `> FILE` is cut."""
    lines = "".join(blocks(page, "console")).replace("\\\n", "").splitlines()
    typed = [line[2:].partition(" > ")[0] for line in lines if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in typed]


def table(page: Path, first: str) -> list[list[str]]:
    """The cells of the table whose first heading is `first`, without the heading."""
    found = re.search(rf"^\| {first} \|.*\n\|[-|]*\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE)
    assert found is not None, f"{page.name} has no table of {first}"
    return [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in found[1].splitlines()]


def links(page: Path) -> list[str]:
    """The targets of all links and pictures."""
    return re.findall(r"\]\(([^)]+)\)", page.read_text())
