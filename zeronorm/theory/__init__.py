"""Formulas: what is known exactly about linear maps and distributions, no network needed."""

from zeronorm.theory import front_end_gain as front_end_gain
from zeronorm.theory import gaussian_mixture as gaussian_mixture
from zeronorm.theory import lipschitz as lipschitz
from zeronorm.theory.linear_robustness import UNBREAKABLE as UNBREAKABLE
from zeronorm.theory.linear_robustness import minimal_changes as minimal_changes
from zeronorm.theory.linear_robustness import minimal_epsilon as minimal_epsilon
from zeronorm.theory.linear_robustness import minimal_length as minimal_length

__all__ = [
    "UNBREAKABLE",
    "front_end_gain",
    "gaussian_mixture",
    "lipschitz",
    "minimal_changes",
    "minimal_epsilon",
    "minimal_length",
]
