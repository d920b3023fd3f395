"""The smoothed classifier: encodings, uniform draws, votes blind to the batch, and certificates that hold."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import zeronorm as zn
from zeronorm.certification import ABSTAIN, ablation_radius_in_top, leading_class
from zeronorm.defenses import RandomizedAblation, ablate, random_subsets
from zeronorm.defenses import randomized_ablation as module
from zeronorm.errors import ArgumentError
from zeronorm.kernels import numba as compiled
from zeronorm.seeding import Streams


class Majority(nn.Module):
    """Class 1 where the shown pixels are bright rather than dark (ties: 0); reads the multichannel encoding."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes
        self.eval()

    def forward(self, x):
        half = x.shape[1] // 2
        bright = (x[:, :half] - x[:, half:]).sum((1, 2, 3))
        return torch.stack([-bright, bright, *[torch.full_like(bright, -1e3)] * (self.classes - 2)], dim=1)


def network(channels: int, side: int = 6, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (side - 2) ** 2, 3)
        )
    return model.eval()


def images(n: int = 5, channels: int = 1, side: int = 6) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(1))


# -- encodings ---------------------------------------------------------------------------------------------


def test_ablate_the_papers_example():
    x = torch.tensor([0.0, 1, 1, 0, 1]).view(1, 1, 1, 5)
    shown = torch.tensor([[1, 3, 4]])  # 2, 4, 5 counted from 1
    two = ablate(x, shown)
    assert two.flatten().tolist() == [0, 1, 0, 0, 1, 0, 0, 0, 1, 0]
    one = ablate(x, shown, "mean", mean=[0.25])
    assert one.flatten().tolist() == [0.25, 1, 0.25, 0, 1]


