"""The proposals of Sparse-RS: what is drawn is uniform, and the compiled kernel draws what its twin draws."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from zeronorm import L0
from zeronorm.attacks import sparse_rs_proposal as MODULE
from zeronorm.attacks.batch_under_attack import attacking


@pytest.fixture(params=["compiled", "torch"])
def path(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(MODULE, "serves", lambda *tensors: False)
    return request.param


def sure(x):
    return torch.tensor([1.0, 0.0]).expand(len(x), 2)


def proposed(x, M, moved, *, step=5, n=None, colours=None, table=None):
    """One proposal for many examples whose set is M."""
    y = torch.zeros(len(x), dtype=torch.int64)
    table = torch.arange(x.shape[2] if n is None else n) if table is None else table
    colours = torch.full((len(x), x.shape[1], M.shape[1]), 0.5, dtype=x.dtype) if colours is None else colours
    before = M.clone(), colours.clone()
    with attacking("test", sure, x, y, L0(1), targeted=None, seed=0, ids=None) as batch:
        result = MODULE.propose(batch, step, M, colours, table, moved)
    assert torch.equal(M, before[0]) and torch.equal(colours, before[1]), "what was is kept, to return to"
    return result


def grey(examples, pixels, channels=1):
    return torch.full((examples, channels, pixels), 0.5)


@pytest.mark.parametrize("moved", [1, 2, 3])
def test_entering_pixels_are_uniform_over_those_outside(path, moved):
    """Every pixel outside as often as every other, and every pair of them too."""
    examples, n = 60_000, 9
    M = torch.tensor([7, 1, 4]).expand(examples, 3).clone()
    new, _ = proposed(grey(examples, n), M, moved)
    entered = (new[:, :, None] == torch.arange(n)).any(1)
    assert (entered.sum(1) == 3).all(), "distinct"
    assert (entered[:, [1, 4, 7]].sum(1) == 3 - moved).all(), "as many left as entered"
    free = entered[:, [0, 2, 3, 5, 6, 8]]
    assert chisquare(free.sum(0)).pvalue > 1e-4
    if moved == 2:
        pairs = (free.float().T @ free.float()).triu(1).flatten()
        assert int((pairs > 0).sum()) == 15 and chisquare(pairs[pairs > 0]).pvalue > 1e-4


@pytest.mark.parametrize("moved", [1, 3])
def test_leaving_pixels_are_uniform(path, moved):
    M = torch.arange(5).expand(60_000, 5).clone()
    new, colours = proposed(grey(60_000, 30), M, moved)
    left = new != M
    assert (left.sum(1) == moved).all()
    assert chisquare(left.sum(0)).pvalue > 1e-4
    assert torch.equal(colours[:, 0] != 0.5, left), "who stays keeps its colour"


def test_each_example_has_its_own_set_taken(path):
    new, _ = proposed(grey(5, 6), torch.arange(5)[:, None], 1)
    assert (new[:, 0] != torch.arange(5)).all()
    everyone = torch.stack([proposed(grey(5, 6), torch.arange(5)[:, None], 1, step=i)[0] for i in range(300)])
    assert [sorted(set(c.tolist())) for c in everyone[:, :, 0].T] == [
        [p for p in range(6) if p != i] for i in range(5)
    ]


@pytest.mark.parametrize("channels", [1, 3, 40])
def test_colours_are_fair_coins(path, channels):
    M = torch.arange(2).expand(20_000, 2).clone()
    new, colours = proposed(grey(20_000, 9, channels), M, 2)
    assert (new >= 2).all()
    assert set(colours.unique().tolist()) == {0.0, 1.0}
    assert (colours.mean(0) - 0.5).abs().max() < 5 * 0.5 / 20_000**0.5
    if channels == 3:
        codes = (colours * torch.tensor([1, 2, 4])[:, None]).sum(1).long()
        assert chisquare(codes.flatten().bincount(minlength=8)).pvalue > 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_a_single_exchange_shows_a_colour_unlike_the_clean_one(path, channels):
    """Uniform over the other corners where the clean colour is one, over all corners where it is none."""
    examples = 40_000
    x = (torch.rand(examples, channels, 4) < 0.5).float()
    x[:, :, 3] = 0.3
    new, colours = proposed(x, torch.tensor([[0, 1]]).expand(examples, 2).clone(), 1)
    slot = (new >= 2).long().argmax(1)
    entering = new.gather(1, slot[:, None])[:, 0]
    shown = colours.gather(2, slot[:, None, None].expand(-1, channels, 1))[:, :, 0]
    clean = x.gather(2, entering[:, None, None].expand(-1, channels, 1))[:, :, 0]
    corner = entering == 2
    code = torch.tensor([1, 2, 4][:channels])
    flips = ((shown != clean) * code).sum(1)
    assert (flips[corner] > 0).all()
    assert chisquare(flips[corner].bincount(minlength=1 << channels)[1:]).pvalue > 1e-4 or channels == 1
    colour = (shown.bool() * code).sum(1)
    assert chisquare(colour[~corner].bincount(minlength=1 << channels)).pvalue > 1e-4


@pytest.mark.parametrize("moved", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixels", [5, 7, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_draws_what_its_twin_draws(monkeypatch, moved, channels, pixels, dtype):
    examples, k = 200, 5
    x = torch.rand(examples, channels, 2 * pixels, dtype=dtype).round_(decimals=0)
    M = torch.stack([torch.randperm(pixels)[:k] for _ in range(examples)])
    colours = torch.rand(examples, channels, k, dtype=dtype)
    moved = min(moved, pixels - k) or moved
    table = torch.arange(pixels) * 2 + 1
    fast = proposed(x, M, moved, colours=colours, table=table)
    monkeypatch.setattr(MODULE, "serves", lambda *tensors: False)
    slow = proposed(x, M, moved, colours=colours, table=table)
    assert torch.equal(fast[0], slow[0]) and torch.equal(fast[1], slow[1])
    assert not torch.equal(fast[1], colours)
