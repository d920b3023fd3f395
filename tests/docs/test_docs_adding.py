"""What docs/adding.md and CONTRIBUTING.md tell a contributor to do is done, in a copy, and the laws are run on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks, commands

NAME, CERTIFICATE = "greedy_corners", "linear_margin"
PYTEST = ("pytest", "-p", "no:cacheprovider", "-n", "0", "-q")
ADDING, CONTRIBUTING = ROOT / "docs/adding.md", ROOT / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """The repository with the tutorial's attack and certificate added, or what of it the laws need."""
    copy = tmp_path_factory.mktemp("copy")
    for part in (
        "zeronorm",
        "tests/contracts",
        "tests/reference",
        "tests/certification",
        "tests/docs",
        "docs",
    ):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("images"))
    for part in ("tests/conftest.py", "tests/shape_checks.py", "pyproject.toml"):
        shutil.copy(ROOT / part, copy / part)
    diffs = blocks(CONTRIBUTING, "diff")
    assert len(diffs) == 2
    for name, room in ((NAME, "attacks"), (CERTIFICATE, "certification")):
        (file,) = [
            block
            for block in blocks(ADDING, "python")
            if re.search(rf"^def (certify_)?{name}\(", block, re.MULTILINE)
        ]
        (copy / f"zeronorm/{room}/{name}.py").write_text(file)
    for diff in diffs:
        command = ["git", "apply", "-C1", "--unsafe-paths", "-"]
        done = subprocess.run(command, cwd=copy, input=diff, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    return copy


def _in(copy: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_change_and_some_laws(changed):
    _in(changed, "ruff", "check", "zeronorm/attacks", "zeronorm/certification")
    _in(changed, "ruff", "format", "--check", "zeronorm/attacks", "zeronorm/certification")
    # and where each equation lives: every attack of the catalogue has a row in docs/papers.md
    some = f"{NAME} and (budgets_at_both_ends or rounding_decides or never_below_the_optimum) or its_row"
    said = _in(changed, *PYTEST, "tests/contracts", "tests/docs/test_docs_papers.py", "-k", some)
    assert int(re.findall(r"(\d+) passed", said)[0]) >= 10


def test_the_laws_of_the_certificate(changed):
    said = _in(
        changed, *PYTEST, "tests/contracts/test_every_certificate.py", "-k", f"{CERTIFICATE} or every_row"
    )
    assert int(re.findall(r"(\d+) passed", said)[0]) >= 20
    _in(changed, "zeronorm.cli.list")  # as the page says
    page = _in(changed, "zeronorm.cli.main", "list", "--json")
    assert f'"name": "{CERTIFICATE}"' in page


@pytest.mark.slow
def test_every_law(changed):
    (command, _) = [words for words in commands(ADDING) if words[:3] == ["python", "-m", "pytest"]]
    said = _in(changed, *PYTEST, *command[3:])
    told = re.search(r"^(\d+) tests ask", ADDING.read_text(), re.MULTILINE)
    assert told is not None and re.findall(r"(\d+) passed", said) == [told[1]]
