"""The kernels against the definition, value, gradient and choice, and against their twin that sorts."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronorm.kernels import truncated_products as MODULE
from zeronorm.kernels.truncated_products import truncated_products

KINDS = ["normal", "integers", "background", "blank", "extreme", "overflow", "sorted"]


def problem(kind, rows, outputs, d, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, d, generator=generator, dtype=dtype)
    weight = torch.randn(outputs, d, generator=generator, dtype=dtype)
    if kind == "integers":  # many equal products
        x, weight = x.round(), weight.round()
    elif kind == "background":  # four of five are 0
        x = x.abs() * (torch.rand(rows, d, generator=generator) < 0.2)
    elif kind == "blank":
        x = torch.zeros_like(x)
    elif kind == "extreme":  # what an adversary without bounds writes
        x[:, ::7] *= 1e15
    elif kind == "overflow":
        x[:, ::3] *= torch.finfo(dtype).max / 4
        weight *= 8
    elif kind == "sorted":  # all large products come together
        x, weight = torch.arange(d, dtype=dtype).expand(rows, d).contiguous(), weight.abs() + 1
    return x, weight


def definition(x, weight, bottom, top):
    """Values, and which are kept, from Python's own stable sort."""
    products = x[:, None] * weight
    kept = torch.ones_like(products, dtype=torch.bool)
    for r in range(len(x)):
        for o in range(len(weight)):
            numbers = products[r, o].tolist()
            order = sorted(range(len(numbers)), key=numbers.__getitem__)
            kept[r, o, order[:bottom] + order[len(order) - top :]] = False
    return torch.where(kept, products, 0.0).sum(2), kept


def ways():
    return [MODULE._Compiled, MODULE._Sorted]


