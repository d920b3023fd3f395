"""Adversarials made against one model, tried on another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from zeronorm.errors import ArgumentError
from zeronorm.metrics.accuracy import Distances, check_smallest


class Transferred(NamedTuple):
    """`fooled` of the `tried` adversarials fool the other model, which still gets `right` of `n` examples right."""

    fooled: int
    tried: int
    right: int
    n: int


def transferred(made: Distances, fooled: Distances, k: int) -> Transferred:
    """Count which adversarials of at most k changes, found on a source model, fool a target model too.

    As Table 4 of Zhong, Huang & Liu (2024), with the share of success beside the share of right answers.

    Args:
        made: per example, the fewest changes of an adversarial of the source; infinity where there is none.
        fooled: per example, the fewest changes of one that fools the target too, infinity where none does; 0
            where the target's clean prediction is wrong already.  Such examples are not tried.
        k: the budget.
    """
    source, target = check_smallest(made), check_smallest(fooled)
    if len(source) != len(target):
        raise ArgumentError(f"fooled: expected {len(source)} distances, one per example, got {len(target)}")
    if (source == 0).any() or ((target > 0) & (target < source)).any():
        raise ArgumentError("fooled: expected no success with fewer changes than an adversarial was made of")
    tried = (source <= k) & (target > 0)
    return Transferred(
        fooled=int(np.sum(tried & (target <= k))),
        tried=int(np.sum(tried)),
        right=int(np.sum(target > k)),
        n=len(source),
    )
