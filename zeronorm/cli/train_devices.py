"""`zeronorm train --devices N`: the same command in N processes, which torch's launcher starts and watches."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import uuid

import torch

from zeronorm import checks
from zeronorm.errors import ArgumentError
from zeronorm.training.plan import TrainingPlan
from zeronorm.training.processes import device_of, started

_LAUNCHER = "ZERONORM_LAUNCHER"  # the process that started this one
_PATIENCE = 300  # seconds to finish a step and write the checkpoint when the training is stopped


def processes(devices: int | None) -> int:
    """Number of processes in this training; `ArgumentError` if torchrun started another number than `devices`."""
    count = started()
    if devices is not None and checks.integer("devices", devices, 1) != count > 1:
        raise ArgumentError(f"devices: expected {count}, the processes that torchrun started, got {devices}")
    return count


def is_first() -> bool:
    """Whether this is the process that prints."""
    return started() == 1 or os.environ["RANK"] == "0"


def end_with_launcher() -> None:
    """Watch the process that launched this one, and stop by SIGTERM when it is gone: a killed one cannot tell us."""
    launcher = os.environ.get(_LAUNCHER)

    def watch() -> None:
        while os.getppid() == int(launcher or 0):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if launcher is not None and started() > 1:
        threading.Thread(target=watch, daemon=True).start()


def launched(devices: int, plan: TrainingPlan) -> int:
    """Run this command line again in so many processes on this machine; returns the exit status.

    **Raises:** `ArgumentError` for more GPUs than there are, and, once the others ended, if a process was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    on_gpus = device_of(plan) == "cuda"
    most, what = (torch.cuda.device_count(), "GPUs") if on_gpus else (os.cpu_count() or 1, "cores")
    if devices > most:
        raise ArgumentError(f"devices: expected at most {most}, the {what} of this machine, got {devices}")
    if devices > plan.batch_size:
        raise ArgumentError(
            f"batch_size: expected at least {devices} examples, one for each process, got {plan.batch_size}"
        )
    if not on_gpus:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // devices)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it repeats every error
    config = LaunchConfig(
        1, 1, devices, run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        local_addr="localhost", max_restarts=0, shutdown_timeout=_PATIENCE,
    )  # fmt: skip
    os.environ[_LAUNCHER] = str(os.getpid())
    try:
        elastic_launch(config, sys.executable)("-m", "zeronorm", *sys.argv[1:])
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as error:
        ends = {rank: int(failure.exitcode) for rank, failure in error.failures.items()}
        # the others get a SIGTERM once one has ended
        if not (killed := [rank for rank, end in ends.items() if end < 0 and end != -signal.SIGTERM]):
            return max(2, *ends.values())  # the process said why
        raise ArgumentError(
            f"devices: process {killed[0]} of {devices} was killed by {signal.Signals(-ends[killed[0]]).name} and "
            "the others were ended; the same command with --resume continues from the last checkpoint"
        ) from None
    return 0
