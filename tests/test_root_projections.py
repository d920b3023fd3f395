"""Stable top-k supports, and projections onto few changes within a box."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from zeronorm.projections import clipped_gains, onto_half_space_in_box, onto_l0_box, top_each, top_k, unit


def by_sorting(row: list[float], k: int) -> set[int]:
    """The k largest, ties to the lower index."""
    return set(sorted(range(len(row)), key=lambda i: (-row[i], i))[:k])


def check(scores, k):
    before = scores.clone()
    chosen = top_k(scores, k)
    assert chosen.shape == (len(scores), k) and chosen.dtype == torch.int64
    assert torch.equal(scores, before)
    for row, found in zip(scores.tolist(), chosen.tolist(), strict=True):
        assert len(set(found)) == k and set(found) == by_sorting(row, k)


@st.composite
def scores_and_k(draw):
    """Few levels, so that ties are everywhere, or none; long rows too, which are searched in lines."""
    b = draw(st.integers(0, 4))
    p = draw(st.one_of(st.integers(1, 30), st.sampled_from([56, 64, 120, 210, 256, 784, 1009])))
    k = draw(st.one_of(st.integers(0, min(p, 12)), st.integers(0, p)))
    levels = draw(st.sampled_from([1, 2, 3, 20, 10**6]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scores = torch.randint(levels, (b, p), generator=generator).to(
        draw(st.sampled_from([torch.float32, torch.float64]))
    )
    if draw(st.booleans()):
        scores[torch.rand(b, p, generator=generator) < 0.3] = -math.inf  # pixels that may not change
    return scores, k


@given(scores_and_k())
@settings(max_examples=400, deadline=None)
def test_equals_a_stable_sort(case):
    check(*case)


@pytest.mark.parametrize("p", [16, 64, 784, 1024])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_ties_across_the_border_wherever_they_are(p, k):
    """Every row has k - 1 clear winners and two equal scores for the last place."""
    generator = torch.Generator().manual_seed(p + k)
    scores = torch.rand(300, p, generator=generator)
    for row in scores:
        at = torch.randperm(p, generator=generator)[: k + 1]
        row[at[: k - 1]] = 3.0
        row[at[k - 1 :]] = 2.0
    check(scores, k)


def test_equal_scores_take_the_first():
    assert sorted(top_k(torch.zeros(1, 1000), 3)[0].tolist()) == [0, 1, 2]
    # saturated sigmoids are what the published code ranks; the scores themselves differ
    assert top_k(torch.tensor([[20.0, 30.0, 40.0, 18.0, -1.0, -2.0]]), 1).tolist() == [[2]]


def test_non_contiguous_rows():
    scores = torch.rand(96, 7, generator=torch.Generator().manual_seed(0)).T
    check(scores, 4)
    check(scores.contiguous()[:, ::2], 5)


# -- a number of its own for each row ---------------------------------------------------------------------


@given(scores_and_k(), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_top_each_equals_a_stable_sort_of_every_row(case, seed):
    scores, k = case
    each = torch.randint(k + 1, (len(scores),), generator=torch.Generator().manual_seed(seed))
    before = scores.clone(), each.clone()
    chosen = top_each(scores, each)
    assert chosen.shape == scores.shape and chosen.dtype == torch.bool
    assert torch.equal(scores, before[0]) and torch.equal(each, before[1])
    for row, found, n in zip(scores.tolist(), chosen, each.tolist(), strict=True):
        assert set(found.nonzero().flatten().tolist()) == by_sorting(row, n)


# -- onto few changes within a box ------------------------------------------------------------------------


def written(x, positions, values):
    return x.clone().scatter_(2, positions[:, None].expand_as(values), values)


def grid(*channels):
    return torch.tensor([channels], dtype=torch.float64)


def test_projection_by_hand():
    """Box ± 0.5: clipping 0.9 to 0.5 keeps 0.65 of its 0.81."""
    v, x = grid([0.9, -0.4, 0.3, 0.35]), torch.zeros(1, 1, 4, dtype=torch.float64)
    clipped, gains = clipped_gains(v, x, -0.5, 0.5)
    assert torch.equal(clipped, grid([0.5, -0.4, 0.3, 0.35]))
    assert torch.allclose(gains, torch.tensor([[0.65, 0.16, 0.09, 0.1225]], dtype=torch.float64))
    for k, expected in ((0, [0, 0, 0, 0]), (1, [0.5, 0, 0, 0]), (2, [0.5, -0.4, 0, 0])):
        assert torch.equal(written(x, *onto_l0_box(v, x, -0.5, 0.5, k)), grid(expected))


def test_projection_counts_pixels_and_not_channels():
    v = grid([0.3, 0.5], [0.3, 0.0], [0.3, 0.0])  # gains 0.27 and 0.25
    x = torch.zeros_like(v)
    assert torch.equal(written(x, *onto_l0_box(v, x, -1.0, 1.0, 1)), grid([0.3, 0.0], [0.3, 0.0], [0.3, 0.0]))


def test_projection_of_ties_keeps_k_and_no_more():
    v, x = grid([0.5, -0.5, 0.1, 0.0]), torch.zeros(1, 1, 4, dtype=torch.float64)
    positions, values = onto_l0_box(v, x, -1.0, 1.0, 1)
    assert positions.tolist() == [[0]] and values.tolist() == [[[0.5]]]


def test_projection_stays_off_positions_that_may_not_change():
    v, x = grid([0.9, -0.4, 0.3, 0.35]), torch.zeros(1, 1, 4, dtype=torch.float64)
    allowed = torch.tensor([False, True, True, True])
    assert torch.equal(written(x, *onto_l0_box(v, x, -0.5, 0.5, 2, allowed)), grid([0.0, -0.4, 0.0, 0.35]))


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 6), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_projection_is_the_closest_of_all_supports(seed, channels, pixels, bounds_are_tensors, masked):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    x = random(3, channels, pixels)
    low, high = (x - random(x.shape), x + random(x.shape)) if bounds_are_tensors else (0.0, 1.0)
    v = x + 4 * random(3, channels, pixels) - 2
    allowed = random(pixels) < 0.7 if masked else None
    free = range(pixels) if allowed is None else allowed.nonzero().flatten().tolist()
    k = min(len(free), seed % 4)
    before = v.clone()
    positions, values = onto_l0_box(v, x, low, high, k, allowed)
    point = written(x, positions, values)
    assert torch.equal(v, before)
    assert ((point >= low) & (point <= high)).all()
    changed = (point != x).any(1)
    assert (changed.sum(1) <= k).all() and (allowed is None or not changed[:, ~allowed].any())
    distance = (v - point).square().sum((1, 2))
    clipped = v.clamp(low, high)
    for support in combinations(free, k):
        other = x.clone()
        other[:, :, list(support)] = clipped[:, :, list(support)]
        assert (distance <= (v - other).square().sum((1, 2)) + 1e-12).all()


def test_gains_of_long_steps_keep_their_order():
    """Steps of 10^6 widths, in float32: the difference of two squares would drown in rounding."""
    x = torch.full((1, 1, 2), 0.5)
    v = torch.tensor([[[1e6, 1e6]]])
    _, gains = clipped_gains(v, x, torch.zeros(1, 1, 2), torch.tensor([[[0.9, 1.0]]]))
    assert gains[0, 1] > gains[0, 0] > 0
    assert torch.allclose(gains, torch.tensor([[2 * 0.4 * 1e6, 2 * 0.5 * 1e6]]), rtol=1e-5)


# -- directions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_unit_length_of_each_example(norm):
    v = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v[2] = 0.0
    before = v.clone()
    assert unit(v, norm).data_ptr() == v.data_ptr(), "in place"
    length = torch.linalg.vector_norm(v.flatten(1), ord=norm, dim=1)
    assert torch.allclose(length, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    ratio = (v / before).flatten(1)[[0, 1, 3, 4]]
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio)) and (ratio > 0).all()


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_is_blind_to_the_batch_with_many_threads(norm, dtype):
    """A row long enough to be split among threads, alone and with others."""
    v = torch.randn(3, 3, 50_000, generator=torch.Generator().manual_seed(0), dtype=dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = unit(v.clone(), norm)
        for i in range(3):
            assert torch.equal(unit(v[i : i + 1].clone(), norm), together[i : i + 1])
    finally:
        torch.set_num_threads(threads)


def test_onto_half_space_in_box():
    """Against scipy's solver: the closest point, or the box's end where nothing crosses."""
    generator = torch.Generator().manual_seed(0)
    low, high = torch.zeros(40, 6).double(), torch.rand(40, 6, generator=generator).double() + 0.2
    v = low + (high - low) * torch.rand(40, 6, generator=generator).double()
    w = torch.randn(40, 6, generator=generator).double() * (torch.rand(40, 6, generator=generator) < 0.8)
    gap = torch.randn(40, generator=generator).double() + 0.5
    there = onto_half_space_in_box(v, w, gap, low, high)
    assert ((there >= low) & (there <= high)).all()
    most = (w.clamp_min(0) * (high - v)).sum(1) + (-w.clamp_max(0) * (v - low)).sum(1)
    kinds = set()
    for i in range(40):
        kinds.add(kind := "there" if gap[i] <= 0 else "crosses" if gap[i] < most[i] else "ends")
        if kind == "there":
            assert torch.equal(there[i], v[i])
        elif kind == "ends":
            assert float(w[i] @ (there[i] - v[i])) == pytest.approx(float(most[i]))
        else:
            assert float(w[i] @ (there[i] - v[i])) == pytest.approx(float(gap[i]), rel=1e-9)
            best = minimize(
                lambda u, i=i: ((u - v[i].numpy()) ** 2).sum(),
                v[i].numpy(),
                bounds=list(zip(low[i].tolist(), high[i].tolist(), strict=True)),
                constraints={
                    "type": "ineq",
                    "fun": lambda u, i=i: w[i].numpy() @ (u - v[i].numpy()) - float(gap[i]),
                },
                method="SLSQP",
            )
            assert float((there[i] - v[i]).norm()) == pytest.approx(float(np.sqrt(best.fun)), abs=1e-5)
    assert kinds == {"there", "crosses", "ends"}
