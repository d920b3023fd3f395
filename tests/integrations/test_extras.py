"""What is said where a library is missing, or is there and cannot be imported."""

from __future__ import annotations

import math

import pytest

from zeronorm.errors import ArgumentError
from zeronorm.integrations.extras import require


def test_there():
    assert require("math", "integrations") is math


@pytest.mark.parametrize(
    "error", ["ImportError('no such library')", "RuntimeError('built for another torch')"]
)
def test_there_and_broken(tmp_path, monkeypatch, error):
    (tmp_path / "broken.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ArgumentError, match=r"broken: expected it to work \(pip install .*got: "):
        require("broken", "vision")


def test_built_for_another_torch(tmp_path, monkeypatch):
    (tmp_path / "sees.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ArgumentError, match=r"sees: .*torchvision has to be of the same build as torch"):
        require("sees", "vision")


def test_not_there():
    with pytest.raises(ArgumentError, match=r"not_there.part: expected it to be installed \(pip install"):
        require("not_there.part", "vision")
