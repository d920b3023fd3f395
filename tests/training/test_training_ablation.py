"""Training on ablated images: it learns, in both encodings, and is named by its seed."""

from __future__ import annotations

import pytest
import torch

import zeronorm as zn
from zeronorm.errors import ArgumentError
from zeronorm.training.ablation import AblationTraining, accuracy_on_ablated, train_ablation

QUICK = {"retained": 24, "epochs": 6, "batch_size": 32, "lr": 0.05}


def build(channels: int):
    return zn.models.build("lenet_300_100", in_channels=channels, image_size=8)


@pytest.mark.parametrize(("null", "channels"), [("multichannel", 2), ("mean", 1)])
def test_it_learns_what_is_shown(null, channels):
    data, test = zn.data.load("digits", "train"), zn.data.load("digits", "test")
    plan = AblationTraining(**QUICK, null=null)
    model = train_ablation(build(channels), data, plan)
    encoding = model.facts["ablation"]
    assert encoding["retained"] == 24 and encoding["null"] == null and not model.training
    assert accuracy_on_ablated(model, test, plan, encoding["mean"]) / len(test) > 0.6
    # and votes are better than one look
    smoothed = zn.defenses.RandomizedAblation(model, 24, null, mean=encoding["mean"])
    right = smoothed.vote_counts(test.x, 100).argmax(1) == test.y
    assert float(right.double().mean()) > 0.75
    certificate = smoothed.certify(test.x[:50], 100, 400)
    assert (certificate.radius >= 1).any()


def test_attacks_within_the_certified_radius_never_make_another_class_win():
    """Sparse-RS on the smoothed classifier: it may make it unsure, but no other class may win a large vote."""
    data, test = zn.data.load("digits", "train"), zn.data.load("digits", "test", 60)
    model = train_ablation(build(2), data, AblationTraining(**QUICK))
    smoothed = zn.defenses.RandomizedAblation(model, 24, votes=100)
    certificate = smoothed.certify(test.x, 200, 1000)
    assert certificate.failure_probability == 0.05
    tried = 0
    for radius in range(1, int(certificate.radius.max()) + 1):
        rows = certificate.radius == radius
        if rows.any():
            x, y = test.x[rows], certificate.prediction[rows]
            x_adv = zn.attacks.sparse_rs(smoothed, x, y, zn.L0(radius), queries=40)
            answers = smoothed.predict(x_adv, 1500, 1e-4)
            assert ((answers == y) | (answers == zn.certification.ABSTAIN)).all()
            tried += len(x)
    assert tried >= 8


def test_same_plan_same_weights_and_no_global_state_moves():
    data, state = zn.data.load("digits", "train", 200), torch.get_rng_state()
    plan = AblationTraining(**(QUICK | {"epochs": 1}))
    one, two = (train_ablation(build(2), data, plan) for _ in range(2))
    other = train_ablation(build(2), data, AblationTraining(**(QUICK | {"epochs": 1, "seed": 1})))
    assert zn.models.digest(one) == zn.models.digest(two) != zn.models.digest(other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_trained_model_knows_what_it_is_to_be_shown(tmp_path):
    data = zn.data.load("digits", "train", 100)
    model = train_ablation(build(2), data, AblationTraining(**(QUICK | {"epochs": 1})))
    zn.models.save(model, tmp_path / "m", ablation=model.facts["ablation"])
    result = zn.certify(zn.models.load(tmp_path / "m"), zn.data.load("digits", "test", 3), n0=20, n=40)
    assert result.summary.run["plan"]["method"]["options"]["retained"] == 24


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda data: train_ablation(build(1), data),
            "model: expected 2 channels, which the multichannel encoding",
        ),
        (
            lambda data: train_ablation(build(2), data, AblationTraining(retained=65)),
            "retained: expected an integer",
        ),
        (lambda data: AblationTraining(null="zero"), "null: expected one of multichannel, mean"),
        (lambda data: AblationTraining(lr=0.0), "lr: expected a number in"),
        (
            lambda data: train_ablation(build(2), data, AblationTraining(retained=9, lr=1e6)),
            "lr: expected a finite loss",
        ),
    ],
)
def test_refusals(call, says):
    with pytest.raises(ArgumentError, match=says):
        call(zn.data.load("digits", "train", 100))
