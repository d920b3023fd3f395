"""A run within an ℓ∞ ball: recorded as the sparse threat model that it is, resumed and verified like any other."""

from __future__ import annotations

import json

import jaxtyping
import pytest
import torch

import zeronorm as zn
from zeronorm import ArgumentError


@pytest.fixture
def as_installed(monkeypatch):
    """A person's mistakes meet the library's own checks, not those that the tests add."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def digits():
    return zn.models.load("digits"), zn.data.load("digits", "test", 24)


def test_the_figure_is_that_of_the_attack(digits, tmp_path):
    model, data = digits
    evaluation = zn.evaluate(model, data, zn.Linf(0.1), "pgd", tmp_path / "run", steps=5)
    x_adv = zn.attacks.pgd(model, data.x, data.y, zn.Linf(0.1), steps=5, ids=data.ids)
    with torch.no_grad():
        right = int((model(x_adv).argmax(1) == data.y).sum())
    assert evaluation.robust_accuracy[64] * 24 == pytest.approx(right) and 0 < right < 24
    plan = json.loads((tmp_path / "run/run.json").read_text())["plan"]
    assert plan["threat"]["linf"] == 0.1 and plan["threat"]["budgets"] == [64]
    assert "Linf, every feature by at most 0.1" in evaluation.table()
    assert bool(zn.verify(tmp_path / "run", model, data))
    again = zn.evaluate(model, data, zn.Linf(0.1), "pgd", tmp_path / "run", steps=5)
    assert again.table() == evaluation.table()
    with pytest.raises(ArgumentError, match=r"^out: .* holds another run"):
        zn.evaluate(model, data, zn.Linf(0.2), "pgd", tmp_path / "run", steps=5)


def test_a_change_beyond_the_ball_is_noticed(digits, tmp_path):
    from zeronorm.evaluation.plan import digest

    model, data = digits
    zn.evaluate(model, data, zn.Linf(0.1), "fgsm", tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    record["plan"]["threat"]["linf"] = 0.09
    record["plan_digest"] = digest(record["plan"])
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    found = zn.verify(tmp_path / "run", model, data)
    assert any("the adversarial leaves the box, the cap" in problem for problem in found.problems)


def test_a_cascade_of_both_kinds(digits):
    model, data = digits
    evaluation = zn.evaluate(model, data, zn.Linf(0.1), ["fgsm", "sparse_rs"], queries=20)
    assert [stage.name for stage in evaluation.summary.stages] == ["fgsm", "sparse_rs"]
    capped = zn.evaluate(model, data, zn.L0(3, linf=0.1), "sparse_rs", queries=2)
    assert "L0 in pixels, each by at most 0.1" in capped.table()


def test_what_is_refused(digits, as_installed):
    model, data = digits
    with pytest.raises(ArgumentError, match=r"^epsilon: expected a number in \(0, inf\), got 0"):
        zn.evaluate(model, data, zn.Linf(0.0), "pgd")
    with pytest.raises(ArgumentError, match=r"^curve: expected none within an ℓ∞ ball"):
        zn.evaluate(model, data, zn.Linf(0.1), "pgd", curve=True)
    for threat in (zn.L0(3), zn.L0(64, linf=0.1, allowed=torch.ones(64, dtype=torch.bool)), zn.L0(64)):
        with pytest.raises(ArgumentError, match=r"^threat: pgd works on an Linf threat model, got L0"):
            zn.evaluate(model, data, threat, "pgd")
    assert zn.L0(64, linf=0.1).as_linf(data.x) == zn.Linf(0.1), "a pixel of one channel is a feature"


def test_on_the_command_line(tmp_path, capsys, as_installed):
    from zeronorm.cli.main import run

    asked = ["evaluate", "--limit", "12", "--epsilon", "0.1"]
    assert run([*asked, "--steps", "4", "--out", str(tmp_path / "run"), "--json"]) == 0
    said = capsys.readouterr().out
    assert "pgd, Linf, every feature by at most 0.1" in said
    assert set(json.loads(said.splitlines()[-1])["robust_accuracy"]) == {"64"}
    assert run(["verify", str(tmp_path / "run")]) == 0
    for words, message in (
        (["--k", "3"], "k: expected none beside --epsilon, got 3"),
        (["--curve", "3"], "curve: expected none beside --epsilon, got 3"),
        (["--linf", "0.1"], "linf: expected none beside --epsilon, got 0.1"),
    ):
        assert run([*asked, *words]) == 2
        assert message in capsys.readouterr().err
    assert run(["evaluate", "--limit", "4", "--attack", "pgd", "--k", "1"]) == 2
    assert "threat: pgd works on an Linf threat model, got L0" in capsys.readouterr().err
    assert run(["evaluate", "--limit", "4", "--epsilon", "-1"]) == 2
    assert "epsilon: expected a number in [0, inf), got -1" in capsys.readouterr().err
