"""`check_attack` finds each broken law, by attacks that break one each, and none in the library's own."""

from __future__ import annotations

import pytest
import torch

import zeronorm as zn
from zeronorm.attacks.catalogue import catalogue
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.attack_check import check_attack

SHORT = {"steps": 10, "queries": 20}

# the checks of shapes at run time read the global random state, which an attack must leave alone
pytestmark = pytest.mark.usefixtures("unchecked")


def honest(model, x, y, threat, *, steps=20, seed=0, ids=None):
    """k random positions at the ends of the box, each example from a generator of its own."""
    result = x.clone()
    for i in range(len(x)):
        generator = torch.Generator().manual_seed(1_000_003 * seed + int(ids[i]) % 1_000_003)
        places = threat.allowed_positions(x)
        free = torch.arange(threat.positions(x)) if places is None else places.nonzero().flatten()
        low, high = threat.bounds(x[i : i + 1])
        for _ in range(steps):
            tried = x[i : i + 1].clone()
            at = free[torch.randperm(len(free), generator=generator)[: threat.k]]
            up = torch.rand(1, generator=generator) < 0.5
            threat.grid(tried)[:, :, at] = threat.grid(high if up else low)[:, :, at]
            with torch.no_grad():
                if model(tried).argmax(1) != y[i]:
                    result[i] = tried[0]
                    break
    return result


def test_an_honest_attack_passes():
    found = check_attack(honest, **SHORT)
    assert found, found.table()
    assert found.exam is not None and 0 < found.exam.reached <= found.exam.near <= found.exam.n
    assert set(found.yardsticks) == {"sparse_pgd", "sparse_rs"}
    assert found.forwards > 1 and found.backwards == 0
    assert "custom honest" in found.table() and found.as_json()["ok"]


FAST = ("sparse_pgd", "pointwise")
OTHERS = [name for name, row in catalogue.items() if "L0" in row.norms and name not in FAST]


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_the_library_s_own_pass(name):
    found = check_attack(name, **SHORT)
    assert found, found.table()


def outside(model, x, y, threat, **told):
    return (honest(model, x, y, threat, **told) + 0.01).clamp(threat.low, threat.high)


def in_place(model, x, y, threat, **told):
    x.copy_(honest(model, x, y, threat, **told))
    return x.clone()


def other_shape(model, x, y, threat, **told):
    return honest(model, x, y, threat, **told).flatten(1)


def unseeded(model, x, y, threat, *, steps=20, seed=0, ids=None):
    return honest(model, x, y, threat, steps=steps, seed=int(torch.randint(1 << 20, ())), ids=ids)


def by_place(model, x, y, threat, *, steps=20, seed=0, ids=None):
    return honest(model, x, y, threat, steps=steps, seed=seed, ids=torch.arange(len(x)))


def in_training(model, x, y, threat, **told):
    result = honest(model, x, y, threat, **told)
    for module in model.modules():
        module.train(not module.training)
    return result


def swallows(model, x, y, threat, **told):
    try:
        return honest(model, x, y, threat, **told)
    except KeyError:
        return x.clone()


def gradient(model, x, y, threat, **told):
    v = x.clone().requires_grad_()
    model(v).sum().backward()
    return honest(model, x, y, threat, **told)


def one_length(model, x, y, threat, *, steps=20, seed=0, ids=None):
    return honest(model, x, y, threat, steps=3, seed=seed, ids=ids)


@pytest.mark.parametrize(
    ("attack", "knowledge", "law"),
    [
        (outside, "black", "inside the threat model"),
        (in_place, "black", "arguments as they were"),
        (other_shape, "black", "shape and type"),
        (unseeded, "black", "named by its seed"),
        (by_place, "black", "blind to the batch"),
        (in_training, "white", "no trace in the model"),
        (swallows, "black", "no trace after an error"),
        (gradient, "black", "asks for no more than it says"),
        (one_length, "black", "its length counts"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_broken_law_is_named(attack, knowledge, law):
    taken = zn.attacks.custom(_takes_all(attack), attack.__name__, knowledge=knowledge)
    found = check_attack(taken, **SHORT)
    assert not found
    broken = [one.name for one in found.laws if one.outcome == "broken"]
    assert law in broken, found.table()
    assert next(one for one in found.laws if one.name == law).seen in found.table()


def _takes_all(attack):
    """The attack with the arguments that an evaluation passes, spelled out."""

    def called(model, x, y, threat, *, steps=20, seed=0, ids=None):
        return attack(model, x, y, threat, steps=steps, seed=seed, ids=ids)

    return called


def test_what_is_no_attack():
    with pytest.raises(
        ArgumentError, match=r"^attack: expected a function, or one of sparse_pgd, .*got 'fgsm'$"
    ):
        check_attack("fgsm")
    with pytest.raises(ArgumentError, match=r"^function: expected a callable"):
        check_attack(3)
