from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from zeronorm import ArgumentError
from zeronorm.data import images, load, parquet


@pytest.fixture
def table(tmp_path, greys, write_table):
    return write_table(tmp_path / "test.parquet", greys(5), [0, 2, 1, 0, 2])


def test_a_file(table):
    data = load(f"parquet:{table}")
    assert data.x.shape == (5, 1, 2, 3)
    assert torch.equal(data.x[:, 0, 0, 0], torch.arange(5) / 255)
    assert data.y.tolist() == [0, 2, 1, 0, 2]
    assert data.ids.tolist() == [0, 1, 2, 3, 4]
    assert data.class_names == ("0", "1", "2") and data.names is None
    assert (data.name, data.split) == (f"parquet:{table}", "test")


def test_a_folder_of_one_file_per_split(tmp_path, table, greys, write_table):
    write_table(tmp_path / "train.parquet", greys(3, 100), [0, 0, 1])
    assert len(load(f"parquet:{tmp_path}")) == 5
    assert len(load(f"parquet:{tmp_path}", "train")) == 3
    with pytest.raises(ArgumentError, match=r"^split: expected one of test, train \(in .*\), got 'val'$"):
        load(f"parquet:{tmp_path}", "val")


@pytest.mark.parametrize("folder", ["", "data/"])
def test_shards_follow_each_other(tmp_path, greys, write_table, folder):
    for i in (1, 0):
        write_table(tmp_path / f"{folder}test-0000{i}-of-00002.parquet", greys(3, 10 * i), [i] * 3)
    data = load(f"parquet:{tmp_path}")
    assert data.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(data.x[:, 0, 0, 0], torch.tensor([0, 1, 2, 10, 11, 12]) / 255)
    assert data.ids.tolist() == list(range(6))
    # the classes are those of the whole table, whatever the limit
    assert load(f"parquet:{tmp_path}", limit=2).class_names == ("0", "1")
    assert len(load(f"parquet:{tmp_path}", limit=4)) == 4


@pytest.mark.parametrize("limit", [1, 3, 5, 9])
def test_limit_takes_the_first_and_decodes_no_more(table, monkeypatch, limit):
    whole = load(f"parquet:{table}")
    decoded = []
    grey = images._grey
    monkeypatch.setattr(images, "_grey", lambda *image: decoded.append(image) or grey(*image))
    data = load(f"parquet:{table}", limit=limit)
    assert len(decoded) == len(data) == min(limit, 5)
    assert torch.equal(data.x, whole.x[:limit]) and torch.equal(data.y, whole.y[:limit])
    assert data.class_names == whole.class_names


def test_class_names_of_the_hugging_face_features(tmp_path, greys, write_table):
    path = write_table(tmp_path / "a.parquet", greys(2), [0, 1], names=["cat", "dog", "eel"])
    assert load(f"parquet:{path}").class_names == ("cat", "dog", "eel")


def test_foreign_metadata_is_passed_over(tmp_path, greys, write_table):
    path = write_table(tmp_path / "a.parquet", greys(2), [0, 1])
    for metadata in ({"huggingface": "{"}, {"huggingface": '{"info": null}'}, {"huggingface": "[]"}):
        pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
        assert load(f"parquet:{path}").class_names == ("0", "1")


def test_other_layouts(tmp_path, greys, write_table):
    path = write_table(tmp_path / "a.parquet", greys(2), [0, 1], columns=("img", "fine_label"), plain=True)
    assert load(f"parquet:{path}").y.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [pa.uint8(), pa.int32(), pa.uint64()])
def test_integer_labels_of_any_width(tmp_path, greys, write_table, dtype):
    path = write_table(tmp_path / "a.parquet", greys(2), pa.array([0, 200], dtype))
    assert load(f"parquet:{path}").y.tolist() == [0, 200]


# -- what cannot be used ------------------------------------------------------------------------------------------


def refuses(place, message, **arguments):
    with pytest.raises(ArgumentError, match=message) as caught:
        load(f"parquet:{place}", **arguments)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path):
    refuses(tmp_path / "no.parquet", r"^data: expected a Parquet file or a folder of them at .*, got nothing")
    refuses(tmp_path, r"^data: expected files such as test.parquet in .*, got no Parquet file$")
    refuses("x" * 5000, r"^data: expected a readable Parquet file at x+, got: .*name too long")


