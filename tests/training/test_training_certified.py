"""Training of ℓ0-Lipschitz networks: seconds on the digits, and certificates that attacks do not break."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from l0_lipschitz_attack import greedy

import zeronorm as zn
from zeronorm.errors import ArgumentError
from zeronorm.models.l0_lipschitz import STEP
from zeronorm.training import TrainingPlan
from zeronorm.training.l0_lipschitz import _Smooth, train_l0_lipschitz

PLAN = TrainingPlan(method="l0_lipschitz", out="unused")
QUICK = replace(PLAN, budget=4.0, epochs=8, batch_size=60, temperature=2.0)


def build(**arguments):
    return zn.models.build("l0_lipschitz", image_size=8, levels=[0.1, 0.6], **({"templates": 4} | arguments))


@pytest.fixture(scope="module")
def trained():
    return train_l0_lipschitz(build(), zn.data.load("digits", "train"), QUICK).eval()


def test_it_learns_to_certify(trained):
    test = zn.data.load("digits", "test")
    certificate = zn.certification.certify_l0_lipschitz(trained, test.x)
    shares = [float(certificate.holds(test.y, k).double().mean()) for k in (0, 1, 3)]
    assert shares[0] > 0.85 and shares[1] > 0.75 and shares[2] > 0.4
    assert trained.network.span() <= STEP


@pytest.mark.parametrize("attack", ["sparse_rs", "pointwise"])
def test_attacks_break_nothing_within_the_radius(trained, attack):
    test = zn.data.load("digits", "test", 120)
    certificate = zn.certification.certify_l0_lipschitz(trained, test.x)
    for k in range(1, 7):
        rows = (certificate.radius == k) & (certificate.prediction == test.y)
        if not rows.any():
            continue
        options = {"queries": 150} if attack == "sparse_rs" else {"queries": 300, "restarts": 2}
        x_adv = getattr(zn.attacks, attack)(trained, test.x[rows], test.y[rows], zn.L0(k), **options)
        assert (trained(x_adv).argmax(1) == test.y[rows]).all()


def test_an_attack_that_reads_the_tables_succeeds_beyond_the_radius_and_never_within(trained):
    test = zn.data.load("digits", "test", 80)
    certificate = zn.certification.certify_l0_lipschitz(trained, test.x)
    right = [i for i in range(80) if certificate.prediction[i] == test.y[i] and certificate.radius[i] >= 0]
    tight = 0
    for i in right:
        radius, answer = int(certificate.radius[i]), int(test.y[i])
        assert radius == 0 or not greedy(trained.network, test.x[i], answer, radius)
        tight += greedy(trained.network, test.x[i], answer, radius + 1)
    assert len(right) > 60 and tight > 0.5 * len(right)  # the certificate is nearly the true radius


def test_a_certified_run_and_a_search_agree(trained, tmp_path):
    test = zn.data.load("digits", "test", 40)
    proved = zn.certify(trained, test, out=tmp_path / "proved")
    searched = zn.evaluate(
        trained, test, zn.L0(8), "sparse_rs", tmp_path / "searched", queries=200, curve=True
    )
    for k in range(1, 9):
        upper = searched.robust_accuracy[k]
        assert k >= len(proved.summary.shares) or proved.certified_accuracy[k] <= upper
    page = zn.report.render([proved.run, searched.run], tmp_path / "page.html").read_text()
    assert "A certificate is wrong" not in page and "l0 lipschitz, deterministic" in page
    assert zn.verify_certificates(proved.run, trained, test)
    # a radius that a search refutes is said aloud
    from zeronorm.records.certificate_figures import contradictions

    broken = int(searched.summary.examples[searched.summary.smallest.argmin()])
    proved.summary.radii[list(proved.summary.examples).index(broken)] = 60.0
    if searched.summary.smallest.min() > 0:
        assert broken in contradictions(proved.summary, searched.summary)


def test_same_plan_same_tables_and_no_global_state_moves(trained):
    state = torch.get_rng_state()
    again = train_l0_lipschitz(build(), zn.data.load("digits", "train"), QUICK)
    assert torch.equal(again.network.tables, trained.network.tables)
    assert torch.equal(torch.get_rng_state(), state)
    other = train_l0_lipschitz(build(), zn.data.load("digits", "train", 400), replace(PLAN, epochs=1, seed=1))
    assert not torch.equal(other.network.tables, trained.network.tables)


def test_whole_numbers_are_the_smooth_network_rounded(trained):
    """With hardly any softness, the tables before rounding give the margins after it, up to the rounding."""
    data = zn.data.load("digits", "train", 300)
    network = build(templates=2).network
    encoded = network.encode(data.x).bool()
    plan = replace(PLAN, softness=1e-4, patch_softness=1e-4)
    smooth = _Smooth(network, plan, encoded, data.y, torch.Generator().manual_seed(0))
    smooth.learn(encoded.float(), data.y, 0.2)
    smooth.round_into(network)
    found = network.margins(data.x).float() / STEP
    torch.testing.assert_close(found, smooth.margins(encoded.float()).detach(), atol=64 * 2 / STEP, rtol=0)


def test_refusals():
    data = zn.data.load("digits", "train", 100)
    with pytest.raises(ArgumentError, match="model: expected an l0_lipschitz network, got small_cnn"):
        train_l0_lipschitz(zn.models.build("small_cnn", image_size=8), data, PLAN)
    with pytest.raises(ArgumentError, match="x: expected inputs of shape"):
        train_l0_lipschitz(zn.models.build("l0_lipschitz"), data, PLAN)
    with pytest.raises(ArgumentError, match="data: expected examples of 12 classes, got 10"):
        train_l0_lipschitz(build(classes=12), data, PLAN)
