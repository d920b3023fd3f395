"""Vector instructions for kernels: LLVM's vectors of 64 numbers, which it cuts to the processor's width.

Vectors of 16 serve where so many are at work that longer ones would not all stay in registers.

A compiler vectorises simple loops by itself.  It does not where a loop asks *which* of its numbers pass a comparison;
here the answer is a mask, one word with a bit for each lane.  All of these are functions for kernels
(`zeronorm.kernels.numba`) over float32 or float64.  A comparison with NaN is false, and roundings are those of the
operations as written, except in `reduce_sum` and `multiply_add`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 64
FEW_LANES = 16

_ELEMENT = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_SUFFIX = {types.float32: "f32", types.float64: "f64"}
_MASK = ir.VectorType(ir.IntType(1), LANES)


class Vector(types.Type):
    """The type of a vector in kernels: 64 numbers, or another count."""

    def __init__(self, dtype: Any, count: int = LANES) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Vector({dtype}, {count})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _llvm_vector(kind))


def _llvm_vector(kind: Vector) -> Any:
    return ir.VectorType(_ELEMENT[kind.dtype], kind.count)


def _in_kernels(function: Callable[..., Any]) -> Any:
    # numba reads the function itself, not the checks that the tests wrap around it
    return intrinsic(inspect.unwrap(function))


# -- memory ------------------------------------------------------------------------------------------------


def _loading(count: int) -> Any:
    def function(typing: Any, array: Any, row: Any, start: Any) -> Any:
        numbers = Vector(array.dtype, count)

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            place = _place(context, builder, signature.args[0], numbers, *values)
            return builder.load(place, align=array.dtype.bitwidth // 8)

        return numbers(array, types.intp, types.intp), emit

    function.__doc__ = f"`array[row, start : start + {count}]` of a contiguous matrix, unchecked."
    return intrinsic(function)


load, load_few = _loading(LANES), _loading(FEW_LANES)


@_in_kernels
def store(typing: Any, array: Any, row: Any, start: Any, numbers: Any) -> Any:
    """`array[row, start : start + 64] = numbers` in a contiguous matrix, unchecked; a short vector fills as many."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _place(context, builder, signature.args[0], numbers, *values[:3])
        builder.store(values[3], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, numbers), emit


def _place(context: Any, builder: Any, kind: Any, numbers: Vector, array: Any, row: Any, start: Any) -> Any:
    made = context.make_array(kind)(context, builder, array)
    pointer = cgutils.get_item_pointer(context, builder, kind, made, [row, start])
    return builder.bitcast(pointer, _llvm_vector(numbers).as_pointer())


@_in_kernels
def broadcast(typing: Any, number: Any) -> Any:
    """The number in every lane."""
    return Vector(number)(number), lambda context, builder, signature, values: _broadcast(builder, values[0])


def _broadcast(builder: Any, number: Any, count: int = LANES) -> Any:
    kind = ir.VectorType(number.type, count)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), everywhere)


# -- arithmetic, lane by lane ------------------------------------------------------------------------------


def _of_two(make: Callable[[Any, Any, Any], Any], meaning: str) -> Any:
    def function(typing: Any, a: Any, b: Any) -> Any:
        return a(a, b), lambda context, builder, signature, values: make(builder, *values)

    function.__doc__ = meaning
    return intrinsic(function)


multiply = _of_two(lambda builder, a, b: builder.fmul(a, b), "a * b")


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _minimum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


maximum = _of_two(_maximum, "the larger of a and b; b where a is NaN")
minimum = _of_two(_minimum, "the smaller of a and b; b where a is NaN")


@_in_kernels
def negate(typing: Any, a: Any) -> Any:
    """-a"""
    return a(a), lambda context, builder, signature, values: builder.fneg(values[0])


@_in_kernels
def multiply_add(typing: Any, a: Any, factor: Any, b: Any) -> Any:
    """a + factor * b for one number `factor`, rounded once where the processor can."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, factor, b = values
        product = builder.fmul(_broadcast(builder, factor), b, flags=["contract"])
        return builder.fadd(a, product, flags=["contract"])

    return a(a, factor, b), emit


@_in_kernels
def multiply_add_unless(typing: Any, a: Any, factor: Any, b: Any, mask: Any) -> Any:
    """a + factor * b in the lanes whose bit of `mask` is 0, a in the others; `factor` is a number or a vector."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, factor, b, mask = values
        factor = factor if isinstance(signature.args[1], Vector) else _broadcast(builder, factor)
        together = builder.fadd(a, builder.fmul(factor, b, flags=["contract"]), flags=["contract"])
        return builder.select(builder.bitcast(mask, _MASK), a, together)

    return a(a, factor, b, mask), emit


