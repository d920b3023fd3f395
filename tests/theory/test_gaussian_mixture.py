"""The fact sheet's vectors; the worst case against attempts to do worse."""

from __future__ import annotations

import math

import pytest
import torch

from zeronorm import ArgumentError
from zeronorm.defenses import truncated_inner_product
from zeronorm.theory.gaussian_mixture import (
    bayes_weights,
    best_lower_bound,
    budget_exponent,
    lower_bound,
    standard_error,
    tail,
    theorem2_range,
    truncated_error,
    whitened_mean,
)


def uniform(d):
    return torch.full((d,), 1 / math.sqrt(d), dtype=torch.float64)


def error(nu, k, budget, samples):
    return truncated_error(nu, nu, torch.ones_like(nu), k, budget, samples=samples)


def test_without_an_adversary():
    assert [tail(x) for x in (0, 0.5, 1)] == pytest.approx([0.5, 0.3085375, 0.1586553], abs=1e-7)
    mean, variance = torch.tensor([1, -0.5, 0.2]), torch.tensor([4, 0.25, 1])
    assert whitened_mean(mean, variance).tolist() == pytest.approx([0.5, -1, 0.2])
    assert bayes_weights(mean, variance).tolist() == pytest.approx([0.25, -2, 0.2])
    assert standard_error(mean, variance) == pytest.approx(0.1280240, abs=1e-6)


@pytest.mark.parametrize(
    ("d", "samples", "expected"),
    [
        (100, 40_000, {0: 0.1583, 1: 0.2999, 2: 0.4512, 3: 0.5958, 5: 0.816, 10: 0.991}),
        (784, 10_000, {0: 0.156, 1: 0.214, 2: 0.276, 3: 0.335, 5: 0.469, 10: 0.754}),
    ],
)
def test_all_coordinates_alike(d, samples, expected):
    for k, value in expected.items():
        found = error(uniform(d), k, k, samples)
        assert found.value == pytest.approx(value, abs=4 * found.standard_error + 0.006)


def test_truncation_alone_costs_little():
    for k, value in {0: 0.158, 1: 0.159, 5: 0.162, 10: 0.166, 25: 0.180, 49: 0.211}.items():
        assert error(uniform(100), k, 0, 40_000).value == pytest.approx(value, abs=0.008)


def test_one_coordinate_that_carries_almost_all():
    nu = torch.full((100,), math.sqrt((1 - 0.81) / 99), dtype=torch.float64)
    nu[0] = 0.9
    for k, value in {0: 0.156, 1: 0.499, 2: 0.652}.items():
        assert error(nu, k, k, 40_000).value == pytest.approx(value, abs=0.009)
    chosen = torch.arange(100) == 0
    budget, bound = lower_bound(nu, chosen)
    assert budget == pytest.approx(4.14, abs=0.005) and bound == pytest.approx(0.1143, abs=1e-4)


def test_the_worst_case_is_the_worst_and_is_attained():
    torch.manual_seed(0)
    w, mean = torch.randn(2, 9, dtype=torch.float64)
    x = mean + torch.randn(400, 9, dtype=torch.float64)
    for k, budget in [(1, 1), (2, 1), (3, 3)]:
        best = torch.full((400,), torch.inf, dtype=torch.float64)
        for _ in range(1500):
            places = torch.rand(400, 9).topk(budget, 1).indices
            changed = x.scatter(1, places, -1e6 * w.sign()[places])
            best = torch.minimum(best, truncated_inner_product(w, changed, k))
        s = (x * w).sort(1, descending=True).values
        torch.testing.assert_close(best, s[:, k + budget : 9 - k + budget].sum(1))


def test_theorem_1():
    cases = {
        (10_000, 1000): (92.10, 0.0628), (10_000, 5000): (460.5, 0.1312), (10_000, 9000): (828.9, 0.2673),
        (10_000, 10_000): (921.0, 0.3914), (1_000_000, 500_000): (6907.8, 0.1674),
        (784, 392): (93.3, 0.0897), (784, 784): (186.6, 0.3499),
    }  # fmt: skip
    for (d, size), (budget, bound) in cases.items():
        found = lower_bound(uniform(d), torch.arange(d) < size)
        assert found == pytest.approx((budget, bound), rel=1e-3, abs=5e-5)


@pytest.mark.parametrize(("d", "budget", "bound"), [(10_000, 100, 0.0640), (1_000_000, 1000, 0.0954)])
def test_theorem_1_for_a_budget(d, budget, bound):
    nu = uniform(d)
    size = {10_000: 1085, 1_000_000: 72_382}[d]
    assert lower_bound(nu, torch.arange(d) < size)[1] == pytest.approx(bound, abs=5e-5)
    assert (
        lower_bound(nu, torch.arange(d) < size)[0] <= budget < lower_bound(nu, torch.arange(d) < size + 1)[0]
    )
    assert best_lower_bound(nu, budget) == pytest.approx(tail(1))  # which is more
    assert best_lower_bound(nu, float(d)) == pytest.approx(0.5 - 1 / math.log(d))


def test_no_classifier_is_below_the_bound():
    nu = uniform(784)
    for k in (0, 5, 187, 300):
        assert error(nu, k, k, 400).value + 0.05 >= best_lower_bound(nu, k)


def test_theorem_2_says_nothing_at_any_practical_dimension():
    assert theorem2_range(1e6) is None and theorem2_range(6.8e9) is None
    low, high = theorem2_range(7e9)
    assert 0.49 < low < high == 0.5
    assert budget_exponent(50, 10_000) == pytest.approx(0.4247425, abs=1e-7)


def test_errors():
    nu = uniform(10)
    assert error(nu, 0, 1, 10).value == error(nu, 2, 3, 10).value == 1
    assert error(nu, 5, 0, 10).value == 1  # nothing is kept: sign 0
    with pytest.raises(ArgumentError, match="k: expected an integer between 0 and 5, got 6"):
        error(nu, 6, 1, 10)
    with pytest.raises(ArgumentError, match="variance: expected finite numbers above 0"):
        whitened_mean(nu, 0 * nu)
