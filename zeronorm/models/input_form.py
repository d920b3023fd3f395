"""How a network of somebody else wants its images: other numbers, another order of channels or of axes.

Images here are (batch, channel, height, width), red first, in [0, 1].  What comes before the network makes of them
what it was trained on: `range=255:channels=bgr:mean=103.9,116.8,123.7:std=1,1,1:layout=nhwc`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from zeronorm.errors import ArgumentError
from zeronorm.models.normalize import Normalize

KEYS = ("mean", "std", "range", "channels", "layout")


class ChannelsReversed(nn.Module):
    """Red, green, blue to blue, green, red."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x.flip(1)


class ChannelsLast(nn.Module):
    """(batch, channel, height, width) to (batch, height, width, channel)."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w c"]:
        return x.permute(0, 2, 3, 1)


def input_form(said: Mapping[str, str]) -> list[nn.Module]:
    """The layers that come before the network, by what was said of it; an empty list for nothing.

    - `range`: the largest value of an image as the network knows it, such as 255
    - `channels`: `rgb`, or `bgr` for the colours in the other order
    - `mean`, `std`: numbers for each channel, in that range and order, to take off and to divide by
    - `layout`: `nchw`, or `nhwc` for channels last

    **Raises:** `ArgumentError` for another key, and for what is none of these.
    """
    for key in said:
        if key not in KEYS:
            raise ArgumentError(f"model: expected keys {', '.join(KEYS)} behind its name, got {key!r}")
    layers: list[nn.Module] = []
    if _choice(said, "channels", ("rgb", "bgr")) == "bgr":
        layers.append(ChannelsReversed())
    largest = _numbers(said, "range") if "range" in said else [1.0]
    if len(largest) != 1 or not largest[0] > 0:
        raise ArgumentError(f"range: expected one number above 0, such as 255, got {said['range']!r}")
    mean, std = (_numbers(said, key) if key in said else None for key in ("mean", "std"))
    if mean is not None or std is not None:
        layers.append(normalisation(mean, std, largest[0]))
    elif largest != [1.0]:
        layers.append(Normalize([0.0], [1 / largest[0]]))
    if _choice(said, "layout", ("nchw", "nhwc")) == "nhwc":
        layers.append(ChannelsLast())
    return layers


def split_form(name: str) -> tuple[str, dict[str, str]]:
    """A model's name, and what stands behind it in the form `:key=value`."""
    parts = name.split(":")
    said: dict[str, str] = {}
    while len(parts) > 1 and "=" in parts[-1]:
        key, _, value = parts.pop().partition("=")
        if key in said:
            raise ArgumentError(f"model: expected {key} once behind its name, got it twice in {name!r}")
        said[key] = value
    return ":".join(parts), said


def normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, largest: float = 1.0
) -> Normalize:
    """`(largest · x - mean) / std` by channel, of numbers that were given together."""
    if mean is None or std is None or len(mean) != len(std) or not mean:
        raise ArgumentError(
            f"mean, std: expected as many numbers of each, one per channel, got {mean} and {std}"
        )
    if not all(math.isfinite(m) for m in mean) or not all(math.isfinite(s) and s > 0 for s in std):
        raise ArgumentError(
            f"mean, std: expected finite numbers, std above 0, got {list(mean)} and {list(std)}"
        )
    return Normalize([m / largest for m in mean], [s / largest for s in std])


class Formed:
    """A model that can only be called, behind the layers of its input form."""

    def __init__(self, layers: Sequence[nn.Module], model: object) -> None:
        self.before, self.model = nn.Sequential(*layers), model

    def __getattr__(self, name: str) -> object:
        """What the model says of itself: `differentiable`, `digest`, ..."""
        if name in ("model", "before") or name.startswith("__"):  # it is being made, or unpickled
            raise AttributeError(name)
        return getattr(self.model, name)

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(self.before.to(x.device)(x))  # type: ignore[operator]


def formed(model: object, layers: Sequence[nn.Module]) -> object:
    """The model behind these layers; itself if there are none."""
    if not layers:
        return model
    if isinstance(model, nn.Module):
        return nn.Sequential(*layers, model).train(model.training)
    return Formed(layers, model)


def _choice(said: Mapping[str, str], key: str, allowed: Sequence[str]) -> str:
    value = said.get(key, allowed[0]).lower()
    if value not in allowed:
        raise ArgumentError(f"{key}: expected {' or '.join(allowed)} of the model, got {said[key]!r}")
    return value


def _numbers(said: Mapping[str, str], key: str) -> list[float]:
    try:
        return [float(number) for number in said[key].split(",")]
    except ValueError:
        raise ArgumentError(f"{key}: expected numbers with commas between them, got {said[key]!r}") from None
