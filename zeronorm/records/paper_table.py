"""The figures of runs as one table for a paper: LaTeX, Markdown or CSV, from records alone."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeronorm.errors import ArgumentError, reads_records
from zeronorm.records.certificate_figures import CertificateSummary, summarise_certificates
from zeronorm.records.comparison_figures import ModelFigures, read_comparison
from zeronorm.records.figures import Share, Summary, data_title, model_title, norm_title, percent, summarise
from zeronorm.records.folders import CertificateFolder, ComparisonFolder, MatrixFolder, RunFolder
from zeronorm.records.matrix_figures import read_matrix

WORST = "worst case"  # of all attacks of a comparison
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "ℓ": r"$\ell$", "∞": r"$\infty$", "ε": r"$\varepsilon$",
    "₀": "$_0$", "σ": r"$\sigma$",
}  # fmt: skip


@dataclass(frozen=True)
class PaperLine:
    """One row: what is left of a model's right answers by a method, or proved by it, at each budget.

    `methods` are the names under which the catalogues know what was used; `exact` the budgets at which everything left
    by the attacks is proved.
    """

    model: str
    method: str
    proved: bool
    clean: Share
    shares: dict[int, Share]
    exact: frozenset[int]
    methods: tuple[str, ...]
    curve: tuple[float, ...]  # the share at k = 0, 1, 2, ... as far as it is known; empty where it is not


@dataclass(frozen=True)
class PaperTable:
    """Lines about the same data, within the same threat model."""

    about: str  # data, number of examples, threat model
    unit: str
    lines: list[PaperLine]
    budgets: list[int]
    epsilon: float | None

    def heading(self, k: int) -> str:
        """A budget as a column's heading."""
        return f"k = {k}" if self.epsilon is None else f"ε = {self.epsilon:g}"

    def best(self, k: int) -> set[int]:
        """Places of the lines to set in bold at a budget: of several models that which keeps most, else the attack
        that leaves least; a worst case is no attack, and proofs are compared with proofs."""
        several = len({line.model for line in self.lines}) > 1
        chosen: set[int] = set()
        for proved in (False, True):
            rivals = {
                i: line.shares[k].value
                for i, line in enumerate(self.lines)
                if line.proved is proved and k in line.shares and (several or line.method != WORST)
            }
            if len(set(rivals.values())) > 1:
                goal = max(rivals.values()) if several or proved else min(rivals.values())
                chosen |= {i for i, value in rivals.items() if value == goal}
        return chosen

    def frame(self) -> list[dict[str, Any]]:
        """A row for each line and budget, as plain values; k is 0 for the unchanged inputs."""
        return [
            {
                "model": line.model,
                "method": line.method,
                "proved": line.proved,
                "k": k,
                "accuracy": share.value,
                "low": share.interval[0],
                "high": share.interval[1],
                "right": share.count,
                "n": share.n,
                "exact": k == 0 or k in line.exact,
            }
            for line in self.lines
            for k, share in ({0: line.clean} | line.shares).items()
        ]


