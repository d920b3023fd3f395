"""Fixtures of the evaluation's tests."""

from __future__ import annotations

import jaxtyping
import pytest
from small_runs import dataset, greedy, network, registered


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def data(model):
    return dataset(model)


@pytest.fixture(scope="module")
def minimal_attack():
    """The catalogue has `greedy`, a minimal attack."""
    with registered("greedy", greedy):
        yield


@pytest.fixture
def unchecked():
    """As a user has it: without the shape checks of the tests, which would speak before the package does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
