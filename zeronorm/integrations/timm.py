"""Image classifiers of timm by name, normalised as their configuration says.

model = from_timm("resnet18.a1_in1k")                 # zeronorm evaluate --model timm:resnet18.a1_in1k
model = from_timm("local-dir:my-model")               # a folder as timm saves it
"""

from __future__ import annotations

from typing import Any

from zeronorm.errors import ArgumentError
from zeronorm.integrations.extras import require
from zeronorm.models import Classifier, Normalize


def from_timm(name: str, *, pretrained: bool = True, **options: Any) -> Classifier:
    """A classifier of timm in evaluation mode: images in [0, 1] of its configured size to logits.

    `name`, `pretrained` and `options` are those of `timm.create_model`; mean, standard deviation and size come
    from the model's configuration (`timm.data.resolve_data_config`).
    """
    timm = require("timm", "vision")
    try:
        network = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # timm, its cache and the Hub raise many kinds
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ArgumentError(f"model: timm cannot make {name!r}: {said}") from None
    if not network.num_classes:
        raise ArgumentError(f"model: expected a classifier, got {name!r} with no classes")
    config = timm.data.resolve_data_config(model=network)
    channels, *size = config["input_size"]
    arguments = {
        "in_channels": channels,
        "image_size": size,
        "classes": network.num_classes,
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }
    normalize = Normalize(arguments["mean"], arguments["std"])
    return Classifier(f"timm:{name}", arguments, normalize, network).eval()
