"""Other libraries' interfaces: our attacks in theirs, theirs in our runner, their models, their trackers.

    from zeronorm.integrations import from_foolbox
    zn.evaluate(model, data, zn.L0(10), attack=from_foolbox(foolbox.attacks.L0FMNAttack, steps=200))

Each library is imported when its adapter is first used; none is needed by the rest of zeronorm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeronorm.integrations.art import ArtAttack as ArtAttack
    from zeronorm.integrations.art import from_art as from_art
    from zeronorm.integrations.autoattack import AutoAttack as AutoAttack
    from zeronorm.integrations.foolbox import from_foolbox as from_foolbox
    from zeronorm.integrations.foolbox import to_foolbox as to_foolbox
    from zeronorm.integrations.hub import HubClassifier as HubClassifier
    from zeronorm.integrations.mlflow import log_to_mlflow as log_to_mlflow
    from zeronorm.integrations.onnx import from_onnx as from_onnx
    from zeronorm.integrations.onnx import load_onnx as load_onnx
    from zeronorm.integrations.onnx_to_torch import to_torch as to_torch
    from zeronorm.integrations.robustbench import benchmark as benchmark
    from zeronorm.integrations.robustbench import load_model as load_model
    from zeronorm.integrations.timm import from_timm as from_timm
    from zeronorm.integrations.torch_classes import from_torch_class as from_torch_class
    from zeronorm.integrations.transformers import from_transformers as from_transformers

_HOMES = {
    "ArtAttack": "art",
    "AutoAttack": "autoattack",
    "HubClassifier": "hub",
    "benchmark": "robustbench",
    "from_art": "art",
    "from_foolbox": "foolbox",
    "from_onnx": "onnx",
    "from_timm": "timm",
    "from_torch_class": "torch_classes",
    "from_transformers": "transformers",
    "load_model": "robustbench",
    "load_onnx": "onnx",
    "log_to_mlflow": "mlflow",
    "to_foolbox": "foolbox",
    "to_torch": "onnx_to_torch",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"zeronorm.integrations.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'zeronorm.integrations' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
