"""The command line within this process: its status and what it said."""

from __future__ import annotations

import jaxtyping
import pytest

from zeronorm.cli.main import run


class Said:
    """What a command left."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def zeronorm(capsys, monkeypatch):
    """`zeronorm(*words)` runs a command as a user has it: without the shape checks of the tests."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def command(*words: object) -> Said:
        capsys.readouterr()
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            status = run([str(word) for word in words])
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)
        return Said(status, *capsys.readouterr())

    return command
