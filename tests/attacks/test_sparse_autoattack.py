"""The cascade: nobody survives it whom one of its stages alone would break."""

from __future__ import annotations

import pytest
import torch
from small_problems import network, predictions

from zeronorm import L0
from zeronorm.attacks import sparse_autoattack, sparse_pgd, sparse_rs
from zeronorm.attacks.sparse_autoattack import stages
from zeronorm.evaluation.query_counter import QueryCounter


def test_the_published_stages():
    names = [stage.name for stage in stages()]
    assert names == ["sparse_pgd (unprojected)", "sparse_pgd (projected)", "sparse_rs"]
    assert stages() == stages(10_000, 10_000)
    assert [stage.options for stage in stages(7, 9)] == [
        {"steps": 7, "gradient": "unprojected"},
        {"steps": 7, "gradient": "projected"},
        {"queries": 9},
    ]


@pytest.fixture(scope="module")
def problem():
    model = network("conv", "grey", dtype=torch.float64, seed=1).eval()
    x = torch.rand(96, 1, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = predictions(model, x)
    y[::12] = (y[::12] + 1) % 4
    return model, x, y


def survivors(model, x, y, x_adv):
    return (predictions(model, x_adv) == y).tolist()


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_survivors_are_those_of_every_stage(problem, k, seed):
    model, x, y = problem
    ids = torch.arange(96) + 50
    arguments = {"seed": seed, "ids": ids}
    alone = [
        survivors(model, x, y, sparse_pgd(model, x, y, L0(k), steps=4, gradient="unprojected", **arguments)),
        survivors(model, x, y, sparse_pgd(model, x, y, L0(k), steps=4, gradient="projected", **arguments)),
        survivors(model, x, y, sparse_rs(model, x, y, L0(k), queries=6, **arguments)),
    ]
    together = sparse_autoattack(model, x, y, L0(k), steps=4, queries=6, **arguments)
    assert survivors(model, x, y, together) == [all(each) for each in zip(*alone, strict=True)]
    assert len({tuple(each) for each in alone}) == 3, "each stage counts"


def test_broken_by_the_first_stage_that_can(problem):
    model, x, y = problem
    first = sparse_pgd(model, x, y, L0(2), steps=4, gradient="unprojected")
    together = sparse_autoattack(model, x, y, L0(2), steps=4, queries=6)
    broken = predictions(model, first) != y
    assert 0 < int(broken.sum()) < 96
    assert torch.equal(together[broken], first[broken])


def test_later_stages_see_the_survivors_only(problem):
    model, x, y = problem
    sizes = []

    def counting(inputs):
        sizes.append(len(inputs))
        return model(inputs)

    sparse_autoattack(counting, x, y, L0(2), steps=4, queries=6)
    assert sizes[0] == 96 and sizes[-1] < 60
    # within a stage nobody comes back; after it, at most the survivors are attacked again
    assert all(later <= sizes[1] for later in sizes[1:])


def test_monotone_in_the_budget_and_never_above_clean(problem):
    model, x, y = problem
    clean = int((predictions(model, x) == y).sum())
    held = [
        sum(survivors(model, x, y, sparse_autoattack(model, x, y, L0(k), steps=40, queries=40)))
        for k in range(6)
    ]
    assert held[0] == clean == 88
    assert held == sorted(held, reverse=True) and held[1] < clean and held[5] < held[1]


def test_plus_asks_less_of_those_that_withstand_it():
    """Nobody is broken: each stage of either version makes all its passes."""
    passes = {}
    x, y = torch.rand(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64)
    for version in ("published", "plus"):
        counter = QueryCounter(unbreakable, 4, torch.device("cpu"))
        sparse_autoattack(counter, x, y, L0(3), steps=80, queries=80, version=version)
        passes[version] = int((counter.forwards + counter.backwards).max())
    assert passes["plus"] < passes["published"]


def test_plus_is_its_stages():
    names = [stage.name for stage in stages(100, 60, "plus")]
    assert names == ["guided_exchange", "sparse_rs"]
    lengths = [stage.options.get("steps", stage.options.get("queries")) for stage in stages(100, 60, "plus")]
    assert lengths == [300, 30]
    assert stages(100, 60, "plus")[0].options["warm_up"] == 50


def unbreakable(x):
    z = x.flatten(1).sum(1)
    return torch.stack([z.new_full(z.shape, 1e3), z], dim=1)
