"""RobustBench's interface: code written for it, with one line changed."""

from __future__ import annotations

import pytest

import zeronorm as zn
from zeronorm import ArgumentError, records
from zeronorm.integrations import benchmark, load_model
from zeronorm.models import digest


def test_the_two_calls_that_everyone_writes(model, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zoo = tmp_path / "models/digits/L0/Mine2026"
    zn.models.save(model, zoo)
    loaded = load_model("Mine2026", dataset="digits", threat_model="L0")
    assert digest(loaded) == digest(model) and digest(load_model("digits", dataset="digits")) == digest(model)
    short = {"steps": 10, "queries": 20}
    clean, robust = benchmark(
        loaded,
        12,
        "digits",
        "L0",
        to_disk=True,
        model_name="Mine2026",
        batch_size=5,
        eps=2,
        out="run",
        **short,
    )
    evaluation = zn.evaluate(model, images, zn.L0(2), **short)
    assert (clean, robust) == (float(evaluation.clean_accuracy), float(evaluation.robust_accuracy))
    boards, problems = records.read_boards(["model_info/digits/L0", "run"])
    (entry,) = boards[0].entries
    assert entry.name == "Mine2026" and entry.checked and not problems
    assert entry.robust[2].value == robust


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threat_model": "Linf", "eps": 8 / 255}, "threat_model: expected L0, got 'Linf'"),
        ({}, "eps: expected how many changes"),
        ({"eps": 2, "to_disk": True}, "model_name: expected the name"),
        ({"eps": 2, "data_dir": "d"}, "data_dir: zeronorm.evaluate takes no such argument, got 'd'"),
    ],
)
def test_what_it_does_not_do(model, options, said):
    with pytest.raises(ArgumentError, match=said):
        benchmark(model, 2, "digits", **options)
    with pytest.raises(ArgumentError, match="threat_model"):
        load_model("digits", threat_model="L2")
