"""Tables of named columns: CSV and Parquet files, pandas and pyarrow frames, as rows of numbers with their schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from torch import Tensor

from zeronorm.data.dataset import Dataset
from zeronorm.data.schema import Column, Schema, as_arrow
from zeronorm.errors import ArgumentError, one_line
from zeronorm.files import open_regular

_MOST_CLASSES = 1000


@dataclass(frozen=True, eq=False, repr=False)
class TableDataset(Dataset):
    """Labelled rows in memory, float64, with the meaning of their columns.

    Attributes:
        schema: what each column may become; categories in `x` are their places in it, missing values NaN.
        target: the name of the column that the labels come from.
        toward: the class that an adversary wants, whose own rows are left out; None: any other than a row's own.
    """

    schema: Schema = field(default_factory=lambda: Schema((Column("?", low=0, high=0),)))
    target: str = ""
    toward: str | None = None

    def frame(self) -> Any:
        """The rows as a pandas DataFrame, as a model that was trained on one expects them."""
        return self.schema.frame(self.x)


def from_frame(
    table: Any,
    target: str | None,
    schema: Schema | None = None,
    *,
    class_names: Sequence[str] | None = None,
    toward: str | None = None,
    limit: int | None = None,
    name: str = "frame",
    split: str = "test",
) -> TableDataset:
    """The rows of a pandas or pyarrow table, with the column `target` as labels.

    **Arguments:**

    - `target`: a column of texts (classes in their sorted order), booleans, or whole numbers, which are class indices.
    - `schema`: of the other columns; by default what `Schema.infer` guesses from all rows.
    - `class_names`: the classes in their order, of a table that may lack some.
    - `toward`: of two classes the one that an adversary wants, such as "granted": only rows of the other are kept.
    - `limit`: at most so many rows, the first ones.
    """
    arrow = as_arrow(table)
    if arrow.num_rows == 0:
        raise ArgumentError(f"data: expected at least one row in {name}, got none")
    if target is None or arrow.column_names.count(target) != 1:
        known = ", ".join(arrow.column_names[:8]) + (", ..." if len(arrow.column_names) > 8 else "")
        raise ArgumentError(f"target: expected the name of one column of {name} ({known}), got {target!r}")
    y, names = _labels(arrow[target], target, class_names)
    columns = arrow.drop_columns([target])
    if not columns.num_columns:
        raise ArgumentError(f"data: expected a column besides {target!r} in {name}, got none")
    if schema is None:
        schema = Schema.infer(columns)
    kept = torch.arange(len(y)) if toward is None else _others(y, names, toward)
    kept = kept[:limit]
    return TableDataset(
        x=schema.encode(columns.take(pa.array(kept.numpy())), name),
        y=y[kept],
        ids=kept,
        name=name,
        split=split,
        class_names=names,
        schema=schema,
        target=target,
        toward=toward,
    )


def _others(y: Tensor, names: tuple[str, ...], toward: str) -> Tensor:
    """The rows that are not of the class that an adversary wants."""
    if toward not in names or len(names) != 2:
        raise ArgumentError(
            f"toward: expected one of two classes, got {toward!r} of {', '.join(names[:6])}"
            + (", ..." if len(names) > 6 else "")
        )
    kept = (y != names.index(toward)).nonzero().flatten()
    if not len(kept):
        raise ArgumentError(f"toward: expected rows of another class than {toward!r}, got none")
    return kept


def read(path: Path, split: str) -> pa.Table:
    """A CSV or Parquet file, or `SPLIT.csv` or `SPLIT.parquet` in a folder."""
    if path.is_dir():
        found = [path / f"{split}{ending}" for ending in (".csv", ".parquet")]
        existing = [file for file in found if file.is_file()]
        if len(existing) != 1:
            got = ", ".join(sorted(file.name for file in path.iterdir())[:6]) or "nothing"
            raise ArgumentError(f"data: expected {split}.csv or {split}.parquet in {path}, got {got}")
        path = existing[0]
    try:
        if path.suffix == ".parquet":
            with open_regular(path) as file:
                return pq.read_table(file)
        if path.suffix in (".csv", ".gz"):
            options = pa_csv.ConvertOptions(strings_can_be_null=True)
            open_regular(path).close()  # by its name it is decompressed
            return pa_csv.read_csv(path, convert_options=options)
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise ArgumentError(f"data: expected a readable table at {path}, got: {one_line(error)}") from None
    raise ArgumentError(f"data: expected a file that ends in .csv, .csv.gz or .parquet, got {path.name!r}")


def _labels(
    values: pa.ChunkedArray, target: str, class_names: Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Class indices and the names of the classes."""
    if values.null_count:
        row = pc.index(pc.is_null(values), True).as_py()
        raise ArgumentError(f"target: expected a label in every row of {target!r}, got none in row {row}")
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = values.type
    if pa.types.is_boolean(kind):
        values, kind = values.cast(pa.int64()), pa.int64()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        names = tuple(sorted(pc.unique(values).to_pylist())) if class_names is None else tuple(class_names)
        codes = pc.index_in(values.cast(pa.string()), value_set=pa.array(names, pa.string()))
        if codes.null_count:
            row = pc.index(pc.is_null(codes), True).as_py()
            raise ArgumentError(
                f"target: expected a class of {', '.join(names[:6])} in {target!r}, "
                f"got {values[row].as_py()!r} in row {row}"
            )
        if not 2 <= len(names) <= _MOST_CLASSES:
            raise ArgumentError(
                f"target: expected 2 to {_MOST_CLASSES} classes in {target!r}, got {len(names)}"
            )
        return torch.from_numpy(codes.cast(pa.int64()).to_numpy().copy()), names
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ArgumentError(f"target: expected texts, booleans or whole numbers in {target!r}, got {kind}")
    numbers = values.cast(pa.float64()).to_numpy()
    whole = np.isfinite(numbers).all() and (numbers == np.round(numbers)).all()
    if not whole or numbers.min() < 0 or numbers.max() >= _MOST_CLASSES:
        raise ArgumentError(
            f"target: expected classes, whole numbers from 0 to {_MOST_CLASSES - 1}, in {target!r}, "
            f"got {numbers[np.argmax(numbers != np.round(numbers))] if not whole else numbers.max():g}"
            f"{'; a continuous target has no classes' if not whole else ''}"
        )
    labels = torch.from_numpy(numbers.astype(np.int64))
    count = max(2, int(labels.max()) + 1)
    names = tuple(map(str, range(count))) if class_names is None else tuple(class_names)
    if len(names) < count:
        raise ArgumentError(f"class_names: expected a name for each of {count} classes, got {len(names)}")
    return labels, names
