"""Attacks that look for the smallest change: run once, answer for every budget."""

from __future__ import annotations

import math

import pytest
import torch
from small_runs import CLASSES, codes, greedy, registered, rows

import zeronorm as zn
from zeronorm.attacks.catalogue import catalogue
from zeronorm.evaluation import attack_batch as batch_search

pytestmark = pytest.mark.usefixtures("minimal_attack")

BUDGETS = [zn.L0(k) for k in (1, 2, 4, 8)]


@pytest.fixture(scope="module")
def fewest(model, data):
    """By id: the changes that the attack finds by itself, 0 for a clean error, infinity for nothing."""
    x_adv = greedy(model, data.x, data.y, zn.L0(8), ids=data.ids)
    found = zn.distances.l0_pixels(data.x, x_adv).double()
    with torch.no_grad():
        wrong, fallen = (model(v).argmax(1) != data.y for v in (data.x, x_adv))
    found[~fallen], found[wrong] = math.inf, 0
    found = dict(zip(data.ids.tolist(), found.tolist(), strict=True))
    assert {0.0, 1.0, 2.0, 3.0, math.inf} <= set(found.values()), (
        "the tests below have something to tell apart"
    )
    return found


def searches(evaluation, stage=None):
    return [row for row in rows(evaluation) if row["stage"] >= 0 and stage in (None, row["stage"])]


def test_once_for_all_budgets(model, data, fewest):
    evaluation = zn.evaluate(model, data, BUDGETS, "greedy")
    found = searches(evaluation)
    assert [row["example"] for row in found] == [id_ for id_, d in fewest.items() if d > 0]
    assert {row["k"] for row in found} == {8}
    assert all((row["distance"] or math.inf) == fewest[row["example"]] for row in found)
    for k in (1, 2, 4, 8):
        assert evaluation.robust_accuracy[k] == sum(d > k for d in fewest.values()) / 20
    assert len({float(accuracy) for _, accuracy in evaluation.robust_accuracy.items()}) == 4
    assert evaluation.summary.run["plan"]["attack"]["stages"] == [
        {"name": "greedy", "attack": "greedy", "kind": "minimal", "options": {"steps": 12}}
    ]
    assert zn.verify(evaluation.run, model, data)


def test_the_same_figures_as_budget_by_budget(model, data):
    together = zn.evaluate(model, data, BUDGETS, "greedy", steps=9)
    for threat in BUDGETS:
        alone = zn.evaluate(model, data, threat, "greedy", steps=9)
        assert alone.robust_accuracy == together.robust_accuracy[threat.k]


def test_after_a_search_within_a_budget(model, data, fewest):
    """Given whom the stage before left at the smallest budget; later budgets know what it found."""
    evaluation = zn.evaluate(model, data, BUDGETS, ["sparse_rs", "greedy"], queries=12)
    by_rs = {(row["example"], row["k"]): row["outcome"] for row in searches(evaluation, 0)}
    by_greedy = {row["example"]: row["distance"] or math.inf for row in searches(evaluation, 1)}
    right = [id_ for id_, d in fewest.items() if d > 0]
    assert by_greedy == {id_: fewest[id_] for id_ in right if by_rs[id_, 1] == "robust"}
    assert any(by_rs[id_, 1] == "broken" for id_ in right)
    for k in (2, 4, 8):
        searched = {id_ for id_, budget in by_rs if budget == k}
        smaller = {id_ for (id_, budget), outcome in by_rs.items() if budget < k and outcome == "broken"}
        assert searched == {id_ for id_ in right if by_greedy.get(id_, 0) > k and id_ not in smaller}
    assert zn.verify(evaluation.run, model, data)


def test_before_a_search_within_a_budget(model, data, fewest):
    """Only whom it did not break within a budget is searched there."""
    evaluation = zn.evaluate(model, data, BUDGETS, ["greedy", "sparse_rs"], queries=12)
    assert {row["example"]: row["k"] for row in searches(evaluation, 0)} == {
        id_: 8 for id_, d in fewest.items() if d > 0
    }
    smallest = dict(fewest)
    for k in (1, 2, 4, 8):
        at_k = {row["example"]: row for row in searches(evaluation, 1) if row["k"] == k}
        assert set(at_k) == {id_ for id_, d in smallest.items() if d > k}
        for id_, row in at_k.items():
            smallest[id_] = min(smallest[id_], row["distance"] or math.inf)
        assert evaluation.robust_accuracy[k] == sum(d > k for d in smallest.values()) / 20
    assert zn.verify(evaluation.run, model, data)


