"""The kernels of convolutions against the definition, and against those of rows, which are judged elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronorm.kernels import truncated_patches as MODULE
from zeronorm.kernels.truncated_patches import truncated_patches
from zeronorm.kernels.truncated_products import truncated_products

KINDS = ["normal", "integers", "background", "blank", "extreme"]


def problem(kind, b, d, p, outputs, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(b, d, p, generator=generator, dtype=dtype)
    weight = torch.randn(outputs, d, generator=generator, dtype=dtype)
    if kind == "integers":  # many equal products
        patches, weight = patches.round(), weight.round()
    elif kind == "background":  # four of five are 0
        patches = patches.abs() * (torch.rand(b, d, p, generator=generator) < 0.2)
    elif kind == "blank":
        patches = torch.zeros_like(patches)
    elif kind == "extreme":  # what an adversary without bounds writes
        patches[:, ::7] *= 1e15
    return patches, weight


def definition(patches, weight, bottom, top):
    """Which products are kept, from Python's own stable sort: (b, o, d, p)."""
    products = patches[:, None] * weight[:, :, None]
    kept = torch.ones_like(products, dtype=torch.bool)
    b, o, d, p = products.shape
    for place in ((i, j, n) for i in range(b) for j in range(o) for n in range(p)):
        numbers = products[place[0], place[1], :, place[2]].tolist()
        order = sorted(range(d), key=numbers.__getitem__)
        kept[place[0], place[1], order[:bottom] + order[d - top :], place[2]] = False
    return kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("d", "bottom", "top"),
    [(2, 1, 1), (3, 0, 1), (9, 4, 4), (9, 2, 0), (27, 10, 10), (27, 3, 6), (33, 16, 16), (40, 1, 1)],
)
def test_as_defined(kind, d, bottom, top):
    patches, weight = (v.requires_grad_() for v in problem(kind, 2, d, 67, 3))
    sums = truncated_patches(patches, weight, bottom, top)
    assert type(sums.grad_fn).__name__ == "_TruncatedPatchesBackward"
    kept = definition(patches, weight, bottom, top)
    expected = torch.where(kept, patches[:, None] * weight[:, :, None], 0.0).sum(2)
    g = torch.randn_like(sums)
    to_patches, to_weight = torch.autograd.grad(sums, (patches, weight), g)
    tolerance = {"rtol": 1e-4, "atol": 1e-4 if kind != "extreme" else 1e11}
    torch.testing.assert_close(sums, expected, **tolerance)
    torch.testing.assert_close(
        to_patches, torch.einsum("bop,bodp,od->bdp", g, kept.float(), weight), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        to_weight, torch.einsum("bop,bodp,bdp->od", g, kept.float(), patches), **tolerance
    )


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_as_rows(data):
    b, outputs = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 5))
    p = data.draw(st.integers(1, 150))
    d = data.draw(st.integers(2, 90))
    bottom = data.draw(st.integers(0, min(d, 19)))  # beyond 16 other kernels do it
    top = data.draw(st.integers(0, min(d - bottom, 19)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    kind = data.draw(st.sampled_from(KINDS[:4]))
    patches, weight = (
        v.requires_grad_() for v in problem(kind, b, d, p, outputs, data.draw(st.integers(0, 999)), dtype)
    )
    mine = truncated_patches(patches, weight, bottom, top)
    rows = truncated_products(patches.transpose(1, 2).reshape(b * p, d), weight, bottom, top)
    theirs = rows.view(b, p, outputs).transpose(1, 2)
    g = torch.randn_like(mine)
    assert mine.shape == (b, outputs, p)
    for a, e in zip(
        (mine, *torch.autograd.grad(mine, (patches, weight), g)),
        (theirs, *torch.autograd.grad(theirs, (patches, weight), g)),
        strict=True,
    ):
        torch.testing.assert_close(a, e, rtol=1e-3, atol=1e-3 if dtype == torch.float32 else 1e-10)


def test_gradients_by_differences():
    patches, weight = (v.requires_grad_() for v in problem("normal", 2, 11, 5, 3, dtype=torch.float64))
    for k in (0, 1, 5):
        assert torch.autograd.gradcheck(
            lambda a, b, k=k: truncated_patches(a, b, k, k // 2), (patches, weight)
        )


def test_only_the_gradient_that_is_asked_for():
    patches, weight = problem("normal", 2, 11, 5, 3)
    truncated_patches(patches.requires_grad_(), weight, 2, 2).sum().backward()
    assert patches.grad is not None and weight.grad is None
    truncated_patches(patches.detach(), weight.requires_grad_(), 2, 2).sum().backward()
    assert weight.grad is not None


def test_a_dropped_coordinate_leaves_no_trace():
    patches, weight = problem("normal", 1, 20, 70, 4)
    patches[:, 3] = 1e30
    clean = patches.clone()
    clean[:, 3] = 1e4  # beyond all others too
    weight.requires_grad_()
    sums = truncated_patches(patches, weight, 2, 2)
    assert torch.equal(sums, truncated_patches(clean, weight, 2, 2))
    (to_weight,) = torch.autograd.grad(sums.sum(), weight)
    assert (to_weight[:, 3] == 0).all() and (to_weight.abs() < 500).all()


def test_an_image_is_blind_to_the_others():
    patches, weight = problem("background", 5, 27, 100, 6)
    patches.requires_grad_()
    together = truncated_patches(patches, weight, 5, 5)
    alone = truncated_patches(patches[3:4], weight, 5, 5)
    assert torch.equal(alone[0], together[3])
    (to_all,) = torch.autograd.grad(together.sum(), patches)
    (to_one,) = torch.autograd.grad(alone.sum(), patches)
    assert torch.equal(to_all[3], to_one[3])


def test_blocks_split_over_threads_come_out_the_same(monkeypatch):
    from zeronorm.kernels import numba as compiled

    def work():
        patches, weight = (v.requires_grad_() for v in problem("integers", 3, 30, 150, 7))
        sums = truncated_patches(patches, weight, 5, 5)
        return sums, *torch.autograd.grad(sums, (patches, weight), torch.ones_like(sums))

    one = work()
    monkeypatch.setattr(compiled, "_WORTH_A_THREAD", 10)
    monkeypatch.setattr(compiled, "torch", SimpleNamespace(get_num_threads=lambda: 4, Tensor=torch.Tensor))
    assert all(torch.equal(a, b) for a, b in zip(one, work(), strict=True))


def test_where_no_kernel_serves(monkeypatch):
    patches, weight = problem("integers", 2, 20, 9, 3)
    expected = truncated_patches(patches, weight, 3, 3)
    monkeypatch.setattr(MODULE, "MOST", 2)
    torch.testing.assert_close(truncated_patches(patches, weight, 3, 3), expected)
