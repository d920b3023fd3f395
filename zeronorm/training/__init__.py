"""Training: a plan in, a checkpoint folder out.

    zn.training.train(zn.training.TrainingPlan(data="mnist", model="small_cnn", out="runs/mnist"))

The loop is imported when first used: the command line reads the plan and needs no torch for that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zeronorm.training.plan import TrainingPlan as TrainingPlan

if TYPE_CHECKING:
    from zeronorm.training.loop import train as train
    from zeronorm.training.result import TrainingProgress as TrainingProgress
    from zeronorm.training.result import TrainingResult as TrainingResult

__all__ = ["TrainingPlan", "TrainingProgress", "TrainingResult", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        file = "loop" if name == "train" else "result"
        return getattr(import_module(f"zeronorm.training.{file}"), name)
    raise AttributeError(f"module 'zeronorm.training' has no attribute {name!r}")
