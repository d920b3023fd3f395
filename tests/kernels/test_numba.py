"""Ctrl-C while a kernel is compiled is neither lost nor the kernel's end."""

from __future__ import annotations

import signal
import threading

import pytest
import torch

from zeronorm.kernels.numba import _uninterrupted, compiled


def test_held_until_it_is_done():
    done = []

    def work(value):
        signal.raise_signal(signal.SIGINT)
        done.append(value)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _uninterrupted(work)(1)
    assert done == [1] and signal.getsignal(signal.SIGINT) is handler
    assert _uninterrupted(len)("four") == 4


def test_other_threads_have_no_signals_to_hold():
    found = []
    thread = threading.Thread(target=lambda: found.append(_uninterrupted(len)("four")))
    thread.start()
    thread.join()
    assert found == [4]


def test_a_kernel_that_was_compiled_when_it_came():
    def double(start, stop, values):
        for i in range(start, stop):
            values[i] *= 2

    kernel = compiled(double)
    values = torch.arange(4.0)
    main = threading.main_thread().ident
    timer = threading.Timer(0.02, lambda: signal.pthread_kill(main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        kernel(values)
        timer.join()
        threading.Event().wait(1)
    kernel(values)
    assert values.tolist() in ([0, 2, 4, 6], [0, 4, 8, 12])
