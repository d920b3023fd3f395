"""A model and images small enough for every library, whose warnings are theirs."""

from __future__ import annotations

import sys

import jaxtyping
import pytest
import torch

import zeronorm as zn


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "integrations":
            # deprecations inside other libraries are not ours to fix
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    """Without the checks of types at run time, which take no int for a float and which a user does not have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def model():
    return zn.models.load("digits")


@pytest.fixture(scope="session")
def images():
    return zn.data.load("digits", "test", 12)


@pytest.fixture
def x(images):
    return images.x.clone()


@pytest.fixture
def y(images):
    return images.y.clone()


@pytest.fixture
def right(model, x, y):
    """Which of the images the model gets right."""
    with torch.no_grad():
        return model(x).argmax(1) == y


@pytest.fixture(scope="session")
def torchvision_loads():
    """timm and transformers import torchvision, whose operators are not needed.

    They are compiled for the torch that PyPI has; beside another build of torch (a CPU one) they do not load, and
    torchvision stops at the first that it describes and that is not there.
    """
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # noqa: F401

        yield library
    else:
        yield None
