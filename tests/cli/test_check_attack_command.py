"""`zeronorm check-attack` from outside."""

from __future__ import annotations

import json

import pytest

from zeronorm.cli import main

OWN = """
def nothing(model, x, y, threat):
    return x.clone()

def outside(model, x, y, threat):
    return x + 1
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_attacks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)


def test_a_report(here, capsys):
    assert main.run(["check-attack", "my_attacks:nothing", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("custom nothing: checked in")
    told = json.loads(last)
    assert told["ok"] and told["exam"]["custom nothing"]["reached"] == 0


def test_a_broken_law_is_status_1(here, capsys):
    assert main.run(["check-attack", "my_attacks:outside"]) == 1
    assert "outside the threat model: k = 1 (16 of 16)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["my_attacks:missing"], "attack: "),
        (["sparse_pgd:steps=3"], "attack: expected a name without options"),
        (["sparse_pgd,sparse_rs"], "attack: expected one, got 2"),
        (["sparse_pgd", "--steps", "0"], "steps: expected an integer of at least 1, got 0"),
    ],
)
def test_refusals(here, capsys, words, said):
    assert main.run(["check-attack", *words]) == 2
    assert said in capsys.readouterr().err
