"""Windows against brute force; certificates against attempts to break them."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zeronorm as zn
from zeronorm import ArgumentError
from zeronorm.certification import (
    certify_truncated,
    certify_truncated_linear,
    truncated_range,
    worst_case_logits,
)
from zeronorm.defenses import TruncatedConv2d, TruncatedLinear, truncated_inner_product
from zeronorm.models import Normalize

FAR = 1e6


def test_by_hand():
    # products 2 -2 2 -3 0 -3 1 -2, with the weight 0 of the fifth replaced: it can be moved
    w = torch.tensor([[1, -2, 0.5, 3, 1, -1, 2, 1]])
    x = torch.tensor([[2, 1, 4, -1, 0, 3, 0.5, -2]])
    lowest = {(1, 1): -9, (2, 1): -7, (2, 2): -10}
    for (k, budget), expected in lowest.items():
        assert truncated_range(w, x, k, budget)[0].item() == expected
    assert [truncated_range(w, x, k, 0)[1].item() for k in range(1, 5)] == [-4, -3, -2, 0]


@st.composite
def problems(draw):
    d = draw(st.integers(2, 7))
    k = draw(st.integers(1, d // 2))
    budget = draw(st.integers(1, k))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    w = torch.randn(d, generator=generator, dtype=torch.float64).mul(2).round().div(2)
    w[w == 0] = 1
    x = torch.randn(d, generator=generator, dtype=torch.float64).mul(2).round().div(2)
    return w, x, k, budget


def attacked(w, x, k, budget, values):
    """All values of ⟨w, x'⟩_k with `budget` coordinates replaced by any of `values`."""
    d = len(x)
    for support in combinations(range(d), budget):
        rows = x.repeat(len(values) ** budget, 1)
        rows[:, list(support)] = torch.tensor(list(product(values, repeat=budget)), dtype=x.dtype)
        yield truncated_inner_product(w, rows, k)


@given(problems())
@settings(max_examples=80, deadline=None)
def test_the_range_is_attained_and_never_left(problem):
    w, x, k, budget = problem
    low, high = (end.item() for end in truncated_range(w[None], x[None], k, budget))
    found = torch.cat(list(attacked(w, x, k, budget, [-FAR, -1.0, 0.3, FAR])))
    assert found.min().item() == pytest.approx(low) and found.max().item() == pytest.approx(high)


