"""Certificates of votes by disjoint groups of pixels: a changed pixel is in one group and moves one vote.

Hammoudeh & Lowd, "Provable robustness against a union of L_0 adversarial attacks" (AAAI 2024): feature partition
aggregation.  Deterministic, no confidence level, one small model for each group.  Soft votes are this library's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.certification.certificate import ABSTAIN, UNBOUNDED, Certificate
from zeronorm.certification.confidence import Ints, check_counts
from zeronorm.certification.known_modules import network_of
from zeronorm.certification.rounding import Rounding
from zeronorm.errors import ArgumentError
from zeronorm.models.feature_partition import UNIT, FeaturePartition, Grouped

_EXACT = 1 << 24  # whole numbers up to here are exact in float32


def partition_radius(votes: Any) -> Ints:
    """Within how many changes the class with most votes keeps them, one vote for each group of pixels.

    Of equal counts the first class wins.  Every change moves at most one vote, at worst from the winner to one
    rival: it takes one vote more to win against an earlier class than against a later one, hence the radius
    floor((n_y - n_c - [c < y]) / 2), the smallest over rivals c.

    **Arguments:**

    - `votes`: integers (b, classes), as many for each example.

    **Returns:** int64 (b,), never `ABSTAIN`: a plurality always stands unchanged.
    """
    counts = check_counts(votes)
    winner = counts.argmax(1)[:, None]
    classes = np.arange(counts.shape[1])
    lead = np.take_along_axis(counts, winner, 1) - counts - (classes < winner)
    lead = np.where(classes == winner, np.iinfo(np.int64).max, lead)
    # more changes than there are groups change nothing further
    radius = lead.min(1, initial=np.iinfo(np.int64).max) // 2
    return np.where(radius >= counts.sum(1), UNBOUNDED, radius)


def check_feature_partition(model: Any, x: Tensor) -> tuple[nn.Module | None, FeaturePartition]:
    """Normalisation and network of the model, if that is all it is; else `ArgumentError`."""
    normalize, network = network_of(
        model, x, FeaturePartition, "a feature_partition", (nn.ModuleList, Grouped)
    )
    if network.groups * network.partitions * UNIT >= _EXACT:
        raise ArgumentError(f"model: expected fewer than {_EXACT // UNIT} groups, got {network.groups}")
    return normalize, network


@torch.inference_mode()
def certify_feature_partition(model: Any, x: Float[Tensor, "b ..."], batch_size: int = 100) -> Certificate:
    """How many pixels of each image may change, to any values, without changing the answer of a vote by groups.

    Hard votes by `partition_radius`, soft ones as `certify_soft_votes` says; of several partitions every group that
    holds a changed pixel turns, in each of them.  The network computes in float64; a group's scores are taken at the
    worst that another batch, or another order of their sums, may make of them (`Rounding`): soft votes are rounded
    after it is taken off, and a hard vote that so little could turn counts as changed.  A group whose scores overflow
    has no vote, which is not worse than a turned one.

    **Arguments:**

    - `model`: of `models.build("feature_partition")`, or such a network itself.
    - `x`: images (b, c, h, w).

    **Returns:** radii in pixels; `ABSTAIN` where no class is certain to lead; `margin` is the smallest lead, in votes
    (hard) or in units of 1 / `UNIT` (soft; of several partitions their sum).

    **Raises:** `ArgumentError` for another kind of model.
    """
    checks.examples(x)
    normalize, network = check_feature_partition(model, x)
    prove = _certify_hard if network.hard else _certify_soft
    scores = _Scores(network)
    with torch.autocast(x.device.type, enabled=False):
        parts = [
            prove(scores, part if normalize is None else normalize(part))
            for part in (x.split(batch_size) if len(x) else [x])
        ]
    prediction, radius, margin = (torch.cat(column) for column in zip(*parts, strict=True))
    return Certificate(prediction, radius, margin=margin)


def certify_soft_votes(scores: Float[Tensor, "b groups classes"]) -> Certificate:
    """The certificate of a sum of bounded pair scores, one for each disjoint group of pixels.

    Group t prefers y to c by s_yc = clip(u_y - u_c, -1, 1), rounded to whole multiples of 1 / `UNIT`; g_yc is their sum
    over groups, and the answer the class y with g_yc > 0 for every c.  A group that holds a changed pixel can fall to
    -1: y stands after r changes if g_yc exceeds, for every c, the sum of its r largest s_yc + 1.  Hard votes, and the
    values of changed pixels, need no other assumption: the clip bounds whatever a group may say.

    **Arguments:**

    - `scores`: u, what each group's model says of every class.

    **Returns:** radii in pixels; `ABSTAIN` where no class leads all others; `margin` is the smallest lead of the class
    that does, in units of 1 / `UNIT`.

    **Raises:** `ArgumentError` for scores that are not numbers.
    """
    if scores.dim() != 3 or scores.shape[2] < 2:
        raise ArgumentError(f"scores: expected shape (batch, groups, classes), got {tuple(scores.shape)}")
    checks.examples(scores, "scores")
    u = scores.double()
    pairs = ((u[..., None] - u[..., None, :]).clamp(-1, 1) * UNIT).round().long()
    prediction, radius, margin = _certify_pairs(pairs[:, None])
    return Certificate(prediction, radius, margin=margin)


class _Scores:
    """Scores of a network's groups, and how far those of another pass in float64 may be from them."""

    def __init__(self, network: FeaturePartition) -> None:
        self.network, self.rounding = network, Rounding(torch.float64)

    def __call__(
        self, x: Float[Tensor, "b c h w"], v: int
    ) -> tuple[Float[Tensor, "b t j"], Float[Tensor, "b t 1"]]:
        """Scores of partition v, and a bound of the errors of each group's; infinite where the pass may overflow."""
        network = self.network
        h = network.seen(x.double(), v)
        error = h.new_zeros(*h.shape[:2], 1)
        for n, layer in enumerate([network.first[v], *network.rest]):
            h = h.relu() if n else h
            weight, added = layer.weight.double().abs(), layer.bias.double().abs().amax()
            # of a sum of absolute values, and of the errors that come in
            most = weight.sum(1).amax() * (h.abs().amax(2, keepdim=True) + error)
            h = layer(h, slice(None))
            if not n:
                place = network.place[v].double()
                h, added = h + place, added + place.abs().amax()
            error = weight.sum(1).amax() * error + self.rounding.error(weight.shape[1] + 2, most + added)
        return h, error

    def least_preferences(self, x: Float[Tensor, "b c h w"], v: int) -> Float[Tensor, "b t i j"]:
        """What no pass prefers i to j by less than, in every group."""
        network = self.network
        least = self._least(x, v)
        if network.mirrored:
            least = (least + self._least(x.flip(3), v)[:, network.reflected[v]]) / 2 - 4 * self.rounding.unit
        return least

    def _least(self, x: Tensor, v: int) -> Float[Tensor, "b t i j"]:
        u, error = self(x, v)
        both = 2 * error + self.rounding.error(2, 2 * (u.abs().amax(2, keepdim=True) + error))
        return (u[..., None] - u[..., None, :] - both[..., None]).nan_to_num(nan=-1.0).clamp(-1, 1)


