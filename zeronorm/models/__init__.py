"""Models: architectures by name, checkpoints, and classifiers that can only be called.

model = zn.models.build("small_cnn", in_channels=1, image_size=28, classes=10)
model = zn.models.load("digits")
model = zn.models.from_sklearn(RandomForestClassifier().fit(x, y))
"""

from __future__ import annotations

from zeronorm.models.black_box import BlackBox as BlackBox
from zeronorm.models.catalogue import available as available
from zeronorm.models.checkpoint import describe as describe
from zeronorm.models.checkpoint import digest as digest
from zeronorm.models.checkpoint import load as load
from zeronorm.models.checkpoint import save as save
from zeronorm.models.classifier import Classifier as Classifier
from zeronorm.models.classifier import build as build
from zeronorm.models.model_file import from_file as from_file
from zeronorm.models.nearest_neighbour import NearestNeighbour as NearestNeighbour
from zeronorm.models.normalize import Normalize as Normalize
from zeronorm.models.scikit_learn import from_sklearn as from_sklearn
from zeronorm.models.tree_ensemble import TreeClassifier as TreeClassifier
from zeronorm.models.tree_ensemble import TreeEnsemble as TreeEnsemble
from zeronorm.models.tree_ensemble import from_catboost as from_catboost
from zeronorm.models.tree_ensemble import from_lightgbm as from_lightgbm
from zeronorm.models.tree_ensemble import from_xgboost as from_xgboost

__all__ = [
    "BlackBox",
    "Classifier",
    "NearestNeighbour",
    "Normalize",
    "TreeClassifier",
    "TreeEnsemble",
    "available",
    "build",
    "describe",
    "digest",
    "from_catboost",
    "from_file",
    "from_lightgbm",
    "from_sklearn",
    "from_xgboost",
    "load",
    "save",
]
