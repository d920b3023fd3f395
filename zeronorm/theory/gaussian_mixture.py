"""Two Gaussian classes under an ℓ0 adversary: bounds on the optimal error, and the error of truncation.

The setting of Delgosha, Hassani & Pedarsani ("Robust classification under ℓ0 attack for the Gaussian mixture
model", 2022) and Beliaev et al. 2022, section IV: y = ±1 with equal chance, x = y μ + z, z ~ N(0, Σ), Σ
diagonal.  The adversary changes up to k coordinates to anything.  ν = Σ^{-1/2} μ; logarithms are natural (the
papers do not say).

Nothing here is tied to ‖ν‖₂ = 1, which the papers assume without loss of generality, except Theorem 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.stats import norm
from torch import Tensor

from zeronorm import checks
from zeronorm.errors import ArgumentError
from zeronorm.seeding import Streams

_CHUNK = 1 << 22  # numbers sampled at a time


@dataclass(frozen=True)
class Estimate:
    """A probability from independent samples, with its standard error."""

    value: float
    standard_error: float
    samples: int


def tail(x: float | int) -> float:
    """Φ̄(x): the chance that a standard normal number exceeds x."""
    return float(norm.sf(x))


def whitened_mean(mean: Float[Tensor, "d"], variance: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    """ν = Σ^{-1/2} μ, for Σ = diag(variance)."""
    _check_variance(variance)
    return mean / variance.sqrt()


def bayes_weights(mean: Float[Tensor, "d"], variance: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    """w* = Σ^{-1} μ, whose sign ⟨w*, x⟩ is the best guess where nobody attacks."""
    _check_variance(variance)
    return mean / variance


def standard_error(mean: Float[Tensor, "d"], variance: Float[Tensor, "d"]) -> float:
    """The least error without an adversary: Φ̄(‖ν‖₂)."""
    return tail(float(whitened_mean(mean.double(), variance.double()).norm()))


def truncated_error(
    w: Float[Tensor, "d"],
    mean: Float[Tensor, "d"],
    variance: Float[Tensor, "d"],
    k: int,
    budget: int,
    *,
    samples: int = 100_000,
    seed: int = 0,
) -> Estimate:
    """The error of sign ⟨w, x⟩_k under the worst change of `budget` coordinates, estimated from samples.

    The worst case is known for every sample (`zeronorm.certification.truncation_window`): the sum of the
    products in places k + budget + 1 ... d - k + budget of their descending order; at most 0 is an error.
    Exact if all w_i != 0, otherwise an upper bound.  A budget above k always succeeds where anything is kept.
    The papers consider budget = k.
    """
    d = len(mean)
    _check_variance(variance)
    if w.shape != mean.shape or variance.shape != mean.shape:
        raise ArgumentError(
            f"w, mean, variance: expected one shape, got {tuple(w.shape)}, {tuple(mean.shape)}, "
            f"{tuple(variance.shape)}"
        )
    k, budget = checks.integer("k", k, 0, d // 2), checks.integer("budget", budget, 0)
    samples = checks.integer("samples", samples, 1)
    if budget > k:
        return Estimate(1.0, 0.0, samples)
    w, mean, deviation = w.double(), mean.double(), variance.double().sqrt()
    errors = 0
    rows = max(1, _CHUNK // d)
    for first in range(0, samples, rows):
        ids = torch.arange(first, min(first + rows, samples))
        # by symmetry the examples of y = +1 decide
        z = Streams(seed, ids, "gaussian mixture").normal(0, d, torch.float64)
        s = ((mean + deviation * z) * w).sort(dim=1, descending=True).values
        errors += int((s[:, k + budget : d - k + budget].sum(1) <= 0).sum())
    share = errors / samples
    return Estimate(share, math.sqrt(share * (1 - share) / samples), samples)


def lower_bound(nu: Float[Tensor, "d"], chosen: Bool[Tensor, "d"]) -> tuple[float, float]:
    """Theorem 1 of Beliaev et al. for a set A of coordinates: a budget, and a lower bound on every classifier's error.

    With ‖ν_A‖₁ log d changes the adversary brings every classifier to an error of Φ̄(‖ν_{A^c}‖₂) - 1 / log d at
    least; the budget is a real number, which whole changes must reach.  The bound is returned as it stands: it
    can be negative or below the error without an adversary (`best_lower_bound` takes the better).
    """
    if len(nu) < 2:
        raise ArgumentError(f"nu: expected at least 2 coordinates, got {len(nu)}")
    nu, log_d = nu.double(), math.log(len(nu))
    return float(nu[chosen].abs().sum()) * log_d, tail(float(nu[~chosen].norm())) - 1 / log_d


def best_lower_bound(nu: Float[Tensor, "d"], budget: float | int) -> float:
    """A lower bound on the error of every classifier against `budget` changes.

    Theorem 1 with the set A of the largest |ν_i| that fit into the budget (a knapsack in which value per cost
    is |ν_i| itself, so that taking the largest first is best up to the last item), or the error without an
    adversary where that is more.
    """
    checks.real("budget", budget, 0.0)
    order = nu.abs().double().argsort(descending=True, stable=True)
    cost = nu.abs().double()[order].cumsum(0) * math.log(max(2, len(nu)))
    chosen = torch.zeros(len(nu), dtype=torch.bool)
    chosen[order[: int((cost <= budget).sum())]] = True
    return max(tail(float(nu.double().norm())), lower_bound(nu, chosen)[1])


def theorem2_range(d: float | int) -> tuple[float, float] | None:
    """The range of errors ε that Theorem 2 (truncation is optimal in the limit) covers at dimension d.

    Φ̄(1) + 1 / log d + √(2 / log d) < ε < 1/2, for ‖ν‖₂ = 1; None where that is empty: for every d below
    6.8 billion, so that it cannot be seen in an experiment.
    """
    checks.real("d", d, 1.0, open_low=True)
    low = tail(1.0) + 1 / math.log(d) + math.sqrt(2 / math.log(d))
    return (low, 0.5) if low < 0.5 else None


def budget_exponent(k: float | int, d: int) -> float:
    """α = log_d k, the scale of budgets in the theorems: k = d^α."""
    return math.log(checks.real("k", k, 0.0, open_low=True)) / math.log(checks.integer("d", d, 2))


def _check_variance(variance: Tensor) -> None:
    if not bool((variance > 0).all()) or not bool(torch.isfinite(variance).all()):
        raise ArgumentError("variance: expected finite numbers above 0")