@given(problems(), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_a_box_is_sound_for_any_budget(problem, more):
    w, x, k, budget = problem
    budget = min(budget + more, len(x), 4)
    x = x.clamp(-1, 1)
    low, high = (end.item() for end in truncated_range(w[None], x[None], k, budget, low=-1.0, high=1.0))
    found = torch.cat(list(attacked(w, x, k, budget, [-1.0, 0.2, 1.0])))
    assert low <= found.min().item() + 1e-9 and found.max().item() <= high + 1e-9
    if budget <= k:
        free = truncated_range(w[None], x[None], k, budget)
        assert low >= free[0].item() and high <= free[1].item()


@given(problems(), st.sampled_from([0.0, 0.5, -1.0]))
@settings(max_examples=80, deadline=None)
def test_the_radius_of_a_linear_classifier_is_exact(problem, bias):
    w, x, k, _ = problem
    proof = certify_truncated_linear(w, x[None], k, bias)
    prediction, radius = proof.prediction.item(), proof.radius.item()
    assert prediction == int(truncated_inner_product(w, x, k) + bias > 0)
    for budget in range(1, min(k + 1, 3) + 1):
        answers = [a + bias > 0 for a in attacked(w, x, k, budget, [-FAR, FAR])]
        # with all dropped the answer is the bias's, which k + 1 changes do not reach either
        if len(x) > 2 * k or budget <= k:
            assert bool((torch.cat(answers) == prediction).all()) == (budget <= radius)


def small_network(seed, conv=False):
    torch.manual_seed(seed)
    first = [TruncatedConv2d(1, 3, 3, 3, True), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    first = first if conv else [nn.Flatten(), TruncatedLinear(64, 12, 6, True), nn.ReLU()]
    features = 27 if conv else 12
    return nn.Sequential(*first, nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_worst_case_logits_bound_every_change(conv, box):
    model = small_network(1, conv).double()
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    low, high = box or (None, None)
    for budget in (0, 1, 3):
        bounds = worst_case_logits(model, x, y, budget, low=low, high=high)
        for seed in range(60):
            generator = torch.Generator().manual_seed(seed)
            changed = x.clone().flatten(1)
            where = torch.rand(6, 64, generator=generator).topk(budget, 1).indices
            values = torch.rand(6, budget, generator=generator, dtype=torch.float64).round()
            values = values if box else values * 200 - 100
            z = model(changed.scatter(1, where, values).view_as(x))
            assert (z - z.gather(1, y[:, None]) <= bounds + 1e-9).all()
        if budget == 0:
            z = model(x)
            torch.testing.assert_close(bounds, z - z.gather(1, y[:, None]))


@pytest.fixture(scope="module")
def trained():
    """A truncated network that learnt its own windows on digits."""
    data = zn.data.load("digits", "train")
    model = nn.Sequential(
        Normalize([0.3], [0.4]), nn.Flatten(), TruncatedLinear(64, 40, 5, True), nn.ReLU(), nn.Linear(40, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    torch.manual_seed(0)
    for step in range(150):
        rows = torch.randint(len(data), (128,))
        leads = worst_case_logits(model, data.x[rows], data.y[rows], min(2, step // 40))
        optimizer.zero_grad()
        nn.functional.cross_entropy(leads, data.y[rows]).backward()
        optimizer.step()
    return model.eval()


FAST = ("sparse_rs", "sparse_pgd", "guided_exchange")


@pytest.mark.parametrize(
    "attack",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name, entry in zn.attacks.catalogue.items()
        if "L0" in entry.norms
    ],
)
@pytest.mark.parametrize("width", [1.0, 30.0])
def test_no_attack_breaks_a_certified_input(trained, attack, width):
    data = zn.data.load("digits", "test", 60)
    low, high = 0.5 - width / 2, 0.5 + width / 2
    bounds = (low, high) if width == 1 else (None, None)
    proof = certify_truncated(trained, data.x, low=bounds[0], high=bounds[1])
    prediction, radius = proof.prediction, proof.radius
    assert torch.equal(prediction, trained(data.x).argmax(1))
    assert radius.max() >= 2 and (radius >= 1).float().mean() > 0.3
    options = {"steps": 40, "queries": 150}
    entry = zn.attacks.catalogue[attack]
    for budget in (1, 2, 3):
        rows = radius >= budget
        if rows.any():
            x_adv = entry.function(
                trained,
                data.x[rows],
                prediction[rows],
                zn.L0(budget, low=low, high=high),
                **{name: options[name] for name in entry.cost if name in options},
            )
            assert torch.equal(trained(x_adv).argmax(1), prediction[rows])
    # and the attack is one that breaks what is not certified
    x_adv = entry.function(
        trained, data.x, prediction, zn.L0(10, low=low, high=high),
        **{name: options[name] for name in entry.cost if name in options},
    )  # fmt: skip
    assert (trained(x_adv).argmax(1) != prediction).float().mean() > 0.3


def test_channels_of_a_pixel_count_together():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), TruncatedLinear(48, 9, 7), nn.ReLU(), nn.Linear(9, 2))
    x = torch.rand(20, 3, 4, 4)
    by_pixel, by_feature = (certify_truncated(model, x, unit=unit) for unit in ("pixel", "feature"))
    assert by_pixel.radius.max() <= 2 and torch.equal(by_pixel.radius, (by_feature.radius // 3).clamp(max=2))


def test_a_model_of_build_and_an_empty_batch():
    model = zn.models.build("mlp", image_size=8, widths=[30], truncation=4)
    assert certify_truncated(model, torch.rand(5, 1, 8, 8)).radius.shape == (5,)
    assert certify_truncated(model, torch.rand(0, 1, 8, 8)).radius.shape == (0,)


def test_errors():
    w, x = torch.ones(2, 6), torch.ones(3, 6)
    with pytest.raises(ArgumentError, match=r"budget: expected at most k = 2 changes, .* unbounded, got 3"):
        truncated_range(w, x, 2, 3)
    with pytest.raises(ArgumentError, match="k: expected an integer between 0 and 3, got 4"):
        truncated_range(w, x, 4, 1)
    with pytest.raises(ArgumentError, match="x: expected finite values"):
        truncated_range(w, x * torch.inf, 2, 1)
    with pytest.raises(ArgumentError, match="low, high: expected both or neither"):
        truncated_range(w, x, 2, 1, low=0.0)
    with pytest.raises(ArgumentError, match=r"model: expected a truncated first layer .* got Linear"):
        certify_truncated(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), x)
    with pytest.raises(ArgumentError, match="behind the truncated layer, got Sigmoid"):
        certify_truncated(nn.Sequential(TruncatedLinear(6, 4, 1), nn.Sigmoid(), nn.Linear(4, 2)), x)
    with pytest.raises(ArgumentError, match="expected a linear last layer, got ReLU"):
        certify_truncated(nn.Sequential(TruncatedLinear(6, 4, 1), nn.ReLU()), x)
