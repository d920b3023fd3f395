"""The nearest neighbour: distances by hand, and radii by brute force on tiny images."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronorm.certification import ABSTAIN, UNBOUNDED, certify_nearest_neighbour
from zeronorm.errors import ArgumentError


def answer(image: torch.Tensor, examples: torch.Tensor, labels: torch.Tensor) -> int | None:
    """The class of the nearest example by differing binary pixels; None where two classes are equally near."""
    distance = ((image > 0.5) != (examples > 0.5)).any(1).flatten(1).sum(1)
    nearest = labels[distance == distance.min()].unique()
    return int(nearest) if len(nearest) == 1 else None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 2))
def test_radius_by_brute_force(seed, channels):
    generator = torch.Generator().manual_seed(seed)
    examples = torch.rand(5, channels, 2, 3, generator=generator)
    labels = torch.randint(0, 3, (5,), generator=generator)
    x = torch.rand(1, channels, 2, 3, generator=generator)
    certificate = certify_nearest_neighbour(x, examples, labels)
    found, radius = int(certificate.prediction[0]), int(certificate.radius[0])
    assert (None if found == ABSTAIN else found) == answer(x, examples, labels)
    if radius in (ABSTAIN, UNBOUNDED):
        return
    values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=channels)))
    for where in itertools.combinations(range(6), radius):
        for choice in itertools.product(range(len(values)), repeat=radius):
            changed = x.clone()
            changed.view(1, channels, 6)[0, :, list(where)] = values[list(choice)].T
            assert answer(changed, examples, labels) == found


def test_vectors():
    examples = torch.zeros(2, 1, 3, 3)
    examples[1] = 1.0
    labels = torch.tensor([0, 1])
    x = torch.zeros(3, 1, 9)
    x[1, :, :4], x[2, :, :8] = 1.0, 0.6
    certificate = certify_nearest_neighbour(x.view(3, 1, 3, 3), examples, labels)
    assert certificate.prediction.tolist() == [0, 0, 1]
    assert certificate.radius.tolist() == [4, 0, 3] and certificate.margin.tolist() == [9, 1, 7]
    alone = certify_nearest_neighbour(examples[:1], examples[:1], labels[:1])
    assert alone.radius.tolist() == [UNBOUNDED]


def test_refusals():
    x, y = torch.rand(2, 1, 3, 3), torch.tensor([0, 1])
    with pytest.raises(ArgumentError, match=r"x: expected images of .*, as the examples, got"):
        certify_nearest_neighbour(x, torch.rand(2, 1, 4, 4), y)
    with pytest.raises(ArgumentError, match="levels: expected thresholds in ascending order"):
        certify_nearest_neighbour(x, x, y, levels=(0.6, 0.2))
