"""The wheel, installed by itself: complete, with its command, and typed for whoever uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = (
    "zeronorm",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "MANIFEST.in",
    "CHANGELOG.md",
    "CITATION.cff",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left beside the sources."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in BUILT_FROM:
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source)]
    subprocess.run(pip, check=True)
    (built,) = out.glob("zeronorm-*-py3-none-any.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An environment with the wheel and the dependencies of this one, without the sources."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = home / "lib" / version / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin/python"


def run(*words, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(w) for w in words], cwd=cwd, env=environment, capture_output=True, text=True)


def test_everything_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("zeronorm/")}
    files = {
        path for path in (ROOT / "zeronorm").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == {str(path.relative_to(ROOT)) for path in files}


def test_a_first_session(python, tmp_path):
    zeronorm = (python, "-m", "zeronorm")
    words = ("--limit", 20, "--k", "1,2", "--steps", 10, "--queries", 20)
    done = run(*zeronorm, "evaluate", *words, "--out", "runs/first", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["n"] == 20 and told["robust_accuracy"]["2"] < told["clean_accuracy"]
    where = run(python, "-c", "import zeronorm; print(zeronorm.__file__)", cwd=tmp_path).stdout
    assert str(python.parents[1]) in where
    for last in (
        ("verify", "runs/first"),
        ("report", "runs/first", "--html", "page.html"),
        ("leaderboard", "runs/first"),
    ):
        done = run(*zeronorm, *last, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").stat().st_size > 20_000


USER = """
import zeronorm as zn

evaluation = zn.evaluate(zn.models.load("digits"), "digits", [zn.L0(2)], "sparse_rs", queries=5)
reveal_type(evaluation)
accuracy: float = evaluation.robust_accuracy[2]
report = evaluation.to_html("page.html")
reveal_type(report)
zn.L0("two")
"""


def test_its_types_are_seen_from_outside(python, tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER)
    done = run(
        sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--python-executable", python, "user.py",
        cwd=tmp_path,
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if line.startswith("user.py")]
    assert [line.split(" ", 1)[1][:70] for line in said] == [
        'note: Revealed type is "zeronorm.evaluation.result.Evaluation"',
        'note: Revealed type is "pathlib.Path"',
        'error: Argument 1 to "L0" has incompatible type "str"; expected "int | None"'[:70],
    ], done.stdout
