"""Every sparse attack of the catalogue on a table: possible rows, counted in columns, whoever is in the batch."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn
from tree_problems import fitted, labels, table

import zeronorm as zn
from zeronorm.attacks import catalogue
from zeronorm.losses import is_wrong

KINDS = ["real", "whole", "binary", "code", "group", "real", "group"]
SPARSE = [attack for attack in catalogue.values() if attack.norms == ("L0",)]
every_attack = pytest.mark.parametrize("attack", SPARSE, ids=lambda attack: attack.name)
ROWS = 24


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    """Without the checks of shapes at run time, which take half the time and read the global random state."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def problem(attack, seed=1, directions=True):
    """A network for attacks by gradients, a forest for the others, on a table with columns of every kind."""
    rng = np.random.default_rng(seed)
    white = attack.knowledge == "white"
    schema, x, signal = table(rng, torch.float64, missing=not white, directions=directions, kinds=KINDS)
    y = torch.tensor(labels(rng, signal, 3))
    if not white:
        return fitted("histogram", rng, x, y.numpy(), small=False), schema, x[:ROWS], y[:ROWS]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(x.shape[1], 32), nn.Tanh(), nn.Linear(32, 3)).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval(), schema, x[:ROWS], y[:ROWS]


def run(attack, model, x, y, threat, effort=40, **options):
    return attack.function(model, x, y, threat, **dict.fromkeys(attack.cost, effort), **options)


@every_attack
@pytest.mark.parametrize("seed", [1, 2])
def test_possible_rows_within_the_budget(attack, seed):
    model, schema, x, y = problem(attack, seed)
    before = x.clone()
    for k in (0, 1, 3):
        threat = zn.L0(k, unit="column", schema=schema)
        x_adv = run(attack, model, x, y, threat)
        assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and not x_adv.requires_grad
        assert threat.contains(x, x_adv).all()
        assert torch.equal(x.nan_to_num(-9), before.nan_to_num(-9))
        wrong = is_wrong(model(x), y)
        assert not schema.changed(x, x_adv)[wrong].any(), "misclassified already, so left clean"


@every_attack
def test_the_allowed_columns_only(attack):
    model, schema, x, y = problem(attack)
    allowed = torch.tensor([column.changes != "never" for column in schema.columns])
    allowed[int(allowed.nonzero()[0])] = False
    threat = zn.L0(2, unit="column", schema=schema, allowed=allowed)
    assert threat.contains(x, run(attack, model, x, y, threat)).all()


@every_attack
def test_blind_to_the_batch(attack):
    model, schema, x, y = problem(attack)
    threat, ids = zn.L0(2, unit="column", schema=schema), torch.arange(len(x)) + 7
    whole = run(attack, model, x, y, threat, ids=ids)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:9]
    part = run(attack, model, x[order], y[order], threat, ids=ids[order])
    assert torch.equal(part.nan_to_num(-9), whole[order].nan_to_num(-9))


@every_attack
def test_most_of_what_can_be_broken_is(attack):
    model, schema, x, y = problem(attack, directions=False)
    threat = zn.L0(3, unit="column", schema=schema)
    x_adv = run(attack, model, x, y, threat, effort=300)
    right = ~is_wrong(model(x), y)
    # as many changes as ten thousand random rows need, or one more for the weakest
    found = is_wrong(model(x_adv), y)[right].double().mean()
    assert found >= 0.6, f"{found:.0%} broken"


@every_attack
def test_rows_that_cannot_be_are_refused(attack):
    model, schema, x, y = problem(attack)
    real = next(
        place.start for c, place in zip(schema.columns, schema.slices, strict=True) if c.kind == "real"
    )
    x = x.clone()
    x[0, real] = 77.0
    with pytest.raises(zn.errors.ArgumentError, match="x: expected rows that the schema allows"):
        run(attack, model, x, y, zn.L0(1, unit="column", schema=schema))
    with pytest.raises(zn.errors.ArgumentError, match="k: expected between 0 and"):
        run(attack, model, x[1:], y[1:], zn.L0(9, unit="column", schema=schema))


@pytest.mark.parametrize(
    "attack", [a for a in catalogue.values() if a.norms != ("L0",)], ids=lambda a: a.name
)
def test_other_norms_know_no_columns(attack):
    model, schema, x, y = problem(attack)
    with pytest.raises(zn.errors.ArgumentError, match=f"threat: {attack.name} works on an L"):
        attack.function(model, x, y, zn.L0(1, unit="column", schema=schema))


def test_a_network_of_one_hot_groups_is_broken_as_by_enumeration():
    rng = np.random.default_rng(5)
    kinds = ["group", "group", "code", "binary", "whole", "group"]
    schema, x, signal = table(rng, torch.float64, directions=False, kinds=kinds)
    y = torch.tensor(labels(rng, signal, 2))
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(x.shape[1], 16), nn.ReLU(), nn.Linear(16, 2)).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    threat = zn.L0(2, unit="column", schema=schema)
    exact = zn.certification.certify_enumeration(model.eval(), x, threat)
    right = exact.certificate.prediction == y
    breakable = right & (exact.changes <= 2)
    assert breakable.sum() >= 10
    for name, effort in (
        ("sparse_pgd", {"steps": 200}),
        ("guided_exchange", {"steps": 200}),
        ("sparse_rs", {"queries": 400}),
    ):
        x_adv = getattr(zn.attacks, name)(model, x, y, threat, **effort)
        broken = is_wrong(model(x_adv), y) & right
        assert not (broken & ~breakable).any()
        assert broken.sum() >= 0.9 * breakable.sum(), name
