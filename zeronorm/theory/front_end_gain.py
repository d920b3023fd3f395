"""What a sparsifying front end gains against an ℓ∞ adversary: Gopalakrishnan, Marzi, Cekic, Madhow & Pedarsani,
"Robust adversarial learning via sparsifying front ends" (2020), sections III to V, in numbers.

A linear score wᵀx; the front end keeps the K largest of the coefficients c = Ψᵀx, Ψ orthonormal.  While these
stay the same K, a change e counts as its projection P_K(e, x) only.

k, n    kept basis functions, entries of an input
b       examples
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy.stats import norm
from torch import Tensor

from zeronorm import checks
from zeronorm.errors import ArgumentError
from zeronorm.seeding import Streams

# -- when the kept coefficients stay the same --------------------------------------------------------------


class Certainty(NamedTuple):
    """Whether each of three sufficient conditions holds, for every example.

    `published` is the paper's (Propositions 1 and 3: λ > ε γ, λ the least kept magnitude, γ = 2 max ‖ψ_k‖₁).  It
    is sufficient for inputs that are exactly K-sparse only: its proof leaves out what is dropped.  `gap` is what
    that proof needs for others, |c_(K)| - |c_(K+1)| > ε γ.  `sharp` has each function's own ‖ψ_k‖₁; it is the
    weakest of those that bound coefficients one by one, and follows from `gap`.
    """

    published: Bool[Tensor, "b"]
    gap: Bool[Tensor, "b"]
    sharp: Bool[Tensor, "b"]


def support_is_certain(
    c: Float[Tensor, "b n"], lengths: Float[Tensor, "n"], k: int, epsilon: float
) -> Certainty:
    """Whether the k largest coefficients of c stay the largest under every change of size ε: three sufficient tests.

    `lengths` are the ‖ψ_k‖₁ in the order of the coefficients.
    """
    checks.integer("k", k, 1, c.shape[1])
    checks.real("epsilon", epsilon, 0.0)
    if lengths.shape != c.shape[1:]:
        raise ArgumentError(
            f"lengths: expected {c.shape[1]}, one per coefficient, got {tuple(lengths.shape)}"
        )
    size, order = c.abs().sort(dim=1, descending=True, stable=True)
    needed = epsilon * 2 * float(lengths.max())
    least = size[:, k - 1]
    if k == c.shape[1]:
        always = torch.ones_like(least, dtype=torch.bool)
        return Certainty(least > needed, always, always)
    reach = epsilon * lengths[order]
    kept, dropped = size[:, :k] - reach[:, :k], size[:, k:] + reach[:, k:]
    return Certainty(least > needed, least - size[:, k] > needed, kept.amin(1) > dropped.amax(1))


# -- how far an attack moves a linear score ----------------------------------------------------------------


class Distortion(NamedTuple):
    """The change of wᵀx by the best attack of size ε.

    `undefended`: Δ₀ = ε ‖w‖₁, without a front end.  `semi_white`: Δ_SW = ε |sgn(w)ᵀ P_K(w, x)|, by an adversary
    who knows w alone.  `white`: Δ_W = ε ‖P_K(w, x)‖₁, who knows the front end too.  `bound`: Lemma 1, at least
    Δ_W, and equal to it where the kept functions do not overlap.
    """

    undefended: Float[Tensor, "b"]
    semi_white: Float[Tensor, "b"]
    white: Float[Tensor, "b"]
    bound: Float[Tensor, "b"]


def distortion(w: Float[Tensor, "b n"], kept: Float[Tensor, "k n"], epsilon: float) -> Distortion:
    """The distortions of several scores w behind a front end that keeps these basis functions."""
    checks.real("epsilon", epsilon, 0.0)
    c = w @ kept.T
    projected = c @ kept
    return Distortion(
        epsilon * w.abs().sum(1),
        epsilon * (w.sign() * projected).sum(1).abs(),
        epsilon * projected.abs().sum(1),
        epsilon * (c.abs() * kept.abs().sum(1)).sum(1),
    )


# -- on average over random scores -------------------------------------------------------------------------


class Moments(NamedTuple):
    """Mean and variance of a random number."""

    mean: float
    variance: float


def semi_white_moments(kept: Float[Tensor, "k n"], mu: float, sigma: float) -> Moments:
    """Mean and variance of Z = sgn(w)ᵀ P_K(w, x) for the paper's random scores; ε |Z| is Δ_SW (Lemma 4).

    The entries of w are independent with mean and median 0, E|w| = μ and E w² = σ².  E Z = K μ, and with the
    terms that the paper's bound K (σ² + μ²) leaves out, var Z = K (σ² + μ²) - 2 μ² Σ_m (Σ_k ψ_k[m]²)².
    """
    k = len(kept)
    energy = float(kept.square().sum(0).square().sum())
    return Moments(k * mu, k * (sigma**2 + mu**2) - 2 * mu**2 * energy)


def semi_white_chance(k: int, delta: float, mu: float, sigma: float) -> float:
    """Theorem 1: a lower bound on the probability that |Z / K - μ| <= δ (Chebyshev; equation 6)."""
    checks.integer("k", k, 1)
    checks.real("delta", delta, 0.0, open_low=True)
    return max(0.0, 1 - (sigma**2 + mu**2) / (k * delta**2))


def white_tail(kept: Float[Tensor, "k n"], delta: float, epsilon: float, sigma: float) -> float:
    """Theorem 2: an upper bound on the probability that Δ_W > δ, for normal scores of deviation σ.

    The union over k of |ψ_kᵀ w| > δ / (ε K ‖ψ_k‖₁); for other scores it holds in the limit of large n.
    """
    checks.real("delta", delta, 0.0, open_low=True)
    checks.real("epsilon", epsilon, 0.0, open_low=True)
    reach = delta / (epsilon * sigma * len(kept) * kept.double().abs().sum(1))
    return min(1.0, float(2 * norm.sf(reach.numpy()).sum()))


def neuron_keeps(bias: float, length: float, delta: float, sigma: float) -> float:
    """Theorem 3: the probability that no change of size δ turns a ReLU with ‖w‖₁ = `length` on or off.

    For an input of Euclidean length 1 and normal weights of deviation σ its sum is normal about -b; it keeps its
    side where |wᵀx - b| > δ ‖w‖₁.  The theorem's assumption is δ < |b| / ‖w‖₁.
    """
    checks.real("delta", delta, 0.0)
    reach = delta * length
    return float(norm.sf((reach + bias) / sigma) + norm.sf((reach - bias) / sigma))


class Gain(NamedTuple):
    """Averages over random scores: Δ₀ / (ε n), Δ_SW / (ε K) and Δ_W / (ε K)."""

    undefended: float
    semi_white: float
    white: float


def average_gain(kept: Float[Tensor, "k n"], *, draws: int = 1000, seed: int = 0) -> Gain:
    """The three distortions for standard normal scores, per entry and per kept function.

    By Proposition 2 and Theorem 1 the first two tend to μ = √(2/π); the third grows like the ‖ψ_k‖₁.
    """
    k, n = kept.shape
    names = torch.arange(checks.integer("draws", draws, 1))
    w = Streams(seed, names, "front end gain").normal(0, n, torch.float64)
    found = distortion(w, kept.double(), 1.0)
    return Gain(
        float(found.undefended.mean()) / n, float(found.semi_white.mean()) / k, float(found.white.mean()) / k
    )


MU_NORMAL = math.sqrt(2 / math.pi)  # E|w| of a standard normal number
