"""Quick stand-ins for what a reader brings: a model, images, a table."""

from __future__ import annotations

import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import zeronorm as zn

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    """Without the checks of shapes at run time, which a reader does not have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def reader(monkeypatch):
    """The names that the snippets of a page begin with; their evaluations are cut short."""
    full = zn.evaluate

    def short(model, data, threat, *arguments, steps=None, queries=None, **options):
        if not isinstance(model, zn.models.BlackBox) and options.get("attack") is None:
            options["steps"] = min(steps or 20, 20)
        return full(model, data, threat, *arguments, queries=min(queries or 40, 40), **options)

    monkeypatch.setattr(zn, "evaluate", short)
    images = zn.data.load("digits", "test", 8)
    x, y = load_breast_cancer(return_X_y=True)

    def function(images):
        dark = images.reshape(len(images), -1).mean(1)
        scores = np.stack([np.exp(-abs(dark - digit / 10)) for digit in range(10)], axis=1)
        return scores / scores.sum(1, keepdims=True)

    return {
        "zn": zn,
        "torch": torch,
        "model": zn.models.load("digits"),
        "another": zn.models.build("lenet_300_100", image_size=8).eval(),
        "x": images.x,
        "y": images.y,
        "images": images,
        "function": function,
        # small: what is tried here is the snippet
        "RandomForestClassifier": lambda: RandomForestClassifier(5, random_state=0),
        "x_train": x,
        "y_train": y,
        "x_table": torch.tensor(x[:8]),
        "y_table": torch.tensor(y[:8]),
    }
