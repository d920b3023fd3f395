"""Overlap of supports and flipped ReLUs, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from zeronorm import ArgumentError
from zeronorm.metrics import flipped_share, support_overlap

A = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]], dtype=bool)
B = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0]], dtype=bool)


def test_by_hand():
    assert support_overlap(A, B).tolist() == [2, 1, 0]
    assert flipped_share(A, B).tolist() == [0, 0.5, 1]
    planes = A.reshape(3, 2, 1, 2), B.reshape(3, 2, 1, 2)
    assert support_overlap(*planes).tolist() == [2, 1, 0] and flipped_share(*planes).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (A, B[:2], r"kept_attacked: expected the shape of the first, \(3, 4\), got \(2, 4\)"),
        (A.astype(float), B, r"kept: expected booleans \(example, unit\), got float64 of shape \(3, 4\)"),
        (A, B[0], r"kept_attacked: expected booleans .* got bool of shape \(4,\)"),
    ],
)
def test_what_is_refused(one, other, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        support_overlap(one, other)
