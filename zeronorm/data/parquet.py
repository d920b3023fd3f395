"""Image classification tables in Parquet, in the columns of the Hugging Face Hub."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64

from zeronorm.data import images
from zeronorm.data.dataset import Stream
from zeronorm.data.preparation import Preparation
from zeronorm.errors import ArgumentError, one_line
from zeronorm.files import parse_json

_IMAGE = ("image", "img")
_LABEL = ("label", "fine_label", "labels")  # fine before coarse
_MOST_CLASSES = 1_000_000  # a column of larger numbers holds something else
_SHARD = re.compile(r"(\w+?)(-(\d+-of-(\d+))?.*)?\.parquet")


def stream(
    name: str,
    split: str,
    files: Iterable[Path],
    limit: int | None = None,
    class_names: tuple[str, ...] | None = None,
    preparation: Preparation = images.AS_IT_IS,
) -> Stream:
    """The first `limit` rows of `files` as a data set; later files are not asked for unless needed.

    Class names are those in the first file's Hugging Face features, else `class_names`, else "0", "1", ...
    up to the largest label of all files.
    """
    shards: list[_Shard] = []
    labels: list[Int64[np.ndarray, "n"]] = []
    rows = 0
    known: tuple[str, ...] | None = None
    for path in files:
        with _readable(path), pq.ParquetFile(path, pre_buffer=False) as table:
            image, label = _columns(table.schema_arrow, path)
            if not labels:
                known = _class_names(table.schema_arrow, label) or class_names
            labels.append(_labels(table.read([label])[label], label, rows))
            shards.append(_Shard.of(path, image, rows, table.metadata))
            rows += len(labels[-1])
            if shards[-1].starts[-1] != rows:
                raise OSError("its row groups do not add up to its rows")
        if known and limit is not None and rows >= limit:
            break
    if rows == 0:
        raise ArgumentError(f"data: expected at least one example in {name} ({split}), got an empty table")
    y = np.concatenate(labels)
    top = len(known) if known else _MOST_CLASSES
    if (y >= top).any():
        row = int(np.argmax(y >= top))
        raise ArgumentError(f"data: expected class indices below {top}, got {y[row]} in row {row}")
    known = known or tuple(map(str, range(int(y.max()) + 1)))
    n = len(y[:limit])
    return Stream(
        x=images.Images(_Cells(shards), "row {}".format, n, preparation=preparation),
        y=torch.from_numpy(y[:n].copy()),
        ids=torch.arange(n),
        name=name,
        split=split,
        class_names=known,
    )


@dataclass(frozen=True)
class _Shard:
    """A file, and where its images are: `starts` are the rows, of all files, at which its row groups begin."""

    path: Path
    column: str
    starts: list[int]

    @classmethod
    def of(cls, path: Path, column: str, first: int, metadata: pq.FileMetaData) -> _Shard:
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        return cls(path, column, list(accumulate(groups, initial=first)))


class _Cells:
    """Reads encoded images, forwards a few at a time: what it holds does not grow with the files."""

    def __init__(self, shards: list[_Shard]) -> None:
        self._shards = shards
        self._shard: _Shard | None = None
        self._table: pq.ParquetFile | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._first, self._held = 0, list[bytes | None]()

    def __call__(self, places: Sequence[int]) -> list[bytes | None]:
        found = {row: self._cell(row) for row in sorted(set(places))}
        return [found[row] for row in places]

    def _cell(self, row: int) -> bytes | None:
        shard = self._shards[bisect_right(self._shards, row, key=lambda shard: shard.starts[0]) - 1]
        group = bisect_right(shard.starts, row) - 1
        with _readable(shard.path):
            # back, or past the end of what is being read: begin at the row group
            if shard is not self._shard or not self._first <= row or self._end < shard.starts[group]:
                self._open(shard, group)
            while row >= self._end:
                self._first = self._end
                batch = next(self._batches, None)
                if batch is None:
                    raise OSError(f"row {row} is missing")
                self._held = _encoded(batch.column(0))
        return self._held[row - self._first]

    @property
    def _end(self) -> int:
        return self._first + len(self._held)

    def _open(self, shard: _Shard, group: int) -> None:
        if self._table is not None:
            self._table.close()
        # buffered: a row group is read piece by piece, however large the writer made it
        self._table = pq.ParquetFile(shard.path, pre_buffer=False, buffer_size=1 << 20)
        self._shard, self._first, self._held = shard, shard.starts[group], []
        self._batches = self._table.iter_batches(
            64, row_groups=range(group, len(shard.starts) - 1), columns=[shard.column], use_threads=False
        )


def local(path: Path, split: str) -> list[Path]:
    """The file `path`, or the files of `split` in the folder `path` or one folder below."""
    with _readable(path):
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise ArgumentError(
                f"data: expected a Parquet file or a folder of them at {path}, got nothing there"
            )
        # one folder below is where the Hub's repositories keep them
        files = [
            file.relative_to(path).as_posix() for p in ("*.parquet", "*/*.parquet") for file in path.glob(p)
        ]
    return [path / file for file in shards(files, split, str(path))]


def shards(files: Iterable[str], split: str, where: str) -> list[str]:
    """Those of `files` that hold `split`, in order: `test.parquet` or `FOLDER/test-00000-of-00002.parquet`."""
    splits: dict[str, list[str]] = {}
    expected: dict[str, set[int]] = {}
    for file in sorted(files):
        if match := _SHARD.fullmatch(PurePosixPath(file).name):
            splits.setdefault(match[1], []).append(file)
            # test.parquet is whole by itself; of test-a.parquet nobody knows
            if match[4] or not match[2]:
                expected.setdefault(match[1], set()).add(int(match[4] or 1))
    if not splits:
        raise ArgumentError(f"data: expected files such as {split}.parquet in {where}, got no Parquet file")
    if split not in splits:
        raise ArgumentError(f"split: expected one of {', '.join(splits)} (in {where}), got {split!r}")
    found = splits[split]
    if len({PurePosixPath(file).parent for file in found}) > 1:
        raise ArgumentError(f"data: expected one set of {split} files in {where}, got {', '.join(found[:4])}")
    if not expected.get(split, set()) <= {len(found)}:
        total = max(expected[split])
        raise ArgumentError(
            f"data: expected {total} {split} file{'s' * (total > 1)} in {where}, got {', '.join(found[:4])}"
        )
    return found


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise ArgumentError(
            f"data: expected a readable Parquet file at {path}, got: {one_line(error)}"
        ) from None


def _columns(schema: pa.Schema, path: Path) -> tuple[str, str]:
    # once: of two columns with one name nobody knows which is meant
    image = next((name for name in _IMAGE if schema.names.count(name) == 1), None)
    label = next((name for name in _LABEL if schema.names.count(name) == 1), None)
    if image is None or label is None:
        raise ArgumentError(
            f"data: expected columns {' or '.join(_IMAGE)}, and {' or '.join(_LABEL)}, in {path}, "
            f"got {', '.join(schema.names) or 'none'}"
        )
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ArgumentError(f"data: expected encoded images, {{bytes, path}}, in column {image}, got {kind}")
    if not pa.types.is_integer(schema.field(label).type):
        raise ArgumentError(
            f"data: expected class indices, integers, in column {label}, got {schema.field(label).type}"
        )
    return image, label


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The names kept by the Hugging Face `datasets` library beside the schema, if any."""
    try:
        feature = parse_json(schema.metadata[b"huggingface"])["info"]["features"][label]
        return tuple(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None


def _labels(column: pa.ChunkedArray, name: str, start: int) -> Int64[np.ndarray, "n"]:
    bad = np.flatnonzero(pc.fill_null(pc.less(column, 0), True).to_numpy())
    if len(bad):
        value = column[int(bad[0])].as_py()
        raise ArgumentError(
            f"data: expected class indices of at least 0 in column {name}, "
            f"got {'null' if value is None else value} in row {start + bad[0]}"
        )
    return column.cast(pa.int64()).to_numpy()


def _encoded(cells: pa.Array) -> list[bytes | None]:
    found: list[bytes | None] = (
        pc.struct_field(cells, "bytes") if pa.types.is_struct(cells.type) else cells
    ).to_pylist()
    return found
