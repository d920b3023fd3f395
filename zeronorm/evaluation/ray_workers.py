"""The work of a run by several processes, with Ray, on this machine or on the nodes of a cluster.

A shard whose worker died, hung or ran out of memory is done again by another.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

import zeronorm
from zeronorm import checks
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.in_process import Events, InProcess, Spent, Underway, Work
from zeronorm.records.folders import Row

_log = logging.getLogger("zeronorm")

_TRIES = 3  # a shard that fails so often ends the run
_POLL_SECONDS = 0.5
_START_SECONDS = 120.0  # for a process to start and import torch
_REACH_SECONDS = 10.0  # for a machine to answer
_ANSWER_SECONDS = 40.0  # for a cluster to
_PROBE = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"


class Workers:
    """Processes that share the work of a run.

        with Workers(4) as workers:
            zn.evaluate(model, data, zn.L0(10), workers=workers)

    The result is that of one process: the shards are the same, and an example's search does not depend on who does
    it.  Needs the extra `zeronorm[ray]`.

    **Arguments:**

    - `count`: processes; where the model is on a GPU, each has one to itself.
    - `address`: of a Ray cluster that this machine is part of, "auto" or HOST:PORT; None: this machine alone.
    - `patience`: seconds without a pass of the model after which a worker is taken for hung and replaced.

    **Raises:** `ArgumentError`, on entry, for a cluster that cannot be reached, that has too few GPUs, or on which
    other versions are installed.
    """

    def __init__(self, count: int, address: str | None = None, *, patience: float = 600.0) -> None:
        self.count = checks.integer("workers", count, 1)
        if address is not None and not re.fullmatch(r"auto|(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d+", address):
            raise ArgumentError(f"ray: expected auto or HOST:PORT, got {address!r}")
        self.address = address
        self.patience = checks.real("patience", patience, 0.0, open_low=True)
        self._hosts: list[_Host] = []
        self._gpu = False
        self._looked = 0.0  # when `_watch` last did
        self._began = False  # Ray was started here, and is to be stopped here

    def __enter__(self) -> Workers:
        self._ray = _import_ray()
        if not self._ray.is_initialized():
            if self.address is None and self.count > (cores := os.cpu_count() or 1):
                raise ArgumentError(
                    f"workers: expected at most {cores}, the cores of this machine, got {self.count}"
                )
            self._began = True
            self._connect()
        elif self.address is not None:
            raise ArgumentError("ray: expected no address where Ray is running in this process already")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self._hosts:
            host.kill()
        self._hosts = []
        if self._began:
            self._ray.shutdown()

    def load(self, model: Any, device: torch.device) -> None:
        """Put the model where the workers take it from: it travels once to each node."""
        gpu = device.type == "cuda"
        there = int(self._ray.cluster_resources().get("GPU", 0))
        if gpu and there < self.count:
            raise ArgumentError(f"workers: expected at most {there}, the GPUs there are, got {self.count}")
        try:
            self._model = self._ray.put(model)
        except TypeError as error:  # locks, sockets, handles
            raise ArgumentError(
                f"model: expected one that can be sent to another process, but {error}"
            ) from None
        if gpu != self._gpu:  # workers that have what it needs
            self._gpu = gpu
            for host in self._hosts:
                host.kill()
            self._hosts = []
        room = int(self._ray.cluster_resources().get("CPU", 0))
        if room < self.count:  # it may grow, when asked
            _log.warning("waiting for room for %d workers: the cluster has %d CPUs now", self.count, room)
        while len(self._hosts) < self.count:
            self._hosts.append(self._start())
        for host in self._hosts:
            self._check_versions(host)

    def map(self, work: Work, shards: Iterable[Any], events: Events) -> Iterator[tuple[Any, Any]]:
        """Each shard and the result of its work, in the order in which they are done."""
        ray, todo, again = self._ray, iter(shards), deque[_Job]()
        shared = ray.put(work)
        jobs: dict[Any, tuple[_Host, _Job]] = {}
        starting: dict[Any, _Host] = {}
        idle = list(self._hosts)
        try:
            while True:
                while idle and (job := again.popleft() if again else _next(todo)):
                    worker = idle.pop()
                    jobs[worker.begin(self._model, shared, job.shard)] = worker, job
                if not jobs and not again:
                    return
                done, _ = ray.wait([*jobs, *starting], timeout=_POLL_SECONDS)
                for ref in done:
                    if ref in starting:
                        host = starting.pop(ref)
                        if self._answers(host):
                            self._hosts.append(host)
                            idle.append(host)
                        else:
                            starting.update([self._replacement()])
                        continue
                    host, job = jobs.pop(ref)
                    try:
                        reports, result, passes = ray.get(ref)
                    except ray.exceptions.RayTaskError as error:
                        idle.append(host)
                        if not _is_memory(error.cause):
                            raise error.cause from None
                        again.extend(job.halved(events.fault))
                    except ray.exceptions.RayError as error:
                        host.kill()
                        self._hosts.remove(host)
                        starting.update([self._replacement()])
                        if _is_memory(error):
                            again.extend(job.halved(events.fault))
                        else:
                            again.append(job.failed(host.why or "its worker died", events.fault))
                    else:
                        idle.append(host)
                        events.passed(host.since(passes), lambda: _underway(jobs))
                        for rows, spent in reports:
                            events.finished(job.shard, rows, spent)
                        yield job.shard, result
                self._watch(jobs, events)
                if not jobs and not idle and starting:
                    self._wait_for_any(starting)
        finally:
            for host in starting.values():
                host.kill()

    # -- workers ----------------------------------------------------------------------------------------

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is not None:
            _check_reachable(self.address)
        else:
            cores = max(os.cpu_count() or 1, self.count)
            options |= {"num_cpus": cores, "include_dashboard": False}
        heeds = signal.getsignal(signal.SIGTERM)
        try:
            # "local": never one that somebody else has started here
            self._ray.init(self.address or "local", **options)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, heeds)  # Ray's own handler speaks at length
        except Exception as error:  # of many kinds
            where = self.address or "this machine"
            raise ArgumentError(f"ray: cannot start at {where}: {_said(error)}") from None

    def _start(self) -> _Host:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cores = _cores([int(resources.get("CPU", 0)) for resources in nodes], self.count)
        return _Host(self._ray, cores, self._gpu)

    def _replacement(self) -> tuple[Any, _Host]:
        host = self._start()
        return host.versions(), host

    def _check_versions(self, host: _Host) -> None:
        here = _versions()
        try:
            there = self._ray.get(host.versions(), timeout=_START_SECONDS)
        except self._ray.exceptions.GetTimeoutError:
            raise ArgumentError(
                f"workers: expected room for {self.count}, but one has not started in {_START_SECONDS:g} s"
            ) from None
        except self._ray.exceptions.RayError as error:
            raise ArgumentError(f"workers: one cannot start: {_said(error)}") from None
        if there != here:
            raise ArgumentError(
                f"workers: expected the versions that are here ({_listed(here)}), got {_listed(there)}"
            )

    def _answers(self, host: _Host) -> bool:
        try:
            return bool(self._ray.get(host.versions(), timeout=_START_SECONDS) == _versions())
        except self._ray.exceptions.RayError:
            return False

    def _watch(self, jobs: dict[Any, tuple[_Host, _Job]], events: Events) -> None:
        """Pass on how far the workers are; one that has not moved for long is killed, and its shard comes back."""
        now = time.monotonic()
        # while a slow disk kept this process, nobody looked at the workers
        watched, self._looked = min(now - self._looked, 2 * _POLL_SECONDS), now
        for host, _ in jobs.values():
            passes, host.underway = host.pulse()
            host.still += watched
            if passes:
                host.still = 0.0
                events.passed(passes, lambda: _underway(jobs))
            elif host.still > self.patience and not host.why:
                host.why = f"its worker did nothing for {self.patience:g} s"
                host.kill()

    def _wait_for_any(self, starting: dict[Any, _Host]) -> None:
        done, _ = self._ray.wait(list(starting), timeout=_START_SECONDS)
        if not done:
            raise ArgumentError(
                "workers: none is left, and none can be started; what is finished is kept, and the same command "
                "goes on from there"
            )


@contextmanager
def begun(workers: int | Workers | None) -> Iterator[Workers | None]:
    """The workers asked for; those that are begun here end here."""
    with ExitStack() as ours:
        yield ours.enter_context(Workers(workers)) if isinstance(workers, int) else workers


@contextmanager
def at_work(workers: int | Workers | None, model: Any, device: torch.device) -> Iterator[InProcess | Workers]:
    """Whoever is to do the work, with the model."""
    with begun(workers) as others:
        engine = others or InProcess()
        engine.load(model, device)
        yield engine


@dataclass
class _Job:
    shard: Any
    tries: int = 0

    def failed(self, why: str, fault: Callable[[str], None]) -> _Job:
        """The same shard once more."""
        tries = self.tries + 1
        if tries == _TRIES:
            raise ArgumentError(
                f"workers: a shard of {len(self.shard)} examples failed {tries} times, at last because {why}; what is "
                "finished is kept, and the same command goes on from there"
            )
        fault(f"a shard of {len(self.shard)} examples was done again, since {why}")
        return _Job(self.shard, tries)

    def halved(self, fault: Callable[[str], None]) -> list[_Job]:
        """The shard in two."""
        if len(self.shard) == 1:
            raise ArgumentError("workers: not enough memory for one example")
        fault(
            f"a shard of {len(self.shard)} examples was cut in two, since there was not enough memory for it"
        )
        return [_Job(half) for half in self.shard.halves()]


@dataclass
class _Host:
    """A worker, from outside."""

    ray: Any
    cores: int
    gpu: bool
    still: float = 0.0  # seconds that it has been seen not to move
    why: str = ""  # it was killed
    underway: float = 0.0  # of its shard, in examples
    _actor: Any = field(init=False)
    _pulse: Any = None
    _passes: int = 0  # as it said last

    def __post_init__(self) -> None:
        actor = self.ray.remote(
            num_cpus=self.cores,
            num_gpus=int(self.gpu),
            concurrency_groups={"work": 1, "pulse": 1},
            max_restarts=0,
        )(_Inside)
        self._actor = actor.remote(sys.path)

    def versions(self) -> Any:
        return self._actor.versions.options(concurrency_group="pulse").remote()

    def begin(self, model: Any, work: Any, shard: Any) -> Any:
        self.still, self.underway = 0.0, 0.0
        # in a list, which is not opened on the way: a worker keeps the model it has
        return self._actor.run.options(concurrency_group="work").remote([model], work, shard)

    def pulse(self) -> tuple[int, float]:
        """Passes since the last time, and what it has underway, in examples; as before if it does not answer."""
        if self._pulse is None:
            self._pulse = self._actor.pulse.options(concurrency_group="pulse").remote()
        done, _ = self.ray.wait([self._pulse], timeout=0)
        if not done:
            return 0, self.underway
        answer, self._pulse = self._pulse, None
        try:
            passes, underway = self.ray.get(answer)
        except self.ray.exceptions.RayError:
            return 0, self.underway
        return self.since(passes), underway

    def since(self, passes: int) -> int:
        """Of the passes it has made, those since the last time."""
        before, self._passes = self._passes, max(self._passes, passes)
        return self._passes - before

    def kill(self) -> None:
        self.ray.kill(self._actor)


class _Inside:
    """A worker, from inside: it runs in a process of its own."""

    def __init__(self, path: list[str]) -> None:
        # a model's code may lie where the run was started
        sys.path += [entry for entry in path if entry not in sys.path]
        self._passes = 0
        self._underway: Underway = lambda: 0.0
        self._model: Any = None
        self._of: Any = None  # what `_model` is a copy of

    def versions(self) -> dict[str, str]:
        return _versions()

    def run(self, model: list[Any], work: Work, shard: Any) -> tuple[list[tuple[list[Row], Spent]], Any, int]:
        if self._of != model[0]:
            try:
                self._model, self._of = _import_ray().get(model[0]), model[0]
            except Exception as error:
                raise ArgumentError(f"model: cannot be made again in a worker: {_said(error)}") from None
        self._reports: list[tuple[list[Row], Spent]] = []
        self._underway = lambda: 0.0
        result = work(self._model, shard, self)
        self._underway = lambda: float(len(shard))  # the search is over, and not to be kept
        return self._reports, result, self._passes

    # -- the events of its shard, kept until it is done --

    def passed(self, passes: int, underway: Underway) -> None:
        self._passes, self._underway = self._passes + passes, underway

    def finished(self, shard: Any, rows: list[Row], spent: Spent) -> None:
        self._reports.append((rows, spent))

    def fault(self, what: str) -> None:
        raise NotImplementedError("only whoever hands out shards does one again")

    def pulse(self) -> tuple[int, float]:
        return self._passes, self._underway()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ArgumentError("workers: expected Ray to be installed; pip install 'zeronorm[ray]'") from None
    return ray


def _underway(jobs: dict[Any, tuple[_Host, _Job]]) -> float:
    return sum((host.underway for host, _ in jobs.values()), 0.0)


def _next(shards: Iterator[Any]) -> _Job | None:
    shard = next(shards, None)
    return None if shard is None else _Job(shard)


def _cores(there: list[int], count: int) -> int:
    """The most cores that each of `count` workers can have, where each is on one of the nodes that have so many."""
    fitting = (c for c in range(max(there, default=1), 1, -1) if sum(n // c for n in there) >= count)
    return next(fitting, 1)


def _check_reachable(address: str) -> None:
    """`ArgumentError` where no cluster answers.

    Asked by a process of its own: Ray goes on trying for minutes, says so in many lines, and cannot be stopped.
    """
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
        asked = [sys.executable, "-c", _PROBE, address]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, OverflowError) as error:
        why = (getattr(error, "strerror", None) or "no answer").lower()
    except subprocess.TimeoutExpired:
        why = f"what listens there has not answered as a cluster in {_ANSWER_SECONDS:g} s"
    else:
        if found.returncode == 0:
            return
        said = found.stdout + found.stderr
        if "version mismatch" in said.lower():
            mismatch = said[said.lower().index("version mismatch") :].partition("\n\n")[0]
            raise ArgumentError(f"ray: {address}: {' '.join(mismatch.split())}")
        why = said.strip().splitlines()[-1] if said.strip() else f"Ray ended with {found.returncode}"
        if "InvalidAuthToken" in said:
            why = (
                "it asks for a token: set RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token"
            )
    raise ArgumentError(f"ray: no cluster can be reached at {address}: {why}")


def _versions() -> dict[str, str]:
    return {
        "zeronorm": zeronorm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _said(error: BaseException) -> str:
    """The last line, which is where Python and Ray say what it was."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _is_memory(error: BaseException) -> bool:
    """Whether it was memory that was missing, on a device, in the process, or by Ray's own watch."""
    said = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in said for words in ("out of memory", "can't allocate memory", "running low on memory"))
    )
