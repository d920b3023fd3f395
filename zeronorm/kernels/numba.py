"""Kernels over the rows of a batch, compiled for the CPU by numba when first called.

For small tensors a chain of torch operations costs more in calls than in arithmetic.  Each kernel does the
work of such a chain and has a twin in torch, which serves other devices and judges the kernel in the tests.
"""

from __future__ import annotations

import inspect
import itertools
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import torch
from torch import Tensor

_WORTH_A_THREAD = 1 << 17  # entries
_TYPES = (torch.float32, torch.float64, torch.int64, torch.bool)


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile `function(start, stop, *arrays_and_numbers)`, which works on the rows start..stop-1 of its arrays.

    A row's result must not depend on the other rows.  Sums may be reassociated, alike in every call.
    """
    # what is compiled is the function itself, not the shape checks that the tests wrap around it
    plain = inspect.unwrap(function)
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "nsz", "contract"}}
    try:
        kernel = numba.njit(plain, cache=True, **options)
    except RuntimeError:  # nowhere to write the compiled code
        kernel = numba.njit(plain, **options)
    kernel.compile = _uninterrupted(kernel.compile)

    def call(*arguments: Any) -> None:
        arrays = [a.numpy() if type(a) is Tensor else a for a in arguments]
        rows = arrays[0].shape[0]
        threads = min(torch.get_num_threads(), arrays[0].size // _WORTH_A_THREAD + 1, rows)
        if threads <= 1:
            kernel(0, rows, *arrays)
            return
        borders = [rows * i // threads for i in range(threads + 1)]
        list(_pool().map(lambda span: kernel(*span, *arrays), itertools.pairwise(borders)))

    return call


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a small function callable within kernels, where it is inlined."""
    compiled_helper: Callable[..., Any] = numba.njit(inspect.unwrap(function), inline="always")
    return compiled_helper


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a longer function callable within kernels: it is compiled once, apart from them.

    Unlike in kernels, sums are not reassociated.
    """
    # said, or numba would take it from the kernel that calls first
    compiled_part: Callable[..., Any] = numba.njit(inspect.unwrap(function), fastmath=False)
    return compiled_part


def serves(*tensors: Tensor) -> bool:
    """Whether kernels can work on these tensors: contiguous, on the CPU, of a known type, without gradients."""
    for t in tensors:
        if (
            not (t.is_cpu and t.is_contiguous() and t.dtype in _TYPES)
            or t.requires_grad
            or type(t) is not Tensor
        ):
            return False
    return True


def _uninterrupted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Delay Ctrl-C until the function is done: LLVM's calls back into Python would lose the exception."""

    def held(*arguments: Any, **options: Any) -> Any:
        handler = signal.getsignal(signal.SIGINT)
        if handler is None or threading.current_thread() is not threading.main_thread():
            return function(*arguments, **options)
        pressed = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: pressed.set())
        try:
            return function(*arguments, **options)
        finally:
            signal.signal(signal.SIGINT, handler)
            if pressed.is_set():
                signal.raise_signal(signal.SIGINT)

    return held


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="zeronorm")
