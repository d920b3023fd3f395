"""Papers measured again: every folder fits together, runs, goes on where it was stopped, and says what it found."""

from __future__ import annotations

import json

import pytest
import torch

import zeronorm as zn
from zeronorm.cli.main import run
from zeronorm.errors import ArgumentError
from zeronorm.evaluation import reproduction

CPU = torch.device("cpu")

PLAN = """
paper = "Someone 2020"
[scales.cpu]
numbers = [1, 2]
[scales.paper]
numbers = [1, 2, 3]
"""
EXPECTED = """
[tables.sums]
title = "Table 1"
figures = { total = "g", share = "%" }
across = ["b"]
rows = [{ a = "x", b = 1, total = 11 }, { a = "x", b = 10, total = 20 }]

[tables.weights]
title = "Table 2"
figures = { parameters = "," }

[[claims]]
scale = "cpu"
table = "sums"
where = { a = "x", b = 2 }
figure = "total"
at_least = 2
at_most = 2

[[claims]]
scale = "cpu"
table = "sums"
where = { a = "y", b = 1 }
figure = "total"
at_least = 3
"""
CODE = """
import zeronorm as zn

calls = []

def sums(work):
    for where in work.todo(a=["x", "y"], b=work.scale["numbers"]):
        calls.append(where)
        yield where, {"total": where["b"], "share": 0.125, "n": 8}

def weights(work):
    def train():
        calls.append("train")
        return zn.models.build("mlp", image_size=8, widths=[4]), {"epochs": 0}

    for where in ({"copy": 1}, {"copy": 2}):
        yield where, {"parameters": sum(p.numel() for p in work.model("small", train).parameters())}
"""


@pytest.fixture
def paper(tmp_path, monkeypatch):
    folder = tmp_path / "reproductions" / "someone2020_sums"
    folder.mkdir(parents=True)
    for name, text in {"plan.toml": PLAN, "expected.toml": EXPECTED, "reproduce.py": CODE}.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(reproduction, "ROOT", folder.parent)
    return reproduction.load("someone2020_sums")


def test_published_beside_measured(paper, tmp_path):
    rows = paper.run("cpu", tmp_path / "out", CPU)
    assert [row["table"] for row in rows] == ["sums"] * 4 + ["weights"] * 2
    assert paper.published("sums", {"a": "x", "b": 10}) == {"total": 20}
    assert paper.published("sums", {"a": "y", "b": 1}) == {}
    assert paper.markdown("sums", {"cpu": rows}).splitlines() == [
        "| a |  | total, b 1 | share, b 1 | total, b 2 | share, b 2 | total, b 10 |",
        "|---|---|---|---|---|---|---|",
        "| x | published | 11 |  |  |  | 20 |",
        "| x | measured, cpu | 1 | 12.5 | 2 | 12.5 |  |",
        "| y | measured, cpu | 1 | 12.5 | 2 | 12.5 |  |",
        "",
        "share in per cent; measured, cpu: total n = 8, share n = 8.",
    ]
    assert "| 1 | measured, cpu | 310 |" in paper.markdown("weights", {"cpu": rows})
    assert paper.markdown("weights", {}) == "Not measured."
    assert [(claim["value"], claim["holds"]) for claim in paper.claims("cpu", rows)] == [
        (2, True),
        (1, False),
    ]
    assert [claim["holds"] for claim in paper.claims("cpu", [])] == [None, None]
    assert paper.claims("paper", rows) == []


def test_figures_of_several_seeds(paper):
    rows = [
        {"table": "sums", "where": {"a": "x", "b": 2}, "figures": {"total": [1.0, 2.0, 3.0], "share": [0.5]}}
    ]
    assert "| x | measured, cpu |  | 2 ± 1 | 50.0 |  |" in paper.markdown("sums", {"cpu": rows}).splitlines()
    assert paper.claims("cpu", rows)[0]["value"] == 2.0 and paper.claims("cpu", rows)[0]["holds"]
    assert reproduction.formatted([0.125, 0.25, 0.375], "%") == "25.0 ± 12.5"
    assert reproduction.formatted("28.6 ± 1.1", "%") == "28.6 ± 1.1"


