"""What the README shows and the code decides: the attack table, the quickstart's output, the report's picture.

Run `python docs/make.py` after a change that moves one of them, or `python docs/make.py --tables` for the tables
alone, those of the reproductions and the drawings too, which needs neither a run nor a browser.  tests/docs says when
that is due.  `--matrix RUN` writes the table of a matrix into docs/matrix.md.

`python docs/make.py --certificates` draws the plot of docs/certificates.md: it trains and certifies on MNIST what is
not in runs/certificates/ yet, ten minutes on one free core.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PROVED = ROOT / "docs/what-is-proved.md"
PICTURES = {
    "report.png": (None, "The search"),
    "report-examples.png": ("Examples", "Provenance"),
}  # from, up to

Box = tuple[float, float, float, float]  # left, top, right, bottom

CERTIFICATES = "certificates.png"
NETWORKS = {  # by the name that the plot gives them
    "ablation": "--method ablation --model small_cnn --set width=0.25 --epochs 30 --weight-decay 0 --validation 0 "
    "--precision bfloat16",
    "votes-of-groups": "--method feature_partition --set partition=[[[7,0],[0,14]]] --set mirrored=false "
    "--set widths=[512,256] --budget 34 --temperature 18 --epochs 15 --sharpness 1 --no-flip",
    "truncation-window": "--method truncation_window --model mlp --set widths=[48] --set truncation=80 --budget 10 "
    "--epochs 10 --limit 15000",
}
RUNS = {
    "l0-lipschitz": "certify --model l0-lipschitz-mnist",
    "ablation-proved": "certify --model runs/certificates/ablation --bound all_votes --precision bfloat16",
    "votes-of-groups-proved": "certify --model runs/certificates/votes-of-groups",
    "truncation-window-proved": "certify --model runs/certificates/truncation-window",
    "attacked": "evaluate --model l0-lipschitz-mnist --attack sparse_rs --queries 300 --k 4,8,12,16,20,24,28,32,36,40",
}


def attack_table() -> str:
    """The catalogue as a Markdown table."""
    from zeronorm.attacks import catalogue

    knowledge = {"white": "gradients", "black": "scores", "decision": "labels"}
    lines = [
        "| Name | Norm | Searches for | Needs | Targeted | Length | Source |",
        "|---|---|---|---|---|---|---|",
    ]
    for attack in catalogue.values():
        budget = {"L0": "k", "L2": "ε", "Linf": "ε"}[attack.norms[0]]
        aim = f"any change within {budget}" if attack.kind == "budget" else "the smallest change"
        cells = (
            f"`{attack.name}`",
            ", ".join(attack.norms),
            aim,
            knowledge[attack.knowledge],
            "yes" if attack.targeted else "no",
            ", ".join(f"`{cost}`" for cost in attack.cost),
            attack.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def certificate_table() -> str:
    """The catalogue of certificates as a Markdown table."""
    from zeronorm.certification import catalogue

    lines = [
        "| Method | Kind | Counts | Arithmetic | Asks for | Source |",
        "|---|---|---|---|---|---|",
    ]
    for row in catalogue.values():
        asked = [name for name, value in row.options.items() if value is None and name not in ("mean", "std")]
        asked += [need for need in ("threats", "seconds") if need in row.needs]
        cells = (
            f"`{row.name}`",
            row.kind,
            f"{row.unit}s",
            row.arithmetic,
            ", ".join(f"`{name}`" for name in asked) or "nothing",
            row.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def quickstart_commands() -> dict[str, list[str]]:
    """The evaluations of `make quickstart` without the program, by the folder each writes."""
    lines = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    found = re.findall(r"^\t\$\(BIN\)/zeronorm (evaluate .*) --out (runs/quickstart\S*)", lines, re.MULTILINE)
    assert found, "the Makefile has no quickstart any more"
    return {folder: words.split() for words, folder in found}


def zeronorm(words: list[str], where: Path) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "zeronorm.cli.main", *words]
    return subprocess.run(command, cwd=where, stdout=subprocess.PIPE, text=True, check=True).stdout


def quickstart(where: Path, folder: str = "runs/quickstart") -> str:
    """Run that evaluation of the quickstart in a place of its own; what it prints."""
    return zeronorm([*quickstart_commands()[folder], "--out", folder], where)


def figures(output: str) -> str:
    """Of an evaluation's output, what was asked and the table of right answers."""
    return "\n\n".join(output.rstrip().split("\n\n")[:2])


def shown(output: str) -> str:
    """The quickstart's output as the README has it: of each finding the first line only."""
    parts = [
        re.sub(r"\n  .*", "\n  ...", part, flags=re.DOTALL)
        if part.startswith(("warning: ", "note: "))
        else part
        for part in output.rstrip().split("\n\n")
    ]
    return "\n\n".join(parts)


