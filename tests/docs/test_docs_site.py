"""The site has every page, the command line as it is, and is built without a warning."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec

import filled
import pytest
import typer
from pages import ROOT

import zeronorm as zn
from zeronorm.cli.main import app

sphinx = pytest.mark.skipif(
    not all(map(find_spec, ("sphinx", "myst_parser", "furo"))), reason="needs `make docs`"
)


def test_every_page_is_in_the_navigation_once():
    named = [page for some in filled.parts().values() for page in some]
    assert len(named) == len(set(named)) >= 24
    chapters = tuple(filled.CHAPTERS.values())
    inside = [page for page in filled.pages() if page.startswith(chapters) and page not in named]
    assert {*named, *inside, filled.INDEX} == set(filled.pages())
    assert all((ROOT / f"{page}.md").exists() for page in named)


def test_a_page_that_nobody_listed_is_there_too(monkeypatch):
    pages = filled.pages()
    monkeypatch.setattr(filled, "pages", lambda: [*pages, "docs/not-listed"])
    assert "docs/not-listed" in filled.parts()["More"]
    assert ":caption: More" in filled.fill(filled.INDEX, "")


def test_the_command_line_is_that_of_help():
    said = filled.command_line()
    group = typer.main.get_command(app)
    assert re.findall(r"^## zeronorm ([\w-]+)", said, re.MULTILINE) == list(group.commands)
    context = group.make_context("zeronorm", [], resilient_parsing=True)
    for name, verb in group.commands.items():
        part = said.partition(f"## zeronorm {name}\n")[2].partition("\n## ")[0]
        for option in verb.get_params(context):
            if option.opts[0].startswith("--") and option.name != "help":
                assert f"`{option.opts[0]}" in part, (name, option.opts)


def test_programs_are_shown_whole():
    page = filled.fill("docs/examples", (ROOT / "docs/examples.md").read_text())
    assert (ROOT / "examples/traffic_signs.py").read_text() in page and "<!-- filled" not in page


def test_every_room_has_a_page_of_its_names():
    shown = "".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    for room in zn._ROOMS:
        assert f"<!-- filled: room {room} -->" in shown
        assert f".. automodule:: zeronorm.{room}\n" in filled.content(f"room {room}")
    for name in zn._HOMES:
        assert re.search(rf"[ ,]{name}[,\n]", filled.content("verbs")), name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    options = ["--builder", "html", "--conf-dir", "docs", "--fail-on-warning", "--keep-going", "--quiet"]
    command = [
        sys.executable,
        "-m",
        "sphinx",
        *options,
        "--doctree-dir",
        str(out / ".doctrees"),
        ".",
        str(out),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return out


@sphinx
@pytest.mark.slow
def test_the_site_is_built_without_a_warning(site):
    for page in filled.pages():
        html = (site / f"{page}.html").read_text()
        assert "<!-- filled" not in html
        for link in re.findall(
            r'(?:src|href)="([^"#:]+)"', html.partition("<article")[2].partition("</article")[0]
        ):
            assert (site / f"{page}.html").parent.joinpath(link.partition("?")[0]).exists(), f"{page}: {link}"
    assert "url=docs/index.html" in (site / "index.html").read_text()
    papers = (site / "docs/papers.html").read_text()
    assert len(re.findall(r'href="[^"]+#zeronorm\.[^"]+" title=', papers)) >= 85


@sphinx
@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]*src="([^"]+)"|<link[^>]*href="([^"]+)"', page.read_text()
        )
        assert not [link for links in loaded for link in links if re.match(r"(https?:)?//", link)], page


@sphinx
@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium and chromedriver"
)
def test_pages_fit_a_phone_and_the_search_finds(site, tmp_path):
    sys.path.insert(0, str(ROOT / "tests/report"))
    from browser import Browser

    browser = Browser(tmp_path)
    try:
        for page in filled.pages():
            for width in (400, 1400):
                browser.open(site / f"{page}.html", width, 900)
                assert browser.run("return document.documentElement.scrollWidth") <= width, (page, width)
        browser.open(site / "search.html", 1400, 900)
        browser.run("location.search = '?q=ablation'")
        for _ in range(100):
            found = browser.run("return [...document.querySelectorAll('ul.search li a')].map(a => a.href)")
            if any("docs/certificates" in link for link in found):  # they come one by one
                break
            time.sleep(0.1)
        else:
            pytest.fail(json.dumps(found))
    finally:
        browser.close()