def _certify_soft(scores: _Scores, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = torch.stack([scores.least_preferences(x, v) for v in range(scores.network.partitions)], dim=1)
    return _certify_pairs((s * UNIT).round().long())


def _certify_hard(scores: _Scores, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, error = scores(x, 0)
    (least, greatest), best = (u - error, u + error), u.argmax(2, keepdim=True)
    votes = torch.nn.functional.one_hot(best[..., 0], scores.network.classes).sum(1).cpu().numpy()
    rival = greatest.scatter(2, best, -torch.inf).amax(2)
    uncertain = (~(least.gather(2, best)[..., 0] > rival)).sum(1).cpu()
    radius = torch.from_numpy(partition_radius(votes)) - uncertain
    first = np.sort(votes, axis=1)[:, ::-1]
    prediction = torch.from_numpy(votes.argmax(1))
    return (
        torch.where(radius < 0, ABSTAIN, prediction),
        torch.where(radius < 0, ABSTAIN, radius),
        torch.from_numpy(first[:, 0] - first[:, 1]),
    )


def _certify_pairs(pairs: Int[Tensor, "b v groups y c"]) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, radii and margins of whole numbers that each group's score of a pair is not below."""
    b, _, groups, classes, _ = pairs.shape
    device = pairs.device
    leads = pairs.sum((1, 2))  # (b, y, c)
    leads.diagonal(dim1=1, dim2=2).fill_(torch.iinfo(torch.int64).max)
    margin, leader = leads.amin(2).max(1)
    rows = torch.arange(b, device=device)
    own = pairs.movedim(3, 1)[rows, leader]  # (b, v, groups, c)
    # at worst the changes meet, in every partition, the groups that have most to lose
    falls = (own + UNIT).sort(dim=2, descending=True).values.cumsum(2).sum(1)
    itself = torch.arange(classes, device=device) == leader[:, None]
    stands = (leads[rows, leader][:, None] > falls) | itself[:, None]
    # falls grow with the number of changes, so that the changes withstood are the first ones
    withstood = stands.all(2).long().cumprod(1).sum(1)
    radius = torch.where(withstood == groups, UNBOUNDED, withstood)
    return (
        torch.where(margin > 0, leader, ABSTAIN),
        torch.where(margin > 0, radius, ABSTAIN),
        margin,
    )
