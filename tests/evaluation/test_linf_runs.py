"""A run within an ℓ∞ ball: recorded as the sparse threat model that it is, resumed and verified like any other."""

from __future__ import annotations

import json
import re

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
    assert "Linf, every value by at most 0.1" in evaluation.table()
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


def test_a_comparison(digits, tmp_path):
    model, data = digits
    ball, named = zn.Linf(0.1), {"plain": model, "robust": zn.models.load("digits-robust")}
    attacks = ["pgd", "locally_linear", "sparse_rs"]
    compared = zn.compare(named, data, ball, attacks, tmp_path, steps=4, queries=20)
    alone = zn.evaluate(model, data, ball, "pgd", steps=4)
    assert compared.evaluations["plain", "pgd"].robust_accuracy == alone.robust_accuracy
    worst = compared.worst_case["plain"]
    assert worst <= min(
        run.robust_accuracy for (name, _), run in compared.evaluations.items() if name == "plain"
    )
    # one search for each rival class: the last ones are no second half
    found = compared.evaluations["plain", "locally_linear"].diagnosis
    assert [finding["code"] for finding in found] == ["few-examples"]
    text = compared.table()
    assert "Linf, every value by at most 0.1" in text and "ε=0.1" in text and "within ε = 0.1" in text
    assert "median" not in text and "k=" not in text
    assert compared.as_json()["models"]["plain"]["worst_case"]["median_distance"] is None
    assert bool(zn.verify_comparison(tmp_path, named, data))
    again = zn.compare(named, data, ball, attacks, tmp_path, steps=4, queries=20)
    assert again.table() == text


def test_pages_speak_of_the_ball(digits, tmp_path):
    model, data = digits
    for epsilon in (0.1, 0.2):
        zn.evaluate(model, data, zn.Linf(epsilon), "pgd", tmp_path / f"{epsilon}", steps=3, name="digits")
    zn.evaluate(model, data, zn.L0(2), "sparse_rs", tmp_path / "pixels", queries=5, name="digits")
    zn.compare(model, data, zn.Linf(0.1), ["fgsm", "pgd"], tmp_path / "compared")
    page = (tmp_path / "0.1/report.html").read_text()
    assert "change every value by at most <i>ε</i> = 0.1, within [0, 1]" in page
    compared = (tmp_path / "compared/report.html").read_text()
    for text in (page, compared):
        body = text.partition("<body")[2]
        assert "ε = 0.1" in body
        for word in ("feature", "pixel", "k = 64", "<i>k</i>", "Median"):
            assert word not in body, word
    side_by_side = zn.report.render(
        [tmp_path / "0.1", tmp_path / "0.2", tmp_path / "pixels"], tmp_path / "page"
    )
    table = side_by_side.read_text().partition("</table>")[0]
    columns = re.findall(r'<th scope="col" class="num">([kε] = [^<]*)</th>', table)
    assert columns == ["k = 2", "ε = 0.1", "ε = 0.2"]
    shares = [re.findall(r"<td class=\"num\">([^<]*)</td>", row)[2:5] for row in table.split("<tr>")[2:]]
    asked = [[share != "–" for share in row] for row in shares]
    assert asked == [[False, True, False], [False, False, True], [True, False, False]]


def test_what_a_search_costs(digits):
    from zeronorm.evaluation.cost import measure

    model, data = digits
    costs = measure(model, data, zn.Linf(0.1), ["pgd", "sparse_rs"], steps=4, queries=10, rounds=1)
    assert [cost.name for cost in costs] == ["pgd", "sparse_rs"]
    found = zn.evaluate(model, data, zn.Linf(0.1), "pgd", steps=4)
    assert costs[0].right == pytest.approx(float(found.robust_accuracy)) and costs[0].passes > 0


def test_what_is_refused(digits, as_installed):
    model, data = digits
    with pytest.raises(ArgumentError, match=r"^epsilon: expected a number in \(0, inf\), got 0"):
        zn.evaluate(model, data, zn.Linf(0.0), "pgd")
    with pytest.raises(ArgumentError, match=r"^curve: expected none within an ℓ∞ ball"):
        zn.evaluate(model, data, zn.Linf(0.1), "pgd", curve=True)
    with pytest.raises(ArgumentError, match=r"^epsilon: expected a number in \(0, inf\), got 0"):
        zn.compare(model, data, zn.Linf(0.0), "pgd")
    with pytest.raises(ArgumentError, match=r"^attack: expected some of .*, got 'pgd'"):
        zn.compare(model, data, zn.L0(3), "pgd")
    for threat in (zn.L0(3), zn.L0(64, linf=0.1, allowed=torch.ones(64, dtype=torch.bool)), zn.L0(64)):
        with pytest.raises(ArgumentError, match=r"^threat: pgd works on an Linf threat model, got L0"):
            zn.evaluate(model, data, threat, "pgd")
    assert zn.L0(64, linf=0.1).as_linf(data.x) == zn.Linf(0.1), "a pixel of one channel is a feature"


def test_on_the_command_line(tmp_path, capsys, as_installed):
    from zeronorm.cli.main import run

    asked = ["evaluate", "--limit", "12", "--epsilon", "0.1"]
    assert run([*asked, "--steps", "4", "--out", str(tmp_path / "run"), "--json"]) == 0
    said, told = capsys.readouterr()
    assert "ε=0.1  pgd: 12/12 done" in told and "k=64" not in told
    assert "pgd, Linf, every value by at most 0.1" in said
    assert set(json.loads(said.splitlines()[-1])["robust_accuracy"]) == {"64"}
    assert run(["verify", str(tmp_path / "run")]) == 0
    assert run(["compare", *asked[1:], "--steps", "3", "--queries", "9", "--out", str(tmp_path / "all")]) == 0
    assert "worst case" in capsys.readouterr().out
    assert run(["verify", str(tmp_path / "all")]) == 0
    assert run(["bench", *asked[1:], "--rounds", "1", "--steps", "2"]) == 0
    assert "n = 12, ε = 0.1, float32" in capsys.readouterr().out
    for words, message in (
        (["--k", "3"], "k: expected none beside --epsilon, got 3"),
        (["--curve", "3"], "curve: expected none beside --epsilon, got 3"),
        (["--linf", "0.1"], "linf: expected none beside --epsilon, got 0.1"),
    ):
        for verb in ("evaluate", "compare"):
            assert run([verb, *asked[1:], *words]) == 2
            assert message in capsys.readouterr().err
    assert run(["bench", "--epsilon", "0.1", "--k", "3"]) == 2
    assert "k: expected none beside --epsilon, got 3" in capsys.readouterr().err
    assert run(["evaluate", "--limit", "4", "--attack", "pgd", "--k", "1"]) == 2
    assert "threat: pgd works on an Linf threat model, got L0" in capsys.readouterr().err
    assert run(["evaluate", "--limit", "4", "--epsilon", "-1"]) == 2
    assert "epsilon: expected a number in [0, inf), got -1" in capsys.readouterr().err
