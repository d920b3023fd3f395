"""Small images and tables, written as the Hugging Face Hub writes them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))


@pytest.fixture(autouse=True)
def _no_local_data(monkeypatch, request):
    """Only the tests of real data see the machine's own copies; none may reach the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "real_data" not in request.fixturenames:
        monkeypatch.delenv("ZERONORM_DATA", raising=False)


@pytest.fixture
def encode():
    """Bytes of an image file of the given pixels: an array, or a Pillow image."""

    def encode(pixels, format="PNG", **options):
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def greys(encode):
    """n greyscale 3x2 images; pixel (0, 0) of image i has the level start + i."""

    def greys(n, start=0):
        return [encode(np.array([[start + i, 255, 0], [1, 2, 3]], dtype=np.uint8)) for i in range(n)]

    return greys


@pytest.fixture
def write_table():
    """A Parquet file of encoded images and labels, with the class names in its metadata if given."""

    def write_table(path, images, labels, columns=("image", "label"), names=None, rows=2, plain=False):
        image = pa.array(images, pa.binary())
        if not plain:
            image = pa.array(
                [{"bytes": b, "path": None} for b in images],
                pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            )
        table = pa.table(dict(zip(columns, (image, pa.array(labels)), strict=True)))
        if names:
            features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
            table = table.replace_schema_metadata(
                {"huggingface": json.dumps({"info": {"features": features}})}
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=rows)
        return path

    return write_table
