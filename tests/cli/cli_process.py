"""`zeronorm` in processes of its own, forked from one that has imported torch: cheap enough to kill by the dozen."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

from zeronorm.cli.main import run

_processes = multiprocessing.get_context("forkserver")
# all that an evaluation imports, once
_processes.set_forkserver_preload(
    ["zeronorm.cli.main", "zeronorm.evaluation.runner", "sklearn.datasets", "scipy.special", "jinja2"]
)


class Command:
    """A running `zeronorm ...`; its output is in `home`."""

    def __init__(self, home: Path, *arguments: object, file_size: int | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        words = [str(a) for a in arguments]
        self._process = _processes.Process(target=_run, args=(words, str(home), file_size))
        self._process.start()

    def wait(self) -> int:
        """Until it ends; its exit status."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill_after(self, seconds: float) -> bool:
        """SIGKILL; whether it was still running."""
        self._process.join(seconds)
        running = self._process.is_alive()
        self._process.kill()
        self._process.join()
        return running

    def wait_for(self, path: Path) -> None:
        """Until it has made this file."""
        while not path.exists():
            assert self._process.is_alive(), self.stderr
            time.sleep(0.005)

    @property
    def stdout(self) -> str:
        return (self.home / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.home / "stderr").read_text()


def _run(words: list[str], home: str, file_size: int | None) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{home}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["zeronorm", *words]
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    status = run(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
