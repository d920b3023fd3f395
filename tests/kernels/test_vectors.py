"""Sixty-four numbers at a time: each function against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from zeronorm.kernels.numba import compiled, part
from zeronorm.kernels.vectors import (
    FEW_LANES,
    LANES,
    add_unless,
    broadcast,
    first_set_bit,
    greater,
    greater_equal,
    last_set_bit,
    less,
    less_equal,
    load,
    load_few,
    load_padded_products,
    load_products,
    maximum,
    merge_largest,
    merge_smallest,
    minimum,
    multiply,
    multiply_add,
    multiply_add_unless,
    negate,
    popcount,
    reduce_max,
    reduce_min,
    reduce_sum,
    sort_lanes,
    store,
    store_rows,
    where_at_least,
)


@part
def marks(words, a, number):
    words[0], words[1] = greater_equal(a, number), less_equal(a, number)
    words[2], words[3] = greater(a, number), less(a, number)


@compiled
def everything(start, stop, a, b, number, vectors, words, numbers):
    for row in range(start, stop):
        x, y = load(a, row, 0), load(b, row, 0)
        marks(words, x, number)
        store(vectors, 0, 0, multiply(x, y))
        store(vectors, 1, 0, maximum(x, y))
        store(vectors, 2, 0, minimum(x, y))
        store(vectors, 3, 0, negate(x))
        store(vectors, 4, 0, multiply_add(x, number, y))
        store(vectors, 5, 0, add_unless(x, y, words[0]))
        store(vectors, 6, 0, where_at_least(x, number, numbers[0]))
        store(vectors, 7, 0, broadcast(number))
        numbers[1], numbers[2], numbers[3] = reduce_max(x), reduce_min(x), reduce_sum(x)
        words[4], words[5], words[6] = popcount(words[0]), first_set_bit(words[0]), last_set_bit(words[0])


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


@compiled
def between_lanes(start, stop, a, b, number, vectors, words):
    for row in range(start, stop):
        x, y = load(a, row, 0), load(b, row, 0)
        words[0], words[1] = greater_equal(x, y), greater(x, y)
        store(vectors, 0, 0, multiply_add_unless(x, number, y, words[0]))
        store(vectors, 1, 0, multiply_add_unless(x, y, y, words[0]))
        store(vectors, 2, FEW_LANES, load_few(a, row, 3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lanes_with_lanes(dtype):
    a, b = np.random.default_rng(1).standard_normal((2, 1, LANES)).astype(dtype).round(1)
    b[0, ::5] = a[0, ::5]
    vectors, words = np.zeros((3, LANES), dtype), np.zeros(2, np.uint64)
    between_lanes(a, b, dtype(0.7), vectors, words)
    x, y = a[0], b[0]
    bits = np.array([[int(word) >> lane & 1 for lane in range(LANES)] for word in words])
    assert (bits == [x >= y, x > y]).all()
    expected = [np.where(x >= y, x, x + factor * y) for factor in (dtype(0.7), y)]
    np.testing.assert_allclose(vectors[:2], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(vectors[2, FEW_LANES : 2 * FEW_LANES], x[3 : 3 + FEW_LANES])
    assert not vectors[2, :FEW_LANES].any() and not vectors[2, 2 * FEW_LANES :].any()


@compiled
def in_groups(start, stop, once, x, weight, like, count, pad, whole, some, high, low):
    for _ in range(start, stop):
        a = sort_lanes(load_products(like, x, 3, 5, weight, 1, 2, 0, pad))
        b = sort_lanes(load_padded_products(like, x, 3, 5, weight, 1, 2, count, pad))
        store_rows(whole, a)
        store_rows(some, b)
        store_rows(high, merge_largest(a, b))
        store_rows(low, merge_smallest(a, b))


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_groups_are_sorted_lane_by_lane(size, dtype):
    generator = np.random.default_rng(size)
    x, weight = (generator.standard_normal(shape).astype(dtype).round(1) for shape in ((30, 30), (2, 20)))
    whole, some, high, low = np.zeros((4, size, FEW_LANES), dtype)
    count = max(1, size - 2)
    in_groups(np.zeros(1), x, weight, (0,) * size, count, dtype(9), whole, some, high, low)
    made = (
        x[5 : 5 + size, 5 : 5 + FEW_LANES] * weight[1, 2 : 2 + size, None]
    )  # row 3, coordinate 2: row 5 of x
    np.testing.assert_array_equal(whole, np.sort(made, 0))
    padded = np.concatenate([made[:count], np.full((size - count, FEW_LANES), dtype(9))])
    np.testing.assert_array_equal(some, np.sort(padded, 0))
    both = np.sort(np.concatenate([made, padded]), 0)
    np.testing.assert_array_equal(high, both[size:])
    np.testing.assert_array_equal(low, both[:size])