def test_a_stopped_run_goes_on(paper, tmp_path):
    class Stop(Exception):
        pass

    shown = []

    def stop(row):
        shown.append(row)
        if len(shown) == 5:
            raise Stop

    with pytest.raises(Stop):
        paper.run("cpu", tmp_path / "out", CPU, show=stop)
    with open(tmp_path / "out/rows.jsonl", "a") as file:
        file.write('{"table": "we')  # cut off
    rows = paper.run("cpu", tmp_path / "out", CPU, show=shown.append)
    assert rows == shown and len(rows) == 6
    assert rows == reproduction.read_rows(tmp_path / "out/rows.jsonl")
    kept = zn.models.load(tmp_path / "out/models/small")
    assert kept.facts["training"] == {"epochs": 0}
    # the model was there: training it again would have failed
    (tmp_path / "out/rows.jsonl").write_text("")
    (paper.folder / "reproduce.py").write_text(CODE.replace('calls.append("train")', "raise ValueError"))
    assert len(paper.run("cpu", tmp_path / "out", CPU, only="weights")) == 2


def test_refusals(paper, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match="name: expected one of someone2020_sums, got 'other'"):
        reproduction.load("other")
    with pytest.raises(ArgumentError, match="scale: expected one of cpu, paper, got 'huge'"):
        paper.run("huge", tmp_path / "out", CPU)
    with pytest.raises(ArgumentError, match="only: expected one of sums, weights, got 'table9'"):
        paper.run("cpu", tmp_path / "out", CPU, "table9")
    assert not (tmp_path / "out").exists()
    paper.run("cpu", tmp_path / "out", CPU, "sums")
    with pytest.raises(
        ArgumentError, match="out: expected an empty folder or a run of someone2020_sums at these"
    ):
        paper.run("paper", tmp_path / "out", CPU)
    (tmp_path / "out/rows.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(ArgumentError, match="expected a row in line 1, got 'nonsense'"):
        paper.run("cpu", tmp_path / "out", CPU)
    monkeypatch.setattr(reproduction, "ROOT", tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="name: reproductions are part of the source"):
        reproduction.load("someone2020_sums")


def test_the_command(paper, tmp_path, capsys):
    words = ["reproduce", paper.name, "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert run([*words, "--only", "sums", "--json"]) == 0
    said = capsys.readouterr()
    assert "Table 1" in said.out and "Table 2" not in said.out and "sums: a y, b 2: total 2" in said.err
    assert "as expected: sums, a x, b 2: total 2 (at least 2 and at most 2)" in said.out
    assert "NOT as expected: sums, a y, b 1: total 1 (at least 3)" in said.out
    found = json.loads(said.out.splitlines()[-1])
    assert found["n"] == 4 and found["tables"]["sums"][0]["published"] == {"total": 11}
    assert [claim["holds"] for claim in found["claims"]] == [True, False]
    assert run(words) == 0 and "Table 2" in capsys.readouterr().out
    assert run(["reproduce", "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- those that there are ----------------------------------------------------------------------------------


def test_there_are_some():
    folders = {path.parent for path in reproduction.ROOT.glob("*/expected.toml")}
    assert reproduction.available() == sorted(path.name for path in folders)
    assert "beliaev2022_truncation" in reproduction.available()


@pytest.mark.parametrize("name", reproduction.available())
def test_its_parts_fit_together(name):
    paper = reproduction.load(name)
    assert {"cpu", "paper", "tiny"} <= set(paper.scales) and paper.plan["paper"] and paper.plan["claim"]
    module = paper.module()
    for table in paper.tables:
        assert getattr(module, table).__doc__, table
    claims = [claim for scale in paper.scales for claim in paper.claims(scale, [])]
    assert len(claims) == len(paper.expected.get("claims", ()))
    for claim in claims:
        assert claim["figure"] in paper.expected["tables"][claim["table"]]["figures"]
        assert {"at_least", "at_most"} & set(claim)
    for scale, rows in paper.recorded().items():
        assert {row["table"] for row in rows} <= set(paper.tables)
        assert all(claim["holds"] for claim in paper.claims(scale, rows)), scale
        places = [json.dumps([row["table"], row["where"]]) for row in rows]
        assert len(set(places)) == len(places)


@pytest.mark.slow
@pytest.mark.parametrize("name", reproduction.available())
def test_all_of_it_runs(name, tmp_path):
    paper = reproduction.load(name)
    rows = paper.run("tiny", tmp_path / "out", CPU)
    assert {row["table"] for row in rows} == set(paper.tables)
    for row in rows:
        assert set(row["figures"]) & set(paper.expected["tables"][row["table"]]["figures"]), row
