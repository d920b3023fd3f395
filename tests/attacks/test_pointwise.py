"""Pointwise: what it asks about, one query at a time, and that what it keeps is needed and confirmed."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest
from small_problems import BOXES, KINDS, inputs, network, predictions, problem, threat_model

from zeronorm import L0
from zeronorm.attacks import pointwise
from zeronorm.evaluation.query_counter import QueryCounter

WEIGHTS = torch.tensor([3.0, 2.0, 2.0, 1.0, 1.0, 1.0])


class Judge:
    """Says class 1 where `adversarial` holds, else 0; notes what it is shown and what it said.

    Only the order of the logits means something.
    """

    differentiable = False

    def __init__(self, adversarial):
        self.adversarial, self.seen, self.said = adversarial, [], []

    def __call__(self, x):
        verdict = self.adversarial(x)
        self.seen.append(x.clone())
        self.said.append(verdict)
        return torch.stack([~verdict, verdict], dim=1).float()


def heavy(x):
    """The fact sheet's classifier: 2 positions suffice, 3 may be needed all."""
    return x @ WEIGHTS >= 4


def is_one_minimal(adversarial, x, x_adv):
    """Whether every changed position is needed."""
    for i in range(len(x)):
        for p in (x[i] != x_adv[i]).nonzero().flatten():
            less = x_adv[i : i + 1].clone()
            less[0, p] = x[i, p]
            if adversarial(less).any():
                return False
    return True


def test_the_vector_of_the_fact_sheet(monkeypatch):
    """From all six positions every walk ends 1-minimal: at 2 of them in two of three orders, else at 3."""
    module = __import__("sys").modules[pointwise.__module__]
    monkeypatch.setattr(
        module._Walk, "_noise", lambda self, of, step: torch.ones_like(self.minimal.batch.x[of])
    )
    x, y = torch.zeros(2000, 6), torch.zeros(2000, dtype=torch.int64)
    x_adv = pointwise(Judge(heavy), x, y, L0(None), restarts=1)
    count = (x_adv != 0).sum(1)
    assert is_one_minimal(heavy, x, x_adv) and set(count.tolist()) == {2, 3}
    assert binomtest(int((count == 2).sum()), 2000, 2 / 3).pvalue > 1e-4
    monkeypatch.undo()
    x_adv = pointwise(Judge(heavy), x[:200], y[:200], L0(None), restarts=20)
    assert ((x_adv != 0).sum(1) == 2).all(), "from noise, and with restarts, the optimum"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("box", BOXES)
def test_every_change_is_needed(kind, box):
    """1-minimal, on a network, in every box."""
    threat = threat_model(box, kind, None)
    model = network("mlp", kind, torch.float64).eval()
    x = inputs(300, kind, threat, torch.float64)
    with torch.no_grad():
        lead = model(x).topk(2, dim=1).values.diff(dim=1).squeeze(1)
    x = x[lead.argsort(descending=True)[:24:2]]  # those nearest to the boundary
    y = predictions(model, x)
    x_adv = pointwise(model, x, y, threat, queries=250, restarts=2)
    broken = (predictions(model, x_adv) != y).nonzero().flatten()
    assert len(broken) > 1 or box == "cap"
    assert torch.equal(x_adv[predictions(model, x_adv) == y], x[predictions(model, x_adv) == y])
    low, high = threat.bounds(x)
    assert ((x_adv == x) | (x_adv == low) | (x_adv == high)).all(), "salt, pepper or clean"
    clean, grid = threat.grid(x), threat.grid(x_adv)
    for i in broken:
        for p in (clean[i] != grid[i]).any(0).nonzero().flatten():
            less = grid[i].clone()
            less[:, p] = clean[i, :, p]
            assert (predictions(model, less.view(1, *x.shape[1:])) == y[i]).all()


