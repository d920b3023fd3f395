"""What a shared evaluation does when something breaks.

    python -m benchmarks.faults                 every fault in turn: what happened, how long it took, and the outcome
    python -m benchmarks.faults node full-disk  some of them

Each fault is injected into the same small evaluation of the digits model by two workers, and the rows at the end are
compared with those of one undisturbed process: none lost, none doubled, all equal (but for memory, where a halved
batch is another batch: there the outcomes).  Where the run ended, it is started again as its message says.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import zeronorm as zn
from benchmarks.faulty_models import Faulty
from zeronorm import ArgumentError, files
from zeronorm.evaluation import ray_workers as engine
from zeronorm.evaluation.ray_workers import Workers
from zeronorm.records.folders import Row, RunFolder

SEARCH: dict[str, Any] = {"attack": ["sparse_pgd", "sparse_rs"], "steps": 20, "queries": 40, "batch_size": 32}
BUDGETS = [1, 2]
EXAMPLES = 120
WORDS = [
    "evaluate", "--model", "digits", "--data", "digits", "--limit", str(EXAMPLES), "--k", "1,2", "--attack",
    "sparse_pgd,sparse_rs", "--steps", "20", "--queries", "40", "--batch-size", "32", "--workers", "2",
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a fault came to."""

    seconds: float  # from the start to a complete run, starting again included
    said: str
    rows: list[Row]


def evaluated(model: Any, out: Path | None, workers: Workers | None = None, **more: Any) -> zn.Evaluation:
    data = zn.data.load("digits", "test", EXAMPLES)
    return zn.evaluate(model, data, [zn.L0(k) for k in BUDGETS], **SEARCH, out=out, workers=workers, **more)


def rows_of(out: Path) -> list[Row]:
    folder = RunFolder(out)
    assert folder.read()["status"] == "complete"
    return folder.read_rows().to_pylist()  # type: ignore[no-any-return]


def faults_of(out: Path) -> str:
    first, *more = RunFolder(out).read()["sessions"][-1].get("faults", [": "])
    said = str(first).partition(": ")[2]  # of which stage
    return f"{said} ({len(more)} more)" if more else said


# -- faults -------------------------------------------------------------------------------------------------


def nothing(where: Path) -> Outcome:
    with Workers(2) as two:
        began = time.perf_counter()
        evaluated(zn.models.load("digits"), where / "run", two)
        return Outcome(time.perf_counter() - began, faults_of(where / "run"), rows_of(where / "run"))


def worker(how: str, patience: float = 600.0) -> Callable[[Path], Outcome]:
    """A worker that fails in a search, as the model tells it."""

    def run(where: Path) -> Outcome:
        model = Faulty(zn.models.load("digits"), where / "flag", how).eval()
        with Workers(2, patience=patience) as two:
            began = time.perf_counter()
            evaluated(model, where / "run", two)
            return Outcome(time.perf_counter() - began, faults_of(where / "run"), rows_of(where / "run"))

    return run


def node(where: Path) -> Outcome:
    """One of two nodes is gone in the middle of the run."""
    with cluster(1, 1) as (address, others), Workers(2, address) as two:
        began = time.perf_counter()
        evaluated(zn.models.load("digits"), where / "run", two, on_progress=_at_half(others.pop))
        return Outcome(time.perf_counter() - began, faults_of(where / "run"), rows_of(where / "run"))


def last_node(where: Path) -> Outcome:
    """The only node with a processor is gone; the run ends, and goes on without it."""
    began = time.perf_counter()
    said = ""
    before, engine._START_SECONDS = engine._START_SECONDS, 20.0
    with cluster(0, 1) as (address, others), Workers(1, address) as one:
        try:
            evaluated(zn.models.load("digits"), where / "run", one, on_progress=_at_half(others.pop))
        except ArgumentError as error:
            said = str(error)
        finally:
            engine._START_SECONDS = before
    return again(where, began, said)


def driver(where: Path) -> Outcome:
    """The process that was started is killed; nothing it started is left over, and the same command goes on."""
    began = time.perf_counter()
    words = [sys.executable, "-m", "zeronorm", *WORDS, "--out", str(where / "run")]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(words, **quiet)
    journal = where / "run" / "rows.jsonl"
    while running.poll() is None and not (
        journal.exists() and journal.read_bytes().count(b"\n") > 1.5 * EXAMPLES
    ):
        time.sleep(0.02)
    # Ray's own servers end by themselves, its agents within a minute
    family = [pid for pid in descendants(running.pid) if b"ray::_Inside" in command_of(pid)]
    running.kill()
    running.wait()
    killed, kept = time.monotonic(), journal.read_bytes().count(b"\n")
    while (left := [pid for pid in family if alive(pid)]) and time.monotonic() < killed + 60:
        time.sleep(0.05)
    gone = time.monotonic() - killed
    subprocess.run(words, check=True, **quiet)
    said = f"{kept} rows were kept; {len(left)} of {len(family)} workers were left after {gone:.1f} s"
    return Outcome(time.perf_counter() - began, said, rows_of(where / "run"))


def full_disk(where: Path) -> Outcome:
    """The disk is full in the middle of the run, and has room again: a file system of its own, or an error if none
    can be mounted here."""
    began = time.perf_counter()
    with Workers(2) as two, small_disk(where) as (disk, fill, empty):
        try:
            evaluated(zn.models.load("digits"), disk / "run", two, on_progress=_at_half(fill))
            said = ""
        except OSError as error:
            said = f"{error.strerror}: {Path(error.filename or 'rows').name}"
        empty()
        evaluated(zn.models.load("digits"), disk / "run", two)
        return Outcome(time.perf_counter() - began, said, rows_of(disk / "run"))


