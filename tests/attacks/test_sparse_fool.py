"""SparseFool: the fact sheet's vectors for its solver and for DeepFool, and what became of the published defects."""

from __future__ import annotations

import math

import pytest
import torch
from small_problems import BOXES, KINDS, inputs, network, predictions, problem, threat_model

from zeronorm import L0
from zeronorm.attacks import sparse_fool
from zeronorm.attacks.minimal_search import searching_minimal
from zeronorm.attacks.sparse_fool import _deep_fool, cross
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.theory import minimal_changes

LOW, HIGH = torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
NORMAL = torch.tensor([[[0.8, -0.5, 0.331662, 0.0]]], dtype=torch.float64)
CLEAN = torch.tensor([[[0.9, 0.6, 0.5, 0.5]]], dtype=torch.float64)


def solve(normal=NORMAL, clean=CLEAN, by_gain=False, low=LOW, high=HIGH, beyond=1e-3):
    v, place = cross(clean, normal, CLEAN + 0.3 * NORMAL, low, high, beyond, by_gain=by_gain)
    return v[0, 0].tolist(), place[0].tolist()


def test_the_solver_of_the_fact_sheet():
    """0 by 0.376 to the end of its box, 1 by -0.442, which crosses the plane; in the order of |n|."""
    v, place = solve()
    assert v == pytest.approx([1.0, 0.158, 0.5, 0.5], abs=1e-6) and place == [0, 1, 2, 3]


def test_the_solver_in_the_order_of_gains():
    """1 gains 0.3 and goes to its end; the 0.001 beyond the plane that is missing comes from 2, which gains 0.166."""
    v, place = solve(by_gain=True)
    assert v == pytest.approx([0.9, 0.0, 0.5 + 0.001 / 0.331662, 0.5], abs=1e-5) and place == [2, 0, 1, 3]


def test_the_solver_goes_as_far_as_the_box_allows():
    """Where the plane is out of reach, every position with a gain ends at its end; the others stay."""
    low, high = torch.full_like(CLEAN, 0.4), torch.full_like(CLEAN, 0.95)
    v, _ = solve(low=low, high=high)
    assert v == pytest.approx([0.95, 0.4, 0.95, 0.5])


def test_the_solver_is_the_published_loop():
    """Against the loop over coordinates, one after the other, until the sign changes."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    v, normal, boundary = uniform(50, 1, 9), uniform(50, 1, 9) - 0.5, uniform(50, 1, 9)
    boundary = v + 0.6 * normal * boundary.mean((1, 2), keepdim=True)
    crossed, _ = cross(v, normal, boundary, LOW, HIGH, 1e-10, by_gain=False)
    changed = set()
    for i in range(50):
        x, n, goal = v[i, 0].clone(), normal[i, 0], boundary[i, 0]
        left = set(range(9))
        while (gap := float(n @ (goal - x))) > 0 and left:
            j = max(left, key=lambda j: abs(n[j]))
            x[j] = (x[j] + (gap + 1e-10) / abs(n[j]) * n[j].sign()).clamp(0, 1)
            left.remove(j)
        assert torch.allclose(crossed[i, 0], x, atol=1e-9)
        changed.add(9 - len(left))
    assert len(changed) > 3


def test_deep_fool_of_the_fact_sheet():
    """Scores (2, 1, -3) at (2, 1): class 1 is 0.7071 away, class 2 is 2.2361, and the boundary is at (1.5, 1.5)."""
    W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    x, y = torch.tensor([[2.0, 1.0]], dtype=torch.float64), torch.tensor([0])
    threat = L0(None, low=-5.0, high=5.0)
    with searching_minimal(
        "test", lambda v: v @ W.T, x, y, threat, targeted=None, seed=0, ids=None
    ) as minimal:
        free = torch.ones(1, 2, dtype=torch.bool)
        r, normal = _deep_fool(minimal.batch, x[:, None], torch.tensor([0]), free, 50, 10, 0.02)
        only = torch.tensor([[False, True]])
        r_of_one, normal_of_one = _deep_fool(minimal.batch, x[:, None], torch.tensor([0]), only, 50, 10, 0.02)
    assert r[0, 0].tolist() == pytest.approx([-0.5, 0.5])
    assert normal[0, 0].tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])
    # along the second axis class 1 is 1 away, class 2 is 2.5
    assert r_of_one[0, 0].tolist() == pytest.approx([0.0, 1.0])
    assert normal_of_one[0, 0].tolist() == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize(("shape", "most"), [((1, 6, 6), 1.05), ((3, 5, 5), 1.05)], ids=str)
def test_near_the_optimum_in_pixels(shape, most):
    """On linear models, where one plane is the boundary: the order of gains is the optimum's."""
    ratios = []
    for seed, classes in enumerate((2, 3, 5)):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(classes, *shape, generator=generator, dtype=torch.float64)
        x = torch.rand(40, *shape, generator=generator, dtype=torch.float64)

        def model(v, weight=weight):
            return v.flatten(1) @ weight.flatten(1).T

        y = model(x).argmax(1)
        optimum, _ = minimal_changes(weight, torch.zeros(classes), x, y, L0(None))
        sparse = optimum <= 8
        x_adv = sparse_fool(model, x[sparse], y[sparse], L0(None))
        assert (model(x_adv).argmax(1) != y[sparse]).all()
        ratios.append(L0(None).distance(x[sparse], x_adv) / optimum[sparse])
    assert 1 <= torch.cat(ratios).mean() <= most


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("box", BOXES)
def test_every_change_counts(kind, box):
    """The last change in the order cannot be missed: of the run that is returned, one change less does not fool."""
    threat = threat_model(box, kind, None)
    model = network("mlp", kind, torch.float64).eval()
    x = inputs(40, kind, threat, torch.float64)
    y = predictions(model, x)
    x_adv = sparse_fool(model, x, y, threat)
    broken = (predictions(model, x_adv) != y).nonzero().flatten()
    assert len(broken) > 5 or box == "cap"
    held = predictions(model, x_adv) == y
    assert torch.equal(x_adv[held], x[held])
    clean, grid = threat.grid(x), threat.grid(x_adv)
    for i in broken:
        at = (clean[i] != grid[i]).any(0).nonzero().flatten()
        without = grid[i].repeat(len(at), 1, 1)
        without[torch.arange(len(at)), :, at] = clean[i, :, at].T
        assert (predictions(model, without.view(-1, *x.shape[1:])) == y[i]).any()


