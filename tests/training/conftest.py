"""A training that takes a second: the small CNN, narrow, on the digits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))

from zeronorm.training import TrainingPlan


@pytest.fixture
def plan(tmp_path):
    """Makes a plan with the given changes; its folder is new unless said."""

    def make(**changes):
        small = {"out": tmp_path / "out", "model_arguments": {"width": 0.1}, "limit": 300, "epochs": 3}
        short = {"validation_limit": 20, "validation_steps": 3, "validation_queries": 10}
        return TrainingPlan(**(small | short | changes))

    return make
