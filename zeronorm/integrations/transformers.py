"""Image classifiers of transformers by id, normalised as their image processor would.

model = from_transformers("microsoft/resnet-18")      # zeronorm evaluate --model hf:microsoft/resnet-18
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zeronorm.errors import ArgumentError
from zeronorm.integrations.extras import require
from zeronorm.models import Classifier, Normalize


class Logits(nn.Module):
    """A model of transformers from pixel values to logits, without what else it returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).logits


def from_transformers(source: str, **options: Any) -> Classifier:
    """A classifier of transformers in evaluation mode: images in [0, 1] of its configured size to logits.

    `source` (a Hub id or a folder) and `options` are those of `AutoModelForImageClassification.from_pretrained`.
    Scale, mean, standard deviation and size come from the `preprocessor_config.json` beside the weights; resizing
    is the data's business.
    """
    transformers = require("transformers", "vision")
    processing = require("transformers.image_processing_base", "vision").ImageProcessingMixin
    try:
        network = transformers.AutoModelForImageClassification.from_pretrained(source, **options)
        prepares, _ = processing.get_image_processor_dict(source)
    except Exception as error:  # transformers and the Hub raise many kinds
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ArgumentError(f"model: transformers cannot load {source!r}: {said}") from None
    channels = getattr(network.config, "num_channels", 3)
    mean, std = normalisation(prepares, channels)
    arguments = {
        "in_channels": channels,
        "image_size": _size(prepares, network.config),
        "classes": network.config.num_labels,
        "mean": mean,
        "std": std,
    }
    return Classifier(f"hf:{source}", arguments, Normalize(mean, std), Logits(network)).eval()


def normalisation(prepares: Mapping[str, Any], channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, for images in [0, 1], of what an image processor does to those in 0 to 255.

    It computes (255 f x - o - μ) / σ with the rescaling factor f, the offset o of some (1 or 0), and per channel
    μ and σ: that is (x - (μ + o) / 255 f) / (σ / 255 f).
    """
    factor = 255 * prepares.get("rescale_factor", 1 / 255) if prepares.get("do_rescale", True) else 255.0
    offset = 1.0 if prepares.get("rescale_offset") else 0.0
    mean, std = [0.0] * channels, [1.0] * channels
    if prepares.get("do_normalize", "image_mean" in prepares):
        mean, std = prepares["image_mean"], prepares["image_std"]
        if len(mean) != channels:
            raise ArgumentError(f"model: expected image_mean of {channels} channels, got {mean}")
    return [(μ + offset) / factor for μ in mean], [σ / factor for σ in std]


def _size(prepares: Mapping[str, Any], config: Any) -> list[int]:
    size = prepares.get("crop_size") if prepares.get("do_center_crop") else None
    size = size or prepares.get("size") or getattr(config, "image_size", None)
    if isinstance(size, Mapping):
        side = size.get("shortest_edge")
        size = [size["height"], size["width"]] if "height" in size else side
    if size is None:
        raise ArgumentError(f"model: expected a size of images in its configuration, got {prepares!r:.200}")
    return [size, size] if isinstance(size, int) else [int(side) for side in size]
