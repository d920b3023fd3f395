"""A run that was stopped, however and wherever, ends as if it never had been."""

from __future__ import annotations

import errno
import json
import os
import random
import time
from pathlib import Path

import pytest
import torch
from small_runs import SHORT, Fragile, dataset, network, rows

import zeronorm as zn
from zeronorm.attacks.sparse_autoattack import Stage
from zeronorm.cli.main import run as command_line
from zeronorm.evaluation import attack_batch
from zeronorm.records import folders
from zeronorm.records.folders import RunFolder

# the shape checks of the tests double the time, and have seen all this elsewhere
pytestmark = pytest.mark.usefixtures("unchecked", "minimal_attack")

MODES = {
    "list": {"threat": [zn.L0(1), zn.L0(2)]},
    "curve": {"threat": zn.L0(4), "curve": True},
    "minimal": {
        "threat": [zn.L0(1), zn.L0(2), zn.L0(4)],
        "attack": [
            "sparse_rs",
            "greedy",
            Stage("sparse_pgd", {"steps": 12}),
            Stage("sparse_pgd", {"steps": 12, "gradient": "projected"}),
        ],
    },
}


@pytest.fixture(scope="module")
def model():
    return Fragile(network())


def evaluate(model, data, mode, out, **options):
    return zn.evaluate(model, data, **MODES[mode], **SHORT, out=out, **options)


@pytest.fixture(scope="module")
def uninterrupted(model, data, tmp_path_factory):
    home = tmp_path_factory.mktemp("uninterrupted")
    return {mode: evaluate(model, data, mode, home / mode) for mode in MODES}


def assert_same(evaluation, expected):
    """Every column of every row, bit by bit, and every figure."""
    assert rows(evaluation) == rows(expected)
    assert_same_figures(evaluation, expected)


def assert_nearly_same(evaluation, expected):
    """As `assert_same`, but logits in another batch may differ in their last bits."""
    for row, other in zip(rows(evaluation), rows(expected), strict=True):
        assert row["margin"] == pytest.approx(other["margin"], rel=1e-4, abs=1e-5)
        assert row | {"margin": 0} == other | {"margin": 0}
    assert_same_figures(evaluation, expected, ("status", "plan", "summary", "diagnosis"))


def assert_same_figures(evaluation, expected, keys=("status", "plan", "rows_digest", "summary", "diagnosis")):
    told, expected_told = (json.loads((e.run / "run.json").read_text()) for e in (evaluation, expected))
    for key in keys:
        assert told[key] == expected_told[key], key
    assert evaluation.as_json() | {"run": ""} == expected.as_json() | {"run": ""}
    files = {path.name for path in evaluation.run.iterdir()}
    assert files == {".lock", "run.json", "rows.parquet", "images.parquet", "report.html"}


ERRORS = {
    "stopped-early-rows": (KeyboardInterrupt(), 0.0),
    "failed-early-rows": (RuntimeError("out of memory"), 0.0),
    "stopped": (KeyboardInterrupt(), 2.0),
}
SIZES = {"one-batch-size": (8,), "several": (3, 5, 20)}
# every pair of a mode, a way to stop and batch sizes
STOPPED = [
    (mode, error, list(SIZES)[(i + j) % 2]) for i, mode in enumerate(MODES) for j, error in enumerate(ERRORS)
]


@pytest.mark.parametrize(("mode", "error", "sizes"), STOPPED)
def test_raised_inside_the_model(model, data, uninterrupted, tmp_path, monkeypatch, mode, error, sizes):
    """At random passes, many times, with successes written as they come or batch by batch."""
    (error, flush), sizes = ERRORS[error], SIZES[sizes]
    monkeypatch.setattr(attack_batch, "_FLUSH_SECONDS", flush)
    draw = random.Random(f"{mode} {error!r} {flush}")
    stopped = 0
    model.error = error
    while True:
        # long enough to get through the checks before the run, and on; a batch size of its own each time
        model.left = draw.randint(1, 50) if stopped < 12 else float("inf")
        try:
            evaluation = evaluate(model, data, mode, tmp_path / "run", batch_size=draw.choice(sizes))
            break
        except (KeyboardInterrupt, RuntimeError, zn.ArgumentError):
            stopped += 1
    model.left = float("inf")
    assert stopped >= 8
    if len(sizes) == 1:
        assert_same(evaluation, evaluate(model, data, mode, tmp_path / "expected", batch_size=sizes[0]))
    assert_nearly_same(evaluation, uninterrupted[mode])
    assert zn.verify(evaluation.run, model, data)


