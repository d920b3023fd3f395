"""Evaluation after evaluation in one process: nothing stays behind.  `benchmarks.many_runs` makes ten thousand."""

from __future__ import annotations

import pytest
from small_runs import dataset, network

import zeronorm as zn
from benchmarks.many_runs import state


@pytest.mark.slow
def test_memory_files_and_threads_do_not_grow(unchecked):
    model = network(scale=1.0)
    data = dataset(model, 3)

    def runs(n):
        for i in range(n):
            zn.evaluate(model, data, zn.L0(1), "sparse_rs", queries=3, seed=i)

    runs(50)
    memory, *others = state()
    runs(500)
    later, *others_later = state()
    assert others_later == others
    assert later - memory < 5  # MiB: 10 kB for each run would be a leak, a megabyte or two is noise
