"""What the README shows and the code decides: the attack table, the quickstart's output, the report's picture.

Run `python docs/make.py` after a change that moves one of them, or `python docs/make.py --tables` for the tables
alone, those of the reproductions and the drawings too, which needs neither a run nor a browser.  tests/docs says when
that is due.  `--matrix RUN` writes the table of a matrix into docs/matrix.md.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PICTURES = {
    "report.png": (None, "The search"),
    "report-examples.png": ("Examples", "Provenance"),
}  # from, up to


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


def quickstart_commands() -> dict[str, list[str]]:
    """The evaluations of `make quickstart` without the program, by the folder each writes."""
    lines = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    found = re.findall(r"^\t\$\(BIN\)/zeronorm (evaluate .*) --out (runs/quickstart\S*)", lines, re.MULTILINE)
    assert found, "the Makefile has no quickstart any more"
    return {folder: words.split() for words, folder in found}


def quickstart(where: Path, folder: str = "runs/quickstart") -> str:
    """Run that evaluation of the quickstart in a place of its own; what it prints."""
    command = [sys.executable, "-m", "zeronorm.cli.main", *quickstart_commands()[folder], "--out", folder]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=True)
    return done.stdout


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


def picture(page: Path, folder: Path) -> None:
    """The report as a wide screen shows it: the top of the page, and its gallery."""
    sys.path.insert(0, str(ROOT / "tests" / "report"))
    from browser import Browser

    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        try:
            browser.open(page, 1200, 900)
            whole = Path(profile) / "whole.png"
            browser.screenshot(whole)
            edge = """return [...document.querySelectorAll('h2')].find(h => h.textContent.trim() == '%s')
              .getBoundingClientRect().top + scrollY - 28"""
            for name, (first, following) in PICTURES.items():
                top = round(browser.run(edge % first)) if first else 0
                part = Image.open(whole).crop((0, top, 1200, round(browser.run(edge % following))))
                # a palette, at a third of the size
                part.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(folder / name, optimize=True)
        finally:
            browser.close()


def explained() -> dict[Path, str]:
    """The pictures that explain certificates."""
    import pictures

    return {ROOT / "docs/images" / name: draw() for name, draw in pictures.PICTURES.items()}


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
    return (
        f"matrix-{data}",
        f"```console\n$ {command} --out runs/matrix\n```\n\n```text\n{found.table()}\n```",
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--tables",
        action="store_true",
        help="only the tables of attacks and of reproductions, and the drawings",
    )
    options.add_argument(
        "--matrix", type=Path, help="only docs/matrix.md, from the folder of a complete matrix"
    )
    asked = options.parse_args()
    if asked.matrix:
        page = ROOT / "docs/matrix.md"
        page.write_text(put(page.read_text(), *matrix(asked.matrix)))
        return
    for page, made in (reproduced() | explained()).items():
        page.write_text(made)
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
