"""A classifier whose first layer truncates (Beliaev et al. 2022)."""

from __future__ import annotations

from torch import nn

from zeronorm.errors import ArgumentError
from zeronorm.layers.truncation import truncate_first_layer
from zeronorm.models.classifier import Classifier


def truncate(model: nn.Module, k: int) -> nn.Module:
    """A copy of the model whose first linear or convolutional layer truncates, with the same weights.

    First is what `model.modules()` names first, as in a sequence of layers.  A model of `zeronorm.models.build`
    stays one that can be saved, made as by its argument `truncation`: of `vgg19` this truncates the input.

    **Raises:** `ArgumentError` for a model without such a layer, and a k beyond half of its inputs (of a
    convolution: of a patch).
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model: expected a torch module, got {type(model).__name__}")
    return model.rebuilt(truncation=k) if isinstance(model, Classifier) else truncate_first_layer(model, k)
