"""What the pages list is what the code has."""

from __future__ import annotations

import ast
import json
import re
import shutil
import tomllib

import make
import pytest
import torch
import yaml
from pages import PAGES, ROOT, links, table
from PIL import Image

import zeronorm as zn
from zeronorm.evaluation import diagnosis
from zeronorm.evaluation.fresh_pass import predict
from zeronorm.records.folders import CERTIFICATES, ROWS, TRANSFERS
from zeronorm.report import render

DOCS = ROOT / "docs"


def test_links_lead_somewhere():
    found = [(page, link) for page in PAGES for link in links(page)]
    assert len(found) >= 12
    for page, link in found:
        assert not link.startswith("http"), f"{page.name}: {link}"
        path, _, heading = link.partition("#")
        target = page.parent / path
        assert target.exists(), f"{page.name}: {link}"
        said = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if heading else []
        assert heading in [
            "",
            *(re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in said),
        ], link


def test_pages_are_readable():
    for page in [*PAGES, ROOT / "CITATION.cff"]:
        text = page.read_text()
        for line in text.splitlines():  # the row of a table cannot be broken
            assert len(line) <= (170 if line.lstrip(" +-").startswith("|") else 125), f"{page.name}: {line}"
        assert "/work" not in text and "/home" not in text, page.name


def test_attacks():
    assert make.block(make.README.read_text(), "attacks") == make.attack_table(), (
        "run python docs/make.py --tables"
    )


def test_certificates():
    assert make.block(make.PROVED.read_text(), "certificates") == make.certificate_table(), (
        "run python docs/make.py --tables"
    )
    page = make.PROVED.read_text()
    assert all(f"**`{name}`** ({row.arithmetic}" in page for name, row in zn.certification.catalogue.items())


def test_reproductions():
    pages = make.reproduced()
    assert pages
    for page, text in pages.items():
        assert page.read_text() == text, "run python docs/make.py --tables"


def test_drawings():
    drawn = make.explained()
    assert len(drawn) == 5
    for path, picture in drawn.items():
        assert path.read_text() == picture, "run python docs/make.py --tables"
        assert path.name in (DOCS / "certificates-explained.md").read_text()


def test_putting_a_block_leaves_the_rest():
    text = "a\n<!-- made: one -->\nold\n<!-- end -->\nb\n<!-- made: two -->\nold\n<!-- end -->\n"
    changed = make.put(text, "two", "new")
    assert make.block(changed, "two") == "new" and make.block(changed, "one") == "old"
    assert make.put(make.put(text, "one", "x"), "one", "old") == text
    with pytest.raises(AssertionError, match="three"):
        make.block(text, "three")


def test_columns_of_the_rows():
    documented = [(name, kind) for name, kind, _ in table(DOCS / "records.md", "Column")]
    assert documented == [(field.name, _kind(field.type)) for field in ROWS]
    documented = [(name, kind) for name, kind, _ in table(DOCS / "certificates.md", "Column")]
    assert documented == [(field.name, _kind(field.type)) for field in CERTIFICATES]


def test_keys_of_a_run(tmp_path):
    data = zn.data.load("digits", "test", 4)
    zn.evaluate(zn.models.load("digits"), data, zn.L0(1), out=tmp_path, steps=2, queries=2)
    documented = [key for row in table(DOCS / "records.md", "Key") for key in re.split(r"`?, `?", row[0])]
    assert sorted(documented) == sorted(json.loads((tmp_path / "run.json").read_text()))
    files = [row[0] for row in table(DOCS / "records.md", "File")]
    there = {file.name for file in tmp_path.iterdir() if not file.name.startswith(".")}
    assert set(files) == there | {"rows.jsonl"} and "rows.jsonl" not in there


def test_keys_and_columns_of_a_comparison(tmp_path):
    data = zn.data.load("digits", "test", 4)
    zn.compare(zn.models.load("digits"), data, zn.L0(1), "sparse_rs", tmp_path, queries=2)
    documented = [key for row in table(DOCS / "records.md", "Entry") for key in re.split(r"`?, `?", row[0])]
    assert sorted(documented) == sorted(json.loads((tmp_path / "comparison.json").read_text()))
    columns = [(name, kind) for name, kind, _ in table(DOCS / "records.md", "Tried")]
    assert columns == [(field.name, _kind(field.type)) for field in TRANSFERS]


