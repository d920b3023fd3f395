"""Sixty-four numbers at a time: each function against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from zeronorm.compiled import compiled, part
from zeronorm.lanes import (
    LANES,
    above,
    alike,
    at_least,
    at_most,
    below,
    highest,
    larger,
    largest,
    load,
    lowest,
    minus,
    ones,
    plus_product,
    plus_unless,
    smaller,
    smallest,
    store,
    times,
    total,
    where_at_least,
)


@part
def marks(words, a, number):
    words[0], words[1] = at_least(a, number), at_most(a, number)
    words[2], words[3] = above(a, number), below(a, number)


@compiled
def everything(start, stop, a, b, number, vectors, words, numbers):
    for row in range(start, stop):
        x, y = load(a, row, 0), load(b, row, 0)
        marks(words, x, number)
        store(vectors, 0, 0, times(x, y))
        store(vectors, 1, 0, larger(x, y))
        store(vectors, 2, 0, smaller(x, y))
        store(vectors, 3, 0, minus(x))
        store(vectors, 4, 0, plus_product(x, number, y))
        store(vectors, 5, 0, plus_unless(x, y, words[0]))
        store(vectors, 6, 0, where_at_least(x, number, numbers[0]))
        store(vectors, 7, 0, alike(number))
        numbers[1], numbers[2], numbers[3] = largest(x), smallest(x), total(x)
        words[4], words[5], words[6] = ones(words[0]), lowest(words[0]), highest(words[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_as_numpy_has_it(dtype):
    a, b = np.random.default_rng(0).standard_normal((2, 1, LANES)).astype(dtype).round(1)
    number = a[0, 17]
    vectors, words = np.zeros((8, LANES), dtype), np.zeros(7, np.uint64)
    numbers = np.array([-7.0, 0, 0, 0], dtype)
    everything(a, b, number, vectors, words, numbers)
    x, y = a[0], b[0]
    bits = [[int(word) >> lane & 1 for lane in range(LANES)] for word in words[:4]]
    assert (np.array(bits) == [x >= number, x <= number, x > number, x < number]).all()
    expected = [x * y, np.maximum(x, y), np.minimum(x, y), -x, x + number * y]
    expected += [np.where(x >= number, x, x + y), np.where(x >= number, x, -7.0), np.full(LANES, number)]
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(vectors[[1, 2, 3, 6]], np.array(expected, dtype)[[1, 2, 3, 6]])
    np.testing.assert_allclose(numbers[1:], [x.max(), x.min(), x.sum()], rtol=1e-5)
    places = np.flatnonzero(x >= number)
    assert words[4:].tolist() == [len(places), places[0], places[-1]]


def test_nothing_compares_with_nan():
    a = np.full((1, LANES), np.nan, np.float32)
    b = np.arange(LANES, dtype=np.float32)[None]
    vectors, words = np.zeros((8, LANES), np.float32), np.zeros(7, np.uint64)
    everything(a, b, np.float32(0), vectors, words, np.zeros(4, np.float32))
    assert words.tolist() == [0, 0, 0, 0, 0, 64, np.uint64(2**64 - 1)]
    assert (vectors[1:3] == b).all()
