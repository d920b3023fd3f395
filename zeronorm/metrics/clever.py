"""CLEVER: an estimate, not a bound, of how far an example is from being misclassified.

Weng, Zhang, Chen, Yi, Su, Gao, Hsieh & Daniel, "Evaluating the robustness of neural networks: an extreme value theory
approach", ICLR 2018, Algorithms 1 and 2.  The largest gradient norm of g_c - g_j in a ball around the example is
estimated from the maxima of batches of samples: they follow a reverse Weibull law, whose location is its end.

Known failures, of which a score does not tell:

- It is no lower bound.  Gradients between the samples may be longer than all of those seen, and are wherever they are
  masked: a network that quantises or saturates scores high and is broken nearby (Goodfellow, "Gradient masking
  causes CLEVER to overestimate adversarial perturbation size", 2018).
- The fit may fail.  Where the maxima hardly vary, as of a network that is linear in the ball, there is no tail to fit:
  then, and where a Kolmogorov-Smirnov test rejects the fit, the largest maximum stands for the end.
- A dead network has no gradient, and any score: it is refused.
- Of a network with ReLUs the gradient jumps, and is a few values only in a small ball: the law assumes more.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from zeronorm.errors import ArgumentError

Floats = npt.NDArray[np.float64]

_SHAPES = (0.1, 1.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # starts of the fit
_REJECTED = 0.001  # p-value below which a fit is not believed
_PENALTY = 0.01  # on the shape, without which the likelihood may have no maximum


class End(NamedTuple):
    """The right end of the distribution of maxima, and whether it was fitted or is the largest sample."""

    value: float
    fitted: bool
    p_value: float  # of the Kolmogorov-Smirnov test; NaN where nothing was fitted


def clever_score(gaps: Floats, maxima: Floats, radius: float) -> tuple[float, list[End]]:
    """Estimated distance to the nearest error: the least gap / end over the classes, at most `radius`.

    **Arguments:**

    - `gaps`: g_c(x) - g_j(x) for each other class j.
    - `maxima`: (class, batch): the largest dual norm of the gradient of g_c - g_j seen in each batch of samples
      from the ball of that radius, the ℓ1 norm for ℓ∞ scores and ℓ2 for ℓ2.
    - `radius`: of the ball sampled.

    **Returns:** the score, and the end for each class.  0 where a gap is not positive.

    **Raises:** `ArgumentError` for maxima that are not finite and where all gradients are 0.
    """
    gaps, maxima = np.asarray(gaps, dtype=np.float64), np.asarray(maxima, dtype=np.float64)
    if gaps.ndim != 1 or maxima.ndim != 2 or len(gaps) != len(maxima) or not maxima.size:
        raise ArgumentError(
            f"maxima: expected a row for each of {len(gaps)} classes, got shape {maxima.shape}"
        )
    if not np.isfinite(maxima).all() or (maxima < 0).any() or not np.isfinite(gaps).all():
        raise ArgumentError(
            "maxima: expected finite gradient norms and gaps, got NaN, infinity or less than 0"
        )
    if not maxima.any():
        raise ArgumentError(
            "maxima: expected a gradient that is not 0, got none: a dead network has no score"
        )
    ends = [weibull_end(row) for row in maxima]
    reach = [gap / end.value if end.value > 0 else math.inf for gap, end in zip(gaps, ends, strict=True)]
    return float(np.clip(min(reach), 0.0, radius)), ends


def weibull_end(maxima: Floats) -> End:
    """The right end of a reverse Weibull distribution, fitted to maxima by maximum likelihood.

    The best of several starts, by the p-value of a Kolmogorov-Smirnov test, as in the authors' code; the largest
    maximum where no fit is believed, and where one's end lies below it (outside the law's support).
    """
    from scipy.stats import kstest, weibull_max

    maxima = np.asarray(maxima, dtype=np.float64)
    most = float(maxima.max())
    scale = float(maxima.std())
    if len(maxima) < 5 or scale <= 1e-9 * max(most, 1e-300):
        return End(most, False, math.nan)
    standard = (maxima - most) / scale  # at most 0, so that the starts mean the same for every network
    best, p_best = most, 0.0
    for start in _SHAPES:
        shape, location, width = _fit(standard, start)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            p_value = float(kstest(standard, weibull_max(shape, loc=location, scale=width).cdf).pvalue)
        if location >= 0 and p_value > p_best:
            best, p_best = most + location * scale, p_value
    believed = p_best >= _REJECTED
    return End(best if believed else most, believed, p_best)


def _fit(standard: Floats, start: float) -> tuple[float, float, float]:
    """Shape, location and scale that maximise the likelihood minus a penalty on the shape."""
    from scipy.optimize import minimize
    from scipy.stats import weibull_max

    def loss(parameters: Floats) -> float:
        shape, location, width = math.exp(parameters[0]), math.exp(parameters[1]), math.exp(parameters[2])
        likelihood = weibull_max.logpdf(standard, shape, loc=location, scale=width)
        return float(-likelihood.mean() + _PENALTY * shape) if np.isfinite(likelihood).all() else 1e10

    first = np.log([start, 0.1, max(float(-standard.mean()), 1e-3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflow on the way to the maximum
        found = minimize(
            loss, first, method="Nelder-Mead", options={"maxiter": 400, "xatol": 1e-4, "fatol": 1e-6}
        )
    shape, location, width = (float(min(math.exp(min(v, 50.0)), 1e12)) for v in found.x)
    return shape, location, width
