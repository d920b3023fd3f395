"""Random numbers named by (seed, example, purpose, step)."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from zeronorm import seeding
from zeronorm.seeding import Streams, below

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8, unique=True)
DTYPES = [torch.float32, torch.float64]


def draws(streams, step, n):
    return [
        streams.bits(step, n),
        *(f(step, n, d) for f in (streams.uniform, streams.normal) for d in DTYPES),
    ]


@given(IDS, st.integers(0, 2**31), st.integers(0, 10**6), st.integers(0, 40), st.randoms())
@settings(deadline=None)
def test_an_example_draws_the_same_in_any_company(ids, seed, step, n, random):
    together = draws(Streams(seed, torch.tensor(ids), "test"), step, n)
    for i, name in enumerate(ids):
        alone = draws(Streams(seed, torch.tensor([name]), "test"), step, n)
        assert all(torch.equal(a[0], t[i]) for a, t in zip(alone, together, strict=True))
    order = random.sample(range(len(ids)), len(ids))
    permuted = draws(Streams(seed, torch.tensor(ids)[order], "test"), step, n)
    assert all(torch.equal(p, t[order]) for p, t in zip(permuted, together, strict=True))


@given(IDS, st.data())
@settings(deadline=None)
def test_selecting_commutes_with_drawing(ids, data):
    streams = Streams(0, torch.tensor(ids), "test")
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(ids) - 1))), dtype=torch.int64)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    for chosen in (rows, mask):
        assert torch.equal(streams.select(chosen).bits(3, 5), streams.bits(3, 5)[chosen])


def test_drawing_is_a_pure_function_of_the_step():
    streams = Streams(1, torch.arange(4), "test")
    first = draws(streams, 5, 9)
    draws(streams, 6, 100)
    assert all(torch.equal(a, b) for a, b in zip(first, draws(streams, 5, 9), strict=True))
    assert torch.equal(streams.bits(5, 3), streams.bits(5, 9)[:, :3]), "fewer are a prefix of more"


def test_the_global_random_state_is_neither_read_nor_moved():
    before = torch.get_rng_state()
    a = draws(Streams(0, torch.arange(3), "test"), 0, 8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert all(
        torch.equal(x, y) for x, y in zip(a, draws(Streams(0, torch.arange(3), "test"), 0, 8), strict=True)
    )


def splitmix(z: int) -> int:
    """The finaliser of SplitMix64 in plain integers (Steele, Lea & Flood 2014; Java's constants)."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_splitmix_by_its_published_numbers():
    golden = 0x9E3779B97F4A7C15
    # of seed 1234567, as in the reference implementations
    words = [splitmix((1234567 + i * golden) % 2**64) for i in range(1, 4)]
    assert words == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31), st.integers(0, 10**6))
@settings(deadline=None)
def test_words_are_those_of_plain_integers(name, seed, step):
    """A figure drawn today can be drawn again, with the library or without."""
    golden = 0x9E3779B97F4A7C15
    digest = hashlib.blake2b(f"{seed}/sparse_rs".encode(), digest_size=8).digest()
    key = splitmix(splitmix(name * golden % 2**64) ^ int.from_bytes(digest))
    expected = [splitmix((key + (place + (step << 32)) * golden) % 2**64) for place in (1, 2, 3)]
    bits = Streams(seed, torch.tensor([name]), "sparse_rs").bits(step, 3)
    assert [word % 2**64 for word in bits[0].tolist()] == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_numbers_are_uniform(dtype):
    u = Streams(7, torch.arange(2000), "test").uniform(0, 101, dtype)
    assert u.dtype == dtype and u.min() >= 0 and u.max() <= 1
    assert kstest(u.flatten().double(), "uniform").pvalue > 1e-3
    assert u.unique().numel() > 0.99 * u.numel()


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_numbers_are_normal(dtype):
    z = Streams(7, torch.arange(2000), "test").normal(0, 101, dtype)
    assert z.dtype == dtype and bool(z.isfinite().all())
    assert kstest(z.flatten().double(), "norm").pvalue > 1e-3
    assert 4.2 < z.abs().max() < 7
    assert z.mean().item() == pytest.approx(0, abs=0.01) and z.var().item() == pytest.approx(1, abs=0.015)
    # neighbours share a word, or a pair of numbers: they must not know of each other
    assert torch.corrcoef(torch.stack([z[:, :-1:2].flatten(), z[:, 1::2].flatten()]))[0, 1].abs() < 0.015
    assert (
        torch.corrcoef(torch.stack([z[:, :-1:2].flatten(), z[:, 1::2].flatten()]).square())[0, 1].abs()
        < 0.015
    )


def test_every_bit_is_a_fair_coin():
    bits = Streams(3, torch.arange(5000), "test").bits(2, 8).flatten()
    ones = torch.stack([(bits >> j & 1).double().mean() for j in range(64)])
    assert (ones - 0.5).abs().max() < 5 * 0.5 / len(bits) ** 0.5


@pytest.mark.parametrize(
    "other",
    [
        lambda: Streams(1, torch.arange(4000), "test").uniform(0, 25),
        lambda: Streams(0, torch.arange(4000), "rest").uniform(0, 25),
        lambda: Streams(0, torch.arange(4000), "test").uniform(1, 25),
        lambda: Streams(0, torch.arange(4000) + 1, "test").uniform(0, 25),
        lambda: Streams(0, torch.arange(4000), "test").uniform(0, 26)[:, 1:],
    ],
    ids=["seed", "purpose", "step", "example", "place"],
)
def test_other_names_draw_other_numbers(other):
    a, b = Streams(0, torch.arange(4000), "test").uniform(0, 25), other()
    assert (a == b).float().mean() < 1e-4
    assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs() < 0.015


def test_no_two_names_share_their_numbers():
    """Examples, steps, seeds and purposes: 120,000 first words, all different."""
    words = [
        Streams(seed, torch.arange(1000), purpose).bits(step, 2).flatten()
        for seed in range(3)
        for purpose in ("sparse_pgd", "sparse_rs")
        for step in range(10)
    ]
    assert len(torch.cat(words).unique()) == 3 * 2 * 10 * 2000


@given(st.integers(1, 2**31 - 1))
def test_below_stays_below(high):
    numbers = below(Streams(0, torch.arange(4), "test").bits(0, 50), high)
    assert numbers.min() >= 0 and numbers.max() < high
    extremes = torch.tensor([0, -1, 2**63 - 1, -(2**63)])
    assert below(extremes, high).tolist() == [0, high - 1, (2**30 - 1) * high >> 31, high // 2]


@pytest.mark.parametrize("high", [2, 3, 7, 100])
def test_below_is_uniform(high):
    counts = below(Streams(0, torch.arange(1000), "test").bits(0, 200).flatten(), high).bincount(
        minlength=high
    )
    assert len(counts) == high and chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("step", [0, 1, 10**6])
def test_the_kernel_draws_what_its_twin_draws(monkeypatch, step):
    streams = Streams(3, torch.tensor([0, 1, -1, 2**63 - 1, -(2**63)]), "test")
    fast = streams.bits(step, 33)
    monkeypatch.setattr(seeding, "serves", lambda *tensors: False)
    assert torch.equal(fast, streams.bits(step, 33))
