"""What a person sees: on a terminal one line that moves, with the rate, who is left and how long it will take."""

from __future__ import annotations

import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

from rich.console import Console

from zeronorm.cli import progress
from zeronorm.evaluation.session import Progress

SLOW_MODEL = """
import time
from zeronorm import models

digits = models.load("digits")

def slow(x):
    time.sleep(0.002)
    return digits(x)
"""


def watched(words, folder, columns):
    """Run a command on a terminal of that width; all that it wrote there."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    process = subprocess.Popen(
        [Path(sys.executable).parent / "zeronorm", *map(str, words)],
        cwd=folder,
        env=environment | {"TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return written.decode()


def test_a_large_run_on_a_narrow_terminal(monkeypatch):
    written = io.StringIO()
    console = Console(file=written, width=80, force_terminal=True, no_color=True)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    with progress.Display() as display:
        for done in range(8000, 9900, 100):
            display.show(
                Progress(
                    "sparse_pgd (unprojected)", 20, done, 10000, 10000, 10000, 123_456 * done, float(done)
                )
            )
            time.sleep(0.01)
    assert re.search(r"k=20 +sparse_pgd \(unprojected\) .*\d+%", written.getvalue())
    assert "robust 10000/10000  123,456 passes/s 0:00:0" in written.getvalue()


def test_a_line_that_moves(tmp_path, columns=80):
    (tmp_path / "slow_model.py").write_text(SLOW_MODEL)
    words = ("evaluate", "--model", "slow_model:slow", "--limit", 40, "--k", 1, "--batch-size", 20)
    seen = watched((*words, "--steps", 50, "--queries", 120, "--out", "run"), tmp_path, columns)
    frames = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frame) for frame in re.split(r"[\r\n]+", seen)]
    assert "\x1b[?25l" in seen and "\x1b[?25h" in seen, "the cursor hides, and comes back"
    moving = [frame for frame in frames if "robust " in frame and "passes/s" in frame]
    assert len(moving) > 5
    assert all(len(frame) <= columns for frame in moving)
    for stage in (r"k=1  sparse_pgd \(unprojected\)", r"k=1  sparse_pgd \(projected\)", "k=1  sparse_rs"):
        assert any(re.match(stage, frame) for frame in moving), (stage, moving[:3])
    for frame in moving:
        assert re.search(
            r" \d+% +robust \d+/40  [\d,]+ passes/s +(\d+:\d\d:\d\d|-:--:--)$", frame.rstrip()
        ), frame
    assert any(re.search(r"0:00:\d\d$", frame.rstrip()) for frame in moving), "time left"
    left = [int(re.search(r"robust (\d+)/40", frame)[1]) for frame in moving]
    assert left == sorted(left, reverse=True) and left[0] > left[-1]
    assert "report: run/report.html" in frames[-2:][0] + frames[-1]
