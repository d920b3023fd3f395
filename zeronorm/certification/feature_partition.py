"""Certificates of votes by disjoint groups of pixels: a changed pixel is in one group and moves one vote.

Hammoudeh & Lowd, "Provable robustness against a union of L_0 adversarial attacks" (AAAI 2024): feature partition
aggregation.  Deterministic, no confidence level, one small model for each group.  Soft votes are this library's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zeronorm import checks
from zeronorm.certification.certificate import ABSTAIN, UNBOUNDED, Certificate
from zeronorm.certification.confidence import Ints, check_counts
from zeronorm.errors import ArgumentError

UNIT = 1024
"""Soft votes are whole multiples of 1 / UNIT, so that sums of them are exact."""


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
    b, groups, classes = scores.shape
    u = scores.double()
    prediction, radius = torch.full((b,), ABSTAIN), torch.full((b,), ABSTAIN)
    pairs = ((u[..., None] - u[..., None, :]).clamp(-1, 1) * UNIT).round().long().cpu()  # (b, groups, y, c)
    leads = pairs.sum(1)  # (b, y, c)
    leads.diagonal(dim1=1, dim2=2).fill_(groups * UNIT + 1)
    margin, leader = leads.amin(2).max(1)
    leading = margin > 0
    own = pairs[torch.arange(b), :, leader]  # (b, groups, c)
    falls = (own + UNIT).sort(dim=1, descending=True).values.cumsum(1)
    lead = leads[torch.arange(b), leader]
    stands = (lead[:, None] > falls) | (torch.arange(classes) == leader[:, None])[:, None]
    # falls grow with the number of changes, so that the changes withstood are the first ones
    withstood = stands.all(2).long().cumprod(1).sum(1)
    prediction[leading] = leader[leading]
    radius[leading] = torch.where(withstood == groups, UNBOUNDED, withstood)[leading]
    return Certificate(prediction, radius, margin=margin)