@pytest.mark.parametrize("mode", MODES)
def test_batch_size_does_not_matter(model, data, uninterrupted, tmp_path, mode):
    for size in (1, 7):
        evaluation = evaluate(model, data, mode, tmp_path / str(size), batch_size=size)
        assert_nearly_same(evaluation, uninterrupted[mode])


def test_successes_are_written_while_the_search_goes_on(model, data, uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(attack_batch, "_FLUSH_SECONDS", 0.0)
    model.error, model.left = KeyboardInterrupt(), 20
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data, "list", tmp_path / "run")
    model.left = float("inf")
    early = rows(tmp_path / "run")
    assert {row["outcome"] for row in early if row["stage"] >= 0} == {"broken"}
    final = rows(uninterrupted["list"])
    assert all(row in final for row in early)
    assert zn.Evaluation(tmp_path / "run").as_json()["complete"] is False


def test_claimed_twice_written_once(model, data, monkeypatch):
    """A nested attack may say so of an example, and the attack around it again."""

    def attack(model, x, y, threat):
        x_adv = zn.attacks.sparse_pgd(model, x, y, threat, steps=12)
        some = torch.arange(len(x))
        for _ in range(2):
            model.broken(some, x_adv)
        monkeypatch.setattr(attack_batch, "_FLUSH_SECONDS", 0.0)
        model.broken(some, x_adv)
        return x_adv

    evaluation = zn.evaluate(model, data, zn.L0(2), attack)
    assert len(rows(evaluation)) == 20 + 18
    assert zn.verify(evaluation.run, model, data)


# -- the journal -------------------------------------------------------------------------------------------


@pytest.fixture
def journal(model, data, tmp_path):
    """The journal of a run that stopped half-way."""
    folder = RunFolder(tmp_path / "run")
    model.error, model.left = KeyboardInterrupt(), 45
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data, "list", folder.path, batch_size=8)
    model.left = float("inf")
    assert len(folder.journal.read_bytes().splitlines()) > 20
    return folder.journal


def test_a_torn_last_line_at_every_byte(journal, model, data, uninterrupted):
    folder, whole = RunFolder(journal.parent), journal.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    parsed = folder.recover()
    for end in range(last, len(whole)):
        journal.write_bytes(whole[:end])
        assert folder.read_rows().num_rows == len(parsed) - 1, "reading does not repair"
        assert folder.recover() == parsed[:-1]
        assert journal.read_bytes() == whole[:last]
    for end in (last + 1, len(whole) - 1):
        journal.write_bytes(whole[:end])
        assert_same(evaluate(model, data, "list", folder.path), uninterrupted["list"])
        (folder.path / "rows.parquet").unlink()
        run = folder.read() | {"status": "running"}
        folder.write(run)


