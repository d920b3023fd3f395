"""kill -9 at random moments, a full disk, two at once: the same command goes on, and ends as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_process import Command

from zeronorm.records.folders import RunFolder

SEARCH = ("--limit", 24, "--steps", 20, "--queries", 40, "--batch-size", 5, "--json")
MODES = {
    "list": ("evaluate", "--k", "1,2", *SEARCH),
    "curve": ("evaluate", "--curve", 4, *SEARCH),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A complete run of each mode, and how long it took."""
    complete = {}
    for mode, words in MODES.items():
        home = tmp_path_factory.mktemp(mode)
        Command(home, "list").wait()  # the server is warm
        started = time.perf_counter()
        command = Command(home, *words, "--out", home / "run")
        assert command.wait() == 0, command.stderr
        complete[mode] = (
            RunFolder(home / "run"),
            time.perf_counter() - started,
            json.loads(command.stdout.splitlines()[-1]),
        )
    return complete


def assert_same(folder: RunFolder, told: dict, expected: tuple) -> None:
    """Every column of every row, bit by bit, and every figure."""
    complete, _, expected_told = expected
    assert folder.read_rows().equals(complete.read_rows())
    assert told | {"run": ""} == expected_told | {"run": ""}
    one, other = folder.read(), complete.read()
    for key in ("plan", "rows_digest", "summary", "diagnosis", "status"):
        assert one[key] == other[key], key
    assert {path.name for path in folder.path.iterdir()} == {path.name for path in complete.path.iterdir()}


def killed_and_resumed(mode, kills, seed, uninterrupted, home):
    draw = random.Random(seed)
    words = (*MODES[mode], "--out", home / "run")
    rows, begun, ended = [], 0, False
    for _ in range(kills):
        killed = Command(home, *words).kill_after(draw.uniform(0.05, uninterrupted[mode][1]))
        if not killed:
            break
        folder = RunFolder(home / "run")
        rows.append(folder.read_rows().num_rows)
        begun += folder.exists() and len(folder.read()["sessions"]) > begun
        ended = folder.exists() and folder.read()["status"] == "complete"  # killed while it drew the page
    assert rows == sorted(rows), "what was finished is never lost"
    command = Command(home, *words)
    assert command.wait() == 0, command.stderr
    assert_same(RunFolder(home / "run"), json.loads(command.stdout.splitlines()[-1]), uninterrupted[mode])
    sessions = RunFolder(home / "run").read()["sessions"]
    assert len(sessions) == begun + (not ended), "a killed session is one too"
    assert_paid_for(RunFolder(home / "run"), sessions)
    return rows


def assert_paid_for(folder: RunFolder, sessions: list[dict]) -> None:
    """The sessions account for every row, those of the killed ones included."""
    searches = [row for row in folder.read_rows().to_pylist() if row["stage"] >= 0]
    for name in {row["attack"] for row in searches}:
        clocks = [session["stages"][name] for session in sessions if name in session["stages"]]
        assert sum(clock["seconds"] for clock in clocks) > 0
        passes = sum(row["forwards"] for row in searches if row["attack"] == name)
        assert sum(clock["forwards"] for clock in clocks) >= passes
    assert all(s["seconds"] >= sum(c["seconds"] for c in s["stages"].values()) - 0.01 for s in sessions)


@pytest.mark.parametrize("mode", MODES)
def test_killed_and_resumed(mode, uninterrupted, tmp_path):
    assert killed_and_resumed(mode, 5, 7, uninterrupted, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("mode", MODES)
def test_killed_many_times(mode, seed, uninterrupted, tmp_path):
    killed_and_resumed(mode, 8, seed, uninterrupted, tmp_path)


@pytest.mark.slow
def test_the_installed_command_killed(uninterrupted, tmp_path):
    """As a person runs it, in processes that share nothing."""
    words = [Path(sys.executable).parent / "zeronorm", *map(str, MODES["list"]), "--out", tmp_path / "run"]
    draw, rows = random.Random(0), []
    for _ in range(4):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (tmp_path / "run/rows.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        rows.append(RunFolder(tmp_path / "run").read_rows().num_rows)
    assert 0 < rows[0] <= rows[-1] < uninterrupted["list"][0].read_rows().num_rows
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert_same(RunFolder(tmp_path / "run"), json.loads(done.stdout.splitlines()[-1]), uninterrupted["list"])
    again = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout.splitlines()[-1]) == json.loads(done.stdout.splitlines()[-1])


def test_a_full_disk(uninterrupted, tmp_path):
    """Files may grow to so many bytes: the journal is cut off in the middle of a line."""
    words = (*MODES["list"], "--out", tmp_path / "run")
    for size in (5000, 6077):
        command = Command(tmp_path, *words, file_size=size)
        assert command.wait() == 1
        (line,) = [text for text in command.stderr.splitlines() if text.startswith("zeronorm: ")]
        assert line.startswith("zeronorm: File too large:")
        assert line.endswith("what was finished is kept, the same command goes on from there")
        journal = (tmp_path / "run/rows.jsonl").read_bytes()
        assert len(journal) <= size and journal.count(b"\n") > 10
    command = Command(tmp_path, *words)
    assert command.wait() == 0, command.stderr
    assert_same(
        RunFolder(tmp_path / "run"), json.loads(command.stdout.splitlines()[-1]), uninterrupted["list"]
    )


def test_a_second_process_is_refused_at_once(tmp_path):
    words = ("evaluate", "--k", "1", "--limit", 100, "--steps", 9000, "--out", tmp_path / "run")
    first = Command(tmp_path / "first", *words)
    first.wait_for(tmp_path / "run/rows.jsonl")
    second = Command(tmp_path / "second", *words)
    assert second.wait() == 2
    assert second.stderr == (
        f"zeronorm: out: another process is writing to {tmp_path / 'run'}; wait for it to end\n"
    )
    assert first.kill_after(0), "at once: the first one still runs"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_hand(uninterrupted, tmp_path, number):
    words = (*MODES["curve"], "--out", tmp_path / "run")
    command = Command(tmp_path, *words)
    command.wait_for(tmp_path / "run/rows.jsonl")
    os.kill(command._process.pid, number)
    assert command.wait() == 128 + number, "as a shell says of signals"
    assert command.stderr.splitlines()[-1] == (
        f"stopped; the same command goes on from what is kept in {tmp_path / 'run'}"
    )
    command = Command(tmp_path, *words)
    assert command.wait() == 0
    assert_same(
        RunFolder(tmp_path / "run"), json.loads(command.stdout.splitlines()[-1]), uninterrupted["curve"]
    )
