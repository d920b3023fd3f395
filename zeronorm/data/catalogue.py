"""The data sets that have a name, and the forms a name may take."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, overload

import torch

from zeronorm.checks import choice, integer
from zeronorm.data import folder, hub, images, parquet, table
from zeronorm.data.dataset import Dataset, Stream
from zeronorm.data.preparation import Preparation, split_off
from zeronorm.data.schema import Schema
from zeronorm.errors import ArgumentError

_SPLITS = ("train", "test")
_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_VALIDATED = ("train", "validation")  # the labels of its test split are not public
# name: repository on the Hub, splits, class names for tables that do not carry them
_NAMED = {
    "mnist": ("ylecun/mnist", _SPLITS, _DIGITS),
    "cifar10": ("uoft-cs/cifar10", _SPLITS, _CIFAR10),
    "cifar100": ("uoft-cs/cifar100", _SPLITS, tuple(map(str, range(100)))),
    "gtsrb": ("tanganke/gtsrb", _SPLITS, tuple(map(str, range(43)))),
    "imagenet": ("ILSVRC/imagenet-1k", _VALIDATED, tuple(map(str, range(1000)))),
    "imagenet100": ("clane9/imagenet-100", _VALIDATED, tuple(map(str, range(100)))),
}


def available() -> dict[str, str]:
    """What `load` accepts as a name, each with a line about it."""
    return {
        "digits": "handwritten digits, 1x8x8, 10 classes: 1437 train, 360 test; ships with scikit-learn",
        "mnist": "handwritten digits, 1x28x28, 10 classes: 60000 train, 10000 test",
        "cifar10": "photographs, 3x32x32, 10 classes: 50000 train, 10000 test",
        "cifar100": "photographs, 3x32x32, 100 classes: 50000 train, 10000 test",
        "gtsrb": "photographs of traffic signs, of many sizes, 43 classes",
        "imagenet": "photographs of many sizes, 1000 classes: 1281167 train, 50000 validation; behind a licence",
        "imagenet100": "100 classes of imagenet",
        "folder:PATH": "images in PATH/CLASS/ or PATH/SPLIT/CLASS/",
        "parquet:PATH": "a Parquet file, or a folder of SPLIT.parquet or SPLIT-*.parquet, with image and label columns",
        "table:PATH": "a CSV or Parquet file of numbers and categories in named columns, one of them the target",
        "hub:OWNER/NAME": "the Parquet files of a data set on the Hugging Face Hub",
    }


@overload
def load(
    name: str,
    split: str = ...,
    limit: int | None = ...,
    *,
    stream: Literal[False] = ...,
    target: str | None = ...,
    schema: Schema | None = ...,
    toward: str | None = ...,
) -> Dataset: ...
@overload
def load(
    name: str,
    split: str = ...,
    limit: int | None = ...,
    *,
    stream: bool,
    target: str | None = ...,
    schema: Schema | None = ...,
    toward: str | None = ...,
) -> Dataset | Stream: ...
def load(
    name: str,
    split: str = "test",
    limit: int | None = None,
    *,
    stream: bool = False,
    target: str | None = None,
    schema: Schema | None = None,
    toward: str | None = None,
) -> Dataset | Stream:
    """The examples of a data set, in a fixed order.

    Args:
        name: one of `available()`.  Those with a name of their own are read from `$ZERONORM_DATA/NAME/` where
            that variable is set, in the layout of "parquet:", and downloaded from the Hugging Face Hub where not.
            `:resize=N` after it makes the shorter side of every image N pixels long, `:crop=N` cuts a square of N
            pixels out of the middle: "imagenet:resize=256:crop=224".  Without them, images are taken as they are,
            and must be of one size.
        split: "train" or "test", or whatever splits a folder or repository has.  A single Parquet file, and a
            folder of images without split folders, is what it is under any split's name.
        limit: at most so many examples, the first ones; the others are not decoded.
        stream: leave images in their files until they are asked for (`Stream`).  Examples and ids are the same;
            digits and tables are in memory always.
        target: of "table:PATH", the column that holds the labels.
        schema: of "table:PATH", what the other columns may become; by default what `Schema.infer` guesses.
        toward: of "table:PATH" with two classes, the one that an adversary wants: only rows of the other.
    """
    if not isinstance(name, str):
        raise ArgumentError(f"data: expected the name of a data set, got {name!r}")
    limit = None if limit is None else integer("limit", limit, 1)
    if not isinstance(split, str) or not split:
        raise ArgumentError(f"split: expected the name of a split, got {split!r}")
    kind, _, place = name.partition(":")
    if kind == "table" and place:
        return table.from_frame(
            table.read(_path(place), split),
            target,
            schema,
            toward=toward,
            limit=limit,
            name=name,
            split=split,
        )
    if target is not None or schema is not None or toward is not None:
        raise ArgumentError(
            f"target, schema, toward: expected None for other data than table:PATH, got some for {name!r}"
        )
    source, preparation = split_off(name)
    if source == "digits":
        if preparation != images.AS_IT_IS:
            raise ArgumentError(f"data: expected digits as they are, 8x8, got {name!r}")
        return _digits(choice("split", split, _SPLITS), limit)
    found = _stream(name, source, split, limit, preparation)
    return found if stream else found.load()


def _stream(name: str, source: str, split: str, limit: int | None, preparation: Preparation) -> Stream:
    kind, _, place = source.partition(":")
    if kind == "folder" and place:
        return folder.stream(name, _path(place), split, limit, preparation)
    class_names = None
    files: Iterable[Path]
    if kind == "parquet" and place:
        files = parquet.local(_path(place), split)
    elif kind == "hub" and place:
        files = hub.files(place, split, "parquet:PATH reads a local copy")
    elif source in _NAMED:
        repository, splits, class_names = _NAMED[source]
        files = _named_files(source, repository, choice("split", split, splits))
    else:
        raise ArgumentError(f"data: expected one of {', '.join(available())}, got {name!r}")
    return parquet.stream(name, split, files, limit, class_names, preparation)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # Path.expanduser raises where there is no such user


def _digits(split: str, limit: int | None) -> Dataset:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    rows = slice(0, 1437) if split == "train" else slice(1437, None)
    x = torch.from_numpy(pixels[rows][:limit]).float().div(16).reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels[rows][:limit]).long()
    return Dataset(x, y, torch.arange(len(x)), "digits", split, _DIGITS)


def _named_files(name: str, repository: str, split: str) -> Iterable[Path]:
    root = os.environ.get("ZERONORM_DATA")
    if not root:
        instead = f"set ZERONORM_DATA to a folder that holds {name}/{split}.parquet to use a local copy"
        return hub.files(repository, split, instead)
    # no download behind the back of who named a folder
    home = _path(root) / name
    if not home.is_dir():
        raise ArgumentError(
            f"ZERONORM_DATA: expected a folder that holds {name}/{split}.parquet, got {root} without it; "
            f"unset it, or use hub:{repository}, to download"
        )
    return parquet.local(home, split)
