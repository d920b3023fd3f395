"""Every Python snippet runs, page by page, from top to bottom."""

from __future__ import annotations

import warnings

import make
import pyarrow.parquet as pq
import pytest
from pages import PAGES, blocks

import zeronorm as zn

SNIPPETS = {page.name: blocks(page, "python") for page in PAGES}


def test_there_are_snippets():
    assert len(SNIPPETS["README.md"]) == 5
    assert len(SNIPPETS["threat-models.md"]) == 5
    assert len(SNIPPETS["evaluation.md"]) == 3
    assert len(SNIPPETS["records.md"]) == 1
    assert len(SNIPPETS["comparing-attacks.md"]) == 2
    assert len(SNIPPETS["certificates.md"]) == 2
    assert len(SNIPPETS["truncation.md"]) == 2
    assert len(SNIPPETS["front-ends.md"]) == 2
    assert len(SNIPPETS["integrations.md"]) == 6
    assert len(SNIPPETS["matrix.md"]) == 1
    assert len(SNIPPETS["start.md"]) == 1
    assert len(SNIPPETS["choosing-a-defence.md"]) == 1
    assert len(SNIPPETS["certificates-explained.md"]) == 4
    assert len(SNIPPETS["adding.md"]) == 5


@pytest.mark.parametrize("name", [name for name, snippets in SNIPPETS.items() if snippets])
def test_snippets_run(name, reader, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if name == "records.md":  # it reads the run that the README makes
        zn.evaluate(reader["model"], (reader["x"], reader["y"]), zn.L0(5), out="runs/mine")
    if name == "integrations.md":
        for library in ("art", "foolbox", "torchattacks"):
            pytest.importorskip(library)
        warnings.simplefilter("default")  # deprecations inside other libraries
    for number, snippet in enumerate(SNIPPETS[name]):
        exec(compile(snippet, f"{name}, snippet {number}", "exec"), reader)


def test_the_three_lines_print_a_table(reader, capsys):
    exec(SNIPPETS["README.md"][0], reader)
    said = capsys.readouterr().out
    assert "n = 8" in said and "95 % interval" in said and "\n       10 " in said


def test_the_quickstart_prints_what_the_readme_shows(tmp_path):
    """Figures may differ by a little from machine to machine, times by any amount, the words not at all."""
    output = make.quickstart(tmp_path)
    there = make.block(make.README.read_text(), "quickstart").removeprefix("```text\n").removesuffix("\n```")
    here = make.shown(output)
    assert _words(here.partition("warning:")[0]) == _words(there.partition("warning:")[0])
    assert here.splitlines()[-1] == there.splitlines()[-1] == "report: runs/quickstart/report.html"
    assert _accuracy(here) == pytest.approx(_accuracy(there), abs=5)
    assert (tmp_path / "runs/quickstart/report.html").stat().st_size > 20_000
    assert pq.read_table(tmp_path / "runs/quickstart/rows.parquet").num_rows > 200


@pytest.mark.slow
def test_the_robust_model_of_the_quickstart_resists_more(tmp_path):
    output = make.figures(make.quickstart(tmp_path, "runs/quickstart-robust"))
    text = make.README.read_text()
    there = make.block(text, "quickstart-robust").removeprefix("```text\n").removesuffix("\n```")
    assert _words(output) == _words(there)
    assert _accuracy(output) == pytest.approx(_accuracy(there), abs=5)
    plain = _accuracy(make.block(text, "quickstart"))
    assert _accuracy(output)["2"] > plain["2"] + 25


def test_the_output_is_trimmed_to_what_matters():
    long = "table\n\n  stage  1\n\nwarning: one.\n  two.\n  three.\n\nnote: four.\n  five.\n\nreport: here\n"
    assert (
        make.shown(long)
        == "table\n\n  stage  1\n\nwarning: one.\n  ...\n\nnote: four.\n  ...\n\nreport: here"
    )
    assert make.shown("table\n\n  stage  1\n\nreport: here\n") == "table\n\n  stage  1\n\nreport: here"


def _words(text):
    return [
        word
        for word in text.split()
        if not any(c.isdigit() for c in word) and word not in ("pixel", "pixels")
    ]


def _accuracy(text):
    rows = [line.split() for line in text.splitlines() if line.endswith(" %") and "to" in line]
    return {row[0]: float(row[1]) for row in rows}
