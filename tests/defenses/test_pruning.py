"""Magnitude pruning against a slow twin, the counts of the paper, and what it must refuse."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zeronorm as zn
from zeronorm.defenses.pruning import (
    activation_sparsity,
    check_alive,
    prune,
    prune_further,
    sparsity,
    weights,
)
from zeronorm.errors import ArgumentError


def lenet():
    return zn.models.build("lenet_300_100", seed=1)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_smallest_go_and_no_others(seed, inputs, outputs, percent):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(inputs, outputs)
    # whole numbers, so that many are equal
    layer.weight.data = torch.randint(-4, 5, (outputs, inputs), generator=generator).float()
    layer.bias.data.zero_()
    before = layer.weight.detach().flatten().tolist()
    n = len(before)
    go = sorted(range(n), key=lambda i: (abs(before[i]), i))[: math.floor(Fraction(percent, 100) * n)]
    expected = [0.0 if i in go else w for i, w in enumerate(before)]
    if not any(expected):
        with pytest.raises(ArgumentError, match="expected weights left in every layer, got none"):
            prune(nn.Sequential(layer), percent / 100)
        assert layer.weight.flatten().tolist() == before
        return
    masks = prune(nn.Sequential(layer), percent / 100)
    assert layer.weight.flatten().tolist() == expected
    assert masks["0.weight"].flatten().tolist() == [w != 0 for w in expected]
    assert not layer.bias.any()


def test_it_is_a_target_that_is_reached_once():
    model = lenet()
    prune(model, 0.5)
    half = zn.models.digest(model)
    prune(model, 0.5)
    prune(model, 0.3)
    assert zn.models.digest(model) == half
    prune(model, 0.9)
    for name, weight in weights(model).items():
        assert int((weight == 0).sum()) == math.floor(Fraction(9, 10) * weight.numel()), name
    assert all(bias.count_nonzero() == bias.numel() for bias in model.parameters() if bias.dim() == 1)


@pytest.mark.parametrize(("n", "left"), [(784, 2), (7840, 13), (266_200, 406), (430_500, 656)])
def test_sixteen_rounds_of_a_third(n, left):
    layer = nn.Linear(n, 1)
    nn.init.normal_(layer.weight)
    model, count = nn.Sequential(layer), n
    for _ in range(16):
        before = layer.weight.detach().clone()
        prune_further(model, 1 / 3)
        count -= count // 3
        assert int(layer.weight.count_nonzero()) == count
        assert before.abs()[layer.weight == 0].max() <= layer.weight[layer.weight != 0].abs().min()
    assert count == left


def test_layers_by_name():
    model = zn.models.build("resnet20", classes=10)
    names = [name.removesuffix(".weight") for name in weights(model)]
    assert names[0] == "conv1" and names[-1] == "linear" and len(names) == 20
    prune(model, 0.8, keep_dense=("first", "last"))
    network = model.network
    assert network.conv1.weight.count_nonzero() == network.conv1.weight.numel()
    assert network.linear.weight.count_nonzero() == network.linear.weight.numel()
    assert int((network.layer2[0].conv1.weight == 0).sum()) == math.floor(
        0.8 * network.layer2[0].conv1.weight.numel()
    )
    assert sparsity(model, keep_dense=("conv1", "linear")) == pytest.approx(0.8, abs=1e-3)
    assert sparsity(model) < 0.8


def test_a_pruned_model_is_a_plain_one(tmp_path):
    model = lenet()
    prune(model, 0.95)
    zn.models.save(model, tmp_path / "sparse")
    again = zn.models.load(tmp_path / "sparse")
    assert sparsity(again) == sparsity(model) > 0.949
    x = torch.rand(7, 1, 28, 28)
    assert torch.equal(again(x), model.eval()(x))


def test_activation_sparsity():
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    network[1].weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    network[1].bias.data.zero_()
    x = torch.tensor([[0.5, 0.25], [1.0, 0.0], [0.0, 0.0]])
    # positive: units 0 and 3; 0 and 3; none
    assert activation_sparsity(network, x) == pytest.approx(8 / 12)
    assert activation_sparsity(network, x, "first") == pytest.approx(3 / 6)
    with pytest.raises(ArgumentError, match="layer: expected one of 1, 3, first, last, got '2'"):
        activation_sparsity(network, x, "2")
    assert not network[3]._forward_pre_hooks


@pytest.mark.parametrize("bad", [1.0, -0.1, 2.0, float("nan"), float("inf")])
def test_sparsity_out_of_range(bad):
    for function, name in ((prune, "sparsity"), (prune_further, "share")):
        with pytest.raises(ArgumentError, match=rf"{name}: expected a number in \[0, 1\), got {bad}"):
            function(lenet(), bad)


def test_bad_input():
    with pytest.raises(
        ArgumentError, match=r"keep_dense: expected layers of the model \(1, 3, 5, first, last\), got 'x'"
    ):
        prune(lenet(), 0.5, keep_dense=("x",))
    with pytest.raises(ArgumentError, match="keep_dense: expected a layer at least that may be pruned"):
        prune(lenet(), 0.5, keep_dense=("1", "3", "last"))
    with pytest.raises(ArgumentError, match="model: expected weights to prune, found no layer"):
        prune(nn.BatchNorm1d(3), 0.5)
    dense = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    dense[1].weight.data.zero_()
    with pytest.raises(ArgumentError, match="expected weights left in every layer, got none of 4 in 1"):
        prune(dense, 0.25)
    assert dense[0].weight.count_nonzero() == 4, "nothing is touched"


def test_a_dead_network_is_said():
    model, x = lenet(), torch.rand(5, 1, 28, 28)
    check_alive(model, x)
    model.network[3].weight.data.zero_()
    with pytest.raises(ArgumentError, match="got the same for all of 5 inputs: a dead network"):
        check_alive(model, x)
    model.network[5].weight.data.zero_()
    model.network[5].bias.data.zero_()
    with pytest.raises(ArgumentError, match="got the same for all classes: a dead network"):
        check_alive(model, x)