@pytest.mark.parametrize("way", ways(), ids=["compiled", "sorted"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [2, 3, 27, 64, 65, 200, 784])
def test_as_defined(way, kind, d):
    for k in sorted({1, 2, min(10, d // 2), d // 4, d // 2} - {0}):
        x, weight = problem(kind, 3, 5, d)
        bottom, top = {3: (k, 2 * k), 5: (2 * k, 0)}.get(k % 7, (k, k))
        if bottom + top > d:
            bottom = top = k
        expected, kept = definition(x, weight, bottom, top)
        sums, dropped = way.sums(x, weight, bottom, top)
        assert dropped.dtype == torch.int16 and dropped.shape == (3, 5, bottom + top)
        left = torch.ones_like(kept).scatter_(2, dropped.long(), False)
        assert torch.equal(left, kept), k  # each once
        G = torch.randn(3, 5)
        if kind != "overflow":  # then the sum depends on its order
            torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-4)
            to_x = torch.einsum("ro,rod,od->rd", G, kept.float(), weight)
            torch.testing.assert_close(way.rows(G, weight, x, dropped), to_x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ways(), ids=["compiled", "sorted"])
def test_a_dropped_coordinate_leaves_no_trace(way):
    x, weight = problem("normal", 4, 6, 100)
    x[:, 3] = torch.tensor([1e30, -1e30, 1e20, 3e38]) / 10
    clean = x.clone()
    clean[:, 3] = 1e4  # beyond all others too
    sums, dropped = way.sums(x, weight, 2, 2)
    assert torch.equal(sums[0], way.sums(clean, weight, 2, 2)[0][0])
    G = torch.randn(4, 6)
    assert (way.rows(G, weight, x, dropped)[:, 3] == 0).all()
    to_weight = way.rows(G.t().contiguous(), x, weight, dropped.transpose(0, 1).contiguous())
    assert (to_weight[:, 3] == 0).all() and (to_weight.abs() < 100).all()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_compiled_and_sorted_agree(data):
    rows, outputs = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 9))
    d = data.draw(st.integers(2, 700))
    bottom = data.draw(st.integers(0, d))
    top = data.draw(st.integers(0, d - bottom))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    kind = data.draw(st.sampled_from([kind for kind in KINDS if kind != "overflow"]))
    x, weight = problem(kind, rows, outputs, d, data.draw(st.integers(0, 999)), dtype)
    (sums, dropped), (sums2, dropped2) = (way.sums(x, weight, bottom, top) for way in ways())
    assert torch.equal(dropped.sort(2).values, dropped2.sort(2).values)
    tolerance = {"rtol": 1e-4, "atol": 1e-4 if dtype == torch.float32 else 1e-10}
    # of numbers with eleven digits more than their sum
    torch.testing.assert_close(sums, sums2, **tolerance | ({"atol": 1e11} if kind == "extreme" else {}))
    G = torch.randn(rows, outputs, dtype=dtype)
    mine, theirs = (way.rows(G, weight, x, dropped) for way in ways())
    torch.testing.assert_close(mine, theirs, **tolerance)


def test_gradients_by_differences():
    x, weight = (v.requires_grad_() for v in problem("normal", 3, 4, 23, dtype=torch.float64))
    for k in (0, 1, 5, 11):
        assert torch.autograd.gradcheck(lambda a, b, k=k: truncated_products(a, b, k, k // 2), (x, weight))


def test_only_the_gradient_that_is_asked_for():
    x, weight = problem("normal", 3, 4, 23)
    truncated_products(x.requires_grad_(), weight, 2, 2).sum().backward()
    assert x.grad is not None and weight.grad is None


def test_a_row_is_blind_to_the_others():
    x, weight = problem("background", 9, 37, 300)
    together = truncated_products(x, weight, 7, 7)
    assert all(torch.equal(truncated_products(x[i : i + 1], weight, 7, 7)[0], together[i]) for i in range(9))
    x.requires_grad_()
    (to_x,) = torch.autograd.grad(truncated_products(x, weight, 7, 7).sum(), x)
    (to_one,) = torch.autograd.grad(truncated_products(x[4:5], weight, 7, 7).sum(), x)
    assert torch.equal(to_one[4], to_x[4])


def test_rows_split_over_threads_come_out_the_same(monkeypatch):
    from zeronorm.kernels import numba as compiled

    x, weight = problem("normal", 13, 11, 150)
    one = MODULE._Compiled.sums(x, weight, 5, 5)
    monkeypatch.setattr(compiled, "_WORTH_A_THREAD", 10)
    monkeypatch.setattr(compiled, "torch", SimpleNamespace(get_num_threads=lambda: 4))
    four = MODULE._Compiled.sums(x, weight, 5, 5)
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))


def test_wide_rows_have_wider_indices():
    x, weight = problem("normal", 1, 2, 40_000)
    (sums, dropped), (sums2, dropped2) = (way.sums(x, weight, 3, 3) for way in ways())
    assert dropped.dtype == torch.int32
    assert torch.equal(dropped.sort(2).values, dropped2.sort(2).values)
    torch.testing.assert_close(sums, sums2, rtol=1e-4, atol=1e-3)


# -- Triton ------------------------------------------------------------------------------------------------

IN_TRITON = """
import torch
from zeronorm.kernels import truncated_products_gpu as truncated_products_gpu as gpu, truncated_products as MODULE
torch.manual_seed(0)
for d, n, k in [(2, 1, 1), (5, 2, 2), (17, 4, 0), (41, 20, 20), (50, 0, 9), (100, 10, 10)]:
    for kind in range(4):
        x, weight, G = torch.randn(5, d), torch.randn(9, d), torch.randn(5, 9)
        if kind == 1: x, weight = x.round(), weight.round()
        if kind == 2: x[0], x[1, 0] = 0, 1e30
        if kind == 3: x.mul_(torch.rand(5, d) < 0.2)
        (sums, bounds), (expected, dropped) = gpu.sums(x, weight, n, k), MODULE._Sorted.sums(x, weight, n, k)
        torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)
        for g, m, n, turn in [(G, weight, x, 0), (G.t().contiguous(), x, weight, 1)]:
            mine = gpu.rows(g, m, n, bounds.transpose(0, turn).contiguous())
            theirs = MODULE._Sorted.rows(g, m, n, dropped.transpose(0, turn).contiguous())
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
print("agreed")
"""


def test_triton_interpreted_agrees():
    pytest.importorskip("triton")
    # in a process of its own: whether to interpret is decided once, at import
    script = f"import os\nos.environ['TRITON_INTERPRET'] = '1'\n{IN_TRITON}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "agreed\n", done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["normal", "integers", "background", "blank", "extreme"])
def test_on_a_gpu_as_on_the_cpu(kind):
    x, weight = problem(kind, 33, 70, 784)
    G = torch.randn(33, 70)
    results = []
    for device in ("cpu", "cuda"):
        a, b = (v.to(device).requires_grad_() for v in (x, weight))
        sums = truncated_products(a, b, 10, 10)
        results.append([v.cpu() for v in (sums, *torch.autograd.grad(sums, (a, b), G.to(device)))])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3 * float(mine.abs().max()))