def block(text: str, name: str) -> str:
    """What stands between the marks of that name."""
    found = re.search(rf"<!-- made: {name} -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert found is not None, f"no block {name}"
    return found[1]


def put(text: str, name: str, content: str) -> str:
    """The text with the block of that name replaced."""
    old, mark = block(text, name), f"<!-- made: {name} -->\n"
    return text.replace(f"{mark}{old}", f"{mark}{content}")


def certificates(where: Path) -> list[Path]:
    """The runs behind the plot of certificates: what of them is not in the folder yet is trained, and certified."""
    for name, words in NETWORKS.items():
        if not (where / f"runs/certificates/{name}/model.json").exists():
            zeronorm(
                ["train", *words.split(), "--data", "mnist", "--out", f"runs/certificates/{name}"], where
            )
    for name, words in RUNS.items():  # a complete run is only read
        zeronorm(
            [*words.split(), "--data", "mnist", "--limit", "200", "--out", f"runs/certificates/{name}"], where
        )
    return [where / "runs/certificates" / name for name in RUNS]


@contextmanager
def photograph(page: Path, width: int) -> Iterator[tuple[Callable[[str], Any], Callable[[Path, Box], None]]]:
    """The page as a screen of that width shows it: to ask it something in JavaScript, and to keep parts of it."""
    sys.path.insert(0, str(ROOT / "tests" / "report"))
    from browser import Browser

    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        try:
            browser.open(page, width, 900)
            whole = Path(profile) / "whole.png"
            browser.screenshot(whole)

            def keep(path: Path, box: Box) -> None:
                part = Image.open(whole).crop(tuple(map(round, box)))
                # a palette, at a third of the size
                part.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)

            yield browser.run, keep
        finally:
            browser.close()


def explained() -> dict[Path, str]:
    """The pictures that explain certificates."""
    import pictures

    return {ROOT / "docs/images" / name: draw() for name, draw in pictures.PICTURES.items()}


def picture(page: Path, folder: Path) -> None:
    """The report: the top of the page, and its gallery."""
    edge = """return [...document.querySelectorAll('h2')].find(h => h.textContent.trim() == '%s')
      .getBoundingClientRect().top + scrollY - 28"""
    with photograph(page, 1200) as (ask, keep):
        for name, (first, following) in PICTURES.items():
            keep(folder / name, (0, ask(edge % first) if first else 0, 1200, ask(edge % following)))


def plot(page: Path, folder: Path) -> None:
    """Of a page of certificates the first plot."""
    edges = """const box = document.querySelector('figure:has(svg)').getBoundingClientRect()
      return [box.left, box.top + scrollY, box.right, box.bottom + scrollY]"""
    with photograph(page, 1000) as (ask, keep):
        left, top, right, bottom = ask(edges)
        keep(folder / CERTIFICATES, (left - 16, top - 16, right + 16, bottom + 8))


def reproduced() -> dict[Path, str]:
    """The README of each reproduction, its tables made from the rows beside it."""
    from zeronorm.evaluation import reproduction

    pages = {}
    for name in reproduction.available():
        paper = reproduction.load(name)
        page = paper.folder / "README.md"
        text = page.read_text()
        for table in paper.tables:
            text = put(text, table, paper.markdown(table, paper.recorded()))
        pages[page] = text
    return pages


def matrix(run: Path) -> tuple[str, str]:
    """Of a complete matrix, the mark of its table in docs/matrix.md, and what stands there."""
    import zeronorm as zn

    found = zn.Matrix(run)
    assert found.figures.complete, f"{run} is unfinished"
    command = re.sub(r" --out \S+", "", found.figures.record["command"])
    data = found.figures.record["plan"]["data"]["name"]
    console = " \\\n    ".join(
        textwrap.wrap(f"$ {command} --out runs/matrix-{data}", 118, break_on_hyphens=False)
    )
    return f"matrix-{data}", f"```console\n{console}\n```\n\n```text\n{found.table()}\n```"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--tables",
        action="store_true",
        help="only the tables of attacks, certificates and reproductions, and the drawings",
    )
    options.add_argument(
        "--matrix", type=Path, help="only docs/matrix.md, from the folder of a complete matrix"
    )
    options.add_argument("--certificates", action="store_true", help="only the plot of certificates")
    asked = options.parse_args()
    if asked.matrix:
        page = ROOT / "docs/matrix.md"
        page.write_text(put(page.read_text(), *matrix(asked.matrix)))
        return
    if asked.certificates:
        from zeronorm.report import render

        plot(render(certificates(ROOT), ROOT / "runs/certificates/page.html"), ROOT / "docs/images")
        return
    for page, made in (reproduced() | explained()).items():
        page.write_text(made)
    PROVED.write_text(put(PROVED.read_text(), "certificates", certificate_table()))
    text = put(README.read_text(), "attacks", attack_table())
    if not asked.tables:
        with tempfile.TemporaryDirectory() as folder:
            text = put(text, "quickstart", f"```text\n{shown(quickstart(Path(folder)))}\n```")
            robust = figures(quickstart(Path(folder), "runs/quickstart-robust"))
            text = put(text, "quickstart-robust", f"```text\n{robust}\n```")
            picture(Path(folder) / "runs/quickstart/report.html", ROOT / "docs/images")
    README.write_text(text)


if __name__ == "__main__":
    main()