@_in_kernels
def add_unless(typing: Any, a: Any, b: Any, mask: Any) -> Any:
    """a + b in the lanes whose bit of `mask` is 0, a in the others."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, b, mask = values
        zero = ir.Constant(b.type, [0.0] * LANES)
        return builder.fadd(a, builder.select(builder.bitcast(mask, _MASK), zero, b))

    return a(a, b, mask), emit


@_in_kernels
def where_at_least(typing: Any, a: Any, number: Any, other: Any) -> Any:
    """a in the lanes where it is at least `number`, and the number `other` elsewhere."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, number, other = values
        passed = builder.fcmp_ordered(">=", a, _broadcast(builder, number))
        return builder.select(passed, a, _broadcast(builder, other))

    return a(a, number, other), emit


# -- masks: one bit for each lane --------------------------------------------------------------------------


def _comparison(comparison: str) -> Any:
    def function(typing: Any, a: Any, number: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            a, number = values
            number = number if isinstance(signature.args[1], Vector) else _broadcast(builder, number)
            return builder.bitcast(builder.fcmp_ordered(comparison, a, number), ir.IntType(LANES))

        return types.uint64(a, number), emit

    function.__doc__ = f"A mask: a {comparison} number, which may be a vector too."
    return intrinsic(function)


greater_equal, less_equal, greater, less = map(_comparison, (">=", "<=", ">", "<"))


@_in_kernels
def popcount(typing: Any, mask: Any) -> Any:
    """How many bits of the mask are 1."""
    return types.int64(types.uint64), lambda context, builder, signature, values: builder.ctpop(values[0])


@_in_kernels
def first_set_bit(typing: Any, mask: Any) -> Any:
    """The index of the lowest bit that is 1; 64 if there is none."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), emit


@_in_kernels
def last_set_bit(typing: Any, mask: Any) -> Any:
    """The index of the highest bit that is 1; -1 if there is none."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        zeros = builder.ctlz(values[0], ir.Constant(ir.IntType(1), 0))
        return builder.sub(ir.Constant(ir.IntType(64), 63), zeros)

    return types.int64(types.uint64), emit


# -- reductions over all lanes -----------------------------------------------------------------------------


def _reduction(name: str, meaning: str, flags: list[str], *start: float) -> Any:
    def function(typing: Any, a: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            numbers, element = values[0].type, values[0].type.element
            begin = [ir.Constant(element, value) for value in start]
            kind = ir.FunctionType(element, [element] * len(begin) + [numbers])
            full = f"llvm.vector.reduce.{name}.v{LANES}{_SUFFIX[signature.return_type]}"
            called = cgutils.get_or_insert_function(builder.module, kind, full)
            return builder.call(called, [*begin, *values], fastmath=flags)

        return a.dtype(a), emit

    function.__doc__ = meaning
    return intrinsic(function)


reduce_max = _reduction("fmax", "The largest of the lanes, none of which may be NaN.", ["nnan"])
reduce_min = _reduction("fmin", "The smallest of the lanes, none of which may be NaN.", ["nnan"])
reduce_sum = _reduction(
    "fadd", "The sum of the lanes, in an order that is always the same.", ["reassoc"], 0.0
)


# -- several vectors, lane by lane -------------------------------------------------------------------------
# A tuple of vectors, as many as a power of two, holds as many numbers in each lane.


def _loading_products(is_whole: bool) -> Any:
    def function(
        typing: Any,
        like: Any,
        x: Any,
        row: Any,
        start: Any,
        weight: Any,
        o: Any,
        i: Any,
        count: Any,
        pad: Any,
    ) -> Any:
        numbers = Vector(x.dtype, FEW_LANES)

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            _, x_, row, start, weight_, o, i, count, pad = values
            weights = context.make_array(weight)(context, builder, weight_)
            vectors = []
            for j in range(like.count):
                number = ir.Constant(i.type, j)
                if not is_whole:
                    last = builder.sub(count, ir.Constant(i.type, 1))
                    number = builder.select(builder.icmp_signed("<", number, last), number, last)
                at = builder.add(i, number)
                place = _place(context, builder, x, numbers, x_, builder.add(row, at), start)
                pointer = cgutils.get_item_pointer(context, builder, weight, weights, [o, at])
                product = builder.fmul(
                    builder.load(place, align=x.dtype.bitwidth // 8),
                    _broadcast(builder, builder.load(pointer), FEW_LANES),
                )
                if not is_whole:
                    there = builder.icmp_signed("<", ir.Constant(i.type, j), count)
                    product = builder.select(there, product, _broadcast(builder, pad, FEW_LANES))
                vectors.append(product)
            return cgutils.pack_array(builder, vectors)

        made = types.UniTuple(numbers, like.count)
        index = types.intp
        return made(like, x, index, index, weight, index, index, index, pad), emit

    function.__doc__ = """x[row + i + n, start : start + 16] * weight[o, i + n], for each n of as many as `like` has.

    `like` is a tuple; {}
    """.format("`count` and `pad` are not used." if is_whole else "for n from `count` on the number `pad`.")
    return intrinsic(function)


load_products, load_padded_products = _loading_products(True), _loading_products(False)


def _of_tuples(make: Callable[[Any, list[Any], list[Any]], list[Any]], meaning: str) -> Any:
    def function(typing: Any, a: Any, b: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            a, b = (cgutils.unpack_tuple(builder, value) for value in values)
            return cgutils.pack_array(builder, make(builder, a, b))

        return a(a, b), emit

    function.__doc__ = meaning
    return intrinsic(function)


def _compare_exchange(builder: Any, vectors: list[Any], low: int, high: int) -> None:
    a, b = vectors[low], vectors[high]
    vectors[low], vectors[high] = _minimum(builder, a, b), _maximum(builder, a, b)


def _odd_even_merge_sort(builder: Any, vectors: list[Any]) -> list[Any]:
    """Batcher's odd-even merge sort (1968)."""
    vectors, count = list(vectors), len(vectors)
    p = 1
    while p < count:
        q = p
        while q >= 1:
            for j in range(q % p, count - q, 2 * q):
                for i in range(min(q, count - j - q)):
                    if (i + j) // (2 * p) == (i + j + q) // (2 * p):
                        _compare_exchange(builder, vectors, i + j, i + j + q)
            q //= 2
        p *= 2
    return vectors


def _bitonic_merge(builder: Any, vectors: list[Any]) -> list[Any]:
    """Batcher's bitonic merge (1968): sorts numbers that rise and then fall, or fall and then rise."""
    q = len(vectors) // 2
    while q:
        for i in range(len(vectors)):
            if not i & q:
                _compare_exchange(builder, vectors, i, i + q)
        q //= 2
    return vectors


@_in_kernels
def sort_lanes(typing: Any, vectors: Any) -> Any:
    """Sort the numbers of each lane, ascending; none may be NaN."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return cgutils.pack_array(
            builder, _odd_even_merge_sort(builder, cgutils.unpack_tuple(builder, values[0]))
        )

    return vectors(vectors), emit


merge_largest = _of_tuples(
    lambda builder, a, b: _bitonic_merge(
        builder, [_maximum(builder, u, v) for u, v in zip(a, reversed(b), strict=True)]
    ),
    "The larger half of the numbers in two ascending tuples, lane by lane, ascending.",
)
merge_smallest = _of_tuples(
    lambda builder, a, b: _bitonic_merge(
        builder, [_minimum(builder, u, v) for u, v in zip(a, reversed(b), strict=True)]
    ),
    "The smaller half of the numbers in two ascending tuples, lane by lane, ascending.",
)


@_in_kernels
def store_rows(typing: Any, array: Any, vectors: Any) -> Any:
    """`array[n, :16] = vectors[n]` for each n, in a contiguous matrix, unchecked."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        zero = ir.Constant(ir.IntType(64), 0)
        for n, vector in enumerate(cgutils.unpack_tuple(builder, values[1])):
            row = ir.Constant(ir.IntType(64), n)
            place = _place(context, builder, array, vectors.dtype, values[0], row, zero)
            builder.store(vector, place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, vectors), emit