def test_walks_in_its_order_and_puts_back_for_good():
    """One example, query by query: noise until one is adversarial, then one change fewer at a time."""
    model = Judge(lambda v: v.flatten(1).sum(1) >= 5)
    x = torch.zeros(1, 40)
    x_adv = pointwise(model, x, torch.tensor([0]), L0(None), restarts=1)
    seen, said = torch.cat(model.seen), torch.cat(model.said)
    first = int(said.int().argmax())
    assert (seen[1 : first + 1].sum(1).diff() != 0).any() and not said[:first].any()
    current, needed = seen[first], []
    for candidate, verdict in zip(seen[first + 1 : -1], said[first + 1 : -1], strict=True):
        back = (candidate != current).nonzero().flatten().tolist()
        assert len(back) == 1 and current[back[0]] == 1, "one changed position goes back"
        if verdict:
            current, needed = candidate, []
        else:
            assert back[0] not in needed, "no one is tried twice without a success in between"
            needed += back
    assert sorted(needed) == current.nonzero().flatten().tolist() and len(needed) == 5
    assert torch.equal(seen[-1], current) and said[-1], "what it came to is asked about once more"
    assert torch.equal(x_adv[0], current)


@pytest.mark.parametrize("restart", [0, 1])
def test_noise_is_salt_and_pepper(restart):
    """Of growing density: a share p of the pixels, half of them dark; in every second restart of any colour."""
    seen = []

    def stubborn(v):
        seen.append(v.clone())
        return torch.tensor([1.0, 0.0]).expand(len(v), 2)

    stubborn.differentiable = False
    examples, pixels = 60, 200
    x = torch.full((examples, 3, pixels), 0.5, dtype=torch.float64)
    pointwise(stubborn, x, torch.zeros(examples, dtype=torch.int64), L0(None), queries=200, restarts=2)
    noise = seen[1 + 100 * restart : 101 + 100 * restart]
    assert len(noise) == 100
    for level in (0, 9, 49, 99):
        changed = (noise[level] != 0.5).any(1)
        assert binomtest(int(changed.sum()), changed.numel(), (level + 1) / 100).pvalue > 1e-4
        bright = (noise[level] == 1)[:, 0][changed]
        assert binomtest(int(bright.sum()), len(bright), 0.5).pvalue > 1e-4
    colours = (noise[99] * torch.tensor([1.0, 2.0, 4.0])[:, None]).sum(1).flatten().long()
    assert set(colours.tolist()) == ({0, 7} if restart == 0 else set(range(8)))


def test_noise_no_sparser_than_the_best_is_not_asked_about():
    """A second and third repetition only look below what the first found."""
    model = Judge(lambda v: v.sum(1) >= 20)
    x = torch.zeros(1, 400)
    pointwise(model, x, torch.tensor([0]), L0(None), restarts=1, repetitions=10)
    seen, said = torch.cat(model.seen), torch.cat(model.said)
    best, starts = 401, []
    for v, verdict in zip(seen[1:], said[1:], strict=True):
        count = int(v.sum())
        if starts and (v != starts[-1]).sum() == 1:
            break  # the walk has begun
        assert 0 < count < best
        if verdict:
            best = count
            starts.append(v)
    assert len(starts) > 1


@pytest.mark.parametrize("queries", [1, 2, 3, 10, 100, 2000])
@pytest.mark.parametrize("restarts", [1, 30])
def test_asks_no_more_than_it_may(queries, restarts):
    model, x, y, threat = problem("colour", k=3, n=8)
    counter = QueryCounter(model, 8, x.device)
    x_adv = pointwise(counter, x, y, threat.with_k(None), queries=queries, restarts=restarts)
    asked = counter.forwards - 1
    assert (asked <= queries).all() and (restarts == 1 or queries == 2000 or int(asked.max()) == queries)
    broken = predictions(model, x_adv) != y
    assert broken.all() if queries >= 100 else True


