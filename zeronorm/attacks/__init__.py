"""Attacks: how to break a classifier that one can only call, and differentiate.

Each is a pure function `attack(model, x, y, threat, *, seed=0, ids=None, **options) -> x_adv`.
"""

from zeronorm.attacks.carlini_wagner_l0 import carlini_wagner_l0 as carlini_wagner_l0
from zeronorm.attacks.carlini_wagner_l2 import carlini_wagner_l2 as carlini_wagner_l2
from zeronorm.attacks.catalogue import catalogue as catalogue
from zeronorm.attacks.corner_search import corner_search as corner_search
from zeronorm.attacks.custom import custom as custom
from zeronorm.attacks.deepfool import deepfool as deepfool
from zeronorm.attacks.fmn_l0 import fmn_l0 as fmn_l0
from zeronorm.attacks.guided_exchange import guided_exchange as guided_exchange
from zeronorm.attacks.jsma import jsma as jsma
from zeronorm.attacks.locally_linear import locally_linear as locally_linear
from zeronorm.attacks.pgd0 import pgd0 as pgd0
from zeronorm.attacks.pointwise import pointwise as pointwise
from zeronorm.attacks.saif import saif as saif
from zeronorm.attacks.sigma_zero import sigma_zero as sigma_zero
from zeronorm.attacks.signed_gradient import fgsm as fgsm
from zeronorm.attacks.signed_gradient import iterative_fgsm as iterative_fgsm
from zeronorm.attacks.signed_gradient import momentum_fgsm as momentum_fgsm
from zeronorm.attacks.signed_gradient import pgd as pgd
from zeronorm.attacks.signed_gradient import randomized_fgsm as randomized_fgsm
from zeronorm.attacks.sparse_autoattack import Stage as Stage
from zeronorm.attacks.sparse_autoattack import sparse_autoattack as sparse_autoattack
from zeronorm.attacks.sparse_fool import sparse_fool as sparse_fool
from zeronorm.attacks.sparse_pgd import sparse_pgd as sparse_pgd
from zeronorm.attacks.sparse_rs import sparse_rs as sparse_rs
from zeronorm.attacks.vfga import vfga as vfga

__all__ = [
    "Stage",
    "carlini_wagner_l0",
    "carlini_wagner_l2",
    "catalogue",
    "corner_search",
    "custom",
    "deepfool",
    "fgsm",
    "fmn_l0",
    "guided_exchange",
    "iterative_fgsm",
    "jsma",
    "locally_linear",
    "momentum_fgsm",
    "pgd",
    "pgd0",
    "pointwise",
    "randomized_fgsm",
    "saif",
    "sigma_zero",
    "sparse_autoattack",
    "sparse_fool",
    "sparse_pgd",
    "sparse_rs",
    "vfga",
]