def test_corrupt_and_truncated_files(tmp_path, table):
    whole = table.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], b"PAR1" + bytes(100) + b"PAR1"):
        table.write_bytes(content)
        refuses(table, r"^data: expected a readable Parquet file at .*test.parquet, got: ")
    # an intact footer, but the pages are zeros
    table.write_bytes(whole[:4] + bytes(len(whole) // 3) + whole[4 + len(whole) // 3 :])
    refuses(table, "^data: expected ")


def test_missing_columns_are_named_beside_those_found(tmp_path, greys, write_table):
    path = write_table(tmp_path / "a.parquet", greys(2), [0, 1], columns=("picture", "label"))
    refuses(path, r"^data: expected columns image or img, and label or .*, got picture, label$")
    path = write_table(tmp_path / "a.parquet", greys(2), [0, 1], columns=("img", "kind"))
    refuses(path, r", got img, kind$")
    twice = pa.table([greys(1), [0], [1]], ["image", "label", "label"])
    pq.write_table(twice, path)
    refuses(path, r", got image, label, label$")


def test_columns_of_another_type(tmp_path, greys):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": ["a"], "label": [0]}), path)
    refuses(path, r"^data: expected encoded images, \{bytes, path\}, in column image, got string$")
    for labels in ([0.5], ["cat"], [True]):
        pq.write_table(pa.table({"image": greys(1), "label": labels}), path)
        refuses(path, r"^data: expected class indices, integers, in column label, got ")


@pytest.mark.parametrize(("label", "shown"), [(-1, "-1"), (None, "null")])
def test_labels_below_zero_or_missing(tmp_path, greys, write_table, label, shown):
    write_table(tmp_path / "test-00000-of-00002.parquet", greys(2), [0, 1])
    write_table(tmp_path / "test-00001-of-00002.parquet", greys(3), [0, label, 1])
    refuses(tmp_path, rf"^data: expected class indices of at least 0 in column label, got {shown} in row 3$")


def test_labels_beyond_the_classes(tmp_path, greys, write_table):
    path = write_table(tmp_path / "a.parquet", greys(3), [0, 1, 2], names=["cat", "dog"])
    refuses(path, r"^data: expected class indices below 2, got 2 in row 2$")
    path = write_table(tmp_path / "a.parquet", greys(2), [0, 10**9])
    refuses(path, r"^data: expected class indices below 1000000, got 1000000000 in row 1$")
    path = write_table(tmp_path / "a.parquet", greys(1), pa.array([2**63], pa.uint64()))
    refuses(path, r"^data: expected a readable Parquet file at .*, got: .*9223372036854775808")


def test_no_rows(tmp_path, write_table):
    path = write_table(tmp_path / "a.parquet", [], pa.array([], pa.int64()))
    refuses(path, r"^data: expected at least one example in parquet:.*, got an empty table$")


def test_an_image_that_is_none_names_its_row(tmp_path, greys, write_table):
    path = write_table(tmp_path / "a.parquet", [*greys(3), b"junk", *greys(1)], [0] * 5)
    refuses(path, r"^data: expected a PNG or .* image in row 3, got none$")
    assert len(load(f"parquet:{path}", limit=3)) == 3
    path = write_table(tmp_path / "a.parquet", [*greys(2), None], [0] * 3)
    refuses(path, r"^data: expected an intact image in row 2, got: no bytes$")


def test_sizes_that_differ(tmp_path, greys, encode, write_table):
    path = write_table(tmp_path / "a.parquet", [*greys(3), encode(np.ones((1, 1), dtype=np.uint8))], [0] * 4)
    refuses(path, r"^data: expected images of one size, most are 3x2, got 1x1 in row 3; :resize")


def test_a_missing_shard(tmp_path, greys, write_table):
    write_table(tmp_path / "test-00001-of-00003.parquet", greys(1), [0])
    refuses(tmp_path, r"^data: expected 3 test files in .*, got test-00001-of-00003.parquet$")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["a/test.parquet", "b/test.parquet"],
            "expected one set of test files in there, got a/test.*, b/test",
        ),
        (
            ["test.parquet", "test-small.parquet"],
            "expected 1 test file in there, got test-small.parquet, test.p",
        ),
    ],
)
def test_files_that_could_mean_either(files, message):
    with pytest.raises(ArgumentError, match=message):
        parquet.shards(files, "test", "there")


def test_shards_without_a_count_are_taken_as_they_are():
    files = ["README.md", "test-b.parquet", "test-a.parquet", "train.parquet", "test_extra.parquet"]
    assert parquet.shards(files, "test", "there") == ["test-a.parquet", "test-b.parquet"]
