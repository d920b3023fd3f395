"""Encoded images to tensors."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from zeronorm.data.preparation import Preparation
from zeronorm.errors import ArgumentError, one_line

Source = bytes | Path | None
T = TypeVar("T")

# No other of Pillow's formats is tried: some start programs (PostScript) or reach further than a file.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)
_GREY = frozenset(("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"))


_TOGETHER = 64  # images read at once
_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
AS_IT_IS = Preparation()


class _Header(NamedTuple):
    size: tuple[int, int]  # width and height, once prepared
    grey: bool


class Images:
    """Encoded images, decoded when they are asked for: `images[:8]` or `images[[3, 1]]` is a tensor.

    They have one channel if all are greyscale, else three.  Transparency is dropped, 16-bit greyscale keeps its
    precision.  Nothing decoded is kept, so that n images take no more memory than those asked for together.

    Attributes:
        shape: (n, channel, height, width).
        dtype: of the tensors, float32; their values are in [0, 1].
    """

    dtype = torch.float32

    def __init__(
        self,
        read: Callable[[Sequence[int]], Sequence[Source]],
        where: Callable[[int], str],
        n: int,
        total: int | None = None,
        preparation: Preparation = AS_IT_IS,
    ) -> None:
        """The first `n` of `total` images, `where` naming each in an error.

        Those beyond `n` decide on the number of channels too, so that a limit does not change the first ones.

        **Raises:** `ArgumentError` for images of several sizes, found in their headers.
        """
        self._read, self._where, self._prepare = read, where, preparation
        (width, height), self._grey = self._inspected(n, n if total is None else total)
        self.shape = torch.Size((n, 1 if self._grey else 3, height, width))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """How much they would take decoded."""
        return self.shape.numel() * 4

    def __getitem__(self, at: slice | Sequence[int]) -> Float32[Tensor, "some channel height width"]:
        places = range(len(self))[at] if isinstance(at, slice) else at
        x = torch.empty(len(places), *self.shape[1:])
        pixels = x.numpy()

        def fill(j: int, source: Source) -> None:
            pixels[j] = _opened(source, self._where(places[j]), self._decoded)

        # Pillow lets other threads run while it decodes, which pays for photographs but not for thumbnails
        with ThreadPoolExecutor(_THREADS) if self.shape[1:].numel() > 10_000 else nullcontext() as pool:
            for start in range(0, len(places), _TOGETHER):
                some = places[start : start + _TOGETHER]
                work = range(start, start + len(some)), self._read(some)
                for _ in map(fill, *work) if pool is None else pool.map(fill, *work):
                    pass  # in order, so that the first bad image is the one reported
        return x

    def parts(self) -> Iterator[Float32[Tensor, "some channel height width"]]:
        """All of them, a few at a time."""
        return (self[start : start + _TOGETHER] for start in range(0, len(self), _TOGETHER))

    def _inspected(self, n: int, total: int) -> tuple[tuple[int, int], bool]:
        """Width and height of all, and whether all are greyscale, from their headers."""
        sizes: dict[tuple[int, int], list[int]] = {}  # how many there are, and the first
        grey = True
        for start in range(0, total, _TOGETHER):
            some = range(start, min(start + _TOGETHER, total))
            for i, source in zip(some, self._read(some), strict=True):
                # the first coloured image settles the channels: of the rest only sizes matter, if any
                if not grey and (i >= n or self._prepare.makes_one_size):
                    break
                header = _opened(source, self._where(i), partial(_header, self._prepare))
                grey = grey and header.grey
                if i < n:
                    sizes.setdefault(header.size, [0, i])[0] += 1
            else:
                continue
            break
        (width, height), _ = max(sizes.items(), key=lambda item: item[1][0])
        for (other_width, other_height), (_, first) in sizes.items():
            if (other_width, other_height) != (width, height):
                raise ArgumentError(
                    f"data: expected images of one size, most are {width}x{height}, got {other_width}x{other_height} "
                    f"in {self._where(first)}; :resize=256:crop=224 after the name makes them equal"
                )
        return (width, height), grey

    def _decoded(self, image: Image.Image) -> Float32[np.ndarray, "channel height width"]:
        return (_grey if self._grey else _colour)(image, self._prepare)


def _opened(source: Source, where: str, read: Callable[[Image.Image], T]) -> T:
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


def _header(prepare: Preparation, image: Image.Image) -> _Header:
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose scale is not known")
    return _Header(prepare.size(*image.size), grey=image.mode in _GREY)


def _grey(image: Image.Image, prepare: Preparation) -> Float32[np.ndarray, "1 height width"]:
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("pixels of more than 16 bits, whose scale is not known")
        return np.asarray(prepare(Image.fromarray(levels.astype(np.float32))))[None] / np.float32(65535)
    return np.asarray(prepare(image.convert("L")))[None].astype(np.float32) / np.float32(255)


def _colour(image: Image.Image, prepare: Preparation) -> Float32[np.ndarray, "channel height width"]:
    if image.mode in _GREY:
        return _grey(image, prepare)  # one channel, broadcast to three
    if image.mode in ("P", "PA", "RGBA"):
        image = image.convert("RGBA")  # first, because a palette may itself be transparent
    pixels = np.asarray(prepare(image.convert("RGB")))
    return pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
