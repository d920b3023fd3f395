"""What several processes gain, and what a thousand would.

    python -m benchmarks.workers                     speed-up from 1 to 2 workers, cost of handing out a shard
    python -m benchmarks.workers --simulate RUN      a large job on 1 to 1,000 workers, from the rows of a run

The measurement evaluates the small CNN on MNIST (or the digits model) in this process and by one and two workers, one
thread each, once they are up.  The simulation takes, for every example and stage, the passes that the run spent; a
shard takes as long as its longest search has steps, each at a fixed cost, plus a cost for every example still
searched, and workers differ in speed.  What is left after a stage is cut into shards anew, as the runner does it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import zeronorm as zn
from zeronorm.evaluation.records import RunFolder
from zeronorm.evaluation.workers import Effort, Here, Listener, Workers

SILENT = Listener(lambda *_: None, lambda *_: None, lambda _: None)


class Nothing:
    """A shard's worth of no work."""

    def __init__(self, size: int) -> None:
        self.x = torch.zeros(size, 3, 224, 224)

    def __len__(self) -> int:
        return len(self.x)


def no_work(model: Any, shard: Nothing, passed: Any, report: Any) -> None:
    report([], Effort(0.0, 0, 0))


def speed_up(limit: int, steps: int, queries: int) -> None:
    """Seconds of one evaluation by this process, one worker and two."""
    torch.set_num_threads(1)
    where, name = ("mnist", "models/mnist-sat") if "ZERONORM_DATA" in os.environ else ("digits", "digits")
    model, data = zn.models.load(name), zn.data.load(where, "test", limit)
    options: dict[str, Any] = {"steps": steps, "queries": queries, "batch_size": 50}
    zn.evaluate(model, zn.data.load(where, "test", 20), zn.L0(10), **(options | {"steps": 5, "queries": 5}))

    def seconds(workers: Workers | None) -> float:
        began = time.perf_counter()
        zn.evaluate(model, data, zn.L0(10), workers=workers, **options)
        return time.perf_counter() - began

    alone = seconds(None)
    print(f"{where}, {limit} images, {steps} steps, {queries} queries: {alone:.1f} s in this process")
    for count in (1, 2):
        with Workers(count) as workers:
            seconds(workers)  # they import, compile and load
            took = seconds(workers)
        print(
            f"{count} worker{'s' * (count > 1)}: {took:.1f} s, {alone / took:.2f} times as fast (ideal {count})"
        )


def cost_of_a_shard() -> None:
    """Seconds between a shard and its result where nothing is to be done, by its size."""
    with Workers(1) as workers:
        workers.load(torch.nn.Identity(), torch.device("cpu"))
        for engine, label in ((Here(), "this process"), (workers, "a worker")):
            engine.load(torch.nn.Identity(), torch.device("cpu"))
            for size in (1, 64, 256):
                list(engine.map(no_work, [Nothing(size)] * 3, SILENT))
                times = []
                for _ in range(10):
                    began = time.perf_counter()
                    list(engine.map(no_work, [Nothing(size)], SILENT))
                    times.append(time.perf_counter() - began)
                print(
                    f"{label}, {size} images of 3 x 224 x 224: {1000 * statistics.median(times):.1f} ms a shard"
                )


# -- simulation ---------------------------------------------------------------------------------------------


def passes_of(run: str) -> list[np.ndarray]:
    """Of each stage of a run's largest budget: the passes of every example, 0 where it was not searched."""
    rows = RunFolder(run).read_rows().to_pylist()
    largest = max(row["k"] for row in rows if row["k"] is not None)
    examples = sorted({row["example"] for row in rows})
    stages = sorted({row["stage"] for row in rows if row["stage"] >= 0})
    spent = np.zeros((len(stages), len(examples)))
    place = {example: i for i, example in enumerate(examples)}
    for row in rows:
        if row["k"] == largest:
            spent[row["stage"], place[row["example"]]] = row["forwards"] + row["backwards"]
    return list(spent)


def simulated(
    spent: list[np.ndarray], workers: int, size: int, step: float, each: float, hand_out: float, seed: int = 0
) -> tuple[float, float]:
    """Seconds of a job, and what share of the workers' time was spent on searches.

    `step` and `each` are the seconds of a pass and of every example in it, `hand_out` those of the driver for a
    shard, which it does one after the other.  Workers differ in speed by a tenth; one in a hundred takes three times
    as long.
    """
    generator = np.random.default_rng(seed)
    pace = np.exp(0.1 * generator.standard_normal(workers)) * np.where(generator.random(workers) < 0.01, 3, 1)
    now, busy = 0.0, 0.0
    for passes in spent:
        free, driver = np.full(workers, now), now
        for shard in _shards(passes[passes > 0], size):
            worker = int(free.argmin())
            driver = max(driver, free[worker]) + hand_out
            work = step * shard.max() + each * shard.sum()
            free[worker] = driver + work * pace[worker]
            busy += work
        now = float(free.max())
    return now, busy / (now * workers)


def _shards(passes: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (passes[i : i + size] for i in range(0, len(passes), size))


def simulate(run: str, images: int, step: float, each: float, hand_out: float) -> None:
    """Hours and share of busy time on more and more workers, for several shard sizes."""
    measured = np.stack(passes_of(run))
    chosen = np.random.default_rng(0).integers(measured.shape[1], size=images)
    spent = list(measured[:, chosen])
    sizes, counts = (16, 64, 256, 1024), (1, 2, 8, 32, 128, 512, 1000)
    print(
        f"{images:,} images; {step * 1e3:g} ms a pass and {each * 1e6:g} us an image, {hand_out * 1e3:g} ms a shard"
    )
    print("workers " + "".join(f"{f'shards of {size}':>22}" for size in sizes))
    for workers in counts:
        cells = [simulated(spent, workers, size, step, each, hand_out) for size in sizes]
        print(f"{workers:>7} " + "".join(f"{f'{s / 3600:.2f} h, {busy:.0%} busy':>22}" for s, busy in cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--simulate", metavar="RUN", help="folder of a complete run")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument(
        "--step", type=float, default=0.006, help="seconds of a pass (ResNet-50 on a GPU: about 6 ms)"
    )
    parser.add_argument("--each", type=float, default=0.0005, help="seconds of an image in a pass")
    parser.add_argument("--hand-out", type=float, default=0.2, help="seconds of the driver for a shard")
    args = parser.parse_args()
    if args.simulate:
        simulate(args.simulate, args.images, args.step, args.each, args.hand_out)
    else:
        cost_of_a_shard()
        speed_up(args.limit, args.steps, args.queries)


if __name__ == "__main__":
    main()
