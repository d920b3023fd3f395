"""Files that anyone may have written: one line whatever is wrong with them, nothing run, nothing in the page."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import time
import zlib
from contextlib import redirect_stderr, redirect_stdout, suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zeronorm as zn
from zeronorm.cli import main
from zeronorm.evaluation.plan import digest
from zeronorm.files import parse_json
from zeronorm.records.folders import RunFolder, digest_rows

SCRIPT = "<script>alert(1)</script>"
VALUES = st.sampled_from(
    [None, True, -1, 0, 1, 10**6, 2**31, 2**63, 10**30, 0.5, 1e300, float("nan"), float("inf")]
) | st.sampled_from(
    ["", "clean", "broken", SCRIPT, "os:abort", "/nowhere", "x" * 3000, [], [0], [None], ["a"], [-1], [10**9]]
)
VALUES |= st.sampled_from([[1e9, 1e9], {}, {"a": 1}, json.loads("[" * 30 + "]" * 30)])
KINDS = {
    "run": "report verify site rank",
    "curve": "report verify site rank",
    "compare": "report verify site",
    "matrix": "report verify site",
    "certify": "report verify site recount",
    "train": "report site",
    "prune": "report site",
    "result": "rank",
    "model": "load",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """One folder of each kind."""
    root = tmp_path_factory.mktemp("originals")
    on = ["--data", "digits", "--limit", "6", "--device", "cpu", "--steps", "3"]
    both = ["--attack", "sparse_pgd,sparse_rs", "--queries", "4"]
    rs = ["--attack", "sparse_rs", "--data", "digits", "--limit", "6", "--device", "cpu", "--queries", "4"]
    network = zn.models.build("l0_lipschitz", in_channels=1, image_size=8, classes=10, patches=2)
    zn.models.save(network, root / "proving")
    proving = ["--model", str(root / "proving"), "--data", "digits", "--limit", "4", "--device", "cpu"]
    train = ["--model", "linear", "--data", "digits", "--epochs", "1", "--limit", "64", "--device", "cpu"]
    for name, words in {
        "run": ["evaluate", *on, *both, "--k", "1,2"],
        "curve": ["evaluate", *rs, "--curve", "3"],
        "compare": ["compare", *on, *both, "--k", "2", "--model", "digits", "--model", "digits-robust"],
        "matrix": ["matrix", *rs, "--k", "1,2", "--model", "digits", "--model", "digits-robust"],
        "certify": ["certify", *proving],
        "train": ["train", *train],
        "prune": [
            "prune",
            "--model",
            "linear",
            "--data",
            "digits",
            "--epochs",
            "1",
            "--retrain-epochs",
            "1",
            "--seeds",
            "1",
            "--rounds",
            "1",
            "--train-limit",
            "64",
            "--limit",
            "20",
            "--device",
            "cpu",
        ],
    }.items():
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            assert main.run([*words, "--out", str(root / name)]) == 0, said.getvalue()
    zn.models.save(zn.models.build("linear", in_channels=1, image_size=8, classes=10), root / "model")
    zn.records.save_result(zn.records.result_of(root / "run"), root / "result")
    return root


def places(value, at=()):
    """Where something is, in a JSON document."""
    if at:
        yield at
    inside = (
        value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    )
    for key, part in inside:
        yield from places(part, (*at, key))


def spoil_json(file, draw):
    document = json.loads(file.read_text())
    for _ in range(draw(st.integers(1, 3))):
        if not (at := list(places(document))):
            break
        *way, last = draw(st.sampled_from(at))
        inner = document
        for key in way:
            inner = inner[key]
        if draw(st.integers(0, 4)) == 0:
            inner.pop(last)
        else:
            inner[last] = copy.deepcopy(draw(VALUES))  # the next spoil may reach into it
    # whoever changes a plan can write its digest
    if "plan_digest" in document and isinstance(document.get("plan"), dict):
        with suppress(zn.ArgumentError):
            document["plan_digest"] = digest(document["plan"])
    file.write_text(json.dumps(document))


def spoil_rows(file, draw):
    table = pq.read_table(file)
    rows = table.to_pylist()
    for _ in range(draw(st.integers(1, 3))) if rows else ():
        row, column = draw(st.sampled_from(rows)), draw(st.sampled_from(list(table.schema)))
        values: list[object] = [None, "", "broken", "robust", "correct", SCRIPT]
        if pa.types.is_list(column.type):
            values = [None, [], [0], [-1], [2**31 - 1], [5] * 10, [1, 0], [None]]
        elif pa.types.is_integer(column.type):
            values = [None, -1, 0, 1, 7, 2**31 - 1, -(2**31)]
        elif pa.types.is_floating(column.type):
            values = [None, float("nan"), float("inf"), -1e300, 0.0]
        row[column.name] = draw(st.sampled_from(values))
    if draw(st.integers(0, 5)) == 0:
        rows = rows[1:] + rows[:2]
    table = pa.Table.from_pylist(rows, schema=table.schema)
    pq.write_table(table, file, write_page_checksum=True)
    if file.name == "rows.parquet":
        run = file.with_name("run.json")
        run.write_text(json.dumps(json.loads(run.read_text()) | {"rows_digest": digest_rows(table)}))


def spoil_bytes(file, draw):
    content = bytearray(file.read_bytes())
    how = draw(st.sampled_from(["cut", "flip", "random", "deep"]))
    if how == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif how == "flip":
        for _ in range(draw(st.integers(1, 20)) if content else 0):
            content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    else:
        content = bytearray(draw(st.binary(max_size=200)) if how == "random" else b"[" * 100_000)
    file.write_bytes(content)


def examine(originals, place, data):
    """Spoil one file of a folder, and read it."""
    draw = data.draw
    kind = draw(st.sampled_from(sorted(KINDS)))
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(originals / kind, place)
    kinds = (".json", ".jsonl", ".parquet", ".csv", ".safetensors")
    file = draw(st.sampled_from(sorted(f for f in place.rglob("*") if f.suffix in kinds)))
    spoil = {".json": spoil_json, ".parquet": spoil_rows}.get(file.suffix, spoil_bytes)
    (spoil_bytes if draw(st.integers(0, 3)) == 0 else spoil)(file, draw)
    what = draw(st.sampled_from(KINDS[kind].split()))
    page, began = place / "page.html", time.process_time()
    if what == "load":
        try:
            zn.models.load(place)
        except zn.ArgumentError as error:
            assert "\n" not in str(error)
        return
    words = {
        "report": ["report", str(place), "--html", str(page)],
        "verify": ["verify", str(place), "--device", "cpu"],
        "site": ["report", str(place), "--site", str(place / "site")],
        "rank": ["leaderboard", str(place), "--html", str(page)],
        "recount": ["certify", "--counts", str(place), "--alpha", "0.01", "--out", str(place / "new")],
    }[what]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        status = main.run(words)
    lines = said.getvalue().strip().splitlines()
    assert "ZERONORM_TRACEBACK" not in said.getvalue(), lines
    found = what in ("verify", "rank") and status == 1  # that does not hold
    assert (status, len(lines)) in ((0, 0), (2, 1)) or found, (status, lines)
    for written in (page, *(place / "site").glob("*.html")):
        assert not written.exists() or "<script" not in written.read_text()
    assert time.process_time() - began < 10


QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@QUICK
@given(data=st.data())
def test_spoilt_files_are_one_line(originals, unchecked, tmp_path_factory, data):
    examine(originals, tmp_path_factory.getbasetemp() / "spoilt", data)


@pytest.mark.slow
@settings(QUICK, max_examples=1500, derandomize=False)
@given(data=st.data())
def test_many_spoilt_files_are_one_line(originals, unchecked, tmp_path_factory, data):
    examine(originals, tmp_path_factory.getbasetemp() / "spoilt", data)


@pytest.mark.parametrize("allowed", ["clean", [0.5], [[0]], {"a": 1}, [10**9], [10**30]])
def test_a_mask_that_is_none(originals, tmp_path, unchecked, capfd, allowed):
    shutil.copytree(originals / "run", tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    run = json.loads(file.read_text())
    run["plan"]["threat"]["allowed"] = allowed
    run["plan_digest"] = digest(run["plan"])
    file.write_text(json.dumps(run))
    assert main.run(["verify", str(tmp_path / "run"), "--device", "cpu"]) in (1, 2)
    assert capfd.readouterr().err.count("\n") <= 1


LINES = [
    [],
    None,
    7,
    "row",
    {},
    {"example": "a"},
    {"example": 10**30, "stage": 0},
    {"example": 0, "stage": 5},
]
LINES += [{"example": 99, "k": 1, "stage": 0}, {"example": 0, "k": 1, "stage": 0, "outcome": "broken"}]
LINES += [{"example": 0, "stage": -1, "positions": {"a": 1}}, json.loads("[" * 30 + "]" * 30)]


@pytest.mark.parametrize("name", ["run.json", "rows.parquet", "images.parquet"])
@pytest.mark.parametrize("verb", ["report", "verify", "leaderboard"])
def test_what_only_looks_like_a_file(originals, tmp_path, capsys, name, verb):
    """Of a pipe the end never comes."""
    shutil.copytree(originals / "run", tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)
    where = ["--html", str(tmp_path / "page.html")] if verb != "verify" else ["--device", "cpu"]
    status = main.run([verb, str(tmp_path / "run"), *where])
    said = capsys.readouterr().err
    if (name, verb) == ("images.parquet", "leaderboard"):
        assert status == 0  # which does not look at it
    else:
        assert status == 2 and str(tmp_path / "run" / name) in said and said.count("\n") == 1


@pytest.mark.parametrize("line", LINES, ids=lambda line: json.dumps(line)[:30])
def test_a_journal_whose_checksums_are_right(originals, tmp_path, unchecked, capsys, line):
    """Who writes a line can write its checksum."""
    shutil.copytree(originals / "run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    run = json.loads(folder.json.read_text())
    folder.json.write_text(json.dumps(run | {"status": "running"}))
    folder.table.unlink()
    body = json.dumps(line)
    folder.journal.write_text(f"{body}\t{zlib.crc32(body.encode()):08x}\n")
    again = ["evaluate", "--data", "digits", "--limit", "6", "--device", "cpu", "--steps", "3", "--k", "1,2"]
    again += ["--attack", "sparse_pgd,sparse_rs", "--queries", "4", "--out", str(folder.path)]
    assert main.run(again) in (0, 2)
    said = capsys.readouterr().err
    assert "ZERONORM_TRACEBACK" not in said and said.count("\n") <= 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 10**6},
        {"image_size": 10**9},
        {"image_size": [2**19, 2**19]},
        {"classes": "ten"},
        {"classes": 10**6},
    ],
)
@pytest.mark.parametrize("architecture", ["linear", "mlp", "l0_lipschitz", "feature_partition", "small_cnn"])
def test_a_sidecar_that_asks_for_more_than_its_weights(
    originals, tmp_path, unchecked, architecture, arguments
):
    shutil.copytree(originals / "model", tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"architecture": architecture, "arguments": arguments})
    )
    began = time.process_time()
    with pytest.raises(zn.ArgumentError, match=r"model\.json is damaged: |got 7 missing"):
        zn.models.load(tmp_path / "model")
    assert time.process_time() - began < 5


def test_a_run_that_names_code_is_not_followed(originals, tmp_path, monkeypatch, capsys):
    """Verifying a stranger's run imports nothing unless one says so."""
    shutil.copytree(originals / "run", tmp_path / "run")
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('ran').touch()\ndef model(x): return x\n")
    file = tmp_path / "run" / "run.json"
    run = json.loads(file.read_text())
    run["plan"]["model"]["name"] = "evil:model"
    run["plan_digest"] = digest(run["plan"])
    file.write_text(json.dumps(run))
    monkeypatch.chdir(tmp_path)
    assert main.run(["verify", "run", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "the run names 'evil:model', code that would be imported and run; if you trust it, say so" in said
    assert not (tmp_path / "ran").exists()
    main.run(["verify", "run", "--device", "cpu", "--trust"])
    assert (tmp_path / "ran").exists()


def test_names_do_not_speak_html(tmp_path, unchecked):
    """Classes, files, data, models: on every page they are words."""
    word = SCRIPT.replace("/", "∕")  # a file's name has no slash
    from PIL import Image

    for i, folder in enumerate((word, "b&amp;'\"")):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for j in range(3):
            Image.new("L", (4, 4), 60 * i + 40 * j).save(tmp_path / "images" / folder / f"{word}{j}.png")
    data = zn.data.load(f"folder:{tmp_path / 'images'}")
    model = zn.models.build("linear", in_channels=1, image_size=4, classes=2).eval()
    pages = []
    for name in (word, f"x:{word}"):
        run = zn.evaluate(
            model, data, zn.L0(2), "sparse_rs", tmp_path / name, queries=3, name=name, command=word
        )
        pages.append((run.run / "report.html").read_text())
    pages.append(
        zn.report.render([tmp_path / word, tmp_path / f"x:{word}"], tmp_path / "both.html").read_text()
    )
    compared = zn.compare({word: model, "b": model}, data, zn.L0(1), ["sparse_rs"], tmp_path / "c", queries=3)
    pages.append((compared.path / "report.html").read_text())
    for page in pages:
        assert "<script" not in page and "b&amp;'" not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 50 + "]" * 50, "NaN", '{"a": [Infinity]}', "{", "\xff", "1" * 9999]
)
def test_json_that_is_refused(text):
    with pytest.raises(ValueError):
        parse_json(text)
    with pytest.raises(ValueError):
        parse_json(text.encode("latin-1"))
