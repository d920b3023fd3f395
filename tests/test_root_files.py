"""Files are the old ones or the new ones, and a folder has one writer."""

from __future__ import annotations

import errno
import os
import time

import pytest

from zeronorm import ArgumentError, files
from zeronorm.files import locked, replace_files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replaced(tmp_path):
    first, second = tmp_path / "first", tmp_path / "below" / "second"
    first.write_bytes(b"old")
    replace_files({first: b"new", second: b"made"})
    assert (first.read_bytes(), second.read_bytes()) == (b"new", b"made")
    assert names(tmp_path) == ["below", "first"] and names(second.parent) == ["second"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_failure_leaves_the_old_files_and_names_the_one(tmp_path, monkeypatch, operation):
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, operation, full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        replace_files({first: b"new", second: b"new"})
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename in (str(first), str(second))
    assert first.read_bytes() == second.read_bytes() == b"old"
    assert names(tmp_path) == ["first", "second"]


def test_stopped_in_between_leaves_nothing_behind(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        replace_files({tmp_path / "file": b"new"})
    assert names(tmp_path) == []


def test_one_writer(tmp_path):
    folder = tmp_path / "made" / "here"
    refused = pytest.raises(ArgumentError, match=r"out: another process is writing to .*here; wait for it")
    with locked(folder, "writing to"), refused, locked(folder, "writing to"):
        raise AssertionError("two writers")
    with locked(folder, "writing to"):
        assert folder.is_dir()


def test_a_write_that_does_not_come_back_is_said_and_so_is_that_it_did(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(files, "STALLED_SECONDS", 0.05)
    fsync = os.fsync

    def slow(number):
        time.sleep(0.2)
        fsync(number)

    monkeypatch.setattr(os, "fsync", slow)
    target = tmp_path / "run.json"
    files.replace_files({target: b"{}"})
    assert target.read_bytes() == b"{}"
    first, last = (record.getMessage() for record in caplog.records)
    assert first == f"waiting for {target}, which has not answered for 0 s; nothing is lost"
    assert last == f"going on: {target} answered after 0 s"
    caplog.clear()
    monkeypatch.setattr(os, "fsync", fsync)
    files.replace_files({target: b"[]"})
    assert not caplog.records
