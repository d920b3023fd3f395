"""Carlini & Wagner's l0 attack: its objective against autograd and Adam, and what leaves the set by hand."""

from __future__ import annotations

import pytest
import torch
from small_problems import predictions, problem

from zeronorm import L0
from zeronorm.attacks import carlini_wagner_l0
from zeronorm.attacks.carlini_wagner_l0 import _least
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.theory import minimal_changes


def network(seed, lead):
    """Logits of three classes; class 0 leads by `lead`."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(3, 12, generator=generator, dtype=torch.float64)

    def model(x):
        return torch.tanh(x.flatten(1) - 0.3) @ W.T + torch.tensor([lead, 0.0, 0.0])

    return model


@pytest.mark.parametrize("targeted", [None, 2])
@pytest.mark.parametrize(("lead", "constant"), [(2000.0, 1.0), (2000.0, 0.01), (2.0, 1e-6)])
def test_the_objective_and_adam(targeted, lead, constant):
    """Step by step against torch's own Adam on |δ|² + c max(f, 0), δ in widths of the box, through autograd."""
    low, high = -0.5, 1.5
    model, seen = network(0, lead), []

    def watched(x):
        seen.append(x.detach().clone())
        return model(x)

    x = torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 0.5
    goal = None if targeted is None else torch.tensor([targeted])
    threat = L0(None, low=low, high=high)
    carlini_wagner_l0(
        watched,
        x,
        torch.tensor([0]),
        threat,
        steps=12,
        inner_steps=1000,
        constant=constant,
        targeted=goal,
    )
    iterates = [v[:1] for v in seen[1:]]
    assert len(iterates) == 12

    w = (((x - 0.5) / 1.0) * 0.9).atanh().requires_grad_()
    adam = torch.optim.Adam([w], lr=0.1, eps=1e-8)
    for iterate in iterates:
        v = 0.5 + w.tanh()
        assert torch.allclose(iterate, v.detach(), atol=1e-6)
        z = model(v)[0]
        f = z[0] - z[1:].max() if targeted is None else z[:2].max() - z[2]
        loss = (((v - x) / 2) ** 2).sum() + constant * f.clamp_min(0)
        adam.zero_grad()
        (2 * loss).backward()
        adam.step()
    assert (iterates[-1] - iterates[0]).abs().max() > 0.05


CONTRIBUTIONS = torch.tensor([[4.0, 1.0, 3.0, 2.0, 9.0, 8.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("slack", "careful", "without", "leaves"),
    [
        (0.0, False, [], [1]),  # 0.3 sqrt(6) is less than one: one
        (3.5, False, [], [1, 3]),  # 1 + 2 are allowed
        (6.0, False, [], [1, 2, 3]),
        (99.0, False, [], [1, 2, 3]),  # half of the set
        (99.0, True, [], [1]),
        (3.5, False, [1], [3]),
        (99.0, False, [0, 1, 2, 3], [5]),
        (99.0, False, [0, 1, 2, 3, 4], [5]),  # the last
        (99.0, False, [0, 1, 2, 3, 4, 5], []),
    ],
)
def test_what_leaves_the_set(slack, careful, without, leaves):
    S = torch.ones(1, 6, dtype=torch.bool)
    S[0, without] = False
    # two channels, of which the signs do not cancel
    G = torch.stack([CONTRIBUTIONS, -CONTRIBUTIONS], 1)
    δ = torch.full_like(G, 0.5)
    chosen = _least(G, δ, S, torch.tensor([slack], dtype=torch.float64), torch.tensor([careful]))
    assert chosen[0].nonzero().flatten().tolist() == leaves


def test_the_authors_rule_where_nothing_is_to_spare():
    """0.3 sqrt|S| leave: 3 of 100."""
    G = torch.rand(1, 1, 100, generator=torch.Generator().manual_seed(0))
    S = torch.ones(1, 100, dtype=torch.bool)
    chosen = _least(G, torch.ones_like(G), S, torch.tensor([0.0]), torch.tensor([False]))
    assert set(chosen[0].nonzero().flatten().tolist()) == set(G[0, 0].topk(3, largest=False).indices.tolist())


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 5), (30,)], ids=str)
def test_near_the_optimum(shape):
    ratios = []
    for seed, classes in enumerate((2, 3, 5)):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(classes, *shape, generator=generator, dtype=torch.float64)
        x = torch.rand(24, *shape, generator=generator, dtype=torch.float64)

        def model(v, weight=weight):
            return v.flatten(1) @ weight.flatten(1).T

        y = model(x).argmax(1)
        optimum, _ = minimal_changes(weight, torch.zeros(classes), x, y, L0(None))
        sparse = optimum <= 8
        x_adv = carlini_wagner_l0(model, x[sparse], y[sparse], L0(None), steps=600)
        assert (model(x_adv).argmax(1) != y[sparse]).all()
        ratios.append(L0(None).distance(x[sparse], x_adv) / optimum[sparse])
    assert torch.cat(ratios).mean() <= 1.1


def test_what_could_not_be_missed_comes_back():
    """Position 0 does it all, but is flat where it is: it leaves first, cannot be missed, and comes back."""

    def model(v):
        z = 10 * torch.tanh(500 * v[:, 0]) + v[:, 1:].sum(1) - 9
        return torch.stack([torch.zeros_like(z), z], dim=1)

    x = torch.zeros(1, 6, dtype=torch.float64)
    x_adv = carlini_wagner_l0(model, x, torch.tensor([0]), L0(None), steps=1000)
    assert (x_adv != x)[0].tolist() == [True] + [False] * 5
    # as long as it has not come back, the first success is all there is
    x_adv = carlini_wagner_l0(model, x, torch.tensor([0]), L0(None), steps=15)
    assert (x_adv != x).all()


def test_more_steps_find_no_more_pixels():
    model, x, y, threat = problem("colour", n=16, dtype=torch.float64)
    threat = threat.with_k(None)
    found = []
    for steps in (20, 40, 400):
        x_adv = carlini_wagner_l0(model, x, y, threat, steps=steps)
        found.append(threat.distance(x, x_adv).masked_fill(predictions(model, x_adv) == y, 17))
    assert (found[0] >= found[1]).all() and (found[1] >= found[2]).all() and found[0].sum() > found[2].sum()


@pytest.mark.parametrize("steps", [0, 1, 30])
def test_passes_are_one_of_each_kind_for_a_step(steps):
    x, y = torch.rand(4, 12, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    counter = QueryCounter(network(0, 1e9), 4, x.device)
    x_adv = carlini_wagner_l0(counter, x, y, L0(None), steps=steps)
    assert torch.equal(x_adv, x)
    assert counter.forwards.tolist() == [1 + steps] * 4 and counter.backwards.tolist() == [steps] * 4


def test_one_position_ends_the_search():
    def model(v):
        return torch.stack([torch.full_like(v[:, 0], 1.5), 3 * v[:, 0]], dim=1)

    x = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) * 0.4
    counter = QueryCounter(model, 5, x.device)
    x_adv = carlini_wagner_l0(counter, x, torch.zeros(5, dtype=torch.int64), L0(None))
    assert ((x_adv != x).sum(1) == 1).all() and (x_adv != x)[:, 0].all()
    assert int(counter.forwards.max()) < 300


def test_constants_are_the_examples_own():
    """A small c grows until the model errs: to the same for each example, whatever the others need."""
    model, x, y, threat = problem("grey", n=8, dtype=torch.float64)
    x_adv = carlini_wagner_l0(model, x, y, threat.with_k(None), constant=1e-8)
    assert (predictions(model, x_adv) != y).all()