def test_labels_are_the_true_ones():
    """A clean error is left alone; the published code attacks the class that was predicted."""
    model, x, y, threat = problem("grey", n=8)
    x_adv = sparse_fool(model, x, y, threat.with_k(None))
    assert torch.equal(x_adv[1], x[1]) and predictions(model, x[1:2]) != y[1]


def test_where_deep_fool_reaches_no_other_class():
    """One inner step falls short of the boundary: the normal is that towards the rival, not 0/0."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 25, generator=generator, dtype=torch.float64)

    def curved(v):
        return torch.tanh(v.flatten(1) - 0.5) @ weight.T * 3

    x = torch.rand(20, 1, 5, 5, generator=generator, dtype=torch.float64)
    y = curved(x).argmax(1)
    x_adv = sparse_fool(curved, x, y, L0(None), inner_steps=1, overshoot=0.0)
    assert x_adv.isfinite().all() and (curved(x_adv).argmax(1) != y).all()


def test_without_a_gradient_the_search_ends():
    passes = []

    def flat(v):
        passes.append(len(v))
        return torch.tensor([1.0, 0.0, 0.0]) + 0.0 * v.flatten(1)[:, :3]

    x = torch.rand(5, 1, 3, 3)
    x_adv = sparse_fool(flat, x, torch.zeros(5, dtype=torch.int64), L0(3))
    assert torch.equal(x_adv, x) and len(passes) < 6


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_any_number_of_classes(classes):
    """As many rivals as there are, or as `classes` asks for; each costs one backward pass a step."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(40, 30, generator=generator, dtype=torch.float64)
    x = torch.rand(6, 30, generator=generator, dtype=torch.float64)

    def model(v):
        return v @ weight.T

    y = model(x).argmax(1)
    counter = QueryCounter(model, 6, x.device)
    x_adv = sparse_fool(counter, x, y, L0(None), classes=classes, steps=1)
    assert (model(x_adv).argmax(1) != y).all()
    # a linear model's boundary is found at the first step; then the normal there
    assert set(counter.backwards.tolist()) == {min(classes, 40) - 1 + 1}


def test_a_budget_keeps_the_first_changes():
    """More is changed than the budget allows: what fools within the first k changes is found all the same."""
    model, x, y, threat = problem("colour", n=24, dtype=torch.float64)
    free = sparse_fool(model, x, y, threat.with_k(None))
    needed = threat.distance(x, free)
    for k in (1, 2, 4):
        x_adv = sparse_fool(model, x, y, threat.with_k(k))
        broken = predictions(model, x_adv) != y
        assert broken[(needed <= k) & (predictions(model, free) != y)].all()
        assert (threat.distance(x, x_adv) <= k).all()
    assert len(needed.unique()) > 3
