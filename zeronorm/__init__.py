"""zeronorm: sparse adversarial robustness, counted in changed pixels.

    import zeronorm as zn
    evaluation = zn.evaluate(model, (x, y), zn.L0(k=10))

Names are imported when first used, so that `import zeronorm` costs nothing.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if "torch" not in sys.modules:
    # Before torch starts its threads: they wait asleep, not spinning.  An attack is many short operations, and
    # with spinning threads one other busy process on the machine makes it ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from zeronorm import attacks as attacks
    from zeronorm import certification as certification
    from zeronorm import data as data
    from zeronorm import defenses as defenses
    from zeronorm import distances as distances
    from zeronorm import integrations as integrations
    from zeronorm import layers as layers
    from zeronorm import losses as losses
    from zeronorm import metrics as metrics
    from zeronorm import models as models
    from zeronorm import projections as projections
    from zeronorm import records as records
    from zeronorm import report as report
    from zeronorm import theory as theory
    from zeronorm import training as training
    from zeronorm.errors import ArgumentError as ArgumentError
    from zeronorm.evaluation.certify import certify as certify
    from zeronorm.evaluation.certify import recertify as recertify
    from zeronorm.evaluation.certify import verify_certificates as verify_certificates
    from zeronorm.evaluation.compare import Comparison as Comparison
    from zeronorm.evaluation.compare import compare as compare
    from zeronorm.evaluation.compare import verify_comparison as verify_comparison
    from zeronorm.evaluation.matrix import Matrix as Matrix
    from zeronorm.evaluation.matrix import matrix as matrix
    from zeronorm.evaluation.matrix import verify_matrix as verify_matrix
    from zeronorm.evaluation.result import Certification as Certification
    from zeronorm.evaluation.result import Evaluation as Evaluation
    from zeronorm.evaluation.runner import evaluate as evaluate
    from zeronorm.evaluation.verify import verify as verify
    from zeronorm.threat_model import L0 as L0
    from zeronorm.threat_model import L2 as L2
    from zeronorm.threat_model import Linf as Linf

_ROOMS = (
    "attacks",
    "certification",
    "data",
    "defenses",
    "distances",
    "integrations",
    "layers",
    "losses",
    "metrics",
    "models",
    "projections",
    "records",
    "report",
    "theory",
    "training",
)
_HOMES = {
    "ArgumentError": "zeronorm.errors",
    "Certification": "zeronorm.evaluation.result",
    "Comparison": "zeronorm.evaluation.compare",
    "Evaluation": "zeronorm.evaluation.result",
    "L0": "zeronorm.threat_model",
    "L2": "zeronorm.threat_model",
    "Linf": "zeronorm.threat_model",
    "Matrix": "zeronorm.evaluation.matrix",
    "certify": "zeronorm.evaluation.certify",
    "compare": "zeronorm.evaluation.compare",
    "evaluate": "zeronorm.evaluation.runner",
    "matrix": "zeronorm.evaluation.matrix",
    "recertify": "zeronorm.evaluation.certify",
    "verify": "zeronorm.evaluation.verify",
    "verify_certificates": "zeronorm.evaluation.certify",
    "verify_comparison": "zeronorm.evaluation.compare",
    "verify_matrix": "zeronorm.evaluation.matrix",
}

__all__ = ["__version__", *_ROOMS, *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"zeronorm.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zeronorm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
