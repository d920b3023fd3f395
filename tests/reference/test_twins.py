"""The library's searches against their slow twins: the same iterates, and no less strength."""

from __future__ import annotations

import jaxtyping
import pytest
import torch
from sparse_pgd_twins import published_sparse_pgd, sparse_pgd
from sparse_rs_twin import exchanged, published_sparse_rs
from torch import nn
from torch.nn.functional import cross_entropy

from zeronorm import L0, attacks
from zeronorm.attacks.sparse_rs import exchanged as exchanged_here
from zeronorm.seeding import Streams


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gradient", ["unprojected", "projected"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.0, 3.0)])
def test_sparse_pgd_takes_the_same_path_as_its_twin(channels, gradient, low, high):
    """Given the same random numbers: same pixels, same values, example by example, broken or not."""
    n, k, steps, examples = 25, 2, 60, 24
    generator = torch.Generator().manual_seed(channels)
    x = low + (high - low) * torch.rand(examples, channels, n, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * n, 16), nn.Softplus(), nn.Linear(16, 4)
        ).double()
    net[1].weight.data.mul_(3 / (high - low))
    net[3].bias.data[2] += 0.15 * channels  # sure enough that some searches run to their end
    y = net(x).argmax(1)
    threat = L0(k, low=low, high=high)
    ours = attacks.sparse_pgd(net, x, y, threat, steps=steps, gradient=gradient)
    held = int((net(ours).argmax(1) == y).sum())
    for i in range(examples):
        streams = Streams(0, torch.tensor([i]), "sparse_pgd")
        u = streams.uniform(0, channels * n, torch.float64).view(channels, n)
        p = torch.clamp((high - low) * (2 * u - 1), low - x[i], high - x[i])

        def draw(t, streams=streams):
            return streams.normal(t + 1, n, torch.float64)[0]

        projected = gradient == "projected"
        theirs = sparse_pgd(net, x[i], int(y[i]), k, steps, p, draw, projected=projected, low=low, high=high)
        torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-12)
    assert 2 <= held <= examples - 2


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("queries", [20, 300, 5000, 10_000, 40_000])
def test_sparse_rs_schedule(fraction, queries):
    for k in (1, 2, 7, 10, 150):
        for i in range(1, queries, 1 + queries // 500):
            assert exchanged_here(i, queries, k, fraction) == exchanged(i, queries, k, fraction)


@pytest.fixture(scope="module")
def digits():
    """A small network that knows real digits, and test images it gets right."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float().div(16).flatten(1)[:, None]
    labels = torch.from_numpy(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        cross_entropy(net(images[:1200]), labels[:1200]).backward()
        optimizer.step()
    net.requires_grad_(False).double()
    x, y = images[1200:].double(), labels[1200:]
    right = net(x).argmax(1) == y
    assert right.float().mean() > 0.85
    return net, x[right], y[right]


def assert_no_weaker(ours, theirs):
    """Ours leaves no more robust than theirs, beyond three standard errors of the paired difference."""
    only_ours = int((ours & ~theirs).sum())
    only_theirs = int((theirs & ~ours).sum())
    print(f"robust: ours {int(ours.sum())}, twin {int(theirs.sum())} of {len(ours)}")
    assert only_ours - only_theirs <= 3 * (only_ours + only_theirs) ** 0.5
    assert 0 < theirs.sum() < len(theirs), "the comparison should have something to tell"


@pytest.mark.parametrize("gradient", ["unprojected", "projected"])
@pytest.mark.parametrize(("k", "n", "steps"), [(1, 100, 40), (2, 150, 40), (3, 150, 40)])
def test_sparse_pgd_is_as_strong_as_published(digits, gradient, k, n, steps):
    net, x, y = digits[0], digits[1][:n], digits[2][:n]
    ours = net(attacks.sparse_pgd(net, x, y, L0(k), steps=steps, gradient=gradient)).argmax(1) == y
    generator = torch.Generator().manual_seed(0)
    theirs = [
        not published_sparse_pgd(net, x[i], int(y[i]), k, steps, generator, projected=gradient == "projected")
        for i in range(n)
    ]
    assert_no_weaker(ours, torch.tensor(theirs))


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize(("k", "n", "queries"), [(1, 100, 60), (2, 100, 60), (3, 150, 60)])
def test_sparse_rs_is_as_strong_as_published(digits, loss, k, n, queries):
    net, x, y = digits[0], digits[1][:n], digits[2][:n]
    ours = net(attacks.sparse_rs(net, x, y, L0(k), queries=queries, loss=loss)).argmax(1) == y
    theirs = [
        not published_sparse_rs(net, x[i], int(y[i]), k, queries, i, margin=loss == "margin")
        for i in range(n)
    ]
    assert_no_weaker(ours, torch.tensor(theirs))
