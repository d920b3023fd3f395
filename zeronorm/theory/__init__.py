"""Formulas: what is known exactly about linear maps and distributions, no network needed."""

from zeronorm.theory.linear_robustness import UNBREAKABLE as UNBREAKABLE
from zeronorm.theory.linear_robustness import minimal_changes as minimal_changes

__all__ = ["UNBREAKABLE", "minimal_changes"]
