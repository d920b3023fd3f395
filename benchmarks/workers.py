"""What several processes gain, and what a thousand would.

    python -m benchmarks.workers MEASURED.json                       measure on this machine
    python -m benchmarks.workers MEASURED.json --figure FIGURE.svg   simulate a large job from it, and draw it

Measured are the same evaluation and the same certification in this process, by one worker and by two, in turn and
several times, each on one thread and once the workers are up: seconds on the clock, which suffer from whoever else uses
the machine, and seconds of the processor, which do not; and what a shard costs the process that hands it out.

The simulation takes, for every example and stage, the passes that the measured evaluation spent, with those that ran to
a stage's end lengthened to the attacks' own 10,000.  A shard takes as long as its longest search has passes, each at
a fixed cost, plus a cost for every example still searched; the driver takes its measured time for each shard, one after
the other; workers differ in speed, by a tenth, and one in a hundred takes three times as long.  What is left after a
stage is cut into shards anew, when all of the stage is done, as the runner does it.  The policies differ in that cut.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import zeronorm as zn
from benchmarks.faults import command_of, descendants
from zeronorm.evaluation.in_process import Events, Spent
from zeronorm.evaluation.ray_workers import Workers
from zeronorm.evaluation.runner import cut
from zeronorm.records.folders import RunFolder

FULL = 10_000  # steps and queries of the attacks by default


# -- measurement --------------------------------------------------------------------------------------------


class Nothing:
    """A shard's worth of no work."""

    def __init__(self, size: int) -> None:
        self.x = torch.zeros(size, 3, 224, 224)

    def __len__(self) -> int:
        return len(self.x)


class Silent:
    """Events that nobody wants to know of."""

    def passed(self, *_: Any) -> None: ...
    def finished(self, *_: Any) -> None: ...
    def fault(self, *_: Any) -> None: ...


def no_work(model: Any, shard: Nothing, events: Events) -> None:
    events.finished(shard, [], Spent(0.0, 0, 0))