def test_diagnosis_codes():
    source = ast.parse((ROOT / "zeronorm/evaluation/diagnosis.py").read_text())
    calls = [
        node for node in ast.walk(source) if isinstance(node, ast.Call) and _name(node.func) == "_finding"
    ]
    in_code = {(call.args[0].value, getattr(call.args[1], "value", "warning")) for call in calls}
    constant = (diagnosis.NO_GRADIENTS, diagnosis._BATCH_DEPENDENT)
    in_code |= {(finding["code"], finding["level"]) for finding in constant}
    assert {(code, level) for code, level, *_ in table(DOCS / "evaluation.md", "Code")} == in_code


def test_notation_names_exist():
    """A name of the notation is a parameter of an attack, an argument of a threat model, or a column."""
    known = {field.name for field in ROWS} | {"k", "linf", "epsilon", "l0_pixels", "l0_features"}
    known |= {option for attack in zn.attacks.catalogue.values() for option in attack.options}
    named = {
        name
        for row in table(DOCS / "notation.md", "Symbol in the papers")
        for name in re.findall(r"\w{2,}|k", row[1])
    }
    assert named == named & known


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5", "small_cnn", "resnet20"])
def test_batches_of_usual_widths_agree_bit_by_bit(name):
    model = zn.models.build(name).eval()
    x = torch.rand(24, model.arguments["in_channels"], *2 * (model.arguments["image_size"],))
    whole = predict(model, x)
    for size in (1, 3, 7):
        assert torch.equal(torch.cat([predict(model, some) for some in x.split(size)]), whole)


def test_figures_that_are_quoted_stand_where_the_link_leads():
    page = DOCS / "choosing-a-defence.md"
    found = re.findall(
        r"^\|.*\| ([\d.]+) \| ((?:k=\d+: [\d., ]+)+)\| \[.*\]\((.*)\) \|$", page.read_text(), re.MULTILINE
    )
    assert len(found) == 12
    for clean, robust, link in found:
        there = (DOCS / link).read_text()
        for figure in [clean, *re.findall(r": ([\d.]+)", robust)]:
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", there), (
                f"{figure} is not in {link}"
            )


def test_rooms():
    here = {f"{path.name}/" for path in (ROOT / "zeronorm").iterdir() if (path / "__init__.py").exists()}
    rooms = {row[1] for row in table(ROOT / "CONTRIBUTING.md", "If the line knows …")}
    assert here <= rooms and rooms - here == {"the package root"}


def test_marks():
    marks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(f"`{mark.partition(':')[0]}`" in text for mark in marks)


def test_versions_and_papers_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] == zn.__version__
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert f"\n## {zn.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    first = [(paper["authors"][0]["family-names"], paper["year"]) for paper in citation["references"]]
    assert first == [
        ("Zhong", 2024),
        ("Zhong", 2025),
        ("Beliaev", 2022),
        ("Levine", 2020),
        ("Gopalakrishnan", 2020),
        ("Guo", 2018),
    ]
    assert (ROOT / "LICENSE").read_text().split()[:2] == ["Apache", "License"]


def test_pictures_are_small():
    for name in make.PICTURES:
        picture = DOCS / "images" / name
        assert picture.stat().st_size < 300_000
        assert _size(picture)[0] == 1200


@pytest.mark.browser
@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium and chromedriver"
)
def test_the_plot_of_certificates_can_be_made_again(tmp_path):
    model = zn.models.build("mlp", image_size=8, widths=[9], truncation=4).eval()
    run = zn.certify(model, zn.data.load("digits", "test", 12), out=tmp_path / "run").run
    make.plot(render([run], tmp_path / "page.html"), tmp_path)
    width, height = _size(tmp_path / make.CERTIFICATES)
    assert 900 < width < 1000 and 300 < height < 600


@pytest.mark.browser
@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium and chromedriver"
)
def test_pictures_can_be_made_again(tmp_path):
    data = zn.data.load("digits", "test", 12)
    zn.evaluate(zn.models.load("digits"), data, zn.L0(8), out=tmp_path / "run", steps=20, queries=20)
    make.picture(render([tmp_path / "run"], tmp_path / "page.html"), tmp_path)
    for name in make.PICTURES:
        width, height = _size(tmp_path / name)
        assert width == 1200 and height > 200


def _size(path):
    with Image.open(path) as picture:
        return picture.size


def _kind(kind):
    return f"list<{kind.value_type}>" if hasattr(kind, "value_type") else str(kind)


def _name(node):
    return node.id if isinstance(node, ast.Name) else None