@reads_records
def read_paper_table(runs: Sequence[Path], budgets: Sequence[int] | None = None) -> PaperTable:
    """The table of runs, comparisons, matrices and runs of certificates, in the order given.

    `budgets` are the columns; by default those that the runs were made for, at most eight.

    **Raises:** `ArgumentError` for a folder that holds no run, for runs of different data or threat models, and for a
    budget that no run answers.
    """
    lines: list[PaperLine] = []
    told: dict[str, tuple[Path, str, str]] = {}
    asked: set[int] = set()
    epsilon: float | None = None
    for path in runs:
        for about, unit, at, own, ball in _read(path):
            told.setdefault(about, (path, about, unit))
            asked |= set(at)
            epsilon = ball if ball is not None else epsilon
            lines += own
    if not lines:
        raise ArgumentError("runs: expected one at least, got none")
    if len(told) > 1:
        (first, one, _), (second, other, _) = list(told.values())[:2]
        raise ArgumentError(
            f"runs: expected runs of the same data and threat model in one table, got {one} in {first} and {other} in "
            f"{second}"
        )
    known = sorted({k for line in lines for k in line.shares if k > 0})
    if budgets is None:
        shown = [k for k in sorted(asked) if k in known] or known
        shown = shown if len(shown) <= 8 else sorted({shown[i * (len(shown) - 1) // 7] for i in range(8)})
    else:
        if unknown := [k for k in budgets if k not in known]:
            got = ", ".join(map(str, known[:12])) + (", ..." if len(known) > 12 else "")
            raise ArgumentError(f"k: expected budgets that a run answers ({got}), got {unknown[0]}")
        shown = list(budgets)
    (_, about, unit) = next(iter(told.values()))
    return PaperTable(about, unit, lines, shown, epsilon)


def _read(path: Path) -> list[tuple[str, str, list[int], list[PaperLine], float | None]]:
    """What a folder adds: what it is about, its unit, its budgets, its lines, and ε of an ℓ∞ ball."""
    if MatrixFolder(path).exists():
        matrix = read_matrix(MatrixFolder(path))
        found = []
        for one in matrix.defences:
            lines = _compared(one.attacked)[-1:]
            if one.proved is not None:
                lines += [_certified(one.proved, one.name)]
            found.append((*_about(matrix.first), lines, matrix.first.epsilon))
        return found
    if ComparisonFolder(path).exists():
        comparison = read_comparison(ComparisonFolder(path))
        lines = [line for model in comparison.models for line in _compared(model)]
        return [(*_about(comparison.first), lines, comparison.first.epsilon)]
    if CertificateFolder(path).holds_certificates():
        folder = CertificateFolder(path)
        proved = summarise_certificates(folder.read(), folder.read_rows())
        about = f"{data_title(proved.run['plan']['data'])}, n = {proved.n}, L0 in {proved.unit}s"
        return [(about, proved.unit, [k for k in proved.shown if k], [_certified(proved)], None)]
    run = RunFolder(path)
    summary = summarise(run.read(), run.read_rows())
    return [(*_about(summary), _attacked(summary), summary.epsilon)]


def _about(summary: Summary) -> tuple[str, str, list[int]]:
    about = f"{data_title(summary.run['plan']['data'])}, n = {summary.n}, {norm_title(summary)}"
    return about, summary.unit, summary.budgets


def _attacked(summary: Summary) -> list[PaperLine]:
    plan = summary.run["plan"]
    model, stages = model_title(plan["model"]), plan["attack"]["stages"]
    attacks = tuple(dict.fromkeys(s["attack"] for s in stages if s.get("kind") != "proof"))
    provers = tuple(dict.fromkeys(s["attack"] for s in stages if s.get("kind") == "proof"))
    curve = _shares(summary.curve, summary.n) if summary.is_curve else ()
    exact = frozenset(k for k in summary.robust_accuracy if summary.proved_words(k) == "exactly")
    clean, name = summary.clean_accuracy, plan["attack"]["name"]
    used = (name, *attacks)
    lines = [PaperLine(model, name, False, clean, dict(summary.robust_accuracy), exact, used, curve)]
    if summary.certified is not None:
        lines.append(PaperLine(model, "proved", True, clean, dict(summary.certified), exact, provers, ()))
    return lines


def _compared(model: ModelFigures) -> list[PaperLine]:
    lines = []
    for entry in model.entries:
        (line, *_) = _attacked(entry.summary)
        lines.append(
            PaperLine(
                model.name, entry.attack, False, line.clean, line.shares, line.exact, line.methods, line.curve
            )
        )
    if len(model.entries) > 1:
        used = tuple(dict.fromkeys(name for line in lines for name in line.methods))
        curve = _shares(model.curve, model.n) if model.entries[0].summary.is_curve else ()
        shares = dict(model.robust_accuracy)
        lines.append(
            PaperLine(model.name, WORST, False, model.clean_accuracy, shares, frozenset(), used, curve)
        )
    return lines


def _certified(summary: CertificateSummary, name: str | None = None) -> PaperLine:
    shares = {k: summary.at(k) for k in range(1, max(len(summary.shares), max(summary.shown) + 1))}
    model = name or model_title(summary.run["plan"]["model"])
    curve = tuple(share.value for share in summary.shares)
    method = summary.method.replace("_", " ")
    return PaperLine(
        model,
        f"proved, {method}",
        True,
        summary.clean_accuracy,
        shares,
        frozenset(),
        (summary.method,),
        curve,
    )


def _shares(counts: Sequence[int] | Any, n: int) -> tuple[float, ...]:
    return tuple(float(count) / n for count in counts) if n else ()


# -- as text ----------------------------------------------------------------------------------------------


def latex_table(table: PaperTable, intervals: bool = False) -> str:
    """A `table` environment in the style of booktabs; needs `\\usepackage{booktabs}`."""
    rows = _cells(table, intervals, lambda text: f"\\textbf{{{text}}}", _escaped, "--", "$^*$")
    heads = ["Model", "Method", "Clean", *(f"${_latex_budget(table, k)}$" for k in table.budgets)]
    body: list[str] = []
    for i, row in enumerate(rows):
        if i and table.lines[i].model != table.lines[i - 1].model:
            body.append("\\midrule")
        same = i and table.lines[i].model == table.lines[i - 1].model
        body.append(" & ".join(["" if same else row[0], *row[1:]]) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{_escaped(_caption(table, intervals))}}}",
            f"  \\begin{{tabular}}{{ll{'r' * (1 + len(table.budgets))}}}",
            "    \\toprule",
            "    " + " & ".join(heads) + r" \\",
            "    \\midrule",
            *("    " + line for line in body),
            "    \\bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def markdown_table(table: PaperTable, intervals: bool = False) -> str:
    """A table in Markdown, its subject in the line above."""
    rows = _cells(
        table, intervals, lambda text: f"**{text}**", lambda text: text.replace("|", "\\|"), "–", "\\*"
    )
    heads = ["model", "method", "clean", *(table.heading(k) for k in table.budgets)]
    caption = _caption(table, intervals).replace("*", "\\*")
    lines = [caption, "", "| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join(["---", "---", *["--:"] * (len(heads) - 2)]) + "|")
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


def html_table(table: PaperTable, intervals: bool = False) -> str:
    """A table in HTML, as a notebook shows it."""
    rows = _cells(table, intervals, lambda text: f"<b>{text}</b>", html.escape, "–", "*")
    heads = ["model", "method", "clean", *(table.heading(k) for k in table.budgets)]
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    caption = html.escape(_caption(table, intervals))
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def csv_table(table: PaperTable) -> str:
    """A row for each model, method and budget, with counts and exact 95 % intervals."""
    out = io.StringIO()
    rows = table.frame()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _caption(table: PaperTable, intervals: bool) -> str:
    said = [f"Right answers in per cent on {table.about}."]
    if intervals:
        said.append("In brackets: exact 95 % confidence intervals.")
    if any(k in line.exact for line in table.lines for k in table.budgets):
        said.append("*: exactly, every other example is broken and these are proved.")
    return " ".join(said)


def _cells(
    table: PaperTable, intervals: bool, bold: Any, escaped: Any, missing: str, star: str
) -> list[list[str]]:
    best = {k: table.best(k) for k in table.budgets}
    rows = []
    for i, line in enumerate(table.lines):
        row = [escaped(line.model), escaped(line.method), _share(line.clean, intervals)]
        for k in table.budgets:
            text = missing if k not in line.shares else _share(line.shares[k], intervals)
            row.append((bold(text) if i in best[k] else text) + (star if k in line.exact else ""))
        rows.append(row)
    return rows


def _share(share: Share, intervals: bool) -> str:
    low, high = share.interval
    return percent(share.value) + (f" [{percent(low)}, {percent(high)}]" if intervals else "")


def _latex_budget(table: PaperTable, k: int) -> str:
    return f"k = {k}" if table.epsilon is None else f"\\varepsilon = {table.epsilon:g}"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
