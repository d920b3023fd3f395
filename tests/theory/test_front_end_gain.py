"""The front end's gain: the fact sheet's example, laws, and the theorems against random draws."""

from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronorm import ArgumentError
from zeronorm.defenses import WaveletBasis
from zeronorm.theory import front_end_gain as gain

W = torch.tensor([[1, -1, 2, 0.5, 1, 1, -1, 0.5, 0.25, -0.25, 1, 1, -2, 1, 1, -1]], dtype=torch.float64)
MU = gain.MU_NORMAL


def kept_functions(wavelet="coif1", side=28, k=27, seed=0):
    functions = WaveletBasis(wavelet, side, side).functions()
    return functions[torch.randperm(len(functions), generator=torch.Generator().manual_seed(seed))[:k]]


def normal(draws, n, seed=1):
    return torch.randn(draws, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_haar_by_hand():
    x = torch.zeros(4, 4, dtype=torch.float64)
    x[:2, :2], x[2:, 2:] = 1.0, 0.25
    basis = WaveletBasis("haar", 4, 4)
    largest = basis.analyse(x).flatten().abs().topk(2).indices
    found = gain.distortion(W, basis.functions()[largest], 0.1)
    assert [part.item() for part in found] == pytest.approx([1.55, 0.2, 0.4, 0.4])


@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from(["haar", "db3", "coif1"]))
@settings(max_examples=25, deadline=None)
def test_who_knows_more_does_more(seed, k, wavelet):
    kept = kept_functions(wavelet, 8, k, seed)
    found = gain.distortion(normal(5, 64, seed), kept, 0.3)
    slack = 1e-12
    assert bool(
        (found.semi_white <= found.white + slack).all() and (found.white <= found.bound + slack).all()
    )
    # and nothing within the ball does more than the white box
    w, e = normal(5, 64, seed), 0.3 * (2 * torch.rand(200, 64, dtype=torch.float64) - 1)
    moved = (e @ kept.T @ (w @ kept.T).T).abs()
    assert bool((moved <= found.white + slack).all())


def test_the_averages_of_the_sheet():
    found = gain.average_gain(kept_functions(), draws=400)
    assert found.undefended == pytest.approx(MU, abs=0.005)
    assert found.semi_white == pytest.approx(MU, abs=0.05)
    assert found.white == pytest.approx(2.2, abs=0.15)
    # functions that do not overlap: Lemma 1 is equal, and ψᵀw is standard normal of length-4 blocks
    haar = kept_functions("haar")
    haar = haar[:1]
    assert gain.average_gain(haar, draws=4000).white == pytest.approx(2 * MU, rel=0.03)


@pytest.mark.parametrize("wavelet", ["haar", "coif1", "db5"])
def test_the_variance_of_the_semi_white_distortion(wavelet):
    kept = kept_functions(wavelet, 16, 40)
    w = normal(20_000, 256)
    z = (w.sign() * (w @ kept.T @ kept)).sum(1)
    mean, variance = gain.semi_white_moments(kept, MU, 1.0)
    assert mean == pytest.approx(40 * MU)
    assert z.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance / 20_000))
    assert z.var().item() == pytest.approx(variance, rel=0.05)
    assert variance < 40 * (1 + MU**2), "the paper's bound"
    for delta in (0.25, 0.4):
        inside = ((z / 40 - MU).abs() <= delta).double().mean().item()
        assert inside >= gain.semi_white_chance(40, delta, MU, 1.0)
    assert gain.semi_white_chance(4000, 0.1, MU, 1.0) > gain.semi_white_chance(400, 0.1, MU, 1.0) > 0.5


def test_the_tail_of_the_white_distortion_is_bounded():
    kept = kept_functions(k=10)
    white = gain.distortion(normal(4000, 784), kept, 0.1).white
    for delta in (1.0, 3.0, 6.0, 9.0):
        assert (white > delta).double().mean().item() <= gain.white_tail(kept, delta, 0.1, 1.0) + 0.01
    assert gain.white_tail(kept, 1.0, 0.1, 1.0) == 1.0 and gain.white_tail(kept, 20.0, 0.1, 1.0) < 1e-3


def test_how_many_neurons_keep_their_side():
    n, bias = 400, 2.0
    x = torch.rand(n, dtype=torch.float64)
    x /= x.norm()
    w = normal(20_000, n)
    length = float(w.abs().sum(1).mean())
    for delta in (0.001, 0.003, 0.006):
        kept = ((w @ x - bias).abs() > delta * length).double().mean().item()
        assert kept == pytest.approx(gain.neuron_keeps(bias, length, delta, 1.0), abs=0.02)
    assert gain.neuron_keeps(bias, length, 0.0, 1.0) == pytest.approx(1.0)


@given(st.integers(0, 10**6), st.sampled_from(["haar", "db2", "coif1"]), st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_a_support_that_is_certain_stays(seed, wavelet, k):
    """Whatever the adversary does; and the paper's own condition is not enough for inputs that are not sparse."""
    functions = WaveletBasis(wavelet, 8, 8).functions()
    lengths = functions.abs().sum(1)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(6, 64, generator=generator, dtype=torch.float64)
    c = x @ functions.T
    before = c.abs().argsort(dim=1, descending=True, stable=True)
    for epsilon in (0.001, 0.003, 0.01, 0.03):
        certain = gain.support_is_certain(c, lengths, k, epsilon)
        assert bool((certain.sharp | ~certain.gap).all()) and bool(
            (certain.published | ~certain.gap).all() or k == 64
        )
        if k == 64:
            continue
        for i in certain.sharp.nonzero().flatten().tolist():
            # the worst changes are those that lower the last kept and raise the first dropped
            down, up = (
                functions[before[i, k - 1]] * c[i, before[i, k - 1]].sign(),
                functions[before[i, k]] * c[i, before[i, k]].sign(),
            )
            for e in (up.sign() - down.sign()).clamp(-1, 1), up.sign(), -down.sign():
                moved = (x[i] + epsilon * e) @ functions.T
                assert set(moved.abs().topk(k).indices.tolist()) == set(before[i, :k].tolist())


def test_the_published_condition_fails_where_inputs_are_not_sparse():
    functions = WaveletBasis("haar", 4, 4).functions()
    c = torch.zeros(1, 16, dtype=torch.float64)
    c[0, :3] = torch.tensor([3.0, 2.0, 1.99])
    certain = gain.support_is_certain(c, functions.abs().sum(1), 2, 0.1)
    assert certain.published.item() and not certain.gap.item() and not certain.sharp.item()
    e = 0.1 * (functions[2].sign() - functions[1].sign())
    moved = c[0] + functions @ e.clamp(-0.1, 0.1)
    assert set(moved.abs().topk(2).indices.tolist()) == {0, 2}
    c[0, 2] = 0.0
    assert gain.support_is_certain(c, functions.abs().sum(1), 2, 0.1).gap.item()
    assert gain.support_is_certain(c, functions.abs().sum(1), 16, 0.1).sharp.item()


def test_what_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    c, lengths = torch.rand(2, 16), torch.ones(16)
    with pytest.raises(ArgumentError, match=r"^k: expected an integer between 1 and 16, got 0"):
        gain.support_is_certain(c, lengths, 0, 0.1)
    with pytest.raises(ArgumentError, match=r"^lengths: expected 16, one per coefficient"):
        gain.support_is_certain(c, lengths[:4], 2, 0.1)
    with pytest.raises(ArgumentError, match=r"^epsilon: expected a number"):
        gain.distortion(W, W, -0.1)
