"""Of every attack: the figures do not depend on how a model writes down what it means."""

from __future__ import annotations

import jaxtyping
import pytest
import torch
from small_problems import problem
from torch import nn

from zeronorm import L2, Linf
from zeronorm.attacks import catalogue
from zeronorm.evaluation.query_counter import QueryCounter

EFFORT = 20
every_attack = pytest.mark.parametrize("attack", catalogue.values(), ids=lambda a: a.name)
every_sparse_attack = pytest.mark.parametrize(
    "attack", [attack for attack in catalogue.values() if attack.norms == ("L0",)], ids=lambda a: a.name
)


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def run(attack, model, x, y, threat, **options):
    if attack.norms == ("Linf",):
        threat = Linf(0.05, threat.low, threat.high)
    if attack.norms == ("L2",):
        threat = L2(None, threat.low, threat.high)
    return attack.function(model, x, y, threat, **dict.fromkeys(attack.cost, EFFORT), **options)


@every_sparse_attack
@pytest.mark.parametrize("box", ["unit", "tensors", "mask"])
def test_channels_may_be_last(attack, box):
    """The same search as with channels first, and as few positions of the image changed."""
    model, x, y, threat = problem("colour", box, k=2, dtype=torch.float64)
    first = run(attack, model, x, y, threat)
    bounds = {
        name: bound if isinstance(bound, float) else bound.movedim(0, -1)
        for name, bound in (("low", threat.low), ("high", threat.high))
    }
    last_threat = type(threat)(2, allowed=threat.allowed, channels="last", **bounds)
    x_last = x.movedim(1, -1).contiguous()
    last = run(attack, lambda v: model(v.movedim(-1, 1)), x_last, y, last_threat)
    assert last.shape == x_last.shape and last_threat.contains(x_last, last).all()
    assert torch.equal(last_threat.distance(x_last, last), threat.distance(x, first))
    torch.testing.assert_close(last.movedim(-1, 1), first)


class RulesOut(nn.Module):
    """A model that rules one class out where the first pixel is dark, with the value it is told."""

    def __init__(self, inner, value):
        super().__init__()
        self.inner, self.value = inner, value
        self.eval()

    def forward(self, x):
        z = self.inner(x)
        dark = x.flatten(1)[:, 0] < 0.6
        out = torch.zeros_like(z, dtype=torch.bool)
        out[:, 3], out[:, 2] = dark, ~dark
        return z.masked_fill(out, self.value)


@every_attack
@pytest.mark.parametrize("watched", [False, True])
def test_a_class_ruled_out_by_minus_infinity_is_one_of_a_very_low_logit(attack, watched):
    model, x, _, threat = problem("colour", k=2, n=8, dtype=torch.float64)
    found = []
    for value in (float("-inf"), -1e4):
        one = RulesOut(model, value)
        y = one(x).argmax(1)
        if watched:
            one = QueryCounter(one, len(x), x.device)
            one.training = False
        found.append(run(attack, one, x, y, threat))
    assert torch.equal(*found)
    assert not torch.equal(found[0], x), "something was searched"