def test_attacks_within_a_budget_are_as_ever(model, data):
    """A function of one's own is asked at every budget."""
    asked = []

    def lazy(model, x, y, threat):
        asked.append(threat.k)
        return x

    evaluation = zn.evaluate(model, data, BUDGETS, lazy)
    assert asked == [1, 2, 4, 8]
    assert evaluation.summary.run["plan"]["attack"]["stages"][0]["kind"] == "budget"
    function = catalogue["greedy"].function
    assert {row["k"] for row in searches(zn.evaluate(model, data, BUDGETS, function))} == {8}


def test_a_curve_goes_on_from_what_it_found(model, data, fewest):
    evaluation = zn.evaluate(model, data, zn.L0(8), "greedy", curve=True)
    found = {row["example"]: row for row in searches(evaluation)}
    assert len(found) == len(searches(evaluation)) == sum(d > 0 for d in fewest.values()), "once for each"
    assert {row["k"] for row in found.values()} == {8}
    distance = {id_: row["distance"] or math.inf for id_, row in found.items()}
    assert all(d <= fewest[id_] for id_, d in distance.items())
    assert any(d < fewest[id_] for id_, d in distance.items()), "what is not needed was put back"
    assert evaluation.robust_accuracy[2] == sum(d > 2 for d in distance.values()) / 20
    assert zn.verify(evaluation.run, model, data)

    further = zn.evaluate(model, data, zn.L0(8), ["greedy", "sparse_rs"], curve=True, queries=40)
    assert {row["k"] for row in searches(further, 0)} == {8}
    for row in searches(further, 1):
        if distance[row["example"]] < math.inf:
            assert row["k"] < distance[row["example"]], "it is asked for less than was found"
    assert sum(float(a) for _, a in further.robust_accuracy.items()) < sum(
        float(a) for _, a in evaluation.robust_accuracy.items()
    )
    assert zn.verify(further.run, model, data)


def test_a_curve_gives_it_a_turn_where_others_fail(model, data):
    evaluation = zn.evaluate(model, data, zn.L0(8), ["sparse_rs", "greedy"], curve=True, queries=12)
    turns = [(row["example"], row["k"]) for row in searches(evaluation, 1)]
    assert len({id_ for id_, _ in turns}) == len(turns)
    assert len({k for _, k in turns}) > 2
    failed = {(r["example"], r["k"]) for r in searches(evaluation, 0) if r["outcome"] == "robust"}
    assert set(turns) <= failed
    assert zn.verify(evaluation.run, model, data)


def test_its_first_success_is_not_its_last(model, data, monkeypatch):
    """What it calls broken on the way is not written: fewer changes may follow."""
    monkeypatch.setattr(batch_search, "_FLUSH_SECONDS", 0.0)

    def talkative(model, x, y, threat, *, steps=0):
        everything = 1 - x
        if hasattr(model, "broken"):  # not when its options are tried
            model.broken(torch.arange(len(x)), everything)
        return greedy(model, x, y, threat)

    with registered("talkative", talkative):
        evaluation = zn.evaluate(model, data, [zn.L0(1), zn.L0(25)], "talkative")
    assert all(row["distance"] < 15 for row in searches(evaluation) if row["outcome"] == "broken")


def test_no_false_alarm(model, data):
    """A search without gradients up to 8 changes is no better than one with them that was only asked for fewer."""

    def blind(model, x, y, threat, *, steps=0):
        return zn.attacks.sparse_rs(model, x, y, threat, queries=300)

    with registered("blind", blind, "black"):
        evaluation = zn.evaluate(
            model, data, [zn.L0(1), zn.L0(8)], ["sparse_pgd", "blind"], steps=100, queries=None
        )
        broken = [row for row in searches(evaluation, 1) if row["outcome"] == "broken"]
        assert len(broken) > 5 and codes(evaluation) == []
        alone = zn.evaluate(model, data, zn.L0(8), "blind", steps=1)
    assert "search-not-converged" not in codes(alone), "it uses all its passes"
    assert "the search had converged" not in alone.summary.run["checks"], "nor can it be said that it had"


def test_nothing_to_find(model, data):
    none = zn.evaluate(model, data, [zn.L0(0)], "greedy")
    assert none.robust_accuracy == 0.9 and zn.verify(none.run, model, data)
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(25, CLASSES)).eval()
    flat[1].weight.data.mul_(1e-6)
    flat[1].bias.data[0] = 9.0
    y = torch.zeros(20, dtype=torch.int64)
    for options in ({"threat": BUDGETS}, {"threat": zn.L0(8), "curve": True}):
        evaluation = zn.evaluate(flat, (data.x, y), **options, attack=["greedy", "sparse_rs"], queries=5)
        assert evaluation.robust_accuracy == 1
        assert zn.verify(evaluation.run, flat, (data.x, y))
