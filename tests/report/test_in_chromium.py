"""The page in a real browser: phone and desktop, light and dark, printed."""

from __future__ import annotations

import pytest
from browser import CHROMIUM, DRIVER, Browser
from PIL import Image
from run_folders import KINDS

from zeronorm.report import render

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]

SCREENS = [(390, 844, "light"), (390, 844, "dark"), (1440, 900, "light"), (1440, 900, "dark")]

# what sticks out of the window, itself or through an ancestor, outside the containers that scroll
STICKING_OUT = """
const wide = document.documentElement.clientWidth;
return [document.documentElement.scrollWidth - wide, ...[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll, .sr') && e.getBoundingClientRect().width)
  .filter(e => e.getBoundingClientRect().right > wide + 1 || e.getBoundingClientRect().left < -1)
  .map(e => e.outerHTML.slice(0, 120))];
"""
# texts of a chart that run into each other
COLLISIONS = """
return [...document.querySelectorAll('.plot')].flatMap(plot => {
  const boxes = [...plot.querySelectorAll('span')].map(e => [e.textContent, e.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
    .filter(([b, q]) => Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
                     && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1)
    .map(([b]) => a + ' / ' + b));
});
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(runs, comparisons, table_run, tmp_path_factory):
    """A page of every kind of run, and one of several."""
    home = tmp_path_factory.mktemp("pages")
    pages = {kind: render(runs[kind].path, home / f"{kind}.html") for kind in KINDS}
    several = [runs[kind].path for kind in ("list", "curve", "unfinished_list", "large_budgets", "tabular")]
    pages |= {f"compared_{k}": render(c.path, home / f"compared_{k}.html") for k, c in comparisons.items()}
    pages["columns"] = render(table_run[0].path, home / "columns.html")
    return pages | {"several": render(several, home / "several.html")}


@pytest.mark.parametrize(("width", "height", "scheme"), SCREENS)
def test_every_page_fits_every_screen(browser, pages, width, height, scheme):
    for kind, page in pages.items():
        browser.open(page, width, height, scheme)
        assert browser.run("return innerWidth") == width
        assert browser.run(STICKING_OUT) == [0], kind
        assert browser.run(COLLISIONS) == [], kind
        assert browser.console() == [], kind
        broken = "return [...document.images].filter(i => !i.naturalWidth).length"
        assert browser.run(broken) == 0, kind


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_colours_follow_the_scheme(browser, pages, tmp_path, scheme, dark):
    browser.open(pages["list"], 390, 844, scheme)
    browser.screenshot(tmp_path / "page.png", whole=False)
    corner = Image.open(tmp_path / "page.png").convert("L").getpixel((2, 2))
    assert corner < 40 if dark else corner > 230


@pytest.mark.parametrize("page", ["list", "compared_two_models"])
def test_text_is_of_a_readable_size(browser, pages, page):
    browser.open(pages[page], 390, 844)
    sizes = """return [...document.querySelectorAll('body *')]
      .filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()))
      .map(e => parseFloat(getComputedStyle(e).fontSize))"""
    assert min(browser.run(sizes)) >= 12


@pytest.mark.parametrize("page", ["several", "compared_many_attacks"])
def test_wide_tables_scroll_in_place(browser, pages, page):
    browser.open(pages[page], 390, 844)
    scrolled = """const box = document.querySelector('.scroll'); box.scrollLeft = 1e6;
      const head = box.querySelector('tbody th[scope=row]').getBoundingClientRect();
      return [box.scrollLeft > 0, Math.abs(head.left - box.getBoundingClientRect().left) < 1]"""
    assert browser.run(scrolled) == [True, True]  # the row's name stays in sight


@pytest.mark.parametrize("page", ["curve", "compared_two_models", "compared_many_attacks"])
def test_every_figure_has_words(browser, pages, page):
    browser.open(pages[page], 1440, 900)
    unnamed = """return [...document.querySelectorAll('img, [role=img], [role=region], progress')]
      .filter(e => !(e.alt || e.getAttribute('aria-label'))).length"""
    assert browser.run(unnamed) == 0
    levels = browser.run("return [...document.querySelectorAll('h1,h2,h3,h4')].map(e => +e.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))  # noqa: RUF007


@pytest.mark.parametrize("page", ["compared_two_models", "compared_curve"])
def test_a_comparison_fits_on_paper(browser, pages, page):
    browser.open(pages[page], 720, 1000, media="print")
    tables = "return [...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
    assert max(browser.run(tables)) <= 0


def test_prints_in_black_on_white_even_from_a_dark_screen(browser, pages, tmp_path):
    browser.open(pages["several"], 700, 900, "dark", media="print")
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("return getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    browser.run("document.querySelectorAll('details').forEach(d => d.open = false)")
    shown = "return [...document.querySelectorAll('details .hero')].map(e => e.getBoundingClientRect().height > 100)"
    assert browser.run(shown) == [True] * 5  # folded away on screen, on paper all the same
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
