"""Sparser adversarials: pixels that are not needed go back."""

from __future__ import annotations

import pytest
import torch
from small_problems import predictions, problem

from zeronorm import L0
from zeronorm.attacks import sparse_rs
from zeronorm.attacks.shrink import shrink
from zeronorm.evaluation.query_counter import QueryCounter


@pytest.fixture
def wasteful():
    """Adversarials found with three times the pixels they need, one clean error and some that hold."""
    model, x, y, _ = problem("colour", k=6, n=24, dtype=torch.float64)
    threat = L0(6)
    return model, x, y, threat, sparse_rs(model, x, y, threat, queries=5)


def test_fewer_pixels_and_still_broken(wasteful):
    model, x, y, threat, x_adv = wasteful
    before = x_adv.clone()
    sparse = shrink(model, x, x_adv, y, threat)
    assert torch.equal(x_adv, before)
    assert sparse.shape == x.shape and sparse.dtype == x.dtype
    broken = predictions(model, x_adv) != y
    assert torch.equal(predictions(model, sparse) != y, broken)
    assert torch.equal(sparse[~broken], x_adv[~broken]), "those that do not fool come back as they are"
    assert ((sparse == x_adv) | (sparse == x)).all(), "pixels are put back, and not otherwise changed"
    fewer = threat.distance(x, sparse)[broken] < threat.distance(x, x_adv)[broken]
    assert 0 < int(broken.sum()) < 24 and fewer.float().mean() > 0.5


def test_who_was_wrong_already_is_left_alone(wasteful):
    model, x, y, threat, x_adv = wasteful
    assert torch.equal(shrink(model, x, x_adv, y, threat)[1], x_adv[1])


def test_each_example_on_its_own(wasteful):
    model, x, y, threat, x_adv = wasteful
    sparse = shrink(model, x, x_adv, y, threat)
    for rows in ([0], [2, 5, 3], [9, 4, 7, 1, 0]):
        assert torch.equal(shrink(model, x[rows], x_adv[rows], y[rows], threat), sparse[rows])


def test_the_optimum_where_one_pixel_does_it():
    weight = torch.tensor([0.2, 0.1, 3.0, 0.3, 0.2], dtype=torch.float64)

    def model(v):
        z = v @ weight
        return torch.stack([torch.full_like(z, 2.0), z], dim=1)

    x, x_adv, y = torch.zeros(1, 5).double(), torch.ones(1, 5).double(), torch.tensor([0])
    assert shrink(model, x, x_adv, y, L0(5)).tolist() == [[0.0, 0.0, 1.0, 0.0, 0.0]]


def test_passes_are_two_for_each_changed_pixel(wasteful):
    """Of its own, whatever the others of the batch change; one more to see whether it is an adversarial at all."""
    model, x, y, threat, x_adv = wasteful
    x_adv = x_adv.clone()
    x_adv[::2] = shrink(model, x, x_adv, y, threat)[::2]
    counter = QueryCounter(model, len(x), x.device)
    shrink(counter, x, x_adv, y, threat)
    right, broken = predictions(model, x) == y, predictions(model, x_adv) != y
    expected = 1 + right.long() + 2 * threat.distance(x, x_adv) * (right & broken)
    assert torch.equal(counter.forwards, expected)
    assert len(expected.unique()) > 3 and not counter.backwards.any()


def test_rough_passes_are_not_believed(wasteful):
    """A model that says of every input but the clean ones that it is broken, until it is asked exactly."""
    model, x, y, threat, x_adv = wasteful

    def with_another_class(v, logit):
        z = model(v)
        return torch.cat([z, logit.to(z).expand(len(z))[:, None]], dim=1)

    class Rough:
        def exact(self, v):
            return with_another_class(v, torch.tensor(-1e3))

        def __call__(self, v):
            clean = (v[:, None] == x).flatten(2).all(2).any(1)
            return with_another_class(v, 1e3 * (1 - 2 * clean.double()))

    sparse = shrink(Rough(), x, x_adv, y, threat)
    broken = predictions(model, x_adv) != y
    assert torch.equal(predictions(model, sparse) != y, broken)
    assert (threat.distance(x, sparse) < threat.distance(x, x_adv))[broken].any()


@pytest.mark.parametrize(
    "threat",
    [
        L0(6, allowed=torch.arange(16) < 9),
        L0(6, unit="feature"),
        L0(6, low=torch.zeros(4, 4)),
        L0(6, linf=0.5),
    ],
    ids=["mask", "features", "tensors", "cap"],
)
def test_within_every_threat_model(threat):
    model, x, y, _ = problem("colour", n=8)
    x_adv = sparse_rs(model, x, y, threat, queries=5)
    sparse = shrink(model, x, x_adv, y, threat)
    assert threat.contains(x, sparse).all()
    assert torch.equal(predictions(model, sparse) != y, predictions(model, x_adv) != y)


def test_nothing_to_shrink():
    model, x, y, threat = problem("grey", n=4)
    assert torch.equal(shrink(model, x, x, y, threat), x)
    assert shrink(model, x[:0], x[:0], y[:0], threat).shape == x[:0].shape
