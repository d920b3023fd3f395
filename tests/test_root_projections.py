"""Stable top-k supports."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronorm.projections import top_k


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
