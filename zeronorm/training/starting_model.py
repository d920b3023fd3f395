"""The model that a training starts from: a new one that fits the data, or a trained one."""

from __future__ import annotations

from typing import Any

import torch

from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.models.checkpoint import load
from zeronorm.models.classifier import Classifier, build
from zeronorm.training.plan import TrainingPlan


def starting_model(plan: TrainingPlan, source: Dataset, channels: int, normalized: bool) -> Classifier:
    """Build a model with so many input channels for the data, or load the one that the plan starts from.

    **Raises:** `ArgumentError` for arguments that the architecture does not take, or a start that does not fit.
    """
    height, width = source.x.shape[2:]
    shapes: dict[str, Any] = {
        "in_channels": channels,
        "image_size": height if height == width else [height, width],
        "classes": len(source.class_names),
    }
    if plan.initial is not None:
        model = load(plan.initial)
        if (found := {name: model.arguments[name] for name in shapes}) != shapes:
            raise ArgumentError(
                f"initial: expected a model with {shapes} for {plan.data}, got one with {found}"
            )
        return model.float()
    mean, std = moments(source) if normalized else (None, None)
    return build(plan.model, **shapes, mean=mean, std=std, seed=plan.seed, **plan.model_arguments)


def moments(source: Dataset) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel."""
    # rounded, so that the order of summation does not matter
    std, mean = (
        [round(value, 4) for value in moment.tolist()]
        for moment in torch.std_mean(source.x, dim=(0, 2, 3), correction=0)
    )
    return mean, [value or 1.0 for value in std]  # of a channel that never varies
