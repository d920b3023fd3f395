"""The page of a run on a table: columns by their names, values as people read them, and which break most rows."""

from __future__ import annotations

import json
import math
import re
import shutil

import numpy as np
import pytest
from test_page import Page

from zeronorm.errors import ArgumentError
from zeronorm.records.columns import changed_columns, column_use, table_columns
from zeronorm.records.folders import RunFolder
from zeronorm.report import render


@pytest.fixture
def spoiled(table_run, tmp_path):
    """A copy of the run whose plan can be changed."""
    shutil.copytree(table_run[0].path, tmp_path / "run")

    def change(schema):
        path = tmp_path / "run" / "run.json"
        run = json.loads(path.read_text())
        run["plan"]["threat"]["schema"] = schema
        path.write_text(json.dumps(run))
        return tmp_path / "run"

    return change


def test_values_are_what_the_schema_says(table_run, tmp_path):
    folder, data = table_run
    rows, text = folder.read_rows().to_pylist(), Page(render(folder.path, tmp_path / "page.html")).text
    assert "up to k of 4 columns, to any value that the schema of the table allows" in text
    assert "L0" not in text or "exactly" in text
    best = {}
    for row in rows:
        if (
            row["outcome"] == "broken"
            and row["distance"] < best.get(row["example"], {"distance": 9})["distance"]
        ):
            best[row["example"]] = row
    proved = {(row["example"], row["k"]) for row in rows if row["outcome"] == "proved"}
    shown = 0
    for example, row in best.items():
        if f"example {example} " not in text:
            continue
        x_adv = data.x[example].clone()
        x_adv[row["positions"]] = data.x.new_tensor([math.nan if v is None else v for v in row["values"]])
        said = text.split(f"example {example} ", 1)[1]
        for line in data.schema.differences(data.x[example], x_adv):
            name = next(column.name for column in data.schema.columns if line.startswith(column.name))
            old, new = line.removeprefix(name).strip().split(" → ")
            assert f"{name} {old} {new}" in said[:400]
            shown += 1
        exact = row["distance"] == 1 or (example, row["distance"] - 1) in proved
        assert (
            "needs" if exact else "needs at most"
        ) + f" {row['distance']} of 4 columns example {example} " in text
    assert shown > 5 and "EUR" in text


def test_the_bars_count_the_smallest_changes(table_run, tmp_path):
    folder, data = table_run
    table = folder.read_rows()
    columns = table_columns(folder.read()["plan"])
    used = {use.name: use for use in column_use(columns, table)}
    best = {}
    for row in table.to_pylist():
        if (
            row["outcome"] == "broken"
            and row["distance"] < best.get(row["example"], {"distance": 9})["distance"]
        ):
            best[row["example"]] = row
    for column, place in zip(data.schema.columns, data.schema.slices, strict=True):
        mine = [row for row in best.values() if any(place.start <= p < place.stop for p in row["positions"])]
        found = used.get(column.name)
        assert len(mine) == (found.rows if found else 0)
        assert sum(row["distance"] == 1 for row in mine) == (found.alone if found else 0)
    assert [use.rows for use in used.values()] == sorted((use.rows for use in used.values()), reverse=True)
    text = Page(render(folder.path, tmp_path / "page.html")).text
    first = next(iter(used.values()))
    assert re.search(rf"{first.name} {100 * first.rows / first.broken:.1f} % {first.alone}", text)


def test_names_of_columns_are_escaped(table_run, tmp_path):
    page = render(table_run[0].path, tmp_path / "page.html").read_text()
    assert "chief <i>" not in page


@pytest.mark.parametrize(
    "schema",
    [
        "columns = 3",
        "[[columns]]\nkind = 'real'",
        "not toml",
        "columns = []",
        "[[columns]]\nname='a'\none_hot=true",
    ],
)
def test_a_schema_that_is_none_is_one_line(spoiled, tmp_path, schema):
    with pytest.raises(ArgumentError, match="run: expected the schema of a table in its plan") as caught:
        render(spoiled(schema), tmp_path / "page.html")
    assert "\n" not in str(caught.value)


def test_a_schema_of_fewer_features_than_the_rows_change_is_one_line(spoiled, tmp_path):
    with pytest.raises(ArgumentError, match="run: expected changes within 1 features"):
        render(spoiled("[[columns]]\nname = 'a'\nkind = 'real'\n"), tmp_path / "page.html")


def test_values_no_schema_knows_are_shown_as_they_are():
    plan = {"threat": {"schema": "[[columns]]\nname = 'a'\nkind = 'category'\ncategories = ['x', 'y']\n"}}
    (told,) = changed_columns(table_columns(plan), np.array([1.0]), np.array([7.0]))
    assert told == ("a", "y", "category 7")
    assert changed_columns(table_columns(plan), np.array([math.nan]), np.array([math.nan])) == []
    assert table_columns({"threat": {}}) is None


def test_read_again_it_is_the_same(table_run, tmp_path):
    folder = RunFolder(table_run[0].path)
    assert render(folder.path, folder.page.parent / "again.html").read_text() == folder.page.read_text()
    (folder.page.parent / "again.html").unlink()
