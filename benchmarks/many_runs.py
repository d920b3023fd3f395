"""Thousands of evaluations in one process: what they leave behind.

    python -m benchmarks.many_runs --runs 10000

Prints memory, open files and threads as it goes.  A run is three inputs of 5x5 pixels, a network of two layers, three
queries, a folder of its own that is removed, and the page.
"""

from __future__ import annotations

import argparse
import gc
import os
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

import zeronorm as zn


def state() -> tuple[float, int, int]:
    """Memory in MiB, open files, threads."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(3, 1, 5, 5)
    y = model(x).argmax(1)
    began = time.process_time()
    for i in range(runs + 1):
        if i in (0, 20) or i % max(1, runs // 10) == 0:
            memory, files, threads = state()
            seconds = time.process_time() - began
            print(
                f"after {i:6} runs: {memory:7.1f} MiB, {files} files, {threads} threads, {seconds:.0f} s",
                flush=True,
            )
        zn.evaluate(model, (x, y), zn.L0(1), "sparse_rs", queries=3, seed=i)


if __name__ == "__main__":
    main()
