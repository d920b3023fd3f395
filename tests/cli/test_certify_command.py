"""`zeronorm certify` and the trainings that lead to it, as a user types them."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def ablation(zeronorm, tmp_path):
    """A base classifier trained for a second."""
    out = tmp_path / "ablation"
    said = zeronorm(
        "train", "--method", "ablation", "--model", "lenet_300_100", "--data", "digits", "--retained", 24,
        "--epochs", 2, "--out", out, "--json",
    )  # fmt: skip
    assert said.status == 0, said.err
    assert f"next: zeronorm certify --model {out}" in said.out
    sidecar = json.loads((out / "model.json").read_text())
    assert sidecar["ablation"] == {"retained": 24, "null": "multichannel", "mean": None}
    return out


def test_train_certify_verify_and_another_confidence(zeronorm, ablation, tmp_path):
    run = tmp_path / "run"
    words = [
        "certify",
        "--model",
        ablation,
        "--data",
        "digits",
        "--limit",
        8,
        "--n0",
        50,
        "--n",
        200,
        "--out",
        run,
    ]
    said = zeronorm(*words, "--json")
    assert said.status == 0, said.err
    figures = json.loads(said.out.splitlines()[-1])
    assert figures["n"] == 8 and figures["run"] == str(run) and "0" in figures["robust_accuracy"]
    assert "randomized ablation, 24 pixels retained" in said.out and (run / "report.html").exists()
    assert zeronorm(*words).status == 0  # complete: nothing to do
    said = zeronorm("verify", run, "--json")
    assert said.status == 0 and "8 certificates re-checked" in said.out
    other = zeronorm("certify", "--counts", run, "--alpha", 0.001, "--out", tmp_path / "other")
    assert other.status == 0 and "99.9 % confidence" in other.out
    page = tmp_path / "page.html"
    assert zeronorm("report", run, tmp_path / "other", "--html", page).status == 0
    assert "2 runs of certificates" in page.read_text()


def test_l0_lipschitz(zeronorm, tmp_path):
    out, run = tmp_path / "model", tmp_path / "run"
    said = zeronorm(
        "train", "--method", "l0_lipschitz", "--model", "l0_lipschitz", "--data", "digits", "--budget", 4,
        "--temperature", 2, "--set", "templates=2", "--epochs", 3, "--batch-size", 60, "--out", out,
    )  # fmt: skip
    assert said.status == 0, said.err
    said = zeronorm("certify", "--model", out, "--data", "digits", "--limit", 60, "--out", run, "--json")
    assert said.status == 0, said.err
    figures = json.loads(said.out.splitlines()[-1])
    assert figures["certified_accuracy"]["1"] > 0.5 and "l0 lipschitz, deterministic" in said.out
    assert zeronorm("verify", run).status == 0


def test_truncation_window(zeronorm, tmp_path):
    out, run = tmp_path / "model", tmp_path / "run"
    said = zeronorm(
        "train", "--model", "mlp", "--data", "digits", "--set", "truncation=5", "--epochs", 1, "--out", out
    )
    assert said.status == 0, said.err
    said = zeronorm("certify", "--model", out, "--data", "digits", "--limit", 4, "--out", run, "--json")
    assert said.status == 0 and "truncation window, deterministic" in said.out, said.err
    assert json.loads(said.out.splitlines()[-1])["n"] == 4
    assert zeronorm("verify", run).status == 0
    said = zeronorm("certify", "--counts", run, "--alpha", 0.01, "--out", tmp_path / "other")
    assert said.status == 2 and "got truncation_window, which is a proof" in said.err


def test_a_base_classifier_is_attacked_as_the_smoothed_one(zeronorm, ablation, tmp_path):
    """Found by hand before: the base was given plain images, and refused them."""
    short = ["--data", "digits", "--limit", 3, "--queries", 5, "--device", "cpu"]
    run = tmp_path / "attacked"
    said = zeronorm(
        "evaluate",
        "--model",
        ablation,
        *short,
        "--attack",
        "pointwise",
        "--curve",
        3,
        "--votes",
        64,
        "--out",
        run,
    )
    assert said.status == 0, said.err
    model = json.loads((run / "run.json").read_text())["plan"]["model"]
    assert model["arguments"] == {
        "retained": 24, "null": "multichannel", "mean": None, "std": None, "precision": "float32", "votes": 64,
        "alpha": 0.05,
    }  # fmt: skip
    said = zeronorm("verify", run)
    assert said.status == 0, said.err + said.out
    both = tmp_path / "both"
    said = zeronorm(
        "compare",
        "--model",
        ablation,
        "--model",
        "digits",
        *short,
        "--k",
        1,
        "--attack",
        "sparse_rs",
        "--out",
        both,
    )
    assert said.status == 0, said.err
    said = zeronorm("verify", both)
    assert said.status == 0, said.err + said.out
    said = zeronorm("evaluate", "--model", "digits", *short, "--votes", 64)
    assert said.status == 2 and "votes: expected none for digits, which casts none, got 64" in said.err


def test_the_nearest_neighbour_and_discrete_smoothing(zeronorm, tmp_path):
    run = tmp_path / "run"
    neighbour = "nearest_neighbour:digits:limit=200"
    said = zeronorm(
        "certify", "--model", neighbour, "--data", "digits", "--limit", 20, "--out", run, "--json"
    )
    assert said.status == 0, said.err
    figures = json.loads(said.out.splitlines()[-1])
    assert figures["certified_accuracy"]["1"] > 0.3 and figures["arithmetic"] == "deployed"
    assert "nearest neighbour, deterministic, arithmetic: deployed" in said.out
    assert zeronorm("verify", run).status == 0
    noised = [
        "--model",
        "digits",
        "--data",
        "digits",
        "--limit",
        3,
        "--method",
        "discrete-smoothing",
        "--n",
        50,
    ]
    said = zeronorm("certify", *noised, "--keep", 0.9, "--levels", 17, "--out", tmp_path / "noise")
    assert said.status == 0, said.err
    assert "values kept with probability 0.9 among 17" in said.out and "PREDICT" in said.out
    assert zeronorm("verify", tmp_path / "noise").status == 0
    said = zeronorm("certify", *noised)
    assert said.status == 2 and "keep: expected the chance that a value stays" in said.err
    said = zeronorm("certify", "--model", neighbour, "--data", "digits", "--k", "1,2")
    assert said.status == 2 and "threats: expected none for the method nearest_neighbour" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["certify"], "model, counts: expected one of the two"),
        (["certify", "--model", "digits", "--counts", "x"], "model, counts: expected one of the two"),
        (["certify", "--model", "digits", "--data", "digits"], "retained: expected how many pixels"),
        (
            ["certify", "--model", "digits", "--data", "digits", "--retained", 9, "--limit", 2],
            "base_classifier: expected a model of 2 channels",
        ),
        (
            ["certify", "--model", "digits", "--data", "digits", "--retained", 65, "--limit", 2],
            "retained: expected an integer between 1 and 64, got 65",
        ),
        (["certify", "--model", "digits", "--null", "mean", "--mean", "x"], "mean: expected numbers with commas"),
        (
            ["certify", "--model", "digits", "--data", "digits", "--method", "l0_lipschitz", "--limit", 2],
            "model: expected an l0_lipschitz network",
        ),
        (["certify", "--counts", "/nowhere"], "found no run.json"),
        (["certify", "--counts", "/nowhere", "--limit", 3], "limit: expected none beside --counts, got 3"),
        (
            ["train", "--method", "l0_lipschitz", "--model", "lenet5", "--data", "digits", "--out", "OUT"],
            "model: expected l0_lipschitz",
        ),
        (
            ["certify", "--model", "l0-lipschitz-mnist", "--data", "digits", "--looks", 4],
            "looks: the method l0_lipschitz casts no votes",
        ),
        (
            ["train", "--method", "l0_lipschitz", "--model", "l0_lipschitz", "--retained", 9, "--out", "OUT"],
            "retained: the method l0_lipschitz takes no retained",
        ),
        (["train", "--retained", 9, "--out", "OUT"], "retained: the method standard takes no retained"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(zeronorm, tmp_path, words, says):
    out = tmp_path / "out"
    said = zeronorm(*[out if word == "OUT" else word for word in words])
    assert said.status == 2 and says in said.err and said.err.count("\n") == 1
    assert not (out / "model.json").exists()
