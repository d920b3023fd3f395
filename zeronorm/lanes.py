"""Sixty-four numbers at a time within kernels: LLVM's vectors, which it cuts to the width the processor has.

A compiler makes vectors of simple loops by itself.  It does not where a loop asks *which* of its numbers pass a
comparison; here the answer is one word, a bit for each lane.  All of these are functions for kernels
(`zeronorm.compiled`) over float32 or float64; comparisons with NaN are false, and no rounding is rearranged
except in `total` and `plus_product`.
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

_ELEMENT = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_SUFFIX = {types.float32: "f32", types.float64: "f64"}
_MASK = ir.VectorType(ir.IntType(1), LANES)


class Lanes(types.Type):
    """The type of 64 numbers in kernels."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.VectorType(_ELEMENT[kind.dtype], LANES))


def _in_kernels(function: Callable[..., Any]) -> Any:
    # numba reads the function itself, not the checks that the tests wrap around it
    return intrinsic(inspect.unwrap(function))


# -- memory ------------------------------------------------------------------------------------------------


@_in_kernels
def load(typing: Any, array: Any, row: Any, start: Any) -> Any:
    """`array[row, start : start + 64]` of a contiguous matrix, unchecked."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _place(context, builder, signature.args[0], values)
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return Lanes(array.dtype)(array, types.intp, types.intp), emit


@_in_kernels
def store(typing: Any, array: Any, row: Any, start: Any, numbers: Any) -> Any:
    """`array[row, start : start + 64] = numbers` in a contiguous matrix, unchecked."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _place(context, builder, signature.args[0], values)
        builder.store(values[3], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, numbers), emit


def _place(context: Any, builder: Any, kind: Any, values: Any) -> Any:
    array, row, start, *_ = values
    made = context.make_array(kind)(context, builder, array)
    pointer = cgutils.get_item_pointer(context, builder, kind, made, [row, start])
    return builder.bitcast(pointer, ir.VectorType(_ELEMENT[kind.dtype], LANES).as_pointer())


@_in_kernels
def alike(typing: Any, number: Any) -> Any:
    """The number in every lane."""
    return Lanes(number)(number), lambda context, builder, signature, values: _alike(builder, values[0])


def _alike(builder: Any, number: Any) -> Any:
    kind = ir.VectorType(number.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), everywhere)


# -- arithmetic, lane by lane ------------------------------------------------------------------------------


def _of_two(make: Callable[[Any, Any, Any], Any], meaning: str) -> Any:
    def function(typing: Any, a: Any, b: Any) -> Any:
        return a(a, b), lambda context, builder, signature, values: make(builder, *values)

    function.__doc__ = meaning
    return intrinsic(function)


times = _of_two(lambda builder, a, b: builder.fmul(a, b), "a * b")
larger = _of_two(
    lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b),
    "the larger of a and b; b where a is NaN",
)
smaller = _of_two(
    lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b),
    "the smaller of a and b; b where a is NaN",
)


@_in_kernels
def minus(typing: Any, a: Any) -> Any:
    """-a"""
    return a(a), lambda context, builder, signature, values: builder.fneg(values[0])


@_in_kernels
def plus_product(typing: Any, a: Any, factor: Any, b: Any) -> Any:
    """a + factor * b for one number `factor`, rounded once where the processor can."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, factor, b = values
        product = builder.fmul(_alike(builder, factor), b, flags=["contract"])
        return builder.fadd(a, product, flags=["contract"])

    return a(a, factor, b), emit


@_in_kernels
def plus_unless(typing: Any, a: Any, b: Any, word: Any) -> Any:
    """a + b in the lanes whose bit of `word` is 0, a in the others."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, b, word = values
        zero = ir.Constant(b.type, [0.0] * LANES)
        return builder.fadd(a, builder.select(builder.bitcast(word, _MASK), zero, b))

    return a(a, b, word), emit


@_in_kernels
def where_at_least(typing: Any, a: Any, number: Any, other: Any) -> Any:
    """a in the lanes where it is at least `number`, and the number `other` elsewhere."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, number, other = values
        passed = builder.fcmp_ordered(">=", a, _alike(builder, number))
        return builder.select(passed, a, _alike(builder, other))

    return a(a, number, other), emit


# -- which lanes: one bit each -----------------------------------------------------------------------------


def _which(comparison: str) -> Any:
    def function(typing: Any, a: Any, number: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            passed = builder.fcmp_ordered(comparison, values[0], _alike(builder, values[1]))
            return builder.bitcast(passed, ir.IntType(LANES))

        return types.uint64(a, number), emit

    function.__doc__ = f"A bit for each lane: a {comparison} number."
    return intrinsic(function)


at_least, at_most, above, below = map(_which, (">=", "<=", ">", "<"))


@_in_kernels
def ones(typing: Any, word: Any) -> Any:
    """How many bits of the word are 1."""
    return types.int64(types.uint64), lambda context, builder, signature, values: builder.ctpop(values[0])


@_in_kernels
def lowest(typing: Any, word: Any) -> Any:
    """The place of the lowest 1 of the word; 64 if there is none."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), emit


@_in_kernels
def highest(typing: Any, word: Any) -> Any:
    """The place of the highest 1 of the word; -1 if there is none."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        zeros = builder.ctlz(values[0], ir.Constant(ir.IntType(1), 0))
        return builder.sub(ir.Constant(ir.IntType(64), 63), zeros)

    return types.int64(types.uint64), emit


# -- over all lanes ----------------------------------------------------------------------------------------


def _over_all(name: str, meaning: str, flags: list[str], *start: float) -> Any:
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


largest = _over_all("fmax", "The largest of the lanes, none of which may be NaN.", ["nnan"])
smallest = _over_all("fmin", "The smallest of the lanes, none of which may be NaN.", ["nnan"])
total = _over_all("fadd", "The sum of the lanes, in an order that is always the same.", ["reassoc"], 0.0)
