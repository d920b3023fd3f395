"""Several runs as a folder of pages with an index."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest
from browser import Browser

import zeronorm as zn
from zeronorm.cli.main import run as command
from zeronorm.errors import ArgumentError
from zeronorm.report import write_site


def rows_of(index: Path) -> list[list[str]]:
    """The cells of the index as text."""
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in _rows(index)]
    return [[" ".join(re.sub(r"<[^>]+>|&nbsp;", " ", cell).split()) for cell in row] for row in cells]


def _rows(index: Path) -> list[str]:
    body = index.read_text().partition("<tbody>")[2].partition("</tbody>")[0]
    return re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)


@pytest.fixture(scope="module")
def every_kind(runs, comparisons, tmp_path_factory):
    """A run of each kind: attacked, unfinished, compared, proved, trained, pruned."""
    home = tmp_path_factory.mktemp("kinds")
    digits = zn.data.load("digits", "test", 12)
    model = zn.models.build("feature_partition", in_channels=1, image_size=8, partition=[[[4, 0], [0, 4]]],
                            mirrored=False, widths=[4]).eval()  # fmt: skip
    zn.certify(model, digits, "feature_partition", out=home / "proved")
    zn.training.train(zn.training.TrainingPlan(out=home / "trained", model="linear", epochs=1, limit=40))
    swept = ["prune", "--out", str(home / "pruned"), "--model", "linear", "--data", "digits", "--seeds", "1"]
    swept += [
        "--rounds",
        "1",
        "--epochs",
        "1",
        "--retrain-epochs",
        "1",
        "--limit",
        "8",
        "--train-limit",
        "60",
    ]
    assert command([*swept, "--l2", ""]) == 0
    return [runs["list"].path, runs["unfinished_list"].path, comparisons["two_models"].path,
            home / "proved", home / "trained", home / "pruned"]  # fmt: skip


def test_a_row_and_a_page_for_each_kind_of_run(every_kind, tmp_path):
    index = write_site(every_kind, tmp_path / "site")
    rows = rows_of(index)
    assert [row[5].split(" by ")[0].split(",")[0] for row in rows] == [
        "attacked", "attacked", "attacked", "proved", "trained", "pruned",
    ]  # fmt: skip
    assert all(len(row) == 7 and "%" in row[1] for row in rows)
    assert "unfinished" in rows[1][0] and "unfinished" not in rows[0][0]
    summary = zn.report.summarise(*(_read(every_kind[0])))
    assert rows[0][1] == f"{100 * summary.clean_accuracy.value:.1f} %"
    last = summary.budgets[-1]
    assert rows[0][2].endswith(f"k = {last} {100 * summary.robust_accuracy[last].value:.1f} %")
    links = re.findall(r'href="([^"]+)"', index.read_text())
    assert len(links) == len(set(links)) == len(every_kind)
    for link in links:
        page = (index.parent / link).read_text()
        assert 'href="index.html"' in page and "<h1>" in page
    assert {path.name for path in index.parent.iterdir()} == {"index.html", *links}


def _read(folder):
    from zeronorm.records.folders import RunFolder

    return RunFolder(folder).read(), RunFolder(folder).read_rows()


def test_names_that_collide_or_are_no_names(runs, tmp_path):
    folders = []
    for name in ("a/same", "b/same", "index", ".hidden ü<b>"):
        folders.append(shutil.copytree(runs["list"].path, tmp_path / name))
    index = write_site(folders, tmp_path / "site")
    told = index.read_text().replace("<wbr>", "")
    assert all(f"({tmp_path.as_posix()}/{name}/same)" in told for name in "ab") and "(index)" in told
    assert sorted(path.name for path in index.parent.iterdir()) == [
        "hidden---b-.html", "index-2.html", "index.html", "same-2.html", "same.html",
    ]  # fmt: skip


def test_text_is_escaped_and_nothing_is_loaded(runs, tmp_path):
    folder = shutil.copytree(runs["list"].path, tmp_path / "run")
    record = (folder / "run.json").read_text()
    name = re.search(r'"model": {\s*"name": "([^"]+)"', record)
    assert name is not None
    (folder / "run.json").write_text(record.replace(f'"{name[1]}"', '"<script>alert(1)</script>"'))
    text = write_site([folder], tmp_path / "site").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text.replace("<wbr>", "")
    assert "http:" not in text and "https:" not in text and "src=" not in text
    assert "default-src 'none'" in text


def test_the_same_records_give_the_same_bytes(runs, tmp_path):
    folders = [runs["list"].path, runs["curve"].path]
    one, two = write_site(folders, tmp_path / "one"), write_site(folders, tmp_path / "two")
    for path in one.parent.iterdir():
        assert path.read_bytes() == (two.parent / path.name).read_bytes()


def test_what_cannot_be_written_is_said(runs, tmp_path):
    with pytest.raises(ArgumentError, match=r"^runs: expected at least one run folder, got none"):
        write_site([], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"^site: cannot write to .*file"):
        write_site([runs["list"].path], tmp_path / "file")
    with pytest.raises(ArgumentError, match=r"^run: expected the folder of a run, found no run\.json"):
        write_site([tmp_path], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_from_the_command_line(runs, tmp_path, capsys):
    assert command(["report", str(runs["list"].path), "--site", str(tmp_path / "public")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'public/index.html'}\n"


@pytest.mark.browser
@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium and chromedriver"
)
def test_in_a_browser_it_fits_and_leads_on(every_kind, tmp_path):
    index = write_site(every_kind, tmp_path / "site")
    browser = Browser(tmp_path / "profile")
    try:
        for width in (390, 1440):
            browser.open(index, width, 900)
            assert browser.run("return document.documentElement.scrollWidth") == width
        for number in range(len(every_kind)):
            browser.open(index, 1440, 900)
            assert browser.run("return document.querySelector('.num div, .num') !== null")
            browser.run(f"document.querySelectorAll('th a')[{number}].click()")
            for _ in range(50):
                if browser.run("return document.querySelector('.kicker a') !== null"):
                    break
                time.sleep(0.1)
            assert browser.run("return document.querySelector('.kicker a').textContent") == "All runs"
        assert not browser.console()
    finally:
        browser.close()
