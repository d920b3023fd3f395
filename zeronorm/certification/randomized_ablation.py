"""From the votes of ablated images to certified radii.

Levine & Feizi, "Robustness certificates for sparse adversarial attacks by randomized ablation" (AAAI 2020): a
classifier votes on images of which all but k of d pixels, drawn uniformly, are hidden.  Changing ρ pixels touches
a share Δ(ρ) = 1 - C(d-ρ, k) / C(d, k) of the votes and leaves the others as they were.

Jia, Wang, Cao, Liu & Gong, "Almost tight l0-norm certified robustness of top-k predictions against adversarial
perturbations" (ICLR 2022), prove more from the same votes.

Pure functions from integers to integers: no model and no torch.  Whether a share exceeds another is decided in
floats, with allowances that can only make a radius smaller: Δ is rounded up, bounds as `confidence` says.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from zeronorm import checks
from zeronorm.certification.certificate import ABSTAIN, UNBOUNDED
from zeronorm.certification.confidence import (
    ROUNDING,
    Floats,
    Ints,
    check_counts,
    check_probability,
    lower_bound,
    upper_bound,
)
from zeronorm.errors import ArgumentError

BOUNDS = ("half", "all_votes")
"""What a class's share is compared with: 1/2 (corollary 1), or the bounds of all other shares (Jia et al.)."""

_BITS = 200  # of the fixed point in which Δ is computed
_FINE = 2**30  # more subsets than this, and rounding shares to whole subsets changes nothing


def share_touched(pixels: int, retained: int) -> Floats:
    """Δ(0), ..., Δ(pixels): the share of all subsets that hold one of ρ given pixels, rounded up.

    Levine & Feizi 2020, theorem 1.  `pixels` counts pixels, whatever the number of channels.
    """
    pixels = checks.integer("pixels", pixels, 1)
    return _share_touched(pixels, checks.integer("retained", retained, 1, pixels))


@lru_cache(maxsize=16)
def _share_touched(pixels: int, retained: int) -> Floats:
    untouched, shares = 1 << _BITS, [0.0]
    for j in range(pixels):
        # each division rounds down: too little is counted as untouched, by less than 2^-180
        untouched = untouched * max(pixels - j - retained, 0) // (pixels - j)
        share = ((1 << _BITS) - untouched) / (1 << _BITS)
        shares.append(min(math.nextafter(share, 2.0), 1.0))
    table = np.array(shares)
    table.setflags(write=False)
    return table


def ablation_radius(
    counts: Any, n: int, pixels: int, retained: int, failure_probability: float = 0.05
) -> Any:
    """The certified radius of a class that got `counts` of n votes: corollary 1, p - Δ(ρ) > 1/2.

    p is the one-sided Clopper-Pearson bound.  The class must have been chosen without looking at these votes.
    The authors' code reports 0 also where nothing is certified; here that is `ABSTAIN`, and 0 says that the
    smoothed classifier's answer on the unchanged image is certain.

    **Arguments:**

    - `counts`: an integer or integers of any shape: votes for one class each, not a row of all classes.
    - `n`: votes in all.
    - `pixels`, `retained`: d and k.
    - `failure_probability`: the chance that the radius is too large, for each count.

    **Returns:** an int for an int, else int64 of the shape of `counts`: a radius in pixels, or `ABSTAIN`.

    **Raises:** `ArgumentError` for counts outside 0..n, retained > pixels, a probability outside (0, 1).
    """
    shares = share_touched(pixels, retained)
    radius = _largest(np.asarray(lower_bound(counts, n, failure_probability) - 0.5), shares)
    return int(radius) if np.ndim(counts) == 0 else radius


def ablation_radius_by_margin(
    counts: Any, pixels: int, retained: int, failure_probability: float = 0.05
) -> Ints:
    """The radius of the class with most votes: corollary 2, its lower bound - Δ above all others' upper bounds + Δ.

    All bounds hold together (Bonferroni: a share of `failure_probability` each), so that the class may be read off
    the same votes.  `ablation_radius_in_top` is never below it.

    **Arguments:**

    - `counts`: votes (b, classes), as many for each example.

    **Returns:** int64 (b,): a radius in pixels, or `ABSTAIN`.
    """
    votes = check_counts(counts)
    shares = share_touched(pixels, retained)
    if not len(votes):
        return np.zeros(0, np.int64)
    low, high = _bounds(votes, failure_probability)
    leader = votes.argmax(1)[:, None]
    rival = np.where(np.arange(votes.shape[1]) == leader, -np.inf, high).max(1)
    return _largest((np.take_along_axis(low, leader, 1)[:, 0] - rival) / 2, shares)