def test_a_damaged_line_is_one_clear_error(journal, model, data, capsys):
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = bytearray(lines[9])
    damaged[len(damaged) // 2] ^= 1
    content = b"".join([*lines[:9], bytes(damaged), *lines[10:]])
    journal.write_bytes(content)
    message = r"run: line 10 of .*rows.jsonl is damaged \(its checksum does not match\)"
    with pytest.raises(zn.ArgumentError, match=message):
        evaluate(model, data, "list", journal.parent)
    with pytest.raises(zn.ArgumentError, match=message):
        zn.Evaluation(journal.parent)
    capsys.readouterr()
    assert command_line(["report", str(journal.parent), "--html", str(journal.parent / "r.html")]) == 2
    assert "line 10" in capsys.readouterr().err
    assert journal.read_bytes() == content, "nothing lost"


def test_any_changed_byte_of_the_journal_is_noticed(journal):
    folder, whole = RunFolder(journal.parent), journal.read_bytes()
    parsed, spoilt = folder.recover(), []
    draw = random.Random(0)
    for at in [*draw.sample(range(len(whole)), 200), len(whole) - 1]:
        changed = bytearray(whole)
        changed[at] = draw.choice([b for b in (0, 10, 13, 48, 49, 255) if b != whole[at]])
        spoilt.append(bytes(changed))
    ends = [at for at, byte in enumerate(whole) if byte == 10]
    spoilt += [whole[:at] + b"\r" + whole[at + 1 :] for at in ends[:5]]
    for content in spoilt:
        journal.write_bytes(content)
        try:
            assert folder.recover() == parsed[:-1], "at most the last line may be lost"
        except zn.ArgumentError as error:
            assert "is damaged" in str(error)


# -- the disk ----------------------------------------------------------------------------------------------


class Disk:
    """Lets so many operations through; from then on every one fails, as on a full disk."""

    def __init__(self, monkeypatch, error):
        self.left, self.error = float("inf"), error
        for name in ("fsync", "replace"):
            monkeypatch.setattr(folders.os, name, self._limited(getattr(os, name)))
        monkeypatch.setattr(RunFolder, "drop_journal", self._limited(RunFolder.drop_journal))

    def _limited(self, operation):
        def limited(*arguments):
            self.left -= 1
            if self.left < 0:
                raise self.error
            return operation(*arguments)

        return limited


@pytest.mark.parametrize(
    "error, curve",
    [(OSError(errno.ENOSPC, "No space left on device"), False), (KeyboardInterrupt(), True)],
    ids=["full-list", "stopped-curve"],
)
def test_the_disk_fails_at_every_step(model, data, tmp_path, monkeypatch, error, curve):
    """Before each write, rename and removal in turn, the last ones of a run included."""

    def run(out):
        return zn.evaluate(model, data, zn.L0(2), "sparse_rs", out, queries=16, curve=curve)

    expected = run(tmp_path / "expected")
    disk = Disk(monkeypatch, error)
    for step in range(100):
        disk.left = step
        try:
            run(tmp_path / str(step))
        except (OSError, KeyboardInterrupt, zn.ArgumentError):  # the page has an error of its own
            disk.left = float("inf")
            assert_same(run(tmp_path / str(step)), expected)
        else:
            break
    assert 12 <= step < 99


def test_half_a_line_before_the_disk_was_full(model, data, uninterrupted, tmp_path, monkeypatch):
    append, left = RunFolder.append, [4]

    def torn(folder, new_rows):
        left[0] -= 1
        if left[0] == 0:
            append(folder, new_rows)
            size = folder.journal.stat().st_size
            os.truncate(folder.journal, size - 40)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.journal))
        append(folder, new_rows)

    monkeypatch.setattr(RunFolder, "append", torn)
    with pytest.raises(OSError, match="No space left"):
        evaluate(model, data, "list", tmp_path / "run", batch_size=6)
    assert not (tmp_path / "run/rows.jsonl").read_bytes().endswith(b"\n")
    assert_same(evaluate(model, data, "list", tmp_path / "run"), uninterrupted["list"])


def test_killed_between_the_last_steps(model, data, uninterrupted, tmp_path):
    """With rows.parquet but a run.json that says running; and complete but with the journal, or without a page."""
    evaluation = evaluate(model, data, "list", tmp_path / "run")
    folder = RunFolder(evaluation.run)
    complete, all_rows = folder.read(), rows(evaluation)

    folder.append(all_rows)
    folder.write(complete | {"status": "running", "summary": None, "rows_digest": None})
    folder.table.write_bytes(b"")  # the rename may have come before the content, on some file systems
    assert_same(evaluate(model, data, "list", folder.path), uninterrupted["list"])

    folder.append(all_rows)
    assert_same(evaluate(model, data, "list", folder.path), uninterrupted["list"])

    (folder.path / "report.html").unlink()
    assert_same(evaluate(model, data, "list", folder.path), uninterrupted["list"])


