"""Where examples come from: built-in, Hugging Face Hub or local Parquet, folders of images by class."""

from __future__ import annotations

from zeronorm.data.catalogue import available, load
from zeronorm.data.dataset import Dataset, Stream
from zeronorm.data.schema import Column, Relation, Schema

__all__ = ["Column", "Dataset", "Relation", "Schema", "Stream", "available", "load"]
