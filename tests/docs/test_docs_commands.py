"""Every command of the pages parses, and those of the README run, on a small scale."""

from __future__ import annotations

import io
import json
import re

import joblib
import make
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from pages import PAGES, ROOT, blocks, commands
from PIL import Image
from session import session
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import zeronorm as zn
from zeronorm.cli.main import app

README = commands(ROOT / "README.md")
ZERONORM = [words for page in PAGES for words in commands(page) if words[0] == "zeronorm"]
PLOTTED = [f"zeronorm train --out DIR {words}" for words in make.NETWORKS.values()]
PLOTTED += [f"zeronorm {words}" for words in make.RUNS.values()]
SMALL = {
    "matrix": [
        *("--limit", "4", "--steps", "2", "--queries", "4", "--epochs", "1", "--train-limit", "60"),
        *("--defense", "plain,l0_lipschitz", "--attack", "sparse_pgd,sparse_rs"),
    ],
    "evaluate": ["--limit", "8", "--steps", "8", "--queries", "16"],
    "compare": ["--limit", "8", "--steps", "8", "--queries", "16"],
    "train": ["--epochs", "1", "--limit", "40"],
    "bench": ["--limit", "8", "--steps", "4", "--queries", "4", "--rounds", "1"],
}


def test_there_are_commands():
    assert len(README) >= 16 and len(ZERONORM) >= 48
    assert {words[1] for words in ZERONORM} == {
        command.name or command.callback.__name__ for command in _verbs()
    }


@pytest.mark.parametrize(
    "words", [*ZERONORM, *map(str.split, PLOTTED)], ids=lambda words: " ".join(words[1:])
)
def test_commands_parse(words):
    verbs = typer.main.get_command(app)
    name, command, rest = verbs.resolve_command(
        verbs.make_context("zeronorm", words[1:], resilient_parsing=True), words[1:]
    )
    assert command.make_context(name, rest).params


def test_make_verbs_exist():
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {verb for page in PAGES for verb in re.findall(r"(?:`|\$ )make ([a-z-]+)", page.read_text())}
    assert {"quickstart", "test", "install", "bench"} <= named <= verbs


def test_torch_is_installed_as_pinned():
    pinned = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")
    ]
    assert [words[-1] for words in README if words[-1].startswith("torch")] == pinned


def test_a_readers_session(tmp_path):
    """The README's commands, one after the other, then those that it and an example speak of."""
    _bring_a_model_and_data(tmp_path)
    quickstarts = [["zeronorm", *words, "--out", out] for out, words in make.quickstart_commands().items()]
    example = _example()
    again = next(words for words in README if "--json" in words)
    words = [*quickstarts, *(words for words in README if words[0] == "zeronorm"), again]
    words += [[*example, "--out", "runs/example"], ["zeronorm", "verify", "runs/example", "--trust"]]
    words += [[*example, "--out", "runs/quickstart"]]
    asked = [[verb, *rest, *SMALL.get(verb, [])] for _, verb, *rest in words]
    said = session(asked, tmp_path, ZERONORM_DATA=str(tmp_path), PYTHONPATH=str(ROOT))

    *done, refused = said
    assert not any(s.status for s in done), [s.err for s in done if s.status]
    assert (tmp_path / "both.html").stat().st_size > 20_000
    assert (tmp_path / "runs/curve/run.json").exists()
    first, repeated = [s for s, w in zip(done, words, strict=False) if "--json" in w]
    figures = json.loads(first.out.splitlines()[-1])
    assert set(figures["robust_accuracy"]) == {"1", "2", "4"} and figures["n"] == 8
    assert repeated.out == first.out and "done" in first.err and "done" not in repeated.err  # it only reads
    checked = [s for s, w in zip(done, words, strict=False) if w[1] == "verify"]
    assert len(checked) == 2 and all("every claim holds" in s.out for s in checked)
    assert refused.status == 2 and "holds another run" in refused.err and len(refused.err.splitlines()) == 1


@pytest.mark.slow
def test_a_comparison_as_its_page_has_it(tmp_path):
    page = ROOT / "docs/comparing-attacks.md"
    asked = [[verb, *rest, *SMALL.get(verb, [])] for _, verb, *rest in commands(page)]
    said = session(asked, tmp_path, PYTHONPATH=str(ROOT))
    assert not any(s.status for s in said), [s.err for s in said if s.status]
    compared = next(s.out for s, (verb, *_) in zip(said, asked, strict=True) if verb == "compare")
    shown, folder = blocks(page, "text")
    # a short search warns of other things than the one shown
    warnings = re.compile(r"\nwarnings, see the report: .*?\n(?=\n)", re.DOTALL)
    compared, shown = (warnings.sub("", text) for text in (compared, shown))
    assert [_words(line) for line in compared.splitlines()] == [_words(line) for line in shown.splitlines()]
    for path in re.findall(r"^\S+", folder, re.MULTILINE):
        assert (tmp_path / path).exists(), path
    assert "every claim holds" in next(s.out for s in said if "claim" in s.out)


def _words(line):
    """What stands there beside figures."""
    return [word for word in line.split() if not re.search(r"\d", word) and word != "over"]


def _example():
    """The command in the docstring of examples/command_line_model.py."""
    said = (ROOT / "examples/command_line_model.py").read_text()
    return next(line for line in said.splitlines() if line.startswith("    zeronorm ")).split()


def _verbs():
    return app.registered_commands


def _bring_a_model_and_data(home):
    """`mypackage.mymodel:load`, `photos/`, `photos.parquet`, a small `mnist`, and `loans.csv` with `model.joblib`."""
    loans = pd.DataFrame(
        {"income": range(40), "job": ["clerk", "chief"] * 20, "granted": ["no"] * 20 + ["yes"] * 20}
    )
    loans.to_csv(home / "loans.csv", index=False)
    encode = ColumnTransformer([("job", OneHotEncoder(), ["job"])], remainder="passthrough")
    forest = make_pipeline(encode, RandomForestClassifier(5, random_state=0))
    joblib.dump(forest.fit(loans[["income", "job"]], loans.granted), home / "model.joblib")
    (home / "mypackage").mkdir()
    (home / "mypackage/mymodel.py").write_text(
        "import zeronorm as zn\n\ndef load():\n    return zn.models.load('digits')\n"
    )
    digits = zn.data.load("digits", "train", 60)
    labels = digits.y.tolist()
    assert set(labels) == set(range(10))
    for i, (image, label) in enumerate(zip(digits.x, labels, strict=True)):
        folder = home / "photos" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(_png(image))
    _parquet(home / "photos.parquet", digits.x, labels)
    (home / "mnist").mkdir()
    for split in ("train", "test"):
        _parquet(home / f"mnist/{split}.parquet", digits.x, labels, size=28)


def _parquet(path, images, labels, size=8):
    column = [{"bytes": _png(image, size), "path": None} for image in images]
    pq.write_table(pa.table({"image": column, "label": labels}), path)


def _png(image, size=8):
    picture = Image.fromarray(image[0].mul(255).byte().numpy()).resize((size, size))
    file = io.BytesIO()
    picture.save(file, format="png")
    return file.getvalue()
