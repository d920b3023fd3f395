"""What a search costs: the passes are those it makes, whatever the clock says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_runs import network, rows
from torch import nn

import zeronorm as zn
from zeronorm.attacks.batch_under_attack import TILE
from zeronorm.attacks.sparse_autoattack import Stage
from zeronorm.evaluation import cost
from zeronorm.evaluation.cost import Cost, measure
from zeronorm.models import BlackBox

pytestmark = pytest.mark.usefixtures("minimal_attack")


def test_passes_and_verdicts_are_those_of_a_run(model, data):
    costs = measure(model, data, zn.L0(1), steps=12, queries=16, rounds=1)
    stages = ("sparse_pgd (unprojected)", "sparse_pgd (projected)", "sparse_rs")
    assert tuple(one.name for one in costs) == stages
    for one, attack, length in zip(
        costs,
        (Stage("sparse_pgd", {"gradient": g}) for g in ("unprojected", "projected")),
        ({"steps": 12}, {"steps": 12}),
        strict=False,
    ):
        run = zn.evaluate(model, data, zn.L0(1), attack, **length)
        assert one.n == 20 and one.right == run.robust_accuracy
        searched = [row for row in rows(run) if row["stage"] == 0]
        made = sum(row["forwards"] + row["backwards"] for row in searched)
        # a run leaves clean errors alone; here they take one look, and batches are filled up
        assert made + 2 <= one.passes <= made + 2 + (TILE - 1) * 2 * 13


def test_the_same_passes_again(model, data):
    """The limit is made of the same batch sizes, with a backward pass where there was one."""
    asked = []

    class Watched(nn.Module):
        def forward(self, x):
            z = model(x)
            asked.append([len(x), False])
            if z.requires_grad:
                z.register_hook(lambda _, call=asked[-1]: call.__setitem__(1, True))
            return z

    (one,) = measure(Watched().eval(), data, zn.L0(2), "sparse_pgd", steps=9, rounds=1)
    # the fit of two examples; does it give gradients; to warm up, and the verdict; the attack; the same again
    half = (len(asked) - 3) // 3
    first, attacked, again = (asked[-3 * half - 1 + i :][:half] for i in (0, half + 1, 2 * half + 1))
    assert first == attacked == again and len(attacked) > 8
    assert one.passes == sum(size * (1 + backward) for size, backward in attacked)


def test_the_fastest_round_counts(model, data, monkeypatch):
    """A clock of our own: rounds of 5 and 3 seconds for the attack, 2 and 4 for its passes."""
    times = iter([0.0, 5.0, 7.0, 10.0, 13.0, 17.0])
    monkeypatch.setattr(cost, "_now", lambda device: next(times))
    (one,) = measure(model, data, zn.L0(1), "sparse_rs", queries=5, rounds=2)
    assert (one.seconds, one.bare) == (3, 2)
    assert one.overhead == 0.5 and one.rate == one.passes / 3


def test_what_the_default_costs(model, data):
    """Only an example that withstands a search would take its whole default."""
    (short,) = measure(model, data, zn.L0(0), "sparse_rs", queries=5, rounds=1)
    assert short.passes == 0 and math.isnan(short.rate) and math.isnan(short.overhead)
    assert short.default_seconds == 0 and short.right == 0.9

    (one,) = measure(model, data, zn.L0(1), "sparse_rs", queries=50, rounds=1)
    assert 0.3 < one.right < 0.9
    assert one.default == pytest.approx(10_000 * one.right, rel=0.05)
    (all_fall,) = measure(model, data, zn.L0(12), "sparse_rs", queries=50, rounds=1)
    assert all_fall.right == 0 and all_fall.default < 50
    (minimal,) = measure(model, data, zn.L0(25), "greedy", steps=6, rounds=1)
    assert minimal.right < 0.5 and minimal.default > 1.2 * minimal.passes / 20, (
        "it goes on with whom it broke"
    )

    def own(model, x, y, threat):
        model(x)
        return x

    (unknown,) = measure(model, data, zn.L0(1), own, rounds=1)
    assert unknown.passes == 20 and unknown.default is None and unknown.default_seconds is None


def test_short_unless_said(model, data):
    told = []

    def length(**options):
        told.clear()
        measure(model, data, zn.L0(1), ["sparse_rs", "greedy"], rounds=1, on_stage=told.append, **options)
        return told

    assert length() == ["sparse_rs", "greedy"]
    (default,) = measure(model, data, zn.L0(1), "sparse_rs", rounds=1)
    (same,) = measure(model, data, zn.L0(1), "sparse_rs", queries=200, rounds=1)
    assert default.passes == same.passes
    with pytest.raises(zn.ArgumentError, match="steps: the attack asked for takes no steps"):
        measure(model, data, zn.L0(1), "sparse_rs", steps=5)


def test_models_of_every_kind(model, data):
    plain = measure(model, data, zn.L0(1), "sparse_rs", queries=9, rounds=1)
    box = BlackBox(lambda x: model(torch.from_numpy(x)).detach().numpy())
    (boxed,) = measure(box, data, zn.L0(1), queries=9, rounds=1)
    assert boxed.name == "sparse_rs" and boxed.right == plain[0].right
    (rough,) = measure(model, data, zn.L0(1), "sparse_pgd", steps=9, rounds=1, precision="bfloat16")
    assert rough.passes > 0
    training = network().train()
    (one,) = measure(training, data, zn.L0(1), "sparse_rs", queries=9, rounds=1)
    assert replace(one, seconds=0.0, bare=0.0) == replace(plain[0], seconds=0.0, bare=0.0)
    assert all(module.training for module in training.modules())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rounds": 0}, "rounds: expected an integer of at least 1, got 0"),
        ({"precision": "float8"}, "precision: expected one of float32, bfloat16, got 'float8'"),
        ({"attack": "nonsense"}, "attack: expected one of"),
        ({"threat": zn.L0(1, low=0.5)}, "x: "),
        ({"model": nn.Linear(3, 2).eval()}, "model: expected a model of inputs of shape"),
    ],
)
def test_bad_input(model, data, change, message):
    with pytest.raises(zn.ArgumentError, match=message):
        measure(**({"model": model, "data": data, "threat": zn.L0(1)} | change))


def test_a_cost_by_hand():
    one = Cost("mine", n=4, passes=400, seconds=2.0, bare=1.6, right=0.5, default=5000.0)
    assert one.rate == 200 and one.overhead == pytest.approx(0.25) and one.default_seconds == 25
