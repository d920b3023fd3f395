"""Columns of a table as positions of a box: what is proposed is possible, and everything possible can be proposed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from tree_problems import table

import zeronorm as zn
from zeronorm.attacks.columns import Columns, Kept
from zeronorm.data import Column, Schema

KINDS = ["real", "whole", "binary", "code", "group", "real"]


def problem(seed, dtype=torch.float64, **options):
    rng = np.random.default_rng(seed)
    schema, x, _ = table(rng, dtype, **options)
    return schema, x[:8], torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_proposed_is_possible_and_changes_no_other_column(seed, dtype, scores):
    schema, x, noise = problem(seed, dtype, missing=True, kinds=KINDS if seed % 2 else None)
    columns = Columns(x, zn.L0(None, unit="column", schema=schema), scores=scores)
    of = torch.arange(len(x))
    assert not schema.changed(x, columns.rows(columns.z, of)).any()
    assert ((columns.z >= 0) & (columns.z <= 1)).all()
    for kind in ("corners", "anywhere"):
        z = torch.rand(columns.z.shape, generator=noise, dtype=dtype)
        z = z.round() if kind == "corners" else z
        moved = torch.rand(len(x), len(schema), generator=noise) < 0.5
        z = torch.where(moved[:, None], z, columns.z)
        rows = columns.rows(z, of)
        assert rows.dtype == dtype and schema.possible(x, rows).all()
        assert not (schema.changed(x, rows) & ~moved).any()
        some = torch.tensor([3, 0, 3])
        again = columns.rows(z[some], some)
        assert torch.equal(again.nan_to_num(-9), rows[some].nan_to_num(-9)), "whoever else is in the pass"


@pytest.mark.parametrize("seed", range(4))
def test_possible_rows_come_back_as_they_are(seed):
    schema, x, noise = problem(seed, missing=True, kinds=KINDS)
    for scores in (False, True):
        columns = Columns(x, zn.L0(None, unit="column", schema=schema), scores=scores)
        of = torch.arange(len(x))
        rows = columns.rows(torch.rand(columns.z.shape, generator=noise, dtype=x.dtype).round(), of)
        back = columns.rows(columns.encode(rows), of)
        assert torch.allclose(back.nan_to_num(-9), rows.nan_to_num(-9), atol=1e-9)
        assert torch.equal(schema.changed(x, back), schema.changed(x, rows))


def test_corners_without_gradients_are_every_value_of_few_but_the_rows_own():
    schema = Schema(
        (
            Column("level", "whole", 0, 9),
            Column("kind", "category", categories=tuple("abcde"), one_hot=True, reachable=("a", "c", "d")),
            Column("code", "category", categories=tuple("xyz"), changes="up"),
            Column("maybe", "binary", missing=True),
        )
    )
    x = torch.tensor([[4.0, 0, 1, 0, 0, 0, 1, math.nan], [0.0, 1, 0, 0, 0, 0, 2, 1]])
    columns = Columns(x, zn.L0(1, unit="column", schema=schema), scores=False)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=columns.channels)))
    for i in range(2):
        for u, place in enumerate(schema.slices):
            z = columns.z[i].repeat(len(corners), 1, 1)
            z[:, :, u] = corners
            rows = columns.rows(z, torch.full((len(corners),), i))
            found = {tuple(row.nan_to_num(-1).tolist()) for row in rows[:, place]}
            own = tuple(x[i, place].nan_to_num(-1).tolist())
            possible = {
                "level": {(float(v),) for v in range(10)},
                "kind": {tuple(float(j == i) for j in range(5)) for i in (0, 2, 3)},
                "code": {(2.0,)} if i == 0 else {own},
                "maybe": {(0.0,), (1.0,), (-1.0,)},
            }[schema.columns[u].name]
            assert found == (possible - {own} or {own}), schema.columns[u].name


def test_values_in_the_middle_of_the_data_are_tried_as_well_as_the_ends():
    data = np.concatenate([np.linspace(0, 1, 900), [1000.0]])[:, None]
    schema = Schema.infer(data, ["income"])
    x = torch.tensor([[0.5]], dtype=torch.float64)
    columns = Columns(x, zn.L0(1, unit="column", schema=schema), scores=False)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=columns.channels)), dtype=torch.float64)
    values = columns.rows(corners[:, :, None], torch.zeros(len(corners), dtype=torch.int64))[:, 0]
    assert values.min() == 0 and values.max() == 1000
    assert ((values > 0) & (values < 110)).sum() == len(corners) - 2, "evenly spaced, none would be so low"


def test_the_gradient_of_a_group_is_the_best_exchange():
    schema = Schema(
        (Column("kind", "category", categories=tuple("abcd"), one_hot=True, reachable=("a", "b", "c")),)
    )
    x = torch.tensor([[0.0, 1, 0, 0]])
    columns = Columns(x, zn.L0(1, unit="column", schema=schema), scores=True)
    z = columns.z.clone().requires_grad_()
    weights = torch.tensor([3.0, 1.0, 2.0, 9.0])  # d cannot be reached
    (gradient,) = torch.autograd.grad((columns.rows(z, torch.tensor([0])) * weights).sum(), z)
    assert gradient[0, :, 0].tolist() == [1.0, -1.0, 0.0, 0.0]
    hot = columns.rows((gradient > 0).float(), torch.tensor([0]))
    assert hot.tolist() == [[1.0, 0, 0, 0]]


def test_the_gradient_of_a_number_is_its_own():
    schema = Schema((Column("a", "real", -2, 6), Column("b", "whole", 0, 4)))
    x = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    columns = Columns(x, zn.L0(2, unit="column", schema=schema), scores=True)
    z = columns.z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        (columns.rows(z, torch.tensor([0])) * torch.tensor([1.0, 10.0])).sum(), z
    )
    assert gradient.sum(1).tolist() == [[pytest.approx(8.0), pytest.approx(40.0)]]


def test_relations_give_way_or_the_row_stays():
    schema = Schema(
        (Column("a", "real", 0, 5), Column("b", "real", 0, 5), Column("total", "real", 0, 10)),
        ("total = a + b",),
    )
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    columns = Columns(x, zn.L0(2, unit="column", schema=schema), scores=False)
    of = torch.tensor([0])
    z = columns.z.clone()
    z[:, :, 0] = 1.0
    assert torch.equal(columns.rows(z, of), x), "one column alone cannot"
    z[:, :, 2] = 0.0
    rows = columns.rows(z, of)
    assert schema.possible(x, rows).all() and schema.changed(x, rows).tolist() == [[True, False, True]]


def test_what_is_kept_of_a_change_is_possible():
    schema = Schema(
        (Column("a", "real", 0, 5), Column("b", "real", 0, 5), Column("c", "binary")), ("a <= b",)
    )
    x = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)
    x_adv = torch.tensor([[3.0, 4.0, 1.0]], dtype=torch.float64)
    between, of = Kept(x, x_adv, schema), torch.tensor([0])
    assert torch.equal(between.rows(between.changed, of), x_adv)
    without_b = torch.tensor([[[1.0, 0.0, 1.0]]], dtype=torch.float64)
    assert torch.equal(between.rows(without_b, of), x)
    without_c = torch.tensor([[[1.0, 1.0, 0.0]]], dtype=torch.float64)
    assert between.rows(without_c, of).tolist() == [[3.0, 4.0, 0.0]]


def test_too_many_channels_are_refused():
    names = tuple(map(str, range(9000)))
    columns = (Column("a", "category", categories=names, one_hot=True),)
    columns += tuple(Column(f"b{i}", "binary") for i in range(600))
    schema = Schema(columns)
    x = torch.zeros(1, 9600)
    x[0, 0] = 1
    with pytest.raises(zn.errors.ArgumentError, match="schema: expected at most"):
        Columns(x, zn.L0(1, unit="column", schema=schema), scores=True)
