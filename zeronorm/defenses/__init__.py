"""Defences: how to change a classifier so that it resists.

smoothed = zn.defenses.RandomizedAblation(base_classifier, retained=45)
"""

from zeronorm.defenses.randomized_ablation import RandomizedAblation as RandomizedAblation
from zeronorm.defenses.randomized_ablation import ablate as ablate
from zeronorm.defenses.randomized_ablation import random_subsets as random_subsets

__all__ = ["RandomizedAblation", "ablate", "random_subsets"]
