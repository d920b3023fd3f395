"""`zeronorm matrix` from outside: every recipe trains, is attacked, certified and verified."""

from __future__ import annotations

import json
import sys

from zeronorm import models
from zeronorm.cli.recipes import recipes

SEARCH = (
    "--data",
    "digits",
    "--k",
    "1,2",
    "--limit",
    4,
    "--steps",
    2,
    "--queries",
    3,
    "--votes",
    8,
    "--n",
    20,
)


def test_every_defence_of_the_library(zeronorm, tmp_path):
    short = ("--epochs", 1, "--train-limit", 60, "--attack", "sparse_pgd,sparse_rs")
    said = zeronorm("matrix", *SEARCH, *short, "--out", tmp_path / "m", "--json")
    assert said.status == 0, said.err
    told = json.loads(said.out.splitlines()[-1])
    assert list(told["models"]) == list(recipes(1, (8, 8), 2, 1)) and told["complete"]
    proved = {name for name, of in told["models"].items() if of["certified_accuracy"] is not None}
    assert proved == {"truncated", "ablation", "l0_lipschitz", "feature_partition"}
    assert all(of["training_seconds"] is not None for of in told["models"].values())
    assert all(of["milliseconds"] > 0 for of in told["models"].values())
    assert "worst case of all attacks" in said.out and "epoch 1/1" not in said.out
    assert (tmp_path / "m/report.html").exists()
    checked = zeronorm("verify", tmp_path / "m")
    assert checked.status == 0 and "of 10 models" in checked.out
    again = zeronorm("matrix", *SEARCH, *short, "--out", tmp_path / "m")
    assert again.status == 0 and "epoch" not in again.err
    assert "warnings, see the report: " in said.out
    assert "sparse_pgd, sparse_rs on plain</b>: " in (tmp_path / "m/report.html").read_text()

    # another folder, and what is asked of it is something else
    (tmp_path / "m").rename(tmp_path / "moved")
    moved = zeronorm("matrix", *SEARCH, *short, "--out", tmp_path / "moved")
    assert moved.status == 0 and "epoch" not in moved.err
    assert zeronorm("verify", tmp_path / "moved").status == 0
    before = (tmp_path / "moved/matrix.json").read_bytes()
    for words, complaint in (
        (("--train-limit", 70), "train_limit 60"),
        (("--train-k", 1), "train_k 2"),
        (("--limit", 5), "data.n is 4 there, 5 here"),
        (("--steps", 3), "steps"),
        (("--n", 30), "certificate.n is 20 there"),
    ):
        said = zeronorm("matrix", *SEARCH, *short, *words, "--out", tmp_path / "moved")
        assert said.status == 2 and complaint in said.err.splitlines()[-1], said.err
        assert (tmp_path / "moved/matrix.json").read_bytes() == before


def test_models_of_ones_own(zeronorm, tmp_path):
    models.save(models.build("lenet_300_100", image_size=8), tmp_path / "other")
    named = ("--model", "digits", "--model", f"mine={tmp_path / 'other'}", "--attack", "sparse_rs")
    said = zeronorm("matrix", *SEARCH[:-6], "--queries", 3, *named, "--out", tmp_path / "m", "--json")
    assert said.status == 0, said.err
    assert list(json.loads(said.out.splitlines()[-1])["models"]) == ["digits", "mine"]
    page = zeronorm("report", tmp_path / "m", "--html", tmp_path / "page.html")
    assert page.status == 0 and "2 models against 1 attack" in (tmp_path / "page.html").read_text()
    site = zeronorm("report", tmp_path / "m", "--site", tmp_path / "site")
    assert site.status == 0 and "2 models against 1 attack," in (tmp_path / "site/index.html").read_text()
    assert "/attacks/report.html" not in (tmp_path / "site/m.html").read_text()  # not of the site


def test_code_that_a_matrix_names_is_not_imported_unasked(zeronorm, tmp_path):
    two = ("--model", "digits", "--model", "digits-robust", "--attack", "sparse_rs", "--queries", 3)
    assert zeronorm("matrix", *SEARCH[:-6], *two, "--out", tmp_path / "m").status == 0
    path = tmp_path / "m/matrix.json"
    record = json.loads(path.read_text())
    record["models"][0]["source"] = "antigravity:geohash"
    path.write_text(json.dumps(record))
    said = zeronorm("verify", tmp_path / "m")
    assert said.status == 2 and "--trust" in said.err and "antigravity" not in sys.modules
    path.write_text(json.dumps(record | {"models": [{**record["models"][1], "attacks": "../elsewhere"}]}))
    said = zeronorm("report", tmp_path / "m", "--html", tmp_path / "page.html")
    assert said.status == 2 and "within" in said.err


def test_bad_input(zeronorm, tmp_path):
    for words, complaint in (
        (("--model", "digits"), "at least two models"),
        (("--model", "digits", "--model", "digits"), "'digits' twice"),
        (("--defense", "armour"), "defense"),
        (("--defense", "plain", "--model", "plain=digits"), "'plain'"),
        (("--model", "=digits"), "NAME=MODEL"),
        (("--attack", "nothing"), "nothing"),
        (("--epochs", 0), "epochs"),
        (("--data", "breast-cancer"), "data"),
        (("--defense", "plain"), "at least two models"),
        (("--alpha", 2), "alpha"),
        (("--k", "1,65"), "k: expected"),
        (("--k", "1,1"), "different budgets"),
        (("--train-k", 65), "train_k: expected an integer between 1 and 64, got 65"),
        (("--train-limit", 0), "train_limit"),
        (("--seed", -1), "seed"),
        (("--attack", "fgsm"), "got 'fgsm'"),
        (("--attack", "sparse_pgd:gradient=foo"), "on any model: gradient: expected one of unprojected"),
        (("--workers", 0), "workers: expected an integer of at least 1"),
        (("--ray", "auto"), "workers: expected how many"),
        (("--batch-size", 0), "batch_size"),
    ):
        said = zeronorm(
            "matrix", *SEARCH, "--epochs", 1, "--train-limit", 60, *words, "--out", tmp_path / "m"
        )
        assert said.status == 2 and complaint in said.err.splitlines()[-1], (words, said.err)
        assert "Traceback" not in said.err and not (tmp_path / "m").exists()


def test_recipes_fit_the_data():
    """Colour images and small ones: channels, sides and budgets lead to settings that can be built."""
    for channels, sides, k in ((3, (32, 32), 20), (1, (28, 28), 10), (1, (8, 8), 2), (3, (64, 48), 5)):
        for name, words in recipes(channels, sides, k, 3).items():
            assert words.count("--epochs") == 1, name
            assert all(isinstance(word, str) for word in words), name
    assert "--retained" in recipes(1, (28, 28), 10, 3)["ablation"]
    assert recipes(1, (28, 28), 10, 3)["ablation"][-3:-2] == ["45"]  # as published for MNIST
