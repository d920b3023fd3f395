"""The same figures of the digits model, however it, its inputs and its attacks are written down."""

from __future__ import annotations

from functools import partial

import jaxtyping
import pytest
import torch

import zeronorm as zn

K = {"steps": 50, "queries": 200}
FIGURES = {1: 0.625, 2: 0.075}  # of `digits` on 40 test images


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def net():
    return zn.models.load("digits")


@pytest.fixture(scope="module")
def digits():
    return zn.data.load("digits", "test", limit=40)


def shares(evaluation):
    return {k: float(share) for k, share in evaluation.robust_accuracy.items()}


def codes(evaluation):
    return [finding["code"] for finding in evaluation.diagnosis]


def test_channels_last(net, digits):
    last = digits.x.permute(0, 2, 3, 1).contiguous(), digits.y
    threats = [zn.L0(k, channels="last") for k in FIGURES]
    assert shares(zn.evaluate(lambda x: net(x.permute(0, 3, 1, 2)), last, threats, **K)) == FIGURES
    with pytest.raises(zn.ArgumentError, match=r"^channels: inputs of shape \(8, 8, 1\) look as if"):
        zn.evaluate(lambda x: net(x.permute(0, 3, 1, 2)), last, zn.L0(1), **K)


def test_a_class_that_is_ruled_out(net, digits):
    """An eleventh class of minus infinity changes no figure."""

    def more(x, value):
        return torch.cat([net(x), torch.full((len(x), 1), value)], 1)

    given, threats = (digits.x, digits.y), [zn.L0(k) for k in FIGURES]
    found = [shares(zn.evaluate(partial(more, value=v), given, threats, **K)) for v in (-float("inf"), -1e4)]
    assert found[0] == found[1]


def test_a_sigmoid_is_named_with_its_remedy(net, digits):
    found = zn.evaluate(lambda x: net(x).sigmoid(), digits, [zn.L0(k) for k in FIGURES], **K)
    (told,) = [f for f in found.diagnosis if f["code"] == "bounded-outputs"]
    assert told["level"] == "warning" and told["advice"] == "return what comes before the sigmoid"
    assert shares(found)[2] > FIGURES[2], "its figure is too high, which is why it is named"


def test_one_input_a_pass(net, digits):
    sizes = set()

    def watched(x):
        sizes.add(len(x))
        return net(x)

    some = zn.data.load("digits", "test", limit=8)
    found = zn.evaluate(watched, some, zn.L0(1), "sparse_rs", batch_size=1, queries=20)
    assert sizes == {1}
    assert found.robust_accuracy == zn.evaluate(net, some, zn.L0(1), "sparse_rs", queries=20).robust_accuracy


def test_few_examples_are_named(net):
    found = zn.evaluate(net, zn.data.load("digits", "test", limit=8), zn.L0(2), **K)
    (told,) = [f for f in found.diagnosis if f["code"] == "few-examples"]
    assert told["seen"] == "8 examples: a 95 % interval reaches from 0.0 to 36.9 %"
    assert told["advice"] == "take 104 examples for an interval of 20 points at most, 402 for one of 10"
    enough = zn.evaluate(net, zn.data.load("digits", "test", limit=104), zn.L0(0), "sparse_rs", queries=1)
    assert "few-examples" not in codes(enough)
