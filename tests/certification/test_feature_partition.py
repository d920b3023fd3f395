"""Votes of disjoint groups, hard and soft: radii by brute force over what the changed groups may say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronorm.certification import ABSTAIN, UNBOUNDED, certify_soft_votes, partition_radius
from zeronorm.certification.feature_partition import UNIT
from zeronorm.errors import ArgumentError


def brute_hard(groups: list[int], classes: int) -> int:
    """The largest number of groups that may vote anything without moving the plurality (ties to the lower index)."""
    answer = int(np.bincount(groups, minlength=classes).argmax())
    for changed in range(1, len(groups) + 1):
        for where in itertools.combinations(range(len(groups)), changed):
            for votes in itertools.product(range(classes), repeat=changed):
                now = list(groups)
                for t, vote in zip(where, votes, strict=True):
                    now[t] = vote
                if np.bincount(now, minlength=classes).argmax() != answer:
                    return changed - 1
    return UNBOUNDED


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_hard_votes_by_brute_force(groups):
    votes = np.bincount(groups, minlength=3)
    assert partition_radius([votes])[0] == brute_hard(groups, 3)


def test_hard_vectors():
    assert partition_radius([[5, 2, 0], [2, 5, 0], [3, 3, 1], [3, 4, 0]]).tolist() == [1, 1, 0, 0]
    assert partition_radius(np.zeros((0, 3), np.int64)).shape == (0,)
    with pytest.raises(ArgumentError, match="counts: expected 7 votes"):
        partition_radius([[5, 2], [5, 3]])


def soft_answer(pairs: np.ndarray) -> int | None:
    """The class that leads every other, of pair scores (groups, y, c)."""
    total = pairs.sum(0)
    for y in range(len(total)):
        if all(total[y, c] > 0 for c in range(len(total)) if c != y):
            return y
    return None


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(2, 3), st.integers(0, 10**6))
def test_soft_votes_by_brute_force(groups, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    u = 1.5 * torch.randn(1, groups, classes, generator=generator, dtype=torch.float64)
    u[..., 0] += 1.0
    certificate = certify_soft_votes(u)
    pairs = ((u[0, :, :, None] - u[0, :, None, :]).clamp(-1, 1) * UNIT).round().long().numpy()
    answer = soft_answer(pairs)
    assert certificate.prediction[0] == (ABSTAIN if answer is None else answer)
    if answer is None:
        return
    radius = UNBOUNDED
    for changed in range(1, groups + 1):
        # at worst all changed groups turn against y and towards one rival
        worst = min(
            pairs[[t for t in range(groups) if t not in where], answer, c].sum() - changed * UNIT
            for where in itertools.combinations(range(groups), changed)
            for c in range(classes)
            if c != answer
        )
        if worst <= 0:
            radius = changed - 1
            break
    assert certificate.radius[0] == radius


def test_what_changed_groups_really_say_moves_nothing_within_the_radius():
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(40, 9, 3, generator=generator, dtype=torch.float64)
    u[..., 1] += 1.2
    certificate = certify_soft_votes(u)
    assert (certificate.radius > 0).any()
    for i, radius in enumerate(certificate.radius.tolist()):
        if radius <= 0:
            continue
        for _ in range(50):
            where = torch.randperm(9, generator=generator)[:radius]
            changed = u[i : i + 1].clone()
            changed[0, where] = 100 * torch.randn(len(where), 3, generator=generator, dtype=torch.float64)
            assert certify_soft_votes(changed).prediction[0] == certificate.prediction[i]


def test_refusals():
    with pytest.raises(ArgumentError, match="scores: expected finite values"):
        certify_soft_votes(torch.full((1, 2, 3), torch.nan))
    with pytest.raises(ArgumentError, match="scores: expected shape"):
        certify_soft_votes(torch.zeros(1, 2, 1))
