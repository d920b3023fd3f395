"""Files that a crash, a full disk or a second process cannot spoil."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from zeronorm.errors import ArgumentError

_DEEPEST = 40  # levels of a JSON file


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write files so that a crash or a full disk leaves each as it was or as it shall be, never half.

    All are written beside their targets before the first takes its place.

    **Raises:** `OSError` that names the file.
    """
    temporaries = {target: target.with_name(f".{target.name}.new") for target in contents}
    target = next(iter(contents))
    try:
        for target, content in contents.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(temporaries[target], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for target, temporary in temporaries.items():
            os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from None
    finally:
        for temporary in temporaries.values():
            if temporary.parent.is_dir():
                temporary.unlink(missing_ok=True)


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON file that anyone may have written.

    **Raises:** `ValueError` for whatever is wrong with it: no JSON, NaN, or nested deeper than any file of ours.
    """
    try:
        content = json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    layer = [content]
    for _ in range(_DEEPEST):
        layer = [
            part
            for whole in layer
            if isinstance(whole, dict | list)
            for part in (whole.values() if isinstance(whole, dict) else whole)
        ]
        if not layer:
            return content
    raise ValueError("nested too deeply")


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def json_lines(text: str, damaged: Callable[[int, str], str]) -> list[dict[str, Any]]:
    """The rows of a text, one in JSON on each line, without a last line that a crash cut off.

    **Raises:** `ArgumentError`, as `damaged` words it of number and content, for any other line that is no JSON.
    """
    lines = text.splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(parse_json(line))
        except ValueError:
            if number < len(lines):
                raise ArgumentError(damaged(number, line)) from None
    return rows


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Hold the folder `out`, made if need be: a second process that is `doing` something there is refused."""
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise ArgumentError(f"out: another process is {doing} {folder}; wait for it to end") from None
    except OSError as error:
        raise ArgumentError(f"out: cannot write to {folder}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
