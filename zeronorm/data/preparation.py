"""Images of many sizes to one: resized, then cropped, as the user asks and never otherwise."""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image

from zeronorm.checks import integer
from zeronorm.errors import ArgumentError

_LARGEST = 4096  # pixels a side: room for any classifier, none for a slip of the keyboard
_MOST_PIXELS = 1 << 26  # of a long thin image, resized
_OPTION = re.compile(r"(.*):(\w+)=([^:/\\]*)", re.DOTALL)


@dataclass(frozen=True)
class Preparation:
    """What is done to every image before it is a tensor.

    Attributes:
        resize: length of the shorter side, the other in proportion (rounded down); bilinear over all pixels that
            a new one covers, so that shrinking does not alias.
        crop: side of the square cut out of the middle.

    `Preparation(256, 224)` is how ImageNet classifiers are usually evaluated.
    """

    resize: int | None = None
    crop: int | None = None

    @property
    def makes_one_size(self) -> bool:
        """Whether images of any size come out equal."""
        return self.crop is not None and self.resize is not None

    def size(self, width: int, height: int) -> tuple[int, int]:
        """What (width, height) becomes; `ValueError` for an image smaller than the crop."""
        width, height = self._resized(width, height)
        if self.crop is None:
            return width, height
        if min(width, height) < self.crop:
            raise ValueError(
                f"{width}x{height} pixels, too few for crop={self.crop}; resize={self.crop} first"
            )
        return self.crop, self.crop

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image, resized and cropped."""
        crop = self.size(*image.size)
        if (size := self._resized(*image.size)) != image.size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        if crop == size:
            return image
        left, top = (round((whole - part) / 2) for whole, part in zip(size, crop, strict=True))
        return image.crop((left, top, left + crop[0], top + crop[1]))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.resize is None:
            return width, height
        short = min(width, height)
        width, height = self.resize * width // short, self.resize * height // short
        if width * height > _MOST_PIXELS:
            raise ValueError(f"{width}x{height} pixels with resize={self.resize}, too many")
        return width, height


def split_off(name: str) -> tuple[str, Preparation]:
    """What `folder:PATH:resize=256:crop=224` names, and how its images are prepared."""
    rest, given = name, dict[str, int]()
    while match := _OPTION.fullmatch(rest):
        rest, option, value = match.groups()
        if option not in ("resize", "crop") or option in given:
            raise ArgumentError(f"data: expected :resize=PIXELS and :crop=PIXELS after a name, got {name!r}")
        given[option] = integer(option, int(value) if re.fullmatch(r"\d{1,9}", value) else value, 1, _LARGEST)
    preparation = Preparation(**given)
    if preparation.makes_one_size and given["crop"] > given["resize"]:
        raise ArgumentError(f"crop: expected at most resize={given['resize']}, got {given['crop']}")
    return rest, preparation
