"""Tables from files and frames: labels, categories, missing values, and what is refused in a line."""

from __future__ import annotations

import re

import pytest
import torch

import zeronorm as zn
from zeronorm.data import Column, Schema, from_frame
from zeronorm.errors import ArgumentError

pd = pytest.importorskip("pandas")

CSV = "age,job,paid,risk\n31,clerk,1.5,low\n44,,2.5,high\n58,smith,,low\n"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "people.csv").write_text(CSV)
    return tmp_path / "people.csv"


def test_a_file_of_text(path):
    data = zn.data.load(f"table:{path}", target="risk")
    assert data.class_names == ("high", "low") and data.y.tolist() == [1, 0, 1]
    assert data.schema.names == ("age", "job", "paid") and data.x.dtype == torch.float64
    assert data.x[:, 0].tolist() == [31, 44, 58] and data.x[0, 1:].tolist() == [0, 1.5]
    assert bool(data.x[1, 1].isnan() & data.x[2, 2].isnan())
    assert data.schema["job"].categories == ("clerk", "smith") and data.schema["job"].missing
    frame = data.frame()
    assert frame["job"].tolist()[0] == "clerk" and frame["age"].dtype == "int64" and pd.isna(frame["job"][1])
    assert len(zn.data.load(f"table:{path}", target="risk", limit=2)) == 2
    # a file of the same in another form
    pd.read_csv(path).to_parquet(path.with_suffix(".parquet"))
    again = zn.data.load(f"table:{path.with_suffix('.parquet')}", target="risk")
    assert again.schema == data.schema and torch.equal(again.x.nan_to_num(-1), data.x.nan_to_num(-1))


def test_splits_of_a_folder_and_a_schema_of_another_file(path, tmp_path):
    train = zn.data.load(f"table:{path}", target="risk")
    (tmp_path / "test.csv").write_text(CSV)
    test = zn.data.load(f"table:{tmp_path}", "test", target="risk", schema=train.schema)
    assert torch.equal(test.y, train.y) and test.schema is train.schema
    (tmp_path / "test.csv").write_text(CSV.replace("clerk", "baker"))
    with pytest.raises(
        ArgumentError, match=r"expected a category of 'job' \(clerk, smith\), got 'baker' in row 0"
    ):
        zn.data.load(f"table:{tmp_path}", "test", target="risk", schema=train.schema)


def test_frames():
    frame = pd.DataFrame({"x": [0.5, 1.5, 2.5], "flag": [True, False, True], "y": [0, 1, 2]})
    data = from_frame(frame, "y")
    assert data.class_names == ("0", "1", "2") and data.schema["flag"].kind == "binary"
    named = from_frame(frame.assign(y=["b", "a", "b"]), "y", class_names=["a", "b", "c"])
    assert named.y.tolist() == [1, 0, 1] and named.class_names == ("a", "b", "c")


def test_refusals(path, tmp_path):
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [0, 1]})
    for expected, call in {
        "target: expected the name of one column of": lambda: zn.data.load(f"table:{path}", target="no"),
        "target, schema, toward: expected None": lambda: zn.data.load("digits", target="y"),
        "data: expected a readable table": lambda: zn.data.load(f"table:{tmp_path / 'none.csv'}", target="y"),
        "data: expected a file that ends in": lambda: zn.data.load(f"table:{tmp_path / 'a.txt'}", target="y"),
        "data: expected train.csv or train.parquet": lambda: zn.data.load(
            f"table:{tmp_path}", "train", target="y"
        ),
        "got 0.5; a continuous target has no classes": lambda: from_frame(frame.assign(y=[0.5, 1]), "y"),
        "target: expected a label in every row": lambda: from_frame(frame.assign(y=["a", None]), "y"),
        "data: expected numbers or text in column 'x', got list": lambda: from_frame(
            frame.assign(x=[[1], [2]]), "y"
        ),
        "data: expected a column besides 'y'": lambda: from_frame(frame[["y"]], "y"),
        "data: expected at least one row": lambda: from_frame(frame[:0], "y"),
        "data: expected numbers, booleans or text in column 'x'": lambda: from_frame(
            frame.assign(x=pd.to_datetime(["2020-01-01", "2020-01-02"])), "y"
        ),
        "frame: expected rows that the schema allows, got x: expected values in [0, 1], got 2 in row 1": lambda: (
            from_frame(frame, "y", Schema((Column("x", low=0, high=1),)))
        ),
    }.items():
        with pytest.raises(ArgumentError, match=re.escape(expected)) as error:
            call()
        assert "\n" not in str(error.value)
