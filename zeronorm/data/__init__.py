"""Where examples come from: built-in, Hugging Face Hub or local Parquet, folders of images by class, tables."""

from __future__ import annotations

from zeronorm.data.catalogue import available, load
from zeronorm.data.dataset import Dataset, Stream
from zeronorm.data.schema import Column, Relation, Schema
from zeronorm.data.table import TableDataset, from_frame

__all__ = [
    "Column",
    "Dataset",
    "Relation",
    "Schema",
    "Stream",
    "TableDataset",
    "available",
    "from_frame",
    "load",
]
