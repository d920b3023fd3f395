"""Asking about every row: against the exact answers for trees, with relations, and before it starts."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import tree_problems
from torch import nn

import zeronorm as zn
from zeronorm.certification import UNBOUNDED, certify_enumeration, enumeration_queries, smallest_change
from zeronorm.data import Column, Schema
from zeronorm.errors import ArgumentError


@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_the_exact_answers_for_trees(seed):
    rng = np.random.default_rng(seed)
    kinds = ["whole", "group", "code", "binary", "whole"]
    missing = seed % 2 == 0
    schema, x, signal = tree_problems.table(rng, torch.float64, kinds=kinds, missing=missing)
    model = tree_problems.fitted("forest", rng, x, tree_problems.labels(rng, signal, 2))
    threat = zn.L0(2, unit="column", schema=schema)
    asked = certify_enumeration(model, x[:6], threat)
    exact = smallest_change(model, x[:6], threat)
    assert torch.equal(asked.changes, exact.upper)
    proved = asked.certificate.radius.clamp(max=2)
    assert torch.equal(proved, exact.certificate.radius.clamp(max=2))
    assert int(asked.queries.sum()) <= enumeration_queries(x[:6], threat)
    some = asked.changes < UNBOUNDED
    assert bool((threat.distance(x[:6], asked.witness) == asked.changes)[some].all())
    assert threat.contains(x[:6], asked.witness).all()


def test_relations_and_the_count():
    columns = (Column("a", "whole", 0, 2), Column("b", "whole", 0, 2), Column("t", "whole", 0, 4))
    schema = Schema(columns, ("t = a + b",))
    x = torch.tensor([[1.0, 1.0, 2.0]])
    model = nn.Linear(3, 2, bias=False)
    model.weight.data = torch.tensor([[0.0, 0.0, 0.0], [1.0, -0.5, 0.0]])
    # class 1 where 2 a > b: a must fall to 0, and t with it
    alone = zn.L0(1, unit="column", schema=schema)
    assert enumeration_queries(x, alone) == 1 + 2 + 2 + 4
    assert enumeration_queries(x, alone, k=2) == 1 + 8 + 2 * 2 + 2 * 4 + 2 * 4
    outcome = certify_enumeration(model.eval(), x, alone)
    assert outcome.certificate.radius.tolist() == [1] and outcome.changes.tolist() == [UNBOUNDED]
    both = certify_enumeration(model, x, alone.with_k(2), batch_size=3)
    assert both.changes.tolist() == [2] and both.witness.tolist() == [[0.0, 2.0, 2.0]]
    one = Schema((*columns[:2], Column("t", "whole", 0, 4, changes="never")))
    assert certify_enumeration(model, x, zn.L0(2, unit="column", schema=one)).changes.tolist() == [1]
    frozen = Schema(tuple(Column(c.name, "whole", 0, 4, changes="never") for c in columns[:2]) + columns[2:])
    never = certify_enumeration(model, x, zn.L0(1, unit="column", schema=frozen))
    assert never.certificate.radius.tolist() == [UNBOUNDED]


def test_bad_input():
    model = nn.Linear(2, 2).eval()
    x = torch.tensor([[0.5, 1.0]])
    mixed = zn.L0(1, unit="column", schema=Schema((Column("a", low=0, high=1), Column("b", "binary"))))
    whole = zn.L0(
        2, unit="column", schema=Schema((Column("a", "whole", 0, 500), Column("b", "whole", 0, 500)))
    )
    wide = zn.L0(
        1, unit="column", schema=Schema((Column("a", "whole", 0, 1e6), Column("b", "whole", 0, 500)))
    )
    for expected, call in {
        "schema: expected columns of finitely many values, got 'a'": lambda: certify_enumeration(
            model, x, mixed
        ),
        'threat: expected an L0 with a budget k, unit="column"': lambda: certify_enumeration(
            model, x, zn.L0(1)
        ),
        "queries: expected at least 251,001 for 1 rows at k=2, got 1,000": lambda: certify_enumeration(
            model, x.round(), whole, queries=1000
        ),
        "schema: expected at most 100,000 values of 'a'": lambda: certify_enumeration(model, x.round(), wide),
        "model: expected a model in evaluation mode": lambda: certify_enumeration(model.train(), x, mixed),
    }.items():
        with pytest.raises(ArgumentError, match=re.escape(expected)):
            call()
