"""Defences: how to change a classifier so that it resists.

robust = zn.defenses.truncate(model, k=10)
sparsified = zn.defenses.SparsifyingFrontEnd("coif1", keep_fraction=0.035).wrap(model)
smoothed = zn.defenses.RandomizedAblation(base_classifier, retained=45)
masks = zn.defenses.prune(model, sparsity=0.9)
"""

from zeronorm.defenses.discrete_smoothing import DiscreteSmoothing as DiscreteSmoothing
from zeronorm.defenses.pruning import activation_sparsity as activation_sparsity
from zeronorm.defenses.pruning import prune as prune
from zeronorm.defenses.pruning import prune_further as prune_further
from zeronorm.defenses.pruning import sparsity as sparsity
from zeronorm.defenses.randomized_ablation import RandomizedAblation as RandomizedAblation
from zeronorm.defenses.randomized_ablation import ablate as ablate
from zeronorm.defenses.randomized_ablation import random_subsets as random_subsets
from zeronorm.defenses.smoothed import smoothed as smoothed
from zeronorm.defenses.smoothed_classifier import SmoothedClassifier as SmoothedClassifier
from zeronorm.defenses.truncate import truncate as truncate
from zeronorm.layers.sparsifying_front_end import SparsifyingFrontEnd as SparsifyingFrontEnd
from zeronorm.layers.truncation import TruncatedConv2d as TruncatedConv2d
from zeronorm.layers.truncation import TruncatedInput as TruncatedInput
from zeronorm.layers.truncation import TruncatedLinear as TruncatedLinear
from zeronorm.layers.truncation import truncated_inner_product as truncated_inner_product
from zeronorm.layers.wavelet_basis import WaveletBasis as WaveletBasis

__all__ = [
    "DiscreteSmoothing",
    "RandomizedAblation",
    "SmoothedClassifier",
    "SparsifyingFrontEnd",
    "TruncatedConv2d",
    "TruncatedInput",
    "TruncatedLinear",
    "WaveletBasis",
    "ablate",
    "activation_sparsity",
    "prune",
    "prune_further",
    "random_subsets",
    "smoothed",
    "sparsity",
    "truncate",
    "truncated_inner_product",
]
