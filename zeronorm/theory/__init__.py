"""Formulas: what is known exactly about linear maps and distributions, no network needed."""

from zeronorm.theory import gaussian_mixture as gaussian_mixture
from zeronorm.theory import lipschitz as lipschitz
from zeronorm.theory.linear_robustness import UNBREAKABLE as UNBREAKABLE
from zeronorm.theory.linear_robustness import minimal_changes as minimal_changes
from zeronorm.theory.linear_robustness import minimal_length as minimal_length

__all__ = ["UNBREAKABLE", "gaussian_mixture", "lipschitz", "minimal_changes", "minimal_length"]
