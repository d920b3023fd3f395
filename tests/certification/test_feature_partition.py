"""Votes of disjoint groups, hard and soft: radii by brute force over what the changed groups may say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zeronorm as zn
from zeronorm.certification import (
    ABSTAIN,
    UNBOUNDED,
    certify_feature_partition,
    certify_soft_votes,
    partition_radius,
)
from zeronorm.certification.feature_partition import UNIT
from zeronorm.errors import ArgumentError

ROUNDING = 1e-15  # below what a pass in float64 may miss


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


# -- networks ----------------------------------------------------------------------------------------------


def tiny(**arguments):
    """4x4 images, scores of all sizes, so that some votes are clipped."""
    small = {"in_channels": 1, "image_size": 4, "classes": 3, "widths": [6], "mirrored": False}
    model = zn.models.build("feature_partition", **(small | arguments)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(1.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        model.network.rest[0].bias[0, 1] += 9.0  # for one class, so that radii are not all 0
    return model


ONE, TWO = (((2, 0), (0, 4)),), (((2, 0), (0, 4)), ((4, 0), (0, 2)))
TINY = {
    "soft": {"partition": ONE},
    "mirrored": {"partition": ONE, "mirrored": True},
    "two": {"partition": TWO},
    "hard": {"partition": "random", "groups": 8, "shared": False, "votes": "hard"},
}


@pytest.mark.parametrize("kind", TINY)
def test_no_changed_pixels_within_the_radius_move_a_network(kind):
    """All supports, values far outside the box among them."""
    model, generator = tiny(**TINY[kind]), torch.Generator().manual_seed(1)
    x = torch.rand(60, 1, 4, 4, generator=generator, dtype=torch.float64)
    certificate = certify_feature_partition(model, x)
    assert torch.equal(
        model(x).argmax(1)[~certificate.abstained], certificate.prediction[~certificate.abstained]
    )
    values = torch.tensor([0.0, 1.0, -40.0, 40.0], dtype=torch.float64)
    tried = 0
    for i, radius in enumerate(certificate.radius.tolist()):
        r = min(radius, 2)
        if r <= 0 or tried > 4000:
            continue
        wheres = torch.tensor(list(itertools.combinations(range(16), r)))
        new = torch.cartesian_prod(*[values] * r).view(-1, r)
        changed = x[i].flatten().repeat(len(wheres), len(new), 1)
        changed.scatter_(2, wheres[:, None].expand(-1, len(new), -1), new.expand(len(wheres), -1, -1))
        assert (model(changed.view(-1, 1, 4, 4)).argmax(1) == certificate.prediction[i]).all()
        tried += changed.shape[0] * changed.shape[1]
    assert tried > 500


def test_a_network_of_one_partition_is_certified_as_its_scores_are():
    model = tiny(partition=ONE)
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found, expected = certify_feature_partition(model, x), certify_soft_votes(model.network.scores(x, 0))
    # but for the allowance, which takes at most one unit for each group
    assert ((expected.margin - found.margin) <= 8).all() and (found.radius <= expected.radius).all()
    assert (found.radius == expected.radius).double().mean() > 0.9
    hard = tiny(**TINY["hard"])
    votes = hard(x).round().long().detach()
    certain = certify_feature_partition(hard, x)
    assert certain.radius.tolist() == partition_radius(votes.numpy()).tolist()
    assert certain.prediction.tolist() == votes.argmax(1).tolist()


def test_votes_that_rounding_could_turn_are_not_counted_on():
    model = tiny(**TINY["hard"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.network.place.zero_()
        model.network.rest[0].bias[:, 1] = 1.0  # all eight vote for class 1
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    assert certify_feature_partition(model, x).radius.tolist() == [3]
    with torch.no_grad():
        model.network.rest[0].bias[:2, 2] = 1.0 - ROUNDING / 2  # two of them nearly for class 2
    assert certify_feature_partition(model, x).radius.tolist() == [1]
    with torch.no_grad():
        model.network.rest[0].bias[:4, 2] = 1.0 - ROUNDING / 2
    certificate = certify_feature_partition(model, x)
    assert certificate.abstained.all() and certificate.prediction[0] == ABSTAIN


def test_the_batch_moves_no_certificate():
    model = tiny(partition=TWO).float()
    x = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    one, other = certify_feature_partition(model, x), certify_feature_partition(model, x, batch_size=7)
    assert torch.equal(one.radius, other.radius) and torch.equal(one.prediction, other.prediction)


def test_the_wrong_network_is_refused():
    with pytest.raises(ArgumentError, match="model: expected a feature_partition network, got Classifier"):
        certify_feature_partition(zn.models.build("small_cnn"), torch.rand(1, 1, 28, 28))
    with pytest.raises(ArgumentError, match="x: expected inputs of shape"):
        certify_feature_partition(tiny(), torch.rand(1, 1, 5, 5, dtype=torch.float64))