def ablation_radius_in_top(
    counts: Any,
    pixels: int,
    retained: int,
    label: Any = None,
    top: int = 1,
    failure_probability: float = 0.05,
) -> Ints:
    """Within how many changes `label` stays among the `top` classes of the smoothed classifier.

    Jia et al. 2022, theorem 1.  Were the label overtaken by `top` rivals, every t of them would share between them
    at most what they had and the share touched, each at least what the label kept:
    t (p - Δ) <= sum of their upper bounds + Δ for every t.  One t for which that fails, among the rivals with
    the largest bounds, certifies.  The upper bounds of rivals together are at most 1 - p, and true shares are whole
    multiples of 1 / C(d, k).  Bounds hold together (Bonferroni, SimuEM).

    **Arguments:**

    - `counts`: votes (b, classes), as many for each example.
    - `label`: (b,) classes; None: of each example the class with most votes.
    - `top`: 1 is the answer itself.  `UNBOUNDED` from as many as there are classes.

    **Returns:** int64 (b,): a radius in pixels, or `ABSTAIN`.
    """
    votes = check_counts(counts)
    b, classes = votes.shape
    shares = share_touched(pixels, retained)
    top = checks.integer("top", top, 1)
    check_probability(failure_probability)
    if top >= classes:
        return np.full(b, UNBOUNDED)
    if not b:
        return np.zeros(0, np.int64)
    own = votes.argmax(1) if label is None else np.asarray(label)
    if own.shape != (b,) or not np.issubdtype(own.dtype, np.integer):
        raise ArgumentError(f"label: expected {b} classes, one per example, got shape {own.shape}")
    if own.min() < 0 or own.max() >= classes:
        raise ArgumentError(
            f"label: expected classes between 0 and {classes - 1}, got {own.min()} to {own.max()}"
        )
    low, high = _bounds(votes, failure_probability)
    subsets = math.comb(pixels, retained)
    if subsets < _FINE:
        low, high = np.ceil(low * subsets - ROUNDING) / subsets, np.floor(high * subsets + ROUNDING) / subsets
    p = np.take_along_axis(low, own[:, None], 1)
    rivals = np.where(np.arange(classes) == own[:, None], -np.inf, high)
    rivals = np.sort(rivals, axis=1)[:, ::-1][:, :top][:, ::-1]  # the largest bounds, ascending
    together = np.minimum(np.cumsum(rivals, axis=1), 1 - p)
    t = np.arange(1, top + 1)
    return _largest(((t * p - together) / (t + 1)).max(1), shares)


def certify_votes(
    selection: Any,
    counts: Any,
    pixels: int,
    retained: int,
    failure_probability: float = 0.05,
    bound: str = "half",
    looks: int = 1,
) -> tuple[Ints, Ints]:
    """CERTIFY of Levine & Feizi 2020, of votes already cast: predictions and radii.

    The class that most `selection` votes are for is the candidate; `counts`, drawn independently, bound its share.

    **Arguments:**

    - `selection`, `counts`: votes (b, classes).
    - `bound`: "half" is corollary 1; "all_votes" is `ablation_radius_in_top`, with Bonferroni's shares of
      `failure_probability`.
    - `looks`: after how many numbers of votes, chosen beforehand, counting may have ended, for whatever reason.  The
      bounds at all of them hold together, each with its share of `failure_probability` (Bonferroni), so that examples
      may have different numbers of votes.

    **Returns:** predictions (b,) and radii (b,), `ABSTAIN` both where nothing is certified.
    """
    checks.choice("bound", bound, BOUNDS)
    each = check_probability(failure_probability) / checks.integer("looks", looks, 1)
    chosen, votes = check_counts(selection), check_counts(counts, alike=looks == 1)
    if chosen.shape != votes.shape:
        raise ArgumentError(f"selection: expected votes of shape {votes.shape}, got {chosen.shape}")
    candidate = chosen.argmax(1) if len(votes) else np.zeros(0, np.int64)
    own = np.take_along_axis(votes, candidate[:, None], 1)[:, 0]
    totals, radius = votes.sum(1), np.zeros(len(votes), np.int64)
    for n in np.unique(totals):
        of = totals == n
        if bound == "half":
            radius[of] = ablation_radius(own[of], int(n), pixels, retained, each)
        else:
            radius[of] = ablation_radius_in_top(votes[of], pixels, retained, candidate[of], 1, each)
    return np.where(radius == ABSTAIN, ABSTAIN, candidate), radius


def votes_at_looks(n: int, looks: int) -> list[int]:
    """After how many votes to look: n last, each time twice as many as before, in whole blocks of 32."""
    n, looks = checks.integer("n", n, 1), checks.integer("looks", looks, 1)
    return sorted({min(n, -(-n // (32 * 2**j)) * 32) if j else n for j in range(looks)})


def settled(
    selection: Any,
    counts: Any,
    n: int,
    pixels: int,
    retained: int,
    failure_probability: float = 0.05,
    bound: str = "half",
    looks: int = 1,
) -> npt.NDArray[np.bool_]:
    """Where more votes promise no larger radius: n votes of the same shares would not give one.

    A rule for when to stop; what `certify_votes` then says, with `looks`, holds whatever the rule.
    """
    votes = check_counts(counts, alike=False)
    told = (pixels, retained, failure_probability, bound, looks)
    _, now = certify_votes(selection, votes, *told)
    expected = votes * n // np.maximum(votes.sum(1, keepdims=True), 1)
    largest = votes.argmax(1)
    expected[np.arange(len(votes)), largest] += n - expected.sum(1)
    _, then = certify_votes(selection, expected, *told)
    return then <= now


def _bounds(votes: Ints, failure_probability: float) -> tuple[Floats, Floats]:
    """Bounds for all classes that hold together."""
    n, classes = int(votes[0].sum()), votes.shape[1]
    each = check_probability(failure_probability) / classes
    return lower_bound(votes, n, each), upper_bound(votes, n, each)


def _largest(room: Floats, shares: Floats) -> Ints:
    """The largest ρ with Δ(ρ) below `room`; `ABSTAIN` if not even 0."""
    # a few roundings lie between the bounds and the room
    radius = np.searchsorted(shares, room - 4 * np.finfo(np.float64).eps, side="left").astype(np.int64) - 1
    return np.where(radius >= 0, radius, ABSTAIN)
