"""Adversarials of one model on another, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeronorm import ArgumentError
from zeronorm.metrics import robust_accuracy, transferred

INF = math.inf
# six examples: fooled at once, fooled by a larger one, not fooled, none made, a clean error of the target with and
# without an adversarial of the source
MADE, FOOLED = [1, 1, 2, INF, 2, INF], [1, 3, INF, INF, 0, 0]


@pytest.mark.parametrize(
    ("k", "counts"),
    [
        (0, (0, 0, 4, 6)),
        (1, (1, 2, 3, 6)),
        (2, (1, 3, 3, 6)),
        (3, (2, 3, 2, 6)),
    ],
)
def test_by_hand(k, counts):
    assert transferred(MADE, FOOLED, k) == counts


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3, INF]), st.sampled_from([0, 1, 2, INF])), min_size=1, max_size=20
    ),
    st.integers(0, 4),
)
def test_against_a_loop(pairs, k):
    made = [m for m, _ in pairs]
    fooled = [INF if f and m == INF else f and m + f - 1 for m, f in pairs]
    count = transferred(made, fooled, k)
    tried = [f for m, f in zip(made, fooled, strict=True) if f and m <= k]
    assert (count.tried, count.fooled) == (len(tried), sum(f <= k for f in tried))
    assert count.right / count.n == robust_accuracy(np.array(fooled, float), [k])[0]


@pytest.mark.parametrize(
    ("made", "fooled", "said"),
    [
        ([1, 2], [1], "fooled: expected 2 distances, one per example, got 1"),
        ([2], [1], "fooled: expected no success with fewer changes than an adversarial was made of"),
        ([0], [1], "fooled: expected no success with fewer changes than an adversarial was made of"),
        ([1], [float("nan")], "smallest: expected distances of at least 0, got nan"),
    ],
)
def test_refused(made, fooled, said):
    with pytest.raises(ArgumentError) as error:
        transferred(made, fooled, 2)
    assert str(error.value) == said
