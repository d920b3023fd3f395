"""Argument checks: every message names the argument, what was expected and what came."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zeronorm import ArgumentError, checks


@given(st.integers(), st.integers(), st.one_of(st.none(), st.integers()))
def test_integers(value, low, high):
    if value >= low and (high is None or value <= high):
        assert checks.integer("n", value, low, high) == value
    else:
        with pytest.raises(ArgumentError, match=rf"^n: expected an integer .*, got {value}$"):
            checks.integer("n", value, low, high)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_anything_that_is_an_integer(value):
    number = checks.integer("n", value, 0, 3)
    assert number == 3 and type(number) is int


@pytest.mark.parametrize("value", [True, False, 3.0, np.float64(3), "3", None, [3], np.bool_(True)])
def test_and_nothing_else(value):
    with pytest.raises(ArgumentError, match=r"^n: expected an integer of at least 0, got "):
        checks.integer("n", value, 0)


@given(st.floats(), st.floats(-5, 5), st.one_of(st.just(math.inf), st.floats(-5, 5)), st.booleans())
def test_reals(value, low, high, open_low):
    inside = math.isfinite(value) and (low < value if open_low else low <= value) and value <= high
    if inside:
        assert checks.real("a", value, low, high, open_low=open_low) == value
    else:
        with pytest.raises(ArgumentError, match=r"^a: expected a number in [\[\(].*, got "):
            checks.real("a", value, low, high, open_low=open_low)


@pytest.mark.parametrize("value", ["x", "0.5", None, [1.0], 1j])
def test_no_reals(value):
    with pytest.raises(ArgumentError, match=r"^a: expected a number in \(0, 1\], got "):
        checks.real("a", value, 0.0, 1.0, open_low=True)


def test_choices():
    assert checks.choice("loss", "margin", ("cross_entropy", "margin")) == "margin"
    with pytest.raises(ArgumentError, match=r"^loss: expected one of cross_entropy, margin, got 'hinge'$"):
        checks.choice("loss", "hinge", ("cross_entropy", "margin"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_labels_of_every_integer_type(dtype):
    x = torch.rand(3, 2)
    y = checks.labels(torch.tensor([0, 1, 2], dtype=dtype), x)
    assert y.dtype == torch.int64 and y.tolist() == [0, 1, 2]
    assert checks.labels(torch.zeros(0, dtype=dtype), x[:0]).shape == (0,)


@pytest.mark.parametrize(
    "y", [torch.rand(3), torch.rand(3) > 0.5, torch.tensor([0, 1]), torch.tensor([0, -1, 1])]
)
def test_no_labels(y):
    with pytest.raises(ArgumentError, match=r"^labels: expected "):
        checks.labels(y, torch.rand(3, 2), "labels")


def test_examples():
    for shape in [(2, 3), (2, 3, 4), (2, 3, 4, 5), (0, 3), (0, 3, 4, 5)]:
        x = torch.rand(shape)
        assert checks.examples(x) is x
    for x in (
        torch.rand(3),
        torch.rand(2, 0),
        torch.ones(2, 2).long(),
        [[1.0]],
        torch.full((1, 2), torch.inf),
    ):
        with pytest.raises(ArgumentError, match=r"^inputs: expected "):
            checks.examples(x, "inputs")


def test_identifiers():
    x = torch.rand(3, 2)
    assert checks.identifiers(None, x).tolist() == [0, 1, 2]
    for ids in ([7, 5, 9], torch.tensor([7, 5, 9], dtype=torch.int32), np.array([7, 5, 9])):
        names = checks.identifiers(ids, x)
        assert names.dtype == torch.int64 and names.tolist() == [7, 5, 9]
    for ids in (
        [1, 2],
        torch.rand(3),
        torch.zeros(3, 1).long(),
        ["a", "b", "c"],
        [True, False, True],
        [2**70, 0, 1],
    ):
        with pytest.raises(ArgumentError, match=r"^ids: expected 3 integers, one per example, got "):
            checks.identifiers(ids, x)


def test_models():
    assert checks.model(abs) is abs
    with pytest.raises(ArgumentError, match=r"^model: expected a callable from inputs to logits, got Tensor"):
        checks.model(torch.zeros(2))


def test_logits():
    z = torch.rand(3, 4)
    assert checks.logits(z, 3, 3) is z
    for bad in (z.T, z[0], z[:, :1], z.long(), None, z.numpy(), z[None]):
        with pytest.raises(ArgumentError, match=r"^model: expected .*logits.*, got "):
            checks.logits(bad, 3)
    with pytest.raises(
        ArgumentError, match=r"^model: expected a logit for every label up to 4, got 4 classes"
    ):
        checks.logits(z, 3, 4)