def test_leftovers_of_a_write_are_overwritten(model, data, uninterrupted, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.run.json.new").write_text("{")
    assert_same(evaluate(model, data, "list", tmp_path / "run"), uninterrupted["list"])


# -- the folder --------------------------------------------------------------------------------------------


def test_a_complete_run_is_not_touched(model, data, uninterrupted):
    home = uninterrupted["list"].run
    before = {path: path.stat().st_mtime_ns for path in home.iterdir() if path.name != ".lock"}
    model.left, started = 200, time.perf_counter()
    model.error = AssertionError("searched again")
    again = evaluate(model, data, "list", home, batch_size=1)
    model.left = float("inf")
    assert time.perf_counter() - started < 1
    assert before == {path: path.stat().st_mtime_ns for path in home.iterdir() if path.name != ".lock"}
    assert_same(again, uninterrupted["list"])


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"steps": 13}, r"attack\.stages\[0\]\.options\.steps is 12 there, 13 here"),
        ({"threat": zn.L0(3)}, r"threat\.budgets is \[1, 2\] there, \[3\] here"),
        ({"threat": [zn.L0(1, linf=0.5), zn.L0(2, linf=0.5)]}, "threat.linf is null there, 0.5 here"),
        ({"precision": "bfloat16"}, 'precision is "float32" there, "bfloat16" here'),
        ({"attack": "sparse_rs", "steps": None}, "attack.name"),
        ({"name": "other"}, 'model.name is ".*" there, "other" here'),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_another_plan_is_refused_and_named(model, data, uninterrupted, change, named):
    options = MODES["list"] | SHORT | {"out": uninterrupted["list"].run} | change
    with pytest.raises(
        zn.ArgumentError, match=f"out: .* holds another run.*{named}.*; choose another folder"
    ):
        zn.evaluate(model, data, **options)


def test_another_model_and_other_data_are_refused(data, uninterrupted, tmp_path):
    home = uninterrupted["list"].run
    other = Fragile(network(seed=1))
    with pytest.raises(zn.ArgumentError, match=r"model\.digest is"):
        evaluate(other, data, "list", home)
    with pytest.raises(zn.ArgumentError, match=r"data\.digest is"):
        evaluate(Fragile(network()), dataset(network(), n=19), "list", home)


def test_a_second_process_is_refused(model, data, tmp_path):
    with RunFolder(tmp_path / "run").locked():
        started = time.perf_counter()
        with pytest.raises(
            zn.ArgumentError, match=r"out: another process is writing to .*; wait for it to end"
        ):
            evaluate(model, data, "list", tmp_path / "run")
        assert time.perf_counter() - started < 2
    evaluate(model, data, "list", tmp_path / "run")


def test_a_folder_that_cannot_be_written(model, data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(zn.ArgumentError, match=r"out: cannot write to .*file"):
            evaluate(model, data, "list", out)
    assert (tmp_path / "file").read_text() == "mine"
    for error in (errno.EACCES, errno.EROFS):

        def refuse(*_, error=error, **__):
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(folders.Path, "mkdir", refuse)
        with pytest.raises(zn.ArgumentError, match=f"out: cannot write to .*: {os.strerror(error)}"):
            evaluate(model, data, "list", tmp_path / "run")


def test_errors_of_the_model_are_not_taken_for_the_folder(model, data, tmp_path):
    model.error, model.left = PermissionError(errno.EACCES, "Permission denied", "weights.bin"), 30
    with pytest.raises(PermissionError, match=r"weights\.bin"):
        evaluate(model, data, "list", tmp_path / "run")
    model.left = float("inf")


def test_a_temporary_folder_lives_as_long_as_its_evaluation(model, data):
    evaluation = zn.evaluate(model, data, zn.L0(1), **SHORT)
    home = evaluation.run
    assert evaluation.records.num_rows > 20
    del evaluation
    assert not home.exists()

    model.error, model.left = KeyboardInterrupt(), 30
    before = set(home.parent.glob("zeronorm-*"))
    with pytest.raises(KeyboardInterrupt):
        zn.evaluate(model, data, zn.L0(1), **SHORT)
    model.left = float("inf")
    assert set(home.parent.glob("zeronorm-*")) == before


def test_a_run_in_the_home_is_one_run(model, data, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = zn.evaluate(model, data, zn.L0(1), "sparse_rs", "~/run", queries=5)
    again = zn.evaluate(model, data, zn.L0(1), "sparse_rs", Path("~") / "run", queries=5)
    assert made.run == again.run == tmp_path / "run" and made.robust_accuracy == again.robust_accuracy
    assert zn.verify("~/run", model, data) and zn.report.render("~/run", "~/page.html").exists()


def test_a_folder_called_like_a_drive(model, data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made = zn.evaluate(model, data, zn.L0(1), "sparse_rs", "k:1", queries=5)
    assert zn.verify(made.run, model, data)
    with pytest.raises(zn.ArgumentError, match=r"^folder: expected a path of this machine, got 's3:/bucket"):
        zn.evaluate(model, data, zn.L0(1), "sparse_rs", Path("s3://bucket/run"), queries=5)