def test_channel_order_and_normalisation():
    x = images(2, 3)
    every = torch.arange(36).expand(2, 36)
    assert torch.equal(ablate(x, every), torch.cat([x, 1 - x], 1))
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    normal = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(
        ablate(x, every, "multichannel", mean, std), torch.cat([normal, 1 - normal], 1)
    )
    hidden = ablate(x, every[:, :1], "mean", mean)
    assert torch.equal(hidden[:, :, 3, 3], torch.tensor(mean).expand(2, 3)) and hidden.shape == x.shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("null", ["multichannel", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_and_its_twin_write_the_same(monkeypatch, channels, null, dtype):
    x = images(4, channels).to(dtype)
    shown, hidden = module.encoded(x, null, [0.3] * channels if null == "mean" else None)
    of = torch.tensor([3, 0, 0, 2, 1, 3])
    for k in (1, 7, 36):
        words = Streams(5, torch.arange(6), "test").bits(0, k)
        written = []
        for serves in (compiled.serves, lambda *_: False):
            monkeypatch.setattr(module, "serves", serves)
            out = torch.full((6, shown.shape[1], 36), torch.nan, dtype=dtype)
            module._write_ablated(out, shown, of, words, hidden)
            written.append(out)
        assert torch.equal(*written)
        plain = ablate(x[of], random_subsets(words, 36), null, [0.3] * channels if null == "mean" else None)
        assert torch.equal(written[0].view(plain.shape), plain)


# -- draws -------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.data())
def test_subsets_are_subsets(pixels, data):
    k = data.draw(st.integers(1, pixels))
    words = Streams(data.draw(st.integers(0, 9)), torch.arange(3), "test").bits(0, k)
    subsets = random_subsets(words, pixels)
    for subset in subsets.tolist():
        assert len(set(subset)) == k and min(subset) >= 0 and max(subset) < pixels


@pytest.mark.parametrize(("pixels", "k"), [(6, 3), (7, 2), (5, 4)])
def test_every_subset_is_as_likely(pixels, k):
    n = 40_000
    subsets = random_subsets(Streams(1, torch.arange(n), "test").bits(0, k), pixels).sort(1).values
    seen = dict.fromkeys(itertools.combinations(range(pixels), k), 0)
    for subset in map(tuple, subsets.tolist()):
        seen[subset] += 1
    expected = n / comb(pixels, k)
    statistic = sum((count - expected) ** 2 / expected for count in seen.values())
    freedom = comb(pixels, k) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5 + 4


def test_a_draw_is_a_share_of_the_word():
    words = torch.tensor([0, -1, 1 << 62, -(1 << 63), 123456789123456789])
    for high in (1, 2, 784, 2**31 - 1):
        exact = [(int(w) % 2**64) * high >> 64 for w in words]
        assert module._share_of(words, high).tolist() == exact


# -- votes -------------------------------------------------------------------------------------------------


def test_votes_have_the_shares_of_all_subsets():
    x = images(2, side=3)
    model, k, n = Majority(), 3, 20_000
    counts = RandomizedAblation(model, k).vote_counts(x, n)
    assert counts.sum(1).tolist() == [n, n] and counts.dtype == torch.int64
    subsets = torch.tensor(list(itertools.combinations(range(9), k)))
    for row, votes in zip(x, counts, strict=True):
        share = float(
            (model(ablate(row.expand(len(subsets), 1, 3, 3), subsets)).argmax(1) == 1).double().mean()
        )
        error = (share * (1 - share) / n) ** 0.5
        assert abs(int(votes[1]) / n - share) <= 4 * error + 1e-12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("null", ["multichannel", "mean"])
def test_votes_are_blind_to_the_batch(channels, null):
    x = images(5, channels)
    encoding = {"null": null, "mean": [0.4] * channels} if null == "mean" else {"null": null}
    smoothed = RandomizedAblation(network(channels * (1 if null == "mean" else 2)), 9, **encoding)
    ids = torch.tensor([7, 1, 12, 3, 900])
    votes = smoothed.vote_counts(x, 75, ids=ids)
    for size in (1, 64, 100, 4096):
        assert torch.equal(smoothed.vote_counts(x, 75, ids=ids, batch_size=size), votes)
    order = torch.tensor([3, 0, 4])
    assert torch.equal(smoothed.vote_counts(x[order], 75, ids=ids[order], batch_size=32), votes[order])
    # more votes of the same purpose begin with the same ones; another seed or purpose has others
    assert (smoothed.vote_counts(x, 107, ids=ids) >= votes).all()
    assert not torch.equal(smoothed.vote_counts(x, 75, ids=ids, seed=1), votes)
    assert not torch.equal(smoothed.vote_counts(x, 75, ids=ids, purpose="other"), votes)


def test_no_side_effects():
    smoothed, x = RandomizedAblation(network(2), 9), images()
    before, state = x.clone(), torch.get_rng_state()
    smoothed.certify(x, 40, 60)
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in smoothed.parameters())


def test_normalised_colour_images_of_imagenets_kind():
    """The paper's ImageNet encoding, on small stand-ins: normalised first, six channels."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = images(2, 3, side=40)
    smoothed = RandomizedAblation(network(6, side=40), 64, mean=mean, std=std)
    certificate = smoothed.certify(x, 32, 64)
    assert certificate.counts.sum(1).tolist() == [64, 64]
    assert torch.equal(smoothed.certify(x[1:], 32, 64, ids=torch.tensor([1])).counts, certificate.counts[1:])


def test_empty_batch():
    smoothed = RandomizedAblation(Majority(), 2)
    nothing = images()[:0]
    assert len(smoothed.certify(nothing, 10, 20)) == 0 and smoothed.predict(nothing, 10).shape == (0,)


# -- certificates ------------------------------------------------------------------------------------------


def test_certify_is_votes_then_bounds():
    smoothed, x = RandomizedAblation(Majority(3), 4), images(8, side=4)
    certificate = smoothed.certify(x, 100, 400, 0.01, seed=3)
    selection = smoothed.vote_counts(x, 100, seed=3, purpose="selection")
    counts = smoothed.vote_counts(x, 400, seed=3, purpose="estimation")
    assert torch.equal(certificate.selection, selection) and torch.equal(certificate.counts, counts)
    for i, (chosen, votes) in enumerate(zip(selection.argmax(1).tolist(), counts.tolist(), strict=True)):
        radius = zn.certification.ablation_radius(votes[chosen], 400, 16, 4, 0.01)
        assert certificate.radius[i] == radius
        assert certificate.prediction[i] == (ABSTAIN if radius == ABSTAIN else chosen)
    wide = smoothed.certify(x, 100, 400, 0.01, bound="all_votes", seed=3)
    expected = ablation_radius_in_top(counts.numpy(), 16, 4, selection.argmax(1).numpy(), 1, 0.01)
    assert wide.radius.tolist() == expected.tolist()


def test_holds_counts_right_answers_only():
    certificate = zn.certification.Certificate(
        torch.tensor([1, 1, ABSTAIN, 0]), torch.tensor([3, 2, ABSTAIN, zn.certification.UNBOUNDED])
    )
    y = torch.tensor([1, 0, 1, 0])
    assert certificate.holds(y, 0).tolist() == [True, False, False, True]
    assert certificate.holds(y, 4).tolist() == [False, False, False, True]
    assert certificate.abstained.tolist() == [False, False, True, False]


def test_no_change_within_the_radius_moves_the_true_answer():
    """Brute force: every set of pixels within the radius, set to the values that hurt most, and all subsets counted."""
    side, k = 3, 2
    x = torch.tensor([[0.9, 0.8, 0.9, 0.7, 0.9, 1.0, 0.8, 0.9, 0.6]]).view(1, 1, side, side)
    model = Majority()
    certificate = RandomizedAblation(model, k).certify(x, 100, 5000, 0.001)
    radius = int(certificate.radius)
    assert radius >= 1 and int(certificate.prediction) == 1
    subsets = torch.tensor(list(itertools.combinations(range(9), k)))

    def share(image: torch.Tensor) -> float:
        return float(
            (model(ablate(image.expand(len(subsets), -1, -1, -1), subsets)).argmax(1) == 1).double().mean()
        )

    for where in itertools.combinations(range(9), radius):
        changed = x.clone()
        changed.view(-1)[list(where)] = 0.0  # darkest: the model is monotone
        assert share(changed[0]) > 0.5


@pytest.mark.parametrize("bound", ["half", "all_votes"])
def test_coverage_of_the_confidence_statement(bound):
    """Of many certificates of one input, at most a share α claims more than is true."""
    rng, d, k, n, alpha = np.random.default_rng(0), 20, 3, 120, 0.1
    truth = np.array([0.66, 0.2, 0.14])
    votes = rng.multinomial(n, truth, 20_000)
    if bound == "half":
        radius = zn.certification.ablation_radius(votes[:, 0], n, d, k, alpha)
        room = truth[0] - 0.5
    else:
        radius = ablation_radius_in_top(votes, d, k, np.zeros(len(votes), np.int64), 1, alpha)
        room = (truth[0] - truth[1]) / 2
    true_radius = np.searchsorted(zn.certification.share_touched(d, k), room) - 1
    wrong = (radius > true_radius).mean()
    assert wrong <= alpha + 3 * (alpha * (1 - alpha) / len(votes)) ** 0.5
    assert (radius == true_radius).mean() > 0.01  # and it does not hold by saying nothing


def test_a_part_of_the_votes_and_the_rest_are_all():
    smoothed, x = RandomizedAblation(Majority(3), 4), images(3, side=4)
    part, rest = smoothed.vote_counts(x, 64), smoothed.vote_counts(x, 100, first=64)
    assert torch.equal(part + rest, smoothed.vote_counts(x, 164))
    with pytest.raises(ArgumentError, match="first: expected a multiple of 32, got 33"):
        smoothed.vote_counts(x, 5, first=33)


def test_votes_end_early_where_more_promise_nothing():
    # all dark, undecided, and so on to all bright: the ends are as certain as can be
    x = torch.linspace(0, 1, 9).view(-1, 1, 1, 1).expand(-1, 1, 4, 4) * torch.ones(9, 1, 4, 4)
    smoothed = RandomizedAblation(Majority(3), 4)
    early = smoothed.certify(x, 64, 2048, 0.01, looks=4, seed=3)
    whole = smoothed.certify(x, 64, 2048, 0.01, seed=3)
    spent = early.counts.sum(1)
    assert set(spent.tolist()) <= {256, 512, 1024, 2048} and int(spent.sum()) < 9 * 1024
    for i, n in enumerate(spent.tolist()):  # the first of the same votes, at a quarter of alpha
        counts = smoothed.vote_counts(x[i : i + 1], n, seed=3, ids=torch.tensor([i]), purpose="estimation")
        assert torch.equal(counts[0], early.counts[i])
        chosen = int(early.selection[i].argmax())
        assert early.radius[i] == zn.certification.ablation_radius(int(counts[0, chosen]), n, 16, 4, 0.0025)
    assert (early.radius <= whole.radius).all() and (early.radius >= whole.radius - 1).all()
    alone = smoothed.certify(x[4:5], 64, 2048, 0.01, looks=4, seed=3, ids=torch.tensor([4]))
    assert torch.equal(alone.counts[0], early.counts[4])


def test_ending_early_keeps_the_confidence():
    """Simulated with the rule itself: of an input whose true radius is known, a share alpha at most claims more."""
    from zeronorm.certification.randomized_ablation import certify_votes, settled, votes_at_looks

    rng, d, k, n, alpha, looks = np.random.default_rng(0), 20, 3, 512, 0.2, 4
    truth, trials = np.array([0.662, 0.2, 0.138]), 20_000
    selection = np.tile([9, 1, 0], (trials, 1))
    counts, going, first = np.zeros((trials, 3), np.int64), np.arange(trials), 0
    for last in votes_at_looks(n, looks):
        counts[going] += rng.multinomial(last - first, truth, len(going))
        if last < n:
            going = going[~settled(selection[going], counts[going], n, d, k, alpha, "half", looks)]
        first = last
    _, radius = certify_votes(selection, counts, d, k, alpha, "half", looks)
    true_radius = np.searchsorted(zn.certification.share_touched(d, k), truth[0] - 0.5) - 1
    wrong = (radius > true_radius).mean()
    assert 0 < wrong <= alpha
    assert len(going) < 0.9 * trials  # some did end early


class Close(Majority):
    """In float32 class 0 leads by less than bfloat16 can tell; elsewhere class 1 by much."""

    def forward(self, x):
        self.passes = [*getattr(self, "passes", []), (torch.is_autocast_enabled("cpu"), len(x))]
        z = super().forward(x)
        narrow = torch.stack([torch.full_like(z[:, 0], 1.001), torch.ones_like(z[:, 0]), -z[:, 0].abs()], 1)
        narrow = narrow.bfloat16() if torch.is_autocast_enabled("cpu") else narrow
        return torch.where((x.sum((1, 2, 3)) > 3.99)[:, None], narrow.to(z), z)


def test_close_votes_in_bfloat16_are_cast_again():
    x = images(4, side=4)
    model = Close(3)
    fast = RandomizedAblation(model, 4, precision="bfloat16").vote_counts(x, 96)
    again = [rows for low, rows in model.passes if not low]
    assert again and any(low for low, _ in model.passes)
    assert torch.equal(fast, RandomizedAblation(Close(3), 4).vote_counts(x, 96))
    with pytest.raises(ArgumentError, match="precision: expected one of"):
        RandomizedAblation(model, 4, precision="half")


def test_a_network_votes_alike_in_both_precisions():
    x = images(6)
    counts = [
        RandomizedAblation(network(2), 9, precision=precision).vote_counts(x, 320)
        for precision in ("float32", "bfloat16")
    ]
    assert torch.equal(*counts)


def test_predict():
    smoothed, x = RandomizedAblation(Majority(), 4), images(6, side=4)
    counts = smoothed.vote_counts(x, 300, purpose="prediction")
    assert smoothed.predict(x, 300).tolist() == leading_class(counts.numpy()).tolist()
    assert (smoothed.predict(x, 5) == ABSTAIN).all()  # 5 votes never suffice at 0.05


def test_as_a_model_it_can_be_attacked_and_abstaining_is_defeat():
    x = torch.cat([torch.full((1, 1, 4, 4), 0.9), torch.full((1, 1, 4, 4), 0.1)])
    y = torch.tensor([1, 0])
    smoothed = RandomizedAblation(Majority(), 3, votes=60)
    z = smoothed(x)
    assert z.shape == (2, 3) and z.argmax(1).tolist() == [1, 0]
    assert torch.equal(smoothed(x[1:]), z[1:])  # draws are the input's own
    split = x[:1].clone()
    split.view(-1)[:8] = 0.1
    assert smoothed(split).argmax(1).item() == 2  # abstains
    broken = zn.attacks.pointwise(smoothed, x, y, zn.L0(None), restarts=2)
    assert (smoothed(broken).argmax(1) != y).all()
    certified = smoothed.certify(x, 100, 2000)
    assert (certified.radius >= 1).all()
    assert (zn.distances.l0_pixels(x, broken) > 0).all()


# -- refusals ----------------------------------------------------------------------------------------------


class Changing(Majority):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x) * (-1) ** self.calls


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: RandomizedAblation(network(2), 0), "retained: expected an integer of at least 1, got 0"),
        (lambda: RandomizedAblation(network(2), 5, "zero"), "null: expected one of multichannel, mean, got 'zero'"),
        (lambda: RandomizedAblation(network(1), 5, "mean"), "mean: expected the colour that hides a pixel"),
        (lambda: RandomizedAblation(network(2), 5, mean=[0.5]), "mean, std: expected both or none"),
        (lambda: RandomizedAblation(3, 5), "model: expected a callable"),
        (
            lambda: RandomizedAblation(network(2), 37).certify(images()),
            "retained: expected an integer between 1 and 36, got 37",
        ),
        (
            lambda: RandomizedAblation(network(1), 5).certify(images()),
            "base_classifier: expected a model of 2 channels, which the multichannel encoding of 1 needs",
        ),
        (
            lambda: RandomizedAblation(network(2).train(), 5).certify(images()),
            "base_classifier: expected evaluation mode",
        ),
        (
            lambda: RandomizedAblation(Changing(), 5).vote_counts(images(), 40),
            "base_classifier: expected the same answers twice",
        ),
        (lambda: RandomizedAblation(network(2), 5).certify(images(), alpha=1.0), "alpha: expected a number between"),
        (lambda: RandomizedAblation(network(2), 5).certify(images(), n0=0), "n: expected an integer of at least 1"),
        (lambda: RandomizedAblation(network(2), 5).certify(images()[0]), "x: expected images"),
        (
            lambda: RandomizedAblation(network(2), 5, "mean", mean=[0.5] * 3).certify(images()),
            "mean: expected 1 numbers, one per channel, got 3",
        ),
    ],
)  # fmt: skip
def test_refusals(call, says):
    with pytest.raises((ArgumentError,), match=says):
        call()
