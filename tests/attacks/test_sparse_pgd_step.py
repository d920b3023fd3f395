"""The compiled step of sparse-PGD against its twin in torch and against the definition."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronorm.attacks import sparse_pgd_step as MODULE
from zeronorm.attacks.batch_under_attack import BatchUnderAttack
from zeronorm.projections import top_k


def search_of(x, low, high):
    batch = BatchUnderAttack.__new__(BatchUnderAttack)
    batch.__dict__.update(x=x, low=low, high=high)
    return batch


def moved(monkeypatch, v, x, G, mask, support, projected, *, compiled, low=0.0, high=1.0, α=0.25):
    v, mask = v.clone(), mask.clone()
    with monkeypatch.context() as patch:
        if not compiled:
            patch.setattr(MODULE, "serves", lambda *tensors: False)
        MODULE.move(search_of(x, low, high), v, mask, support, G, α, 3.0, projected)
    return v, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_moves_as_its_twin(monkeypatch, dtype, projected, channels):
    x, v = torch.rand(2, 40, channels, 64, dtype=dtype)
    G = torch.randn(40, channels, 64, dtype=dtype) * torch.logspace(-30, 3, 40, dtype=dtype)[:, None, None]
    G[:, :, 5] = 0
    mask = 9 * torch.randn(40, 64, dtype=dtype)
    mask[:, 7] = -torch.inf  # not allowed
    support = top_k(mask, 6).sort(1).values
    fast = moved(monkeypatch, v, x, G, mask, support, projected, compiled=True)
    slow = moved(monkeypatch, v, x, G, mask, support, projected, compiled=False)
    assert torch.equal(fast[0], slow[0])
    torch.testing.assert_close(fast[1], slow[1], rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=1e-5)
    assert not torch.equal(fast[1], mask) and not torch.equal(fast[0], v)


def test_a_box_of_its_own_for_every_entry_goes_by_torch(monkeypatch):
    x, v = torch.rand(2, 4, 1, 16)
    G, mask = torch.randn(4, 1, 16), torch.randn(4, 16)
    support = top_k(mask, 3).sort(1).values
    number = moved(monkeypatch, v, x, G, mask, support, False, compiled=True)
    bounds = {"low": torch.zeros_like(x), "high": torch.ones_like(x), "α": torch.full_like(x[:1], 0.25)}
    tensor = moved(monkeypatch, v, x, G, mask, support, False, compiled=True, **bounds)
    assert torch.equal(number[0], tensor[0])


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_chooses_the_k_largest(data):
    """Also among equals, whatever the choice before: the lower positions."""
    pixels = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, pixels))
    numbers = st.sampled_from([-torch.inf, -2.0, -1.0, 0.0, -0.0, 1.0, 2.5, torch.inf])
    masks = torch.tensor(data.draw(st.lists(st.lists(numbers, min_size=pixels, max_size=pixels), min_size=1)))
    before = torch.stack([torch.randperm(pixels)[:k].sort().values for _ in masks])
    stuck = torch.randint(-1, 4, (len(masks),))
    chosen, now = MODULE.choose(masks, before, stuck)
    assert torch.equal(chosen, top_k(masks, k).sort(1).values)
    assert torch.equal(now, (stuck + 1) * (chosen == before).all(1))


def test_rows_split_over_threads_come_out_the_same(monkeypatch):
    from zeronorm.kernels import numba as compiled

    masks = torch.randn(37, 50)
    before = top_k(torch.randn(37, 50), 4).sort(1).values
    one = MODULE.choose(masks, before, torch.zeros(37, dtype=torch.int64))
    monkeypatch.setattr(compiled, "_WORTH_A_THREAD", 100)
    monkeypatch.setattr(compiled, "torch", SimpleNamespace(get_num_threads=lambda: 4))
    four = MODULE.choose(masks, before, torch.zeros(37, dtype=torch.int64))
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))
