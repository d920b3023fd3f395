"""Encoded images to one tensor."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from zeronorm.data.dataset import one_line
from zeronorm.errors import ArgumentError

Source = bytes | Path | None
T = TypeVar("T")

# No other of Pillow's formats is tried: some start programs (PostScript) or reach further than a file.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)
_GREY = frozenset(("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"))


class _Header(NamedTuple):
    width: int
    height: int
    grey: bool


def decode(
    sources: Sequence[Source], where: Sequence[str], limit: int | None = None
) -> Float32[Tensor, "n channel height width"]:
    """The first `limit` of `sources` as images in [0, 1], `where` naming each in an error.

    All must have one size.  They have one channel if all `sources` are greyscale (those beyond `limit` too,
    so that it does not change the first ones), else three.  Transparency is dropped, 16-bit greyscale
    keeps its precision.
    """
    chosen = range(len(sources))[:limit]
    # headers first: sizes that differ are found before minutes of decoding
    headers = [_read(sources[i], where[i], _header) for i in chosen]
    sizes = [(header.width, header.height) for header in headers]
    ((width, height), _), *others = Counter(sizes).most_common()
    if others:
        odd = next(i for i in chosen if sizes[i] != (width, height))
        raise ArgumentError(
            f"data: expected images of one size, most are {width}x{height}, "
            f"got {sizes[odd][0]}x{sizes[odd][1]} in {where[odd]}"
        )
    rest = range(len(headers), len(sources))
    # the first coloured image settles it, so the rest of a coloured folder is not opened
    grey = all(header.grey for header in headers) and all(
        _read(sources[i], where[i], _header).grey for i in rest
    )

    x = torch.empty(len(chosen), 1 if grey else 3, height, width)
    pixels = x.numpy()

    def fill(i: int) -> None:
        pixels[i] = _read(sources[i], where[i], _grey if grey else _colour)

    # Pillow lets other threads run while it decodes, which pays for photographs but not for thumbnails
    if width * height < 10_000:
        for i in chosen:
            fill(i)
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(fill, chosen):  # in order, so that the first bad image is the one reported
                pass
    return x


def _read(source: Source, where: str, read: Callable[[Image.Image], T]) -> T:
    try:
        if source is None:
            raise ValueError("no bytes")
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS
        ) as image:
            return read(image)
    except UnidentifiedImageError:
        raise ArgumentError(f"data: expected a {' or '.join(_FORMATS)} image in {where}, got none") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever the damaged bytes led its parsers to
        raise ArgumentError(f"data: expected an intact image in {where}, got: {one_line(error)}") from None


def _header(image: Image.Image) -> _Header:
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose scale is not known")
    return _Header(*image.size, grey=image.mode in _GREY)


def _grey(image: Image.Image) -> Float32[np.ndarray, "1 height width"]:
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("pixels of more than 16 bits, whose scale is not known")
        return levels[None].astype(np.float32) / np.float32(65535)
    return np.asarray(image.convert("L"))[None].astype(np.float32) / np.float32(255)


def _colour(image: Image.Image) -> Float32[np.ndarray, "channel height width"]:
    if image.mode in _GREY:
        return _grey(image)  # one channel, broadcast to three
    if image.mode != "RGB":
        # by way of RGBA, because a palette may itself be transparent
        image = image.convert("RGBA") if image.mode in ("P", "PA", "RGBA") else image.convert("RGB")
    return np.asarray(image)[..., :3].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
