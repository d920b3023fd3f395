"""Pruning within a training: zeros that stay, rounds where they should be, and the same weights after a crash."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
import torch
from safetensors.torch import load_file

from zeronorm import models
from zeronorm.defenses import prune, sparsity
from zeronorm.defenses.pruning import weights
from zeronorm.errors import ArgumentError
from zeronorm.training import train


class _Crash(Exception):
    pass


def crash_at(epoch, step):
    def progress(now):
        if (now.epoch, now.step) == (epoch, step):
            raise _Crash

    return progress


@pytest.fixture
def initial(plan, tmp_path):
    """A trained model to start from."""
    train(plan(out=tmp_path / "initial", epochs=4))
    return tmp_path / "initial"


def left(n, share, rounds):
    for _ in range(rounds):
        n -= math.floor(Fraction(share).limit_denominator(1000) * n)
    return n


def test_rounds_are_spread_over_the_epochs(plan, initial):
    def before(**changes):
        return plan(**changes).pruned_before()

    assert before(epochs=8) == []
    assert before(epochs=8, prune=0.5, initial=initial, model_arguments={}) == [1]
    assert before(epochs=8, prune=0.5, prune_rounds=4, initial=initial, model_arguments={}) == [1, 3, 5, 7]
    assert before(epochs=8, prune=0.5) == [5]
    assert before(epochs=8, prune=0.5, prune_rounds=3) == [3, 5, 7]
    assert before(epochs=3, prune=0.5, prune_rounds=2) == [2, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "standard", "weight_decay": 0.01},
        {"method": "sat", "k": 2, "steps": 2, "average": 0.9},
        {"method": "standard", "momentum": 0.0, "l1": 1e-3},
    ],
    ids=["standard", "sAT and the average of weights", "no momentum, l1"],
)
def test_zeros_stay_and_others_learn(plan, changes):
    share = 1 - (1 - 0.75) ** 0.5
    result = train(plan(prune=0.75, prune_rounds=2, epochs=5, **changes))
    dense = models.build("small_cnn", image_size=8, classes=10, width=0.1).network
    for name, weight in weights(result.model).items():
        assert int(weight.count_nonzero()) == left(weight.numel(), share, 2), name
        assert (weight[weight != 0] != dense.get_parameter(name)[weight != 0]).all()
    assert all(p.count_nonzero() > 0 for p in result.model.parameters() if p.dim() == 1), "biases stay"
    assert result.best_epoch >= 4, "no epoch before the last round counts"
    checkpoint = load_file(result.out / "checkpoint.safetensors")
    for name in weights(result.model):
        mask = checkpoint[f"memory/mask/{name}"]
        groups = ["network", "momentum", "average"] if "average" in changes else ["network", "momentum"]
        for group in groups[: 1 if changes.get("momentum") == 0.0 else None]:
            assert not checkpoint[f"{group}/{name}"][~mask].any(), f"{group}/{name}"


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.9, "prune_rounds": 2},
        {"method": "fast_ls", "k": 2, "average": 0.9, "prune_rounds": 2, "keep_dense": ("first", "last")},
    ],
    ids=["standard", "Fast-LS"],
)
@pytest.mark.parametrize("warm", [False, True])
def test_resumed_to_bitwise_the_same_weights(plan, tmp_path, initial, changes, warm):
    changes = changes | {"prune": 0.8, "batch_size": 32, "epochs": 4, "l1": 1e-4}
    if warm:
        changes |= {"initial": initial, "model_arguments": {}}
    whole = train(plan(**changes))
    halves = plan(**changes, out=tmp_path / "halves", resume=True)
    for crash in (crash_at(1, 2), crash_at(2, 1), crash_at(3, 2), crash_at(4, 1)):
        with pytest.raises(_Crash):
            train(halves, crash)
    assert models.digest(train(halves).model) == models.digest(whole.model)
    kept = changes.get("keep_dense", ())
    assert sparsity(whole.model, keep_dense=kept) == pytest.approx(0.8, abs=0.01)
    assert [row["loss"] for row in train(halves).history] == [row["loss"] for row in whole.history]


def test_starting_from_a_model(plan, initial, tmp_path):
    model = models.load(initial)
    prune(model, 0.5)
    facts = {name: model.facts[name] for name in ("data", "accuracy")}
    models.save(model, tmp_path / "half", **facts)
    result = train(plan(initial=tmp_path / "half", model_arguments={}, out=tmp_path / "on", epochs=1))
    assert result.model.arguments == model.arguments
    zeros = sparsity(result.model)
    assert zeros == sparsity(model) >= 0.49, "what was zero stays zero"
    for name, weight in weights(result.model).items():
        was = weights(model)[name]
        assert torch.equal(weight == 0, was == 0) and (weight[was != 0] != was[was != 0]).all()
    plan_of = json.loads((tmp_path / "on" / "model.json").read_text())["training"]
    assert plan_of["plan"]["initial"] == models.digest(model)
    assert f"--initial {tmp_path / 'half'}" in plan_of["command"]


def test_l1_shrinks_the_weights(plan, tmp_path):
    def total(l1):
        result = train(plan(l1=l1, weight_decay=0.0, out=tmp_path / f"l1-{l1}"))
        return float(sum(w.detach().abs().sum() for w in weights(result.model).values()))

    assert total(0.2) < 0.8 * total(0.0)


def test_bad_input(plan, initial, tmp_path):
    for changes, match in (
        (
            {"prune": 0.5, "prune_rounds": 3},
            "prune_rounds: expected at least one epoch for each of 3 rounds",
        ),
        ({"initial": "nowhere", "model_arguments": {}}, "model: expected a built-in model"),
        (
            {"initial": initial, "model": "resnet20", "model_arguments": {}},
            "model: expected small_cnn, that of .*, got resnet20",
        ),
        ({"initial": initial}, "set: expected none beside initial, which brings its own, got width"),
    ):
        with pytest.raises(ArgumentError, match=match):
            plan(**changes)
    with pytest.raises(ArgumentError, match=r"keep_dense: expected layers of the model \(.*\), got 'conv9'"):
        train(plan(prune=0.5, keep_dense=("conv9",)))
    models.save(models.build("lenet_300_100"), tmp_path / "mnist")
    with pytest.raises(
        ArgumentError, match=r"initial: expected a model with .*'image_size': 8.* for digits, got"
    ):
        train(plan(initial=tmp_path / "mnist", model_arguments={}))
