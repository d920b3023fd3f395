"""Passes are counted for each example, exactly: a model that knows its inputs is the judge."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from small_runs import CLASSES, network
from torch import nn

import zeronorm as zn
from zeronorm.attacks import sparse_autoattack, sparse_pgd, sparse_rs
from zeronorm.evaluation.query_counter import QueryCounter

SIDE, NAME = 5, (0, 0)  # the corner pixel carries an example's number, and no adversary may touch it
ALLOWED = torch.ones(SIDE, SIDE, dtype=torch.bool)
ALLOWED[NAME] = False


class Judge(nn.Module):
    """Counts by the number in the corner; copies that fill up a batch are the same example again, for nobody."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, Counter(), Counter()
        self.eval()

    def forward(self, x):
        names = {round(v * 1000) for v in x[(slice(None), 0, *NAME)].tolist()}
        self.forwards.update(names)
        z = self.inner(x)
        if z.requires_grad:
            z.register_hook(lambda _: self.backwards.update(names))
        return z


def problem(n=21, seed=0):
    model = Judge(network(side=SIDE, seed=seed))
    x = torch.rand(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    x[(slice(None), 0, *NAME)] = torch.arange(n) / 1000
    with torch.no_grad():
        y = model.inner(x).argmax(1)
    y[3::8] = (y[3::8] + 1) % CLASSES
    return model, x, y


def counted(counter, n):
    return counter.forwards.tolist(), counter.backwards.tolist()


def judged(model, n):
    return [model.forwards[i] for i in range(n)], [model.backwards[i] for i in range(n)]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    "attack, options, differentiable",
    [
        (sparse_pgd, {"steps": 15}, True),
        (sparse_pgd, {"steps": 15, "gradient": "projected"}, True),
        (sparse_rs, {"queries": 20}, True),
        (sparse_rs, {"queries": 20}, False),
        (sparse_rs, {"queries": 10, "restarts": 3, "loss": "margin"}, False),
        (sparse_autoattack, {"steps": 8, "queries": 9}, True),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_every_pass_of_every_example(attack, options, differentiable, k):
    model, x, y = problem()
    model.differentiable = differentiable
    counter = QueryCounter(model, len(x), x.device)
    attack(counter, x, y, zn.L0(k, allowed=ALLOWED), **options)
    assert counted(counter, len(x)) == judged(model, len(x))
    assert len(set(counter.forwards.tolist())) > 2, "some break early, some late, some not at all"


def test_the_exact_numbers():
    model, x, y = problem()
    wrong = (model.inner(x).argmax(1) != y).tolist()
    for attack, options, forwards, backwards in (
        (sparse_pgd, {"steps": 7}, 1 + 7 + 1, 7),  # clean, each update, the last iterate
        (sparse_rs, {"queries": 11}, 1 + 11, 0),
        (sparse_rs, {"queries": 11, "restarts": 2}, 1 + 2 * 11, 0),
        # clean; each stage and the look at what it returned
        (sparse_autoattack, {"steps": 7, "queries": 11}, 1 + 2 * (9 + 1) + (12 + 1), 14),
    ):
        counter = QueryCounter(model, len(x), x.device)
        x_adv = attack(counter, x, y, zn.L0(1, allowed=ALLOWED, linf=1e-3), **options)
        assert torch.equal(model.inner(x_adv).argmax(1) != y, torch.tensor(wrong)), "nobody breaks"
        assert counter.forwards.tolist() == [1 if w else forwards for w in wrong]
        assert counter.backwards.tolist() == [0 if w else backwards for w in wrong]


def test_what_a_run_writes_down():
    """All passes of a run but those of its own: the checks before it, and the fresh pass of each verdict."""
    model, x, y = problem()
    evaluation = zn.evaluate(
        model, (x, y), [zn.L0(1, allowed=ALLOWED), zn.L0(2, allowed=ALLOWED)], steps=8, queries=9
    )
    rows = evaluation.records.to_pylist()
    before = Judge(model.inner)
    zn.evaluate(before, (x, y), zn.L0(0), "sparse_rs", queries=1)  # the checks, and nothing to search
    searches = [row for row in rows if row["stage"] >= 0]
    again: list[int] = []
    for i in range(len(x)):
        mine = [row for row in searches if row["example"] == i]
        checks = before.forwards[i] - (1 if mine else 0)  # less the verdict at k = 0
        # and some are asked once more at the end: is it still the same model?
        again.append(int(model.forwards[i] - checks - sum(row["forwards"] + 1 for row in mine)))
        assert model.backwards[i] == before.backwards[i] + sum(row["backwards"] for row in mine)
    assert {row["forwards"] for row in rows if row["stage"] == -1} == {1}
    told = sum(session.get("asked_again", 0) for session in evaluation.summary.run["sessions"])
    assert set(again) <= {0, 1} and sum(again) == told > 0


def test_attacks_that_say_nothing():
    """A pass over as many rows as the batch has is one for each."""
    model, x, _ = problem()
    counter = QueryCounter(model, len(x), x.device)
    for _ in range(3):
        counter(x)
    counter(x.requires_grad_()).sum().backward()
    counter(x[:5])  # whose, nobody said
    assert set(counter.forwards.tolist()) == {4} and set(counter.backwards.tolist()) == {1}


def test_two_backward_passes_of_one_forward():
    model, x, _ = problem()
    counter = QueryCounter(model, len(x), x.device)
    counter.passes_for(torch.tensor([2, 5]))
    z = counter(x[[2, 5]].requires_grad_())
    z[:, 0].sum().backward(retain_graph=True)
    z[:, 1].sum().backward()
    assert counter.backwards.nonzero().flatten().tolist() == [2, 5]
    assert counter.backwards.sum() == 4 and counter.forwards.sum() == 2


def test_several_inputs_of_one_example_in_one_pass():
    model, x, _ = problem()
    counter = QueryCounter(model, len(x), x.device)
    counter.passes_for(torch.tensor([3, 3, 1, 3]))
    counter(x[[3, 3, 1, 3]].requires_grad_()).sum().backward()
    assert counter.forwards.tolist() == counter.backwards.tolist() == [0, 1, 0, 3] + [0] * (len(x) - 4)


def test_progress_is_told_how_many_were_asked():
    told = []
    model, x, y = problem()
    counter = QueryCounter(model, len(x), x.device, on_pass=told.append)
    sparse_rs(counter, x, y, zn.L0(1), queries=5)
    assert told[0] == len(x) and sum(told) == int(counter.forwards.sum())