def measure(rounds: int) -> dict[str, Any]:
    """The inputs of the simulation, and the speed-up by two."""
    torch.set_num_threads(1)
    here = "ZERONORM_DATA" in os.environ
    where, name = ("mnist", "models/mnist-sat") if here else ("digits", "digits")
    steps, queries = 100, 400
    data = zn.data.load(where, "test", 200)
    model = zn.models.load(name)
    size = data.x.shape[-1]
    base = zn.models.build("small_cnn", in_channels=2, image_size=size, width=0.25).eval()
    smoothed = zn.defenses.RandomizedAblation(base, size * size // 16)

    def evaluate(workers: Workers | None, out: Path | None = None) -> None:
        zn.evaluate(
            model, data, zn.L0(10), out=out, workers=workers, steps=steps, queries=queries, batch_size=25
        )

    def certify(workers: Workers | None) -> None:
        some = zn.data.load(where, "test", 24)
        zn.certify(smoothed, some, n0=100, n=2000, batch_size=1024, workers=workers)

    measured: dict[str, Any] = {"data": where, "load": os.getloadavg()[0], "processors": os.cpu_count()}
    with Workers(2) as two, tempfile.TemporaryDirectory() as folder:
        evaluate(two, Path(folder))  # the workers import, compile and load, and this process compiles
        certify(two)
        for work in (evaluate, certify):
            taken: dict[str, list[tuple[float, float, float]]] = {"0": [], "1": [], "2": []}
            for _ in range(rounds):
                for count in taken:
                    with only(two, int(count)) as workers:
                        taken[count].append(_seconds(lambda w=workers, f=work: f(w)))
            measured[work.__name__] = taken
        measured["passes"] = passes_of(Path(folder), steps, queries)
        measured["shard"] = {str(size): cost_of_a_shard(two, size) for size in (1, 32, 128)}
    return measured


@contextmanager
def only(workers: Workers, count: int) -> Iterator[Workers | None]:
    """The first so many of the workers; None: this process."""
    if not count:
        yield None
        return
    hosts, before = workers._hosts, workers.count
    workers._hosts, workers.count = hosts[:count], count
    try:
        yield workers
    finally:
        workers._hosts, workers.count = hosts, before


def _seconds(do: Callable[[], None]) -> tuple[float, float, float]:
    """On the clock, of the processor in this process, and of the processor in the busiest worker."""
    hosts = [pid for pid in descendants(os.getpid()) if b"ray::_Inside" in command_of(pid)]
    before = [_processor(pid) for pid in hosts]
    began, own = time.perf_counter(), time.process_time()
    do()
    clock, own = time.perf_counter() - began, time.process_time() - own
    return (
        clock,
        own,
        max((_processor(pid) - start for pid, start in zip(hosts, before, strict=True)), default=0.0),
    )


def _processor(pid: int) -> float:
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost_of_a_shard(workers: Workers, size: int) -> tuple[float, float]:
    """Seconds per shard of images of 3 x 224 x 224 in which nothing is to be done: on the clock, with one under way
    at a time, and of this process's processor."""
    workers.load(torch.nn.Identity(), torch.device("cpu"))
    with only(workers, 1) as one:
        assert one is not None
        list(one.map(no_work, [Nothing(size)] * 2, Silent()))
        shards = [Nothing(size)] * 12
        clock, own, _ = _seconds(lambda: list(one.map(no_work, shards, Silent())) and None)
    return clock / len(shards), own / len(shards)


def passes_of(run: Path, steps: int, queries: int) -> list[list[float]]:
    """Of each stage of a run: the passes of every example, 0 where it was not searched; those of searches that ran to
    the stage's end as many as the attacks' own length makes of them."""
    rows = [row for row in RunFolder(run).read_rows().to_pylist() if row["stage"] >= 0]
    examples, stages = sorted({row["example"] for row in rows}), sorted({row["stage"] for row in rows})
    spent = np.zeros((len(stages), len(examples)))
    for row in rows:
        passes = row["forwards"] + row["backwards"]
        if row["outcome"] == "robust":
            passes *= FULL / (queries if "rs" in row["attack"] else steps)
        spent[stages.index(row["stage"]), examples.index(row["example"])] = passes
    return [[float(passes) for passes in stage] for stage in spent]


def say(measured: dict[str, Any]) -> None:
    """The measurement as a few lines."""
    print(f"load {measured['load']:.1f} on {measured['processors']} processors, {measured['data']}")
    for work in ("evaluate", "certify"):
        taken = {int(count): np.array(rounds) for count, rounds in measured[work].items()}
        for count in (1, 2):
            # round by round, then the middle one
            clock = np.median(taken[0][:, 0] / taken[count][:, 0])
            busiest = np.median(taken[0][:, 1] / (taken[count][:, 2]))
            own = np.median(taken[count][:, 1])
            print(
                f"{work}, {count} worker{'s' * (count > 1)}: {clock:.2f} times as fast on the clock, "
                f"{busiest:.2f} by the processor time of the busiest worker (ideal {count}); "
                f"the driver's own {own:.2f} s of {np.median(taken[0][:, 1]):.1f} s"
            )
    for size, (clock, own) in measured["shard"].items():
        print(
            f"a shard of {size} images of 3 x 224 x 224: {1e3 * clock:.0f} ms from end to end, {1e3 * own:.0f} ms of "
            "the driver's processor"
        )


# -- simulation ---------------------------------------------------------------------------------------------

Cut = Callable[[int, int], list[int]]  # (examples, workers) -> sizes of the shards

BATCH = 256
POLICIES: dict[str, Cut] = {
    "256": lambda n, workers: _of(n, BATCH),
    "16": lambda n, workers: _of(n, 16),
    "an even share, at most 256": lambda n, workers: _of(n, max(1, min(BATCH, -(-n // workers)))),
    "half of an even share of what is left, 16 to 256": lambda n, workers: [
        len(shard)
        for shard in cut(list(range(n)), BATCH, workers)  # as the runner does
    ],
}


def _of(n: int, size: int) -> list[int]:
    return [min(size, n - start) for start in range(0, n, size)]


def simulated(
    spent: list[np.ndarray],
    workers: int,
    cut: Cut,
    step: float,
    each: float,
    hand_out: Callable[[int], float],
    seed: int = 0,
) -> tuple[float, float]:
    """Seconds of a job, and the share of the workers' time that one worker with shards of 256 would have needed."""
    generator = np.random.default_rng(seed)
    pace = np.exp(0.1 * generator.standard_normal(workers)) * np.where(generator.random(workers) < 0.01, 3, 1)
    now = 0.0
    for passes in spent:
        left = passes[passes > 0]
        free = [(now, worker) for worker in range(workers)]
        driver, start = now, 0
        for size in cut(len(left), workers):
            shard = left[start : start + size]
            start += size
            at, worker = heapq.heappop(free)
            driver = max(driver, at) + hand_out(size)
            heapq.heappush(free, (driver + pace[worker] * (step * shard.max() + each * shard.sum()), worker))
        now = max(at for at, _ in free)
    alone = sum(
        step * shard.max() + each * shard.sum()
        for passes in spent
        if len(left := passes[passes > 0])
        for shard in np.split(left, range(BATCH, len(left), BATCH))
    )
    return now, alone / (now * workers)


def simulate(measured: dict[str, Any], images: int, step: float, each: float, figure: Path) -> None:
    """Print and draw hours and share of useful time on more and more workers, by policy."""
    passes = np.array(measured["passes"])
    chosen = np.random.default_rng(0).integers(passes.shape[1], size=images)
    spent = list(passes[:, chosen])
    sizes, costs = zip(*((int(size), own) for size, (_, own) in measured["shard"].items()), strict=True)
    slope, offset = np.polyfit(sizes, costs, 1)

    def hand_out(size: int) -> float:
        return max(0.0, float(offset + slope * size))

    counts = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
    found = {
        label: [simulated(spent, workers, cut, step, each, hand_out) for workers in counts]
        for label, cut in POLICIES.items()
    }
    print(
        f"{images:,} images; {step * 1e3:g} ms a pass and {each * 1e6:g} us an image of it; the driver "
        f"{offset * 1e3:.1f} ms a shard and {slope * 1e3:.2f} ms an image of it"
    )
    print(f"survivors by stage: {', '.join(f'{np.mean(stage > 0):.0%}' for stage in spent)}")
    print("| Workers | " + " | ".join(POLICIES) + " |\n|---|" + "---|" * len(POLICIES))
    for i, workers in enumerate(counts):
        cells = [f"{found[label][i][0] / 3600:.2f} h, {found[label][i][1]:.0%}" for label in POLICIES]
        print(f"| {workers:,} | " + " | ".join(cells) + " |")

    one = found["256"][0][0] / 3600
    curves = {label: [seconds / 3600 for seconds, _ in pairs] for label, pairs in found.items()}
    figure.write_text(drawn(counts, curves, [one / workers for workers in counts]))


COLOURS = ("#b45309", "#64748b", "#7c3aed", "#0369a1")


def drawn(counts: list[int], curves: dict[str, list[float]], ideal: list[float]) -> str:
    """Hours against workers as SVG, both on logarithmic axes."""
    left, top, width, height, high, decades = 60, 20, 420, 300, math.ceil(math.log10(ideal[0])), 4

    def point(workers: float, hours: float) -> str:
        x = left + width * math.log10(workers) / 3
        return f"{x:.1f},{top + height * (high - math.log10(hours)) / decades:.1f}"

    def line(hours: list[float], colour: str, wide: float, dashes: str = "") -> str:
        points = " ".join(point(*pair) for pair in zip(counts, hours, strict=True))
        return (
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{wide}" '
            f'stroke-dasharray="{dashes}"/>'
        )

    parts = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#cbd5e1"/>']
    for decade in range(decades + 1):
        y = top + height * decade / decades
        parts.append(f'<path d="M{left},{y}h{width}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{10 ** (high - decade):g}</text>')
    for decade in range(4):
        x = left + width * decade / 3
        parts.append(f'<path d="M{x},{top}v{height}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{x}" y="{top + height + 18}" text-anchor="middle">{10**decade:,}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">workers</text>')
    parts.append(
        f'<text transform="translate(16,{top + height / 2}) rotate(-90)" text-anchor="middle">hours</text>'
    )
    parts.append(line(ideal, "#94a3b8", 1, "4 3"))
    parts += [line(hours, colour, 2) for hours, colour in zip(curves.values(), COLOURS, strict=True)]
    legend = [("ideal", "#94a3b8"), *zip(curves, COLOURS, strict=True)]
    for i, (label, colour) in enumerate(legend):
        y = top + height + 62 + 18 * i
        dashes = "" if i else "4 3"
        parts.append(
            f'<path d="M{left},{y - 4}h22" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>'
        )
        parts.append(
            f'<text x="{left + 30}" y="{y}">{"ideal" if not i else "examples in a shard: " + label}</text>'
        )
    size = f"{left + width + 30} {top + height + 62 + 18 * len(legend)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="12" '
        f'fill="#334155"><rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measured", type=Path, metavar="MEASURED.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figure", type=Path, help="simulate from MEASURED.json, and draw it here")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--step", type=float, default=0.006, help="assumed: seconds of a pass, of any size")
    parser.add_argument("--each", type=float, default=0.0005, help="assumed: seconds of an image in a pass")
    args = parser.parse_args()
    if args.figure:
        simulate(json.loads(args.measured.read_text()), args.images, args.step, args.each, args.figure)
    else:
        measured = measure(args.rounds)
        args.measured.write_text(json.dumps(measured))
        say(measured)


if __name__ == "__main__":
    main()