def test_the_last_query_confirms_what_there_is():
    """Cut off on the way, it returns where it was: adversarial, though not 1-minimal."""
    x, y = torch.zeros(1, 60), torch.tensor([0])
    counts = []
    for queries in range(60, 160, 5):
        model = Judge(lambda v: v[:, :5].sum(1) >= 4)
        x_adv = pointwise(model, x, y, L0(None), queries=queries, restarts=1)
        assert len(model.seen) <= 1 + queries
        if x_adv.any():
            assert torch.equal(model.seen[-1], x_adv) and model.said[-1].all()
            counts.append(int(x_adv.sum()))
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 4 and counts[-1] == 4


def test_more_restarts_find_no_more_pixels():
    model, x, y, threat = problem("colour", n=16, dtype=torch.float64)
    threat = threat.with_k(None)
    found = [threat.distance(x, pointwise(model, x, y, threat, restarts=r)) for r in (1, 3, 10)]
    assert (found[1] <= found[0]).all() and (found[2] <= found[1]).all()
    assert found[2].sum() < found[0].sum()


def test_one_position_ends_the_search():
    """Nothing is sparser."""
    model = Judge(lambda v: v.sum(1) >= 1)
    x_adv = pointwise(model, torch.zeros(5, 30), torch.zeros(5, dtype=torch.int64), L0(None))
    assert (x_adv.sum(1) == 1).all() and len(model.seen) < 60


class Noisy:
    """Votes at random: P(class 1) grows with the number of bright pixels."""

    differentiable = False

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)
        self.seen, self.said = [], []

    def chance(self, x):
        return torch.sigmoid(1.5 * (x.sum(1) - 6))

    def __call__(self, x):
        verdict = torch.rand(len(x), generator=self.generator) < self.chance(x)
        if not x.any():
            verdict[:] = False
        self.seen.append(x.clone())
        self.said.append(verdict)
        return torch.stack([~verdict, verdict], dim=1).float()


def test_a_model_that_answers_at_random():
    """A pixel put back by luck: what is returned has been confirmed by an answer of its own."""
    lucky, confirmed = [], []
    for seed in range(40):
        model = Noisy()
        model.generator.manual_seed(seed)
        x = torch.zeros(1, 30)
        x_adv = pointwise(model, x, torch.tensor([0]), L0(None), queries=400, restarts=1)
        if not x_adv.any():
            continue
        asked = [said for v, said in zip(model.seen, model.said, strict=True) if torch.equal(v, x_adv)]
        confirmed.append(float(model.chance(x_adv)))
        assert len(asked) > 1 and asked[-1].all(), "a later answer than the one that led there"
        walk = [v for v, said in zip(model.seen, model.said, strict=True) if said.all()]
        lucky.append(float(model.chance(min(walk, key=lambda v: v.sum()))))
    assert len(confirmed) > 10
    assert sum(confirmed) / len(confirmed) > sum(lucky) / len(lucky)


def test_labels_are_all_it_sees():
    """Any model of the same labels leads to the same result."""
    model, x, y, threat = problem("colour", n=8, dtype=torch.float64)

    def labels_only(v):
        return torch.nn.functional.one_hot(model(v).argmax(1), 4).to(v)

    result = pointwise(model, x, y, threat.with_k(None), queries=120)
    assert torch.equal(pointwise(labels_only, x, y, threat.with_k(None), queries=120), result)


def test_reaches_a_class():
    """Targeted: every walk stays in the class that was asked for."""

    def model(v):
        a, b = v[:, :10].sum(1), v[:, 10:].sum(1)
        return torch.stack([torch.full_like(a, 2.5), a, b], dim=1)

    model.differentiable = False
    goal = torch.tensor([1, 2, 1, 2])
    x_adv = pointwise(
        model, torch.zeros(4, 20), torch.zeros(4, dtype=torch.int64), L0(None), restarts=3, targeted=goal
    )
    assert torch.equal(model(x_adv).argmax(1), goal) and (x_adv.sum(1) == 3).all()
