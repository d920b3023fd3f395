"""Images that stay in their files, and images that are resized and cropped."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

import zeronorm as zn
from zeronorm import ArgumentError
from zeronorm.data import Stream, images, load, parquet
from zeronorm.data.preparation import Preparation, split_off

RNG = np.random.default_rng(0)


def noise(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, encode):
    """Nine images of two classes, all of one size."""
    for i in range(9):
        file = tmp_path / "images" / ("cat", "dog")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(noise(6, 8)))
    return f"folder:{tmp_path / 'images'}"


@pytest.fixture
def shards(tmp_path, greys, write_table):
    """Nineteen rows in three files, as the Hub lays them out, in row groups of two."""
    for i, rows in enumerate((7, 4, 8)):
        path = tmp_path / "table" / "data" / f"train-0000{i}-of-00003.parquet"
        write_table(path, greys(rows, 20 * i), [i] * rows, names=["a", "b", "c"])
    return f"parquet:{tmp_path / 'table'}"


# -- streamed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1, 8])
def test_a_stream_has_the_examples_of_the_loaded_data(folder, shards, limit):
    for name in (folder, shards):
        data, stream = load(name, "train", limit), load(name, "train", limit, stream=True)
        assert isinstance(stream, Stream) and len(stream) == len(data)
        assert torch.equal(stream.ids, data.ids) and torch.equal(stream.y, data.y)
        assert (stream.class_names, stream.names) == (data.class_names, data.names)
        assert stream.x.shape == data.x.shape and stream.x.dtype == data.x.dtype
        assert stream.digest == data.digest
        assert torch.equal(torch.cat(list(stream.x.parts())), data.x)
        assert repr(stream) == repr(data).replace("Dataset", "Stream")


def test_images_in_any_order(folder, shards):
    for name in (folder, shards):
        x, stream = load(name, "train").x, load(name, "train", stream=True).x
        n = len(stream)
        for at in ([n - 1], [0, n - 1, 0], list(range(n))[::-1], RNG.permutation(n).tolist(), []):
            assert torch.equal(stream[at], x[at])
        assert torch.equal(stream[2:5], x[2:5]) and stream[:0].shape == (0, *x.shape[1:])


def test_nothing_is_decoded_before_it_is_asked_for(folder, monkeypatch):
    decoded = []
    colour = images._colour
    monkeypatch.setattr(images, "_colour", lambda *image: decoded.append(image) or colour(*image))
    stream = load(folder, stream=True)
    assert not decoded
    assert stream.x[[3, 1]].shape == (2, 3, 6, 8) and len(decoded) == 2


def test_reading_forwards_opens_each_file_once(shards, monkeypatch):
    stream = load(shards, "train", stream=True)
    opened = []
    monkeypatch.setattr(
        parquet._Cells, "_open", lambda *at, do=parquet._Cells._open: opened.append(at) or do(*at)
    )
    for i in range(0, 19, 3):
        stream.x[i : i + 3]
    assert len(opened) == 3


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, encode, write_table):
    def peak(n):
        path = write_table(
            tmp_path / f"{n}.parquet", [encode(noise(64, 64)) for _ in range(n)], [0] * n, rows=n
        )
        stream = load(f"parquet:{path}", stream=True)
        tracemalloc.start()
        assert stream.digest
        measured = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return measured

    few, many = peak(130), peak(520)
    assert many < 1.2 * few < 520 * 64 * 64 * 3 * 4


def test_a_file_that_changes_under_the_stream_is_named(tmp_path, folder, shards):
    stream = load(folder, stream=True)
    os.truncate(tmp_path / "images" / stream.names[4], 50)
    with pytest.raises(ArgumentError, match=rf"^data: expected an intact image in {stream.names[4]}, got: "):
        stream.x[3:6]
    stream = load(shards, "train", stream=True)
    (tmp_path / "table" / "data" / "train-00001-of-00003.parquet").unlink()
    assert len(stream.x[:7]) == 7
    for _ in range(2):
        with pytest.raises(ArgumentError, match=r"^data: expected a readable Parquet file at .*train-00001"):
            stream.x[:8]


# -- resized and cropped -------------------------------------------------------------------------------------------


def test_the_usual_preparation_of_imagenet(tmp_path, encode):
    sizes = [(300, 400), (500, 375), (256, 256), (100, 120), (224, 700)]
    for i, (height, width) in enumerate(sizes):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / f"{i}.png").write_bytes(encode(noise(height, width)))
    data = load(f"folder:{tmp_path}:resize=256:crop=224")
    assert data.x.shape == (5, 3, 224, 224) and data.name == f"folder:{tmp_path}:resize=256:crop=224"
    for x, name in zip(data.x, data.names, strict=True):
        image = Image.open(tmp_path / name)
        scale = 256 / min(image.size)
        image = image.resize([int(side * scale + 1e-9) for side in image.size], Image.Resampling.BILINEAR)
        left, top = ((side - 224) / 2 for side in image.size)
        pixels = np.asarray(image)[round(top) :, round(left) :][:224, :224]
        assert torch.equal(x, torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255)
    stream = load(f"folder:{tmp_path}:crop=224:resize=256", stream=True)
    assert stream.digest == data.digest


def test_resizing_alone_and_cropping_alone(tmp_path, encode):
    (tmp_path / "cat").mkdir()
    pixels = noise(20, 30)
    (tmp_path / "cat" / "1.png").write_bytes(encode(pixels))
    assert load(f"folder:{tmp_path}:resize=10").x.shape == (1, 3, 10, 15)
    cropped = load(f"folder:{tmp_path}:crop=10").x[0]
    assert torch.equal(cropped, torch.from_numpy(pixels[5:15, 10:20].copy()).permute(2, 0, 1).float() / 255)
    assert load(f"folder:{tmp_path}:resize=20").digest == load(f"folder:{tmp_path}").digest


def test_grey_images_keep_their_depth(tmp_path, encode):
    (tmp_path / "cat").mkdir()
    levels = np.full((40, 30), 40_001, dtype=np.uint16)
    (tmp_path / "cat" / "1.png").write_bytes(encode(levels))
    x = load(f"folder:{tmp_path}:resize=20:crop=10").x
    assert x.shape == (1, 1, 10, 10) and torch.allclose(x, torch.tensor(40_001 / 65_535))


def test_images_of_several_sizes_name_the_option(tmp_path, encode):
    (tmp_path / "cat").mkdir()
    for i, size in enumerate([(20, 30), (20, 30), (30, 20)]):
        (tmp_path / "cat" / f"{i}.png").write_bytes(encode(noise(*size)))
    message = r"got 20x30 in cat/2.png; :resize=256:crop=224 after the name makes them equal$"
    with pytest.raises(ArgumentError, match=message):
        load(f"folder:{tmp_path}")
    with pytest.raises(ArgumentError, match=r"most are 15x10, got 10x15 in cat/2.png; :resize"):
        load(f"folder:{tmp_path}:resize=10")
    with pytest.raises(
        ArgumentError, match=r"intact image in cat/.*, got: 30x20 pixels, too few for crop=25; resize"
    ):
        load(f"folder:{tmp_path}:crop=25", limit=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits:resize=4", "data: expected digits as they are, 8x8, got 'digits:resize=4'"),
        (
            "folder:x:resise=4",
            "data: expected :resize=PIXELS and :crop=PIXELS after a name, got 'folder:x:resise=4'",
        ),
        ("folder:x:crop=4:crop=4", "data: expected :resize=PIXELS and :crop=PIXELS after a name, got "),
        ("folder:x:crop=0", "crop: expected an integer between 1 and 4096, got 0"),
        ("folder:x:crop=", "crop: expected an integer between 1 and 4096, got ''"),
        (f"folder:x:resize={'9' * 5000}", "resize: expected an integer between 1 and 4096, got '9"),
        ("folder:x:resize=4:crop=5", "crop: expected at most resize=4, got 5"),
        (":crop=5", "data: expected one of digits, "),
    ],
)
def test_preparations_that_cannot_be(name, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        load(name)


def test_a_name_without_options_is_left_as_it_is():
    for name in ("folder:/a=b/c", "hub:some/one", "folder:C:\\a=b", "parquet:a:b"):
        assert split_off(name) == (name, Preparation())


def test_a_thin_image_is_not_blown_up():
    with pytest.raises(ValueError, match="too many"):
        Preparation(resize=4096).size(20_000, 1)


@pytest.mark.parametrize("name", ["gtsrb", "imagenet", "imagenet100"])
def test_named_data_sets_of_large_images(tmp_path, monkeypatch, encode, write_table, name):
    monkeypatch.setenv("ZERONORM_DATA", str(tmp_path))
    split = "test" if name == "gtsrb" else "validation"
    pictures = [encode(noise(40 + i, 60 - i), "JPEG") for i in range(6)]
    for i in range(2):
        path = tmp_path / name / "data" / f"{split}-0000{i}-of-00002.parquet"
        write_table(path, pictures[3 * i : 3 * i + 3], [0, 1, 42])
    data = load(f"{name}:resize=32:crop=32", split, stream=True)
    assert data.x.shape == (6, 3, 32, 32)
    assert len(data.class_names) == {"gtsrb": 43, "imagenet": 1000, "imagenet100": 100}[name]
    with pytest.raises(ArgumentError, match="one size"):
        load(name, split)
    with pytest.raises(ArgumentError, match=r"^split: expected one of train, "):
        load(name, "dev")


# -- evaluated -----------------------------------------------------------------------------------------------------


def test_a_run_on_a_stream_is_the_run_on_the_loaded_data(tmp_path, folder):
    model = zn.models.build("small_cnn", in_channels=3, image_size=(6, 8), classes=2).eval()
    loaded, stream = load(folder), load(folder, stream=True)
    options = {"attack": "sparse_rs", "queries": 5, "batch_size": 4}
    runs = [
        zn.evaluate(model, data, zn.L0(2), out=tmp_path / kind, **options)
        for kind, data in (("loaded", loaded), ("stream", stream))
    ]
    assert runs[0].records.drop(["margin"]) == runs[1].records.drop(["margin"])
    # and either verifies the other
    for run, data in zip(runs, (stream, loaded), strict=True):
        result = zn.verify(run.run, model, data)
        assert result.ok and result.predictions == 9, result.problems


def test_a_box_smaller_than_the_images_is_refused_of_a_stream_too(folder):
    model = zn.models.build("small_cnn", in_channels=3, image_size=(6, 8), classes=2).eval()
    with pytest.raises(ArgumentError, match=r"expected .* \[0.25, 0.75\]|box"):
        zn.evaluate(model, load(folder, stream=True), zn.L0(1, low=0.25, high=0.75), "sparse_rs", queries=1)
