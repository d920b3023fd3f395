"""Distances between inputs, re-counted with plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronorm import distances

SHAPES = [(1, 3, 3), (3, 2, 4), (2, 5), (7,)]


@st.composite
def pairs(draw):
    """Inputs that agree in most places, with changes that may cancel over channels."""
    shape, n = draw(st.sampled_from(SHAPES)), draw(st.integers(0, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    x = torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    change = torch.randint(-1, 2, x.shape, generator=generator) * (
        torch.rand(x.shape, generator=generator) < 0.4
    )
    return x, x + change / 2


@given(pairs())
@settings(deadline=None)
def test_by_counting(pair):
    x, x_adv = pair
    pixels, features = distances.l0_pixels(x, x_adv), distances.l0_features(x, x_adv)
    assert pixels.dtype == features.dtype == torch.int64 and pixels.shape == x.shape[:1]
    for i in range(len(x)):
        changed = (x[i] != x_adv[i]).numpy()
        positions = [changed[index] for index in np.ndindex(changed.shape)]
        assert features[i] == sum(map(bool, positions))
        if x.dim() == 2:
            assert pixels[i] == features[i]
        else:
            assert pixels[i] == sum(bool(changed[:, *place].any()) for place in np.ndindex(changed.shape[1:]))


@given(pairs())
@settings(deadline=None)
def test_norms_are_numpys(pair):
    x, x_adv = pair
    flat = (x_adv - x).flatten(1).numpy()
    for ours, order in ((distances.l1, 1), (distances.l2, 2), (distances.linf, np.inf)):
        expected = [np.linalg.norm(row, order) for row in flat]
        assert ours(x, x_adv).tolist() == pytest.approx(expected)


def test_channels_that_cancel_still_count():
    """The published check sums over channels first, and loses this pixel."""
    x = torch.full((1, 3, 2, 2), 0.5)
    x_adv = x.clone()
    x_adv[0, :, 0, 1] += torch.tensor([0.25, -0.5, 0.25])
    assert (x_adv - x).sum(1).abs().max() == 0
    assert distances.l0_pixels(x, x_adv).tolist() == [1]
    assert distances.l0_features(x, x_adv).tolist() == [3]


def test_the_smallest_change_counts():
    x = torch.full((1, 1, 2, 2), 0.5)
    x_adv = x.clone()
    x_adv[0, 0, 1, 1] = torch.nextafter(x[0, 0, 1, 1], torch.tensor(1.0))
    assert distances.l0_pixels(x, x_adv).item() == 1
    assert distances.l0_pixels(x * 0.0, -x * 0.0).item() == 0, "0 and -0 are the same colour"
