"""Training of votes by groups of pixels: seconds on the digits, and certificates that attacks do not break."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from feature_partition_attack import by_groups

import zeronorm as zn
from zeronorm.certification import certify_feature_partition
from zeronorm.errors import ArgumentError
from zeronorm.training import TrainingPlan
from zeronorm.training.feature_partition import _one_cycle, train_feature_partition

PLAN = TrainingPlan(method="feature_partition", out="unused")
QUICK = replace(
    PLAN,
    budget=3.0,
    temperature=2.0,
    sharpness=1.0,
    epochs=12,
    batch_size=60,
    weight_decay=0.01,
    crop=0,
    flip=False,
    precision="float32",
)


def build(**arguments):
    small = {"in_channels": 1, "image_size": 8, "mirrored": False, "widths": [96, 48]}
    return zn.models.build(
        "feature_partition", **(small | {"partition": (((4, 0), (0, 4)), ((2, 0), (0, 8)))} | arguments)
    )


@pytest.fixture(scope="module")
def trained():
    return train_feature_partition(build(), zn.data.load("digits", "train"), QUICK)


def certified(model, n=None):
    test = zn.data.load("digits", "test", n)
    return test, certify_feature_partition(model, test.x)


def test_it_learns_to_certify(trained):
    test, certificate = certified(trained)
    shares = [float(certificate.holds(test.y, k).double().mean()) for k in range(3)]
    assert shares[0] > 0.75 and shares[1] > 0.5 and shares[2] > 0.25


def test_a_larger_budget_trades_clean_accuracy_for_radius(trained):
    plan = replace(QUICK, budget=0.0, temperature=0.5)
    careless = train_feature_partition(build(), zn.data.load("digits", "train"), plan)
    (test, found), (_, other) = certified(trained), certified(careless)
    assert (
        float(found.holds(test.y, 3).double().mean()) > float(other.holds(test.y, 3).double().mean()) + 0.03
    )


@pytest.mark.parametrize("pattern", ["random", "strided"])
def test_hard_votes(pattern):
    plan = replace(QUICK, groups=16, epochs=20)
    model = build(votes="hard", partition=pattern, groups=16, shared=False, widths=[24])
    train_feature_partition(model, zn.data.load("digits", "train"), plan)
    test, certificate = certified(model)
    assert float(certificate.holds(test.y, 0).double().mean()) > 0.5
    assert float(certificate.holds(test.y, 2).double().mean()) > 0.2


@pytest.mark.parametrize("attack", ["sparse_rs", "pointwise", "guided_exchange"])
def test_attacks_break_nothing_within_the_radius(trained, attack):
    test, certificate = certified(trained, 60)
    options = {
        "sparse_rs": {"queries": 150},
        "pointwise": {"queries": 300, "restarts": 2},
        "guided_exchange": {"steps": 10},
    }[attack]
    for k in range(1, 5):
        rows = (certificate.radius == k) & (certificate.prediction == test.y)
        if rows.any():
            function = zn.attacks.catalogue[attack].function
            x_adv = function(trained, test.x[rows], test.y[rows], zn.L0(k), **options)
            assert (trained(x_adv).argmax(1) == test.y[rows]).all()


def test_an_attack_that_knows_the_groups_succeeds_beyond_the_radius_and_never_within():
    plan = replace(QUICK, budget=2.0)
    model = train_feature_partition(
        build(partition=(((4, 0), (0, 4)),), mirrored=True), zn.data.load("digits", "train"), plan
    )
    test, certificate = certified(model, 60)
    right = [i for i in range(60) if certificate.prediction[i] == test.y[i]]
    beyond = 0
    for i in right:
        radius, answer = int(certificate.radius[i]), int(test.y[i])
        budgets = torch.tensor([radius, radius + 2])
        changed = torch.stack([by_groups(model, test.x[i], answer, k) for k in budgets.tolist()])
        assert ((changed != test.x[i]).any(1).flatten(1).sum(1) <= budgets).all()
        within, more = (model(changed).argmax(1) != answer).tolist()
        assert not within
        beyond += more
    assert len(right) > 30 and beyond > 0.5 * len(right)


def test_a_run_of_certificates(trained, tmp_path):
    models = tmp_path / "model"
    zn.models.save(trained, models)
    test = zn.data.load("digits", "test", 30)
    proved = zn.certify(zn.models.load(models), test, out=tmp_path / "proved")
    assert proved.summary.method == "feature_partition"
    assert zn.verify_certificates(proved.run, trained, test)
    certificate = certify_feature_partition(trained, test.x)
    for k in range(3):
        assert proved.certified_accuracy[k] == float(certificate.holds(test.y, k).double().mean())


def test_same_plan_same_weights_and_no_global_state_moves(trained):
    state = torch.get_rng_state()
    again = train_feature_partition(build(), zn.data.load("digits", "train"), QUICK)
    assert zn.models.checkpoint.digest(again) == zn.models.checkpoint.digest(trained)
    assert torch.equal(torch.get_rng_state(), state)


def test_sharpness_multiplies_what_was_learnt():
    data = zn.data.load("digits", "train", 120)
    plain, sharp = (
        train_feature_partition(build(), data, replace(QUICK, epochs=1, sharpness=sharpness))
        for sharpness in (1.0, 4.0)
    )
    x = data.x[:5]
    torch.testing.assert_close(sharp.network.scores(x, 0), 4 * plain.network.scores(x, 0))


def test_the_learning_rate_rises_and_falls():
    assert _one_cycle(0.0, 0.3) == pytest.approx(0.04) and _one_cycle(0.3, 0.3) == 1.0
    assert _one_cycle(0.65, 0.3) == pytest.approx(0.5) and _one_cycle(1.0, 0.3) == pytest.approx(0.0)
    assert _one_cycle(0.0, 0.0) == 1.0  # for a model that is trained already


def test_refusals():
    data = zn.data.load("digits", "train", 100)
    with pytest.raises(ArgumentError, match="model: expected a feature_partition network, got small_cnn"):
        train_feature_partition(zn.models.build("small_cnn", image_size=8), data, PLAN)
    with pytest.raises(ArgumentError, match="x: expected inputs of shape"):
        train_feature_partition(zn.models.build("feature_partition"), data, PLAN)
    with pytest.raises(ArgumentError, match="data: expected labels below 4, got 9"):
        train_feature_partition(build(classes=4), data, PLAN)
    with pytest.raises(ArgumentError, match="lr: expected a finite loss"):
        train_feature_partition(build(), data, replace(PLAN, lr=1e30, epochs=2))
