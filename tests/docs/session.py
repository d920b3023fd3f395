"""A reader's session on the command line: several commands, one process, none of the tests' own checks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Said(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def session(commands: list[list[str]], folder: Path, **environment: str) -> list[Said]:
    """Run `zeronorm` with each list of arguments in turn, in a folder."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(commands),
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [Said(*said) for said in json.loads(done.stdout)]


def main() -> None:
    from zeronorm.cli.main import run

    said = []
    for arguments in json.load(sys.stdin):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run(arguments)
        said.append((status, out.getvalue(), err.getvalue()))
    print(json.dumps(said))


if __name__ == "__main__":
    main()
