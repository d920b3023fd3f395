"""FGSM and its kin: the fact sheet's vectors, and what each of them is made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeronorm as zn
from zeronorm import Linf
from zeronorm.attacks import fgsm, iterative_fgsm, momentum_fgsm, pgd, randomized_fgsm
from zeronorm.attacks.batch_under_attack import attacking
from zeronorm.attacks.signed_gradient import ascend

W = torch.tensor([[1, 0, 0.5], [0.2, 1, -1], [-1, 0.3, 0.1]], dtype=torch.float64)
X = torch.tensor([[1, 0.2, 0.3]], dtype=torch.float64)
WIDE = {"low": -9.0, "high": 9.0}


def linear(x):
    return x @ W.T


def network(seed=0, classes=4):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, classes)).double()
    x = torch.rand(12, 1, 8, 8, dtype=torch.float64)
    return model, x, model(x).argmax(1)


def test_fgsm_by_hand():
    assert linear(X).tolist()[0] == pytest.approx([1.15, 0.1, -0.91])
    # the gradient of the cross-entropy is (-.362, .263, -.390)
    x_adv = fgsm(linear, X, torch.tensor([0]), Linf(0.1, **WIDE))
    assert (x_adv - X).tolist()[0] == pytest.approx([-0.1, 0.1, -0.1])
    aimed = fgsm(linear, X, torch.tensor([0]), Linf(0.1, **WIDE), targeted=torch.tensor([2]))
    towards = W[2] - torch.softmax(linear(X)[0], 0) @ W
    assert torch.equal((aimed - X).sign()[0], towards.sign())


def test_an_entry_without_a_slope_stays():
    def first(x):
        return torch.stack([x[:, 0], 0 * x[:, 0]], dim=1)

    x_adv = fgsm(first, torch.full((1, 3), 0.5), torch.tensor([0]), Linf(0.2))
    assert x_adv.tolist()[0] == pytest.approx([0.3, 0.5, 0.5])


def test_momentum_by_hand():
    """Two gradients, scaled to mean size 1 each: (1, -3, 0, 4), then (-2, 1, 1, 0)."""
    gradients = iter(torch.tensor([[[1.0, -3, 0, 4]], [[-2, 1, 1, 0]]], dtype=torch.float64))
    places = []

    def look(v):
        places.append(v.clone())
        worse = torch.full((1,), -99.0, dtype=torch.float64)
        return worse, torch.zeros(1, dtype=torch.bool), next(gradients)[None]

    x, y = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0])
    model = lambda v: torch.stack([v[:, 0] + 9, v[:, 0]], dim=1)  # noqa: E731
    with attacking(
        "momentum_fgsm", model, x, y, Linf(5.0, **WIDE), targeted=None, seed=0, ids=None, norm=Linf
    ) as batch:
        ascend(batch, None, 2, 1.0, momentum=1.0, look=look)
        moved = batch.finished()
    assert places[1][0, 0].tolist() == [1, -1, 0, 1]
    # g = (-1.5, -.5, 1, 2)
    assert moved[0].tolist() == [0, -2, 1, 2]


def test_iterates_of_a_linear_loss_march_to_the_corner():
    weight = torch.tensor([[2.0, -1, 0.5], [0, 0, 0]], dtype=torch.float64)
    model = lambda v: v @ weight.T + torch.tensor([100.0, 0])  # noqa: E731
    x, y = torch.full((1, 3), 0.5, dtype=torch.float64), torch.tensor([0])
    corner = -weight[0].sign()
    for steps, reach in ((1, 0.05), (3, 0.15), (4, 0.2), (9, 0.2)):
        x_adv = iterative_fgsm(model, x, y, Linf(0.2), steps=steps, step_size=0.05)
        torch.testing.assert_close(x_adv[0] - x[0], reach * corner)
    for seed in range(5):
        x_adv = pgd(model, x, y, Linf(0.2), steps=10, step_size=0.05, seed=seed)
        torch.testing.assert_close(x_adv[0] - x[0], 0.2 * corner)


def test_what_is_made_of_what():
    model, x, y = network()
    threat = Linf(0.02)
    assert torch.equal(
        fgsm(model, x, y, threat), iterative_fgsm(model, x, y, threat, steps=1, step_size=0.02)
    )
    assert torch.equal(
        momentum_fgsm(model, x, y, threat, steps=9, momentum=0.0),
        iterative_fgsm(model, x, y, threat, steps=9),
    )
    assert torch.equal(randomized_fgsm(model, x, y, threat, random_fraction=0.0), fgsm(model, x, y, threat))


def test_a_step_at_random_takes_its_share():
    model, x, y = network()
    x = 0.3 + 0.4 * x
    y = model(x).argmax(1)
    alone = randomized_fgsm(model, x, y, Linf(1e-3), random_fraction=1.0) - x
    torch.testing.assert_close(alone.abs(), torch.full_like(x, 1e-3))
    share = (alone > 0).double().mean()
    assert 0.4 < share < 0.6
    sizes = ((randomized_fgsm(model, x, y, Linf(1e-3), random_fraction=0.25) - x) / 1e-3).abs()
    torch.testing.assert_close(sizes[sizes < 0.75], torch.full_like(sizes[sizes < 0.75], 0.5))
    torch.testing.assert_close(sizes[sizes > 0.75], torch.ones_like(sizes[sizes > 0.75]))


def test_whoever_a_restart_breaks_is_broken():
    """More restarts never lose an example, and sometimes win one."""
    model, x, y = network()
    threat, broken = Linf(0.06), []
    for restarts in (1, 2, 6):
        x_adv = pgd(model, x, y, threat, steps=2, step_size=0.012, restarts=restarts)
        assert bool(threat.contains(x, x_adv).all())
        broken.append(set((model(x_adv).argmax(1) != y).nonzero().flatten().tolist()))
    assert broken[0] <= broken[1] <= broken[2] and broken[0] < broken[2]


def test_attacks_see_through_a_front_end_as_it_says():
    """On a linear model behind a front end, each gradient leads where its formula says."""
    x = 0.2 + 0.6 * torch.rand(4, 1, 8, 8, dtype=torch.float64)
    w = torch.randn(64, dtype=torch.float64)
    model = nn.Linear(64, 2).double()
    model.weight.data, model.bias.data = torch.stack([w, 0 * w]), torch.tensor([99.0, 0.0]).double()
    classifier, y = nn.Sequential(nn.Flatten(), model), torch.zeros(4, dtype=torch.int64)
    front_end = zn.defenses.SparsifyingFrontEnd("haar", 0.2)
    projected = front_end.project(w.view(1, 1, 8, 8).expand_as(x), front_end.support(x))
    for kind, direction in (("bpda", w.view(1, 1, 8, 8).expand_as(x)), ("projection", projected)):
        wrapped = zn.defenses.SparsifyingFrontEnd("haar", 0.2, kind).wrap(classifier)
        x_adv = fgsm(wrapped, x, y, Linf(0.01))
        torch.testing.assert_close(x_adv - x, -0.01 * direction.sign())
