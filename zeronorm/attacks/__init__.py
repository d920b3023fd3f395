"""Attacks: how to break a classifier that one can only call, and differentiate.

Each is a pure function `attack(model, x, y, threat, *, seed=0, ids=None, **options) -> x_adv`.
"""

from zeronorm.attacks.catalogue import catalogue as catalogue
from zeronorm.attacks.sparse_autoattack import Stage as Stage
from zeronorm.attacks.sparse_autoattack import sparse_autoattack as sparse_autoattack
from zeronorm.attacks.sparse_pgd import sparse_pgd as sparse_pgd
from zeronorm.attacks.sparse_rs import sparse_rs as sparse_rs

__all__ = ["Stage", "catalogue", "sparse_autoattack", "sparse_pgd", "sparse_rs"]