def stalled_folder(where: Path) -> Outcome:
    """A write does not come back for some seconds, as on a network folder whose server is away."""
    fsync, seconds, said = os.fsync, 4.0, []

    def stall() -> None:
        def once(number: int) -> None:
            os.fsync = fsync
            time.sleep(seconds)
            fsync(number)

        os.fsync = once

    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("zeronorm").addHandler(listener)
    before, files.STALLED_SECONDS = files.STALLED_SECONDS, 1.0
    try:
        with Workers(2) as two:
            began = time.perf_counter()
            evaluated(zn.models.load("digits"), where / "run", two, on_progress=_at_half(stall))
            took = time.perf_counter() - began
    finally:
        os.fsync, files.STALLED_SECONDS = fsync, before
        logging.getLogger("zeronorm").removeHandler(listener)
    return Outcome(took, "; ".join(said).replace(f"{where}/run/", ""), rows_of(where / "run"))


FAULTS: dict[str, tuple[str, Callable[[Path], Outcome]]] = {
    "nothing": ("nothing", nothing),
    "killed": ("a worker is killed in a search", worker("dies")),
    "hangs": ("a worker hangs (patience 15 s)", worker("hangs", 15.0)),
    "memory": ("more than 20 do not fit into memory", worker("fills_memory")),
    "node": ("one of two nodes is removed", node),
    "last-node": ("the only node is removed", last_node),
    "driver": ("the process that was started is killed", driver),
    "full-disk": ("the disk is full", full_disk),
    "stalled-folder": ("a write takes 4 s, told after 1 s", stalled_folder),
}


def compared(expected: list[Row], found: list[Row], *, bitwise: bool = True) -> str:
    """How the rows of a run differ from those of an undisturbed one: how many are lost, doubled and different."""
    name = ("example", "k", "stage")
    wanted, got = ([tuple(row[part] for part in name) for row in rows] for rows in (expected, found))
    twice = sum(count - 1 for count in Counter(got).values())
    lost = len(set(wanted) - set(got))
    kept = {tuple(row[part] for part in name): row for row in found}
    what = expected[0].keys() if bitwise else ("outcome",)
    other = sum(
        any(kept[key][part] != row[part] for part in what)
        for key, row in zip(wanted, expected, strict=True)
        if key in kept
    )
    return f"{lost} / {twice} / {other} of {len(got)}"


# -- means to an end ----------------------------------------------------------------------------------------


def again(where: Path, began: float, said: str) -> Outcome:
    """The run goes on in this process."""
    evaluated(zn.models.load("digits"), where / "run")
    return Outcome(time.perf_counter() - began, said, rows_of(where / "run"))


def _at_half(do: Callable[[], Any]) -> Callable[[Any], None]:
    """To be called with the progress of a run: does it once, when the second budget's search has begun."""
    todo = [do]

    def watch(now: Any) -> None:
        if todo and now.k == BUDGETS[-1]:
            todo.pop()()

    return watch


class _Nodes:
    """The nodes of a cluster beyond the first."""

    def __init__(self, cluster: Any, nodes: list[Any]) -> None:
        self._cluster, self._nodes = cluster, nodes

    def pop(self) -> None:
        self._cluster.remove_node(self._nodes.pop(), allow_graceful=False)


@contextmanager
def cluster(head: int, *others: int) -> Iterator[tuple[str, _Nodes]]:
    """A Ray cluster of several nodes with so many processors each, all on this machine."""
    from ray.cluster_utils import Cluster

    # a node that is gone is missed after some seconds rather than half a minute
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 6}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "_system_config": quick})
    try:
        yield nodes.address, _Nodes(nodes, [nodes.add_node(num_cpus=cpus) for cpus in others])
    finally:
        nodes.shutdown()


@contextmanager
def small_disk(where: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A folder, and what fills the disk it is on and what empties it again."""
    disk = where / "disk"
    disk.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], capture_output=True
        ).returncode
        == 0
    )
    ballast, fsync = disk / "ballast", os.fsync

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill() -> None:
        if mounted:
            with suppress(OSError), open(ballast, "wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()
        else:
            os.fsync = full

    def empty() -> None:
        ballast.unlink(missing_ok=True)
        os.fsync = fsync

    try:
        yield disk, fill, empty
    finally:
        os.fsync = fsync
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that these did."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError, StopIteration):
                status = (path / "status").read_text().splitlines()
                parent = int(next(line for line in status if line.startswith("PPid:")).split()[1])
                parents.setdefault(parent, []).append(int(path.name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


def command_of(pid: int) -> bytes:
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes()
    return b""


def alive(pid: int) -> bool:
    """Whether a process runs, and is not one that only waits to be counted."""
    with suppress(OSError):
        return ") Z " not in (Path("/proc") / str(pid) / "stat").read_text()
    return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)}; default: all")
    asked = parser.parse_args().faults or list(FAULTS)
    if unknown := sorted(set(asked) - set(FAULTS)):
        parser.error(f"expected faults of {', '.join(FAULTS)}, got {unknown[0]}")
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        expected = rows_of(evaluated(zn.models.load("digits"), Path(folder) / "alone").run)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors\n")
    print("| Fault | Seconds | What the run says | Lost / doubled / different |\n|---|---|---|---|")
    for name in asked:
        title, fault = FAULTS[name]
        with tempfile.TemporaryDirectory() as folder:
            outcome = fault(Path(folder))
        rows = compared(expected, outcome.rows, bitwise=name != "memory")
        print(f"| {title} | {outcome.seconds:.1f} | {outcome.said} | {rows} |", flush=True)


if __name__ == "__main__":
    main()
