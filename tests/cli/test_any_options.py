"""Whatever is typed: done, or one line and status 2; never a traceback."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stderr, redirect_stdout

import jaxtyping
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zeronorm.cli import main

COMMANDS = typer.main.get_command(main.app).commands
# what keeps a run short where all else is as it should be: options given later count
SHORT = {
    "evaluate": "--limit 2 --k 1 --steps 1 --queries 1 --device cpu",
    "certify": "--data digits --limit 2 --n0 2 --n 2 --device cpu",
    "compare": "--limit 2 --k 1 --steps 1 --queries 1 --device cpu",
    "bench": "--limit 2 --k 1 --steps 1 --queries 1 --rounds 1 --device cpu",
    "train": "--model linear --data digits --limit 40 --epochs 1 --device cpu",
    "matrix": "--model digits --model digits-robust --attack sparse_rs --limit 2 --k 1 --queries 1 --device cpu",
    "leaderboard": "",
    "report": "",
    "verify": "",
    "list": "",
    "export": "",
    "schema": "",
}
# not drawn: how long, how many, where to, which machines
KEPT = {
    "limit",
    "steps",
    "queries",
    "out",
    "html",
    "workers",
    "ray",
    "n",
    "n0",
    "epochs",
    "rounds",
    "help",
    "looks",
    "votes",
}
KEPT |= {"resume", "track", "evaluate_every", "plan", "attack_steps"}
WORDS = [
    "",
    "-1",
    "0",
    "1",
    "2",
    "0.5",
    "1e999",
    "nan",
    "-inf",
    "x",
    "digits",
    "true",
    "1,2",
    "1,,2",
    "a:b",
    "9" * 400,
]
WORDS += [
    "digits:crop=1",
    "folder:",
    "folder:.",
    "parquet:/nowhere",
    "hub:",
    ":",
    "sparse_rs",
    "sparse_rs:queries=x",
]
WORDS += [
    "sparse_rs:loss=margin",
    "none",
    "☃",
    "\x00",
    "--",
    "-",
    "~nobody/x",
    "os:getcwd",
    "linear",
    "a\nb",
    "'",
]


def words_for(verb, draw):
    options = [p for p in COMMANDS[verb].params if p.name.rstrip("_") not in KEPT]
    said = [verb, *SHORT[verb].split()]
    for option in draw(st.lists(st.sampled_from(options), max_size=3)):
        word = draw(st.sampled_from(WORDS))
        if option.param_type_name == "argument":
            said.append(word)
        elif option.is_flag:
            said.append(option.opts[0])
        else:
            said += [option.opts[0], word]
    return said


def try_any(place, data):
    verb = data.draw(st.sampled_from(sorted(SHORT)))
    words = words_for(verb, data.draw)
    if verb in ("evaluate", "certify", "compare", "matrix", "train"):
        words += ["--out", str(place / f"{abs(hash(tuple(words)))}")]
    if verb in ("report",):
        words += ["--html", str(place / "page.html")]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        status = main.run(words)
    # the status of a verification that fails is 1; of all else 0, or 2 and a line
    lines = [line for line in said.getvalue().splitlines() if line.startswith("zeronorm: ")]
    assert "Traceback" not in said.getvalue() and "ZERONORM_TRACEBACK" not in said.getvalue(), (words, lines)
    assert status in (0, 2) and len(lines) == (status == 2), (words, status, said.getvalue())


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """As a user has it, in a folder of one's own, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["zeronorm"])
    jaxtyping.config.update("jaxtyping_disable", True)
    yield tmp_path
    jaxtyping.config.update("jaxtyping_disable", False)


QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@QUICK
@given(data=st.data())
def test_any_options(at_home, data):
    try_any(at_home, data)


@pytest.mark.slow
@settings(QUICK, max_examples=1500, derandomize=False)
@given(data=st.data())
def test_many_options(at_home, data):
    try_any(at_home, data)


def test_every_verb_is_tried():
    assert set(COMMANDS) - set(SHORT) == {"prune", "reproduce", "check-attack"}  # they train, and need data
    assert all(re.fullmatch(r"[a-z]+", verb) for verb in SHORT)
