"""The certificate that randomized ablation is measured against.

Lee, Yuan, Chang & Jaakkola, "Tight certificates of adversarial robustness for randomly smoothed classifiers"
(NeurIPS 2019), in the notation of Levine & Feizi (AAAI 2020): every coordinate keeps its value with probability κ
and takes one of the other |S| - 1 values, each with probability β = (1 - κ) / (|S| - 1), otherwise.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.certification.certificate import ABSTAIN, UNBOUNDED
from zeronorm.certification.confidence import lower_bound
from zeronorm.errors import ArgumentError
from zeronorm.seeding import Streams, below


def discrete_noise(
    x: Float[Tensor, "b ..."],
    levels: int,
    keep: float,
    *,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
    draw: int = 0,
) -> Float[Tensor, "b ..."]:
    """Inputs whose every feature keeps its value with probability `keep`, and is uniform over the others if not.

    **Arguments:**

    - `x`: values 0, 1/(levels - 1), ..., 1 (others are rounded to these).
    - `levels`: |S|, such as 256 or 2.
    - `seed`, `ids`, `draw`: name the random numbers: example by example, draw by draw.
    """
    checks.examples(x)
    levels, kappa = check_noise(levels, keep)
    value = quantised(x, levels)
    streams = Streams(seed, checks.identifiers(ids, x), "discrete_noise")
    kept = streams.uniform(2 * draw, value.shape[1], torch.float64)
    moved = noised(value, kept, streams.bits(2 * draw + 1, value.shape[1]), levels, float(kappa))
    return (moved.to(x.dtype) / (levels - 1)).reshape(x.shape)


def quantised(x: Float[Tensor, "b ..."], levels: int) -> Int[Tensor, "b d"]:
    """Values in whole steps, 0 to levels - 1."""
    return (x * (levels - 1)).round().long().clamp_(0, levels - 1).flatten(1)


def noised(
    value: Int[Tensor, "r d"], kept: Float[Tensor, "r d"], words: Int[Tensor, "r d"], levels: int, keep: float
) -> Int[Tensor, "r d"]:
    """Each value where `kept` (uniform in [0, 1)) is below `keep`, else one of the others, as `words` say."""
    other = (value + 1 + below(words, levels - 1)) % levels
    return torch.where(kept < keep, value, other)


def vote_threshold(changed: int, keep: float | Fraction, levels: int) -> Fraction:
    """The share of votes above which an answer withstands so many changed coordinates, exactly.

    Over the changed coordinates, u agree with x and v with x'.  An adversary's worst classifier gives the answer
    on the outcomes likeliest under x as against x', down to the share; the threshold is where half of the votes
    under x' are left.  It does not depend on the number of coordinates.  Above 1 no share suffices.

    `keep` given as a float counts as the decimal it prints as: 0.1 is a tenth.
    """
    changed = checks.integer("changed", changed, 0)
    levels, kappa = check_noise(levels, keep)
    return _threshold(changed, kappa, levels)


@lru_cache(maxsize=4096)
def _threshold(r: int, kappa: Fraction, levels: int) -> Fraction:
    beta = (1 - kappa) / (levels - 1)
    under = [[Fraction(0), Fraction(0)] for _ in range(2 * r + 1)]  # by u - v + r: mass under x, under x'
    for u in range(r + 1):
        for v in range(r + 1 - u):
            ways = math.comb(r, u) * math.comb(r - u, v)
            rest = (1 - kappa - beta) ** (r - u - v)
            under[u - v + r][0] += ways * kappa**u * beta**v * rest
            under[u - v + r][1] += ways * kappa**v * beta**u * rest
    if kappa > beta:
        under.reverse()  # likeliest under x first
    share, left = Fraction(0), Fraction(1, 2)
    for here, there in under:
        if there >= left:
            return share + (here * left / there if there else 0)
        share, left = share + here, left - there
    return Fraction(2)  # half of the votes under x' are never reached


def discrete_smoothing_radius(
    counts: Any,
    n: int,
    levels: int,
    keep: float,
    failure_probability: float = 0.05,
    most: int = 1000,
) -> Any:
    """The certified radius, in coordinates, of a class that got `counts` of n votes under `discrete_noise`.

    Certified while the Clopper-Pearson bound exceeds `vote_threshold`.

    **Arguments:**

    - `counts`, `n`, `failure_probability`: as for `ablation_radius`.
    - `most`: larger radii are given as this one.

    **Returns:** an int for an int, else int64 of the shape of `counts`: a radius, `ABSTAIN`, or `UNBOUNDED`
    (noise that keeps nothing of its input).
    """
    levels, kappa = check_noise(levels, keep)
    most = checks.integer("most", most, 0)
    bounds = lower_bound(counts, n, failure_probability)
    if kappa * levels == 1:  # kept as rarely as any other value: the input does not matter
        radius = np.where(bounds > 0.5, UNBOUNDED, ABSTAIN)
    else:
        highest = Fraction(float(np.max(bounds, initial=0.0)))
        thresholds: list[Fraction] = []
        while len(thresholds) <= most and (t := _threshold(len(thresholds), kappa, levels)) < highest:
            thresholds.append(t)
        passed = [np.searchsorted(_floats_above(thresholds), bounds, side="left")]
        radius = np.where(passed[0] > 0, passed[0] - 1, ABSTAIN).astype(np.int64)
    return int(radius) if np.ndim(counts) == 0 else radius


def _floats_above(thresholds: list[Fraction]) -> Any:
    """Floats not below the thresholds, so that what exceeds the float exceeds the threshold."""
    return np.array([f if Fraction(f := float(t)) >= t else math.nextafter(f, 2.0) for t in thresholds])


def information_left(
    pixels: int, levels: int, *, retained: int | None = None, keep: float | None = None
) -> float:
    """Bits that a hidden or noised image tells of the original one, over images uniform on levels^pixels.

    Levine & Feizi 2020, equations 20 and 21: log2|S| · k of an ablated image (give `retained`), and
    d (log2|S| + κ log2 κ + (1 - κ) log2((1 - κ) / (|S| - 1))) of a noised one (give `keep`).  At equal certified
    thresholds ablation leaves far more.
    """
    pixels = checks.integer("pixels", pixels, 1)
    if (retained is None) == (keep is None):
        raise ArgumentError(f"retained, keep: expected one of the two, got {retained!r} and {keep!r}")
    if retained is not None:
        levels = checks.integer("levels", levels, 2)
        return math.log2(levels) * checks.integer("retained", retained, 0, pixels)
    assert keep is not None
    levels, fraction = check_noise(levels, keep)
    kappa = float(fraction)
    bits = math.log2(levels)
    bits += kappa * math.log2(kappa) if kappa > 0 else 0.0
    bits += (1 - kappa) * math.log2((1 - kappa) / (levels - 1)) if kappa < 1 else 0.0
    return pixels * bits


def check_noise(levels: int, keep: float | Fraction) -> tuple[int, Fraction]:
    """`levels` and the chance to keep a value, exactly, if they can be used; else `ArgumentError`."""
    levels = checks.integer("levels", levels, 2)
    kappa = keep if isinstance(keep, Fraction) else Fraction(str(checks.real("keep", keep, 0.0, 1.0)))
    if not 0 <= kappa <= 1:
        raise ArgumentError(f"keep: expected a probability, got {keep!r}")
    return levels, kappa
