"""What the site puts where a page has a mark: the help of the commands, the navigation, the examples' source.

A mark is a comment, `<!-- filled: NAME -->`, so that the pages can be read without the site.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from inspect import ismodule
from pathlib import Path

import typer

import zeronorm

ROOT = Path(__file__).parents[1]
INDEX, PAPERS = "docs/index", "docs/papers"
NAMED = r"`([\w/]+)\.py:(\w+)`"  # an object of the package, as docs/papers.md names it
PATTERNS = ("*.md", "docs/*.md", "docs/api/*.md", "reproductions/README.md", "reproductions/*/README.md")
CHAPTERS = {"docs/api": "docs/api/", "reproductions/README": "reproductions/"}  # pages with pages below them


def fill(docname: str, text: str) -> str:
    """The page with every mark in it replaced."""
    if docname == INDEX:
        text += "".join(_toctree(some, title) for title, some in parts().items() if some)
    if docname in CHAPTERS:
        below = [page for page in pages() if page != docname and page.startswith(CHAPTERS[docname])]
        text += _toctree(dict.fromkeys(below, ""))
    if docname == PAPERS:
        text = re.sub(
            NAMED, lambda named: f"{{py:obj}}`{named[1]}.py:{named[2]} <{public(*named.groups())}>`", text
        )
    return re.sub(r"<!-- filled: ([^>]+?) -->", lambda mark: content(mark[1]), text)


def content(name: str) -> str:
    """What a mark stands for: one of the names below, or a file of the repository."""
    known: dict[str, Callable[[], str]] = {"command line": command_line, "verbs": verbs, "inside": inside}
    if name.startswith("room "):
        return room(name.removeprefix("room "))
    return known[name]() if name in known else f"```python\n{(ROOT / name).read_text()}```"


def room(name: str) -> str:
    """The public names of a room, from their docstrings; nothing where this version has no such room."""
    return (
        f"```{{eval-rst}}\n.. automodule:: zeronorm.{name}\n   :members:\n```\n"
        if name in zeronorm.__all__
        else ""
    )


def verbs() -> str:
    """The names of the package itself."""
    names = ", ".join(
        name for name in zeronorm.__all__ if not ismodule(getattr(zeronorm, name)) and name[0] != "_"
    )
    return f"```{{eval-rst}}\n.. automodule:: zeronorm\n   :members: {names}\n```\n"


def command_line() -> str:
    """Every verb of `zeronorm` as its `--help` has it."""
    from zeronorm.cli.main import app

    group = typer.main.get_command(app)
    context = group.make_context("zeronorm", [], resilient_parsing=True)
    parts = []
    for name, verb in group.commands.items():
        inside = verb.make_context(name, [], parent=context, resilient_parsing=True)
        options = [p.get_help_record(inside) for p in verb.get_params(inside) if p.name != "help"]
        parts += [f"## zeronorm {name}", _prose(verb.help or "")]
        parts += [f"`{names}`\n: {_plain(said)}" for names, said in options]
    return "\n\n".join(parts)


def _prose(text: str) -> str:
    """A verb's help; its example commands as code."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return "\n\n".join(
        re.sub(r"(zeronorm [a-z]+(?: --?[a-z]| [A-Z/a-z]*/).*?)(\.?)$", r"`\1`\2", _plain(p))
        for p in paragraphs
    )


def _plain(text: str) -> str:
    """Text without marks of its own."""
    return re.sub(r"([*_<>\[\]])", r"\\\1", text)


def public(path: str, name: str) -> str:
    """The name under which an object of a file of the package is documented: that of its room, if it has one."""
    room, _, file = path.partition("/")
    if room in zeronorm.__all__ and (not file or name in import_module(f"zeronorm.{room}").__all__):
        return f"zeronorm.{room}.{name}"
    return f"{_module(path)}.{name}"


def _module(path: str) -> str:
    return f"zeronorm.{path.replace('/', '.')}"


def inside() -> str:
    """What docs/papers.md names beneath the public names."""
    found = sorted(set(re.findall(NAMED, (ROOT / f"{PAPERS}.md").read_text())))
    rooms = {f"zeronorm.{room}" for room in zeronorm.__all__}
    shown = [(path, name) for path, name in found if public(path, name).rpartition(".")[0] not in rooms]
    lines = []
    for path, name in shown:
        module = _module(path)
        kind = "class" if isinstance(getattr(import_module(module), name), type) else "function"
        lines.append(f".. auto{kind}:: {module}.{name}\n" + ("   :members:\n" if kind == "class" else ""))
    return "```{eval-rst}\n" + "\n".join(lines) + "```"


def parts() -> dict[str, dict[str, str]]:
    """The parts of docs/index.md, each with the pages it links to and what it calls them; then those it leaves out."""
    text = (ROOT / f"{INDEX}.md").read_text()
    found = {
        title: {
            (ROOT / "docs" / link).resolve().relative_to(ROOT).with_suffix("").as_posix(): called
            for called, link in re.findall(r"^- \[([^]]+)\]\(([^)]+\.md)\)", body, re.MULTILINE)
        }
        for title, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE)
    }
    listed = {INDEX}.union(*found.values())
    inside = tuple(CHAPTERS.values())
    rest = [page for page in pages() if page not in listed and not page.startswith(inside)]
    return found | {"More": dict.fromkeys(rest, "")}


def pages() -> list[str]:
    """Every page of the site, by its path without the suffix."""
    found = [page for pattern in PATTERNS for page in sorted(ROOT.glob(pattern))]
    return [page.relative_to(ROOT).with_suffix("").as_posix() for page in found]


def _toctree(entries: dict[str, str], caption: str = "") -> str:
    """A hidden table of contents, what the sidebar shows: pages, and what they are called unless by their title."""
    options = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
    lines = [f"{called} </{page}>" if called else f"/{page}" for page, called in entries.items()]
    return "\n\n```{toctree}\n" + options + "\n" + "\n".join(lines) + "\n```\n"
