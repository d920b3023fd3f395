from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
import torch

from zeronorm import ArgumentError
from zeronorm.data import images, load


@pytest.fixture
def put(tmp_path, encode):
    """Write images of one level each under tmp_path: put("cat/1.png", ...)."""

    def put(*paths, size=(2, 3), level=9):
        for path in paths:
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            format = {".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}.get(file.suffix.lower(), "JPEG")
            file.write_bytes(encode(np.full(size, level, dtype=np.uint8), format))

    return put


@pytest.fixture
def animals(put):
    for i in range(4):
        put(f"cat/{i}.png", level=i)
        put(f"dog/{i}.png", level=100 + i)


def test_images_by_class(tmp_path, animals):
    data = load(f"folder:{tmp_path}")
    assert data.x.shape == (8, 1, 2, 3) and data.class_names == ("cat", "dog")
    for x, y, name in zip(data.x, data.y, data.names, strict=True):
        folder, file = name.split("/")
        assert data.class_names[y] == folder
        assert torch.equal(x, torch.full((1, 2, 3), (int(file[0]) + 100 * int(y)) / 255))


def test_ids_are_hashes_of_the_paths_and_give_the_order(tmp_path, animals):
    data = load(f"folder:{tmp_path}")
    digest = hashlib.blake2b(data.names[3].encode(), digest_size=8).digest()
    assert data.ids[3] == int.from_bytes(digest, "big") >> 1
    assert data.ids.tolist() == sorted(data.ids.tolist()) and data.ids.min() >= 0
    assert len(set(data.y[:4].tolist())) == 2  # a mix of classes from the start


def test_more_images_rename_none(tmp_path, animals, put):
    before = load(f"folder:{tmp_path}")
    put("cat/another.png", "eel/1.png")
    after = load(f"folder:{tmp_path}")
    assert len(after) == 10
    ids = dict(zip(after.names, after.ids.tolist(), strict=True))
    assert all(ids[name] == i for name, i in zip(before.names, before.ids.tolist(), strict=True))


def test_limit_takes_the_first_and_decodes_no_more(tmp_path, animals, monkeypatch):
    whole = load(f"folder:{tmp_path}")
    decoded = []
    grey = images._grey
    monkeypatch.setattr(images, "_grey", lambda *image: decoded.append(image) or grey(*image))
    data = load(f"folder:{tmp_path}", limit=3)
    assert len(decoded) == len(data) == 3
    assert torch.equal(data.x, whole.x[:3]) and torch.equal(data.ids, whole.ids[:3])
    assert data.names == whole.names[:3] and data.class_names == whole.class_names


def test_limit_does_not_change_the_number_of_channels(tmp_path, animals, encode):
    (tmp_path / "dog" / "colour.png").write_bytes(encode(np.zeros((2, 3, 3), dtype=np.uint8)))
    assert all(load(f"folder:{tmp_path}", limit=limit).x.shape[1] == 3 for limit in range(1, 10))


def test_splits(tmp_path, put):
    put("train/cat/1.png", "train/dog/1.png", "train/eel/1.png", "test/cat/1.png", "test/eel/1.png")
    train, test = load(f"folder:{tmp_path}", "train"), load(f"folder:{tmp_path}", "test")
    assert (len(train), len(test)) == (3, 2)
    assert test.names[0].startswith("test/") and not set(train.ids.tolist()) & set(test.ids.tolist())
    # no dog in test, yet an eel is class 2 in both
    assert train.class_names == test.class_names == ("cat", "dog", "eel")
    assert sorted(test.y.tolist()) == [0, 2]
    with pytest.raises(ArgumentError, match=r"^split: expected one of test, train \(in .*\), got 'val'$"):
        load(f"folder:{tmp_path}", "val")


def test_a_class_may_be_called_train(tmp_path, put):
    put("train/1.png", "plane/1.png")
    assert load(f"folder:{tmp_path}", "train").class_names == ("plane", "train")


def test_what_is_not_an_image_is_passed_over(tmp_path, put):
    put("cat/1.PNG", "cat/2.jpeg", "cat/3.bmp", "cat/4.webp", "cat/5.jpg")
    (tmp_path / "cat" / "notes.txt").write_text("hello")
    (tmp_path / "cat" / "._1.png").write_bytes(b"left by a Mac")
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    data = load(f"folder:{tmp_path}")
    assert len(data) == 5 and data.class_names == ("cat",)


# -- what cannot be used ------------------------------------------------------------------------------------------


def refuses(place, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        load(f"folder:{place}")
    assert "\n" not in str(caught.value)


def test_images_beside_folders_are_not_passed_over(tmp_path, animals, put):
    put("cat/more/5.png")
    with pytest.raises(
        ArgumentError, match=r"data: expected images, or the folders of classes, in .*cat, got both"
    ):
        load(f"folder:{tmp_path}")


def test_what_only_looks_like_a_file(tmp_path, animals):
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert len(load(f"folder:{tmp_path}")) == 8


def test_no_folder(tmp_path):
    refuses(tmp_path / "no", r"^data: expected a folder of images by class at .*, got nothing there$")
    (tmp_path / "file").write_text("hello")
    refuses(tmp_path / "file", r", got a file$")
    refuses("x" * 5000, "^data: expected a readable folder at x+, got: .*name too long")


def test_no_images(tmp_path, put):
    refuses(tmp_path, r"^data: expected images in .*/CLASS/, got none$")
    put("1.png")
    refuses(tmp_path, r"^data: expected images in .*/CLASS/, got none$")


def test_bad_images_are_named(tmp_path, animals, put):
    put("dog/odd.png", size=(5, 7))
    refuses(tmp_path, r"^data: expected images of one size, most are 3x2, got 7x5 in dog/odd.png; :resize")
    (tmp_path / "dog" / "odd.png").write_bytes(b"junk")
    refuses(tmp_path, r"^data: expected a PNG or .* image in dog/odd.png, got none$")
    (tmp_path / "dog" / "odd.png").unlink()
    (tmp_path / "dog" / "odd.png").symlink_to("nowhere")
    refuses(tmp_path, r"^data: expected an intact image in dog/odd.png, got: .*No such file")
