"""Files are the old ones or the new ones, and a folder has one writer."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from zeronorm import ArgumentError, files
from zeronorm.files import json_lines, local_path, locked, remember, replace_files, write_json_lines


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


def test_rows(tmp_path):
    rows = [{"a": 1}, {"b": [2.5, None]}]
    write_json_lines(tmp_path / "rows", rows)
    text = (tmp_path / "rows").read_text()
    assert json_lines(text + '{"cut o', lambda number, line: "") == rows
    with pytest.raises(ArgumentError, match="line 1: cut"):
        json_lines(f"cut\n{text}", lambda number, line: f"line {number}: {line}")


def test_what_is_asked_of_a_folder(tmp_path):
    asked = {"share": 0.5, "layers": ("1", "3"), "rounds": 2}
    path = tmp_path / "asked.json"
    for rounds in (2, 3, 3):
        remember(path, asked | {"rounds": rounds}, "a sweep", growing=["rounds"])
    for changed, said in (
        ({"share": 0.3}, r"got one with share 0.5 \(asked: 0.3\)"),
        ({"rounds": 4}, r"got one with rounds 3 \(asked: 4\)"),
        ({"new": 1}, r"got one with new None \(asked: 1\)"),
    ):
        with pytest.raises(ArgumentError, match=f"out: expected an empty folder or a sweep in .*{said}"):
            remember(path, asked | {"rounds": 3} | changed, "a sweep")
    with pytest.raises(ArgumentError, match=r"rounds 3 \(asked: None\)"):
        remember(path, {"share": 0.5, "layers": ["1", "3"]}, "a sweep")


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


@pytest.mark.parametrize(
    "path", ["s3://bucket/run", Path("s3://bucket/run"), "file:///tmp/run", "gs:run", "file:run"]
)
def test_an_address_is_no_path(path):
    with pytest.raises(ArgumentError, match=r"^out: expected a path of this machine, got "):
        local_path(path)


def test_the_home_and_odd_names(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/x") == tmp_path / "x" and local_path(Path("~")) == tmp_path
    for odd in ("C:\\x", "a:b", "runs/k=1:2", "~nobody-of-that-name/x"):
        assert local_path(odd) == Path(odd)
