"""Images in one folder per class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from zeronorm.data import images
from zeronorm.data.dataset import Stream
from zeronorm.data.preparation import Preparation
from zeronorm.errors import ArgumentError, one_line


def stream(
    name: str, root: Path, split: str, limit: int | None = None, preparation: Preparation = images.AS_IT_IS
) -> Stream:
    """The first `limit` images of `root/split/CLASS/`, or of `root/CLASS/` where `root` has no splits.

    The order is that of the ids, hashes of the paths: a shuffle that more images do not disturb, so that
    the first few are a mix of classes.
    """
    try:
        base, classes = _layout(root, split)
        paths = [
            ((base / folder / name).relative_to(root).as_posix(), label)
            for label, folder in enumerate(classes)
            # a class may be absent from this split and present in another
            if (base / folder).is_dir()
            for name in _images(base / folder)
        ]
    except OSError as error:
        raise ArgumentError(f"data: expected a readable folder at {root}, got: {one_line(error)}") from None
    if not paths:
        raise ArgumentError(f"data: expected images in {base}/CLASS/, got none")
    found = sorted((_identifier(path), path, label) for path, label in paths)
    ids, names, labels = zip(*found, strict=True)
    return Stream(
        x=images.Images(
            lambda places: [root / names[i] for i in places],
            names.__getitem__,
            len(names[:limit]),
            len(names),
            preparation,
        ),
        y=torch.tensor(labels[:limit]),
        ids=torch.tensor(ids[:limit]),
        name=name,
        split=split,
        class_names=tuple(classes),
        names=names[:limit],
    )


def _layout(root: Path, split: str) -> tuple[Path, list[str]]:
    """The folder that holds the class folders, and the classes."""
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing there"
        raise ArgumentError(f"data: expected a folder of images by class at {root}, got {what}")
    # a class folder holds images, a split folder holds class folders
    splits = {folder: inside for folder in _folders(root) if (inside := _folders(root / folder))}
    if not splits:
        return root, _folders(root)
    if mixed := next((folder for folder in splits if any(_images(root / folder))), None):
        raise ArgumentError(
            f"data: expected images, or the folders of classes, in {root / mixed}, got both ({splits[mixed][0]} is a "
            "folder)"
        )
    if split not in splits:
        raise ArgumentError(f"split: expected one of {', '.join(splits)} (in {root}), got {split!r}")
    # of all splits, so that a class means the same index in each
    return root / split, sorted({folder for inside in splits.values() for folder in inside})


def _folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> Iterator[str]:
    """Names of the image files in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix not in images.SUFFIXES or entry.name.startswith("."):
                continue
            if entry.is_file() or not os.path.exists(entry.path):  # a link to nothing is complained of
                yield entry.name


def _identifier(path: str) -> int:
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1  # 63 bits, so that it is an int64 of at least 0
