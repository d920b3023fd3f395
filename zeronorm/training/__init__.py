"""Training: a plan in, a checkpoint folder out.

    zn.training.train(zn.training.TrainingPlan(data="mnist", model="small_cnn", out="runs/mnist"))

The loop is imported when first used: the command line reads the plan's defaults and needs no torch for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zeronorm.training.plan import TrainingPlan as TrainingPlan

if TYPE_CHECKING:
    from zeronorm.training.loop import Progress as Progress
    from zeronorm.training.loop import TrainingResult as TrainingResult
    from zeronorm.training.loop import train as train

__all__ = ["Progress", "TrainingPlan", "TrainingResult", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from zeronorm.training import loop

        return getattr(loop, name)
    raise AttributeError(f"module 'zeronorm.training' has no attribute {name!r}")
