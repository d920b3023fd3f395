"""Reading and writing files so that a crash, a full disk or a second process cannot spoil them."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from zeronorm.errors import ArgumentError

# of a path that went through pathlib, one of the two slashes is left
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|(file|s3|gs|gcs|hdfs|hf|memory):")
_DEEPEST = 40  # levels of a JSON file

_log = logging.getLogger("zeronorm")

STALLED_SECONDS = 10.0  # after which a write that has not come back is spoken of


def local_path(path: str | os.PathLike[str], what: str = "out") -> Path:
    """A path of this machine, with ~ for the home; `ArgumentError` for an address elsewhere, such as s3://bucket."""
    text = os.fspath(path)
    if _ADDRESS.match(text):
        raise ArgumentError(
            f"{what}: expected a path of this machine, got {text!r}; mount what lies elsewhere, or copy it afterwards"
        )
    return Path(os.path.expanduser(text))  # Path.expanduser raises where there is no such user


@contextmanager
def awaited(path: Path) -> Iterator[None]:
    """Context manager for writing `path`: logs a write that takes long, as on a stalled network folder, and its end."""
    began = time.monotonic()
    told: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(STALLED_SECONDS * 6 ** len(told)):  # after 10 s, a minute, six minutes, ...
            told.append(time.monotonic() - began)
            _log.warning("waiting for %s, which has not answered for %.0f s; nothing is lost", path, told[-1])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        if told:
            _log.warning("going on: %s answered after %.0f s", path, time.monotonic() - began)


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write files so that a crash or a full disk leaves each one old or new, never half written.

    All are written beside their targets before the first takes its place.

    **Raises:** `OSError` that names the file.
    """
    temporaries = {target: target.with_name(f".{target.name}.new") for target in contents}
    target = next(iter(contents))
    try:
        for target, content in contents.items():
            with awaited(target):
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


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; `OSError` for anything else: a pipe or a device may never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(path, "rb")


def read_file(path: Path) -> bytes:
    """The content of a regular file; `OSError` if there is none."""
    with open_regular(path) as file:
        return file.read()


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON file of unknown origin; `ValueError` if it cannot be read.

    **Raises:** `ValueError` for whatever is wrong with it: no JSON, NaN, a name twice, text that cannot be written, or
    nested deeper than any file of ours.
    """
    try:
        content = json.loads(text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_once)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
            json.dumps(content, ensure_ascii=False).encode()  # fails where half a character was escaped
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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):  # of which one reader takes the first, another the last
        raise ValueError("a name stands twice in one object")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is beyond every number")
    return number


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def json_lines(text: str, damaged: Callable[[int, str], str]) -> list[dict[str, Any]]:
    """The rows of a JSON-lines text; a last line that a crash cut off is left out.

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


def write_json_lines(path: Path, rows: Collection[Mapping[str, Any]]) -> None:
    """Write rows as a JSON-lines file, in place of the old file."""
    replace_files({path: "".join(f"{json.dumps(row)}\n" for row in rows).encode()})


def remember(path: Path, asked: Mapping[str, Any], what: str, growing: Collection[str] = ()) -> None:
    """Write what is asked to a file, or refuse the folder if its file says something else.

    **Arguments:**

    - `what`: that is asked, in words for the message.
    - `growing`: names in `asked` whose value may change from one time to the next.

    **Raises:** `ArgumentError` that names the first thing that differs.
    """
    content = json.dumps(asked, indent=1)
    there, now = json.loads(path.read_text() if path.exists() else content), json.loads(content)
    for name in {**there, **now}:
        if name not in growing and there.get(name) != now.get(name):
            raise ArgumentError(
                f"out: expected an empty folder or {what} in {path.parent}, got one with {name} "
                f"{there.get(name)!r:.80} (asked: {now.get(name)!r:.80})"
            )
    replace_files({path: f"{content}\n".encode()})


@contextmanager
def unless_refused(path: Path) -> Iterator[None]:
    """Context manager: after an `ArgumentError` within, a file is as it was before."""
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    except ArgumentError:
        if before is not None and path.read_bytes() != before:
            replace_files({path: before})
        raise


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Context manager: lock the folder `out`, made if need be, against a second process."""
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
