"""The table and figure of a paper: the figures of the records, as they are printed there."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess

import pytest
from run_folders import COMPARISONS, KINDS

from zeronorm import records
from zeronorm.errors import ArgumentError
from zeronorm.records.comparison_figures import read_comparison
from zeronorm.records.figures import percent, summarise
from zeronorm.records.paper_table import (
    WORST,
    csv_table,
    html_table,
    latex_table,
    markdown_table,
    read_paper_table,
)
from zeronorm.report.paper_figure import draw


def of(folders, budgets=None):
    return read_paper_table([folder.path for folder in folders], budgets)


SHOWN = [kind for kind in KINDS if kind != "nothing_yet"]


@pytest.mark.parametrize("kind", SHOWN)
def test_its_figures_are_those_of_the_run(runs, kind):
    table = of([runs[kind]])
    folder = runs[kind]
    summary = summarise(folder.read(), folder.read_rows())
    assert [line.clean for line in table.lines] == [summary.clean_accuracy]
    assert table.budgets == [k for k in summary.budgets if k] or len(summary.budgets) > 8
    for k in table.budgets:
        assert table.lines[0].shares[k] == summary.robust_accuracy[k]
    rows = list(csv.DictReader(io.StringIO(csv_table(table))))
    assert {int(r["k"]): float(r["accuracy"]) for r in rows} == {0: summary.clean_accuracy.value} | {
        k: share.value for k, share in summary.robust_accuracy.items() if k > 0
    }
    assert all(float(r["low"]) <= float(r["accuracy"]) <= float(r["high"]) for r in rows)


@pytest.mark.parametrize("kind", COMPARISONS)
def test_a_comparison_has_a_line_for_each_attack_and_one_for_all(comparisons, kind):
    figures = read_comparison(comparisons[kind])
    table = of([comparisons[kind]])
    expected = [
        (model.name, name)
        for model in figures.models
        for name in [e.attack for e in model.entries] + [WORST] * (len(model.entries) > 1)
    ]
    assert [(line.model, line.method) for line in table.lines] == expected
    worst = [line for line in table.lines if line.method == WORST]
    for line, model in zip(worst, figures.models, strict=False):
        assert all(line.shares[k] == model.robust_accuracy[k] for k in table.budgets)


def test_the_best_is_bold(comparisons):
    """Of several models the one that keeps most; of several attacks on one model the one that leaves least."""
    several = of([comparisons["two_models"]])
    one = of([comparisons["many_attacks"]])
    for table, extreme in ((several, max), (one, min)):
        for k in table.budgets:
            rivals = [line for line in table.lines if table is several or line.method != WORST]
            goal = extreme(line.shares[k].value for line in rivals)
            bold = {i for i in range(len(table.lines)) if i in table.best(k)}
            level = len({line.shares[k].value for line in rivals}) == 1
            assert bold == (
                set()
                if level
                else {
                    i for i, line in enumerate(table.lines) if line in rivals and line.shares[k].value == goal
                }
            )


def test_columns_may_be_chosen(runs):
    table = of([runs["curve"]], [2, 5])
    assert table.budgets == [2, 5]
    assert "| k = 2 | k = 5 |" in markdown_table(table)
    with pytest.raises(ArgumentError, match=r"^k: expected budgets that a run answers \(1, 2, .*got 99$"):
        of([runs["curve"]], [99])


def test_at_most_eight_columns_by_default(runs):
    assert len(of([runs["curve"]]).budgets) <= 8


def test_other_data_are_another_table(runs):
    with pytest.raises(
        ArgumentError, match=r"^runs: expected runs of the same data and threat model in one table"
    ):
        of([runs["list"], runs["tabular"]])


def test_none_is_refused():
    with pytest.raises(ArgumentError, match=r"^runs: expected one at least"):
        of([])


def test_latex_prints_each_cell_once_and_escapes_names(comparisons):
    table = of([comparisons["many_attacks"]])
    text = latex_table(table, intervals=True)
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0]
    assert body.count("\\\\") == len(table.lines)
    assert "attack\\_number\\_0" in text
    assert not re.search(r"(?<!\\)[_%#]", text.replace("$k = ", ""))
    low, high = table.lines[0].clean.interval
    assert f"[{percent(low)}, {percent(high)}]" in text


def test_html_shows_names_as_text(comparisons):
    table = of([comparisons["two_models"]])
    line = table.lines[0]
    object.__setattr__(line, "model", "<script>")
    assert "<script>" not in html_table(table) and "&lt;script&gt;" in html_table(table)


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_a_figure_in_each_format(comparisons, runs, tmp_path, ending):
    for name, folder in (("list", comparisons["two_models"]), ("curve", runs["curve"])):
        path = draw(of([folder]), tmp_path / f"{name}.{ending}")
        begin = path.read_bytes()[:300]
        assert {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[ending] in begin
        if ending == "svg":
            assert "changed pixels k" in path.read_text() or b"<path" in path.read_bytes()


def test_the_same_runs_give_the_same_figure(runs, tmp_path):
    first, second = (draw(of([runs["list"]]), tmp_path / f"{i}.pdf") for i in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_a_figure_of_another_format_is_refused(runs, tmp_path):
    with pytest.raises(
        ArgumentError, match=r"^figure: expected a file that ends in pdf, svg, png, got 'a.gif'"
    ):
        draw(of([runs["list"]]), tmp_path / "a.gif")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(comparisons, runs, tmp_path):
    table = latex_table(of([comparisons["two_models"]]), intervals=True)
    draw(of([runs["list"]]), tmp_path / "figure.pdf")
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}"
        + table + "\\includegraphics{figure.pdf}\\end{document}"
    )  # fmt: skip
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-2000:]


def test_records_without_torch_know_it():
    assert records.read_paper_table is read_paper_table
