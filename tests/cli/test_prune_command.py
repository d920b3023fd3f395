"""`zeronorm prune`: a sweep, stopped and resumed, its rows, its page and what it refuses."""

from __future__ import annotations

import json

import pytest

from zeronorm import data, models
from zeronorm.attacks import catalogue
from zeronorm.cli.main import run
from zeronorm.defenses import sparsity
from zeronorm.evaluation import sparsity as measuring
from zeronorm.report import sparsity as page

LINF = "fgsm" if "fgsm" in catalogue else ""
QUICK = [
    "prune", "--data", "digits", "--model", "lenet_300_100", "--seeds", "2", "--rounds", "2", "--share", "0.5",
    "--epochs", "3", "--retrain-epochs", "1", "--train-limit", "300", "--limit", "40", "--linf", LINF,
    "--k", "1", "--steps", "3", "--queries", "3", "--device", "cpu",
]  # fmt: skip


def test_a_sweep(tmp_path, capsys, monkeypatch):
    out = tmp_path / "sweep"
    whole = tmp_path / "whole"
    assert run([*QUICK, "--out", str(whole)]) == 0
    measured = []
    measure = measuring.measure

    def stopping(*arguments, **options):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(1)
        return measure(*arguments, **options)

    monkeypatch.setattr(measuring, "measure", stopping)
    assert run([*QUICK, "--out", str(out)]) == 130
    monkeypatch.undo()
    with open(out / page.ROWS, "a") as file:
        file.write('{"reference": 1, "rou')  # of a crash
    capsys.readouterr()
    assert run([*QUICK, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = page.read_rows(out)
    assert [(row["reference"], row["round"]) for row in rows] == [(r, n) for r in range(2) for n in range(3)]
    assert rows == page.read_rows(whole), "as if never stopped"
    for row in rows:
        model = models.load(out / str(row["reference"]) / f"round-{row['round']}")
        assert models.digest(model) == row["digest"] and sparsity(model) == row["sparsity"]
        assert all(0 <= share <= row["clean"] + 0.2 for share in row["r_inf"].values())
        assert list(row["r_inf"]) == [name for name in [LINF] if name]
        assert row["proved"]["l2"] < row["r_2"]["deepfool"], "no adversarial is closer than what is proved"
    assert told["sparsity"] == pytest.approx([0, 0.5, 0.75], abs=1e-3)
    sparsities, found = page.measures(rows)
    until, falls, doubtful = page.verdict(rows, found)
    assert (told["until"], told["falls"]) == (sparsities[until], falls)
    assert told["not_told_apart"] == {name: sparsities[number] for name, number in doubtful.items()}
    assert told["clean accuracy"][0] == pytest.approx((rows[0]["clean"] + rows[3]["clean"]) / 2)
    text = (out / "report.html").read_text()
    assert (
        "Pruning lenet_300_100" in text and "robust accuracy, k = 1" in text and "reference networks" in text
    )
    # other settings are another sweep, more rounds are not
    assert run([*QUICK, "--out", str(out), "--share", "0.3"]) == 2
    assert (
        "a sweep of this plan in" in (error := capsys.readouterr().err) and "share 0.5 (asked: 0.3)" in error
    )
    assert run([*QUICK, "--out", str(out), "--rounds", "3", "--seeds", "1"]) == 0
    assert len(page.read_rows(out)) == 7


def test_a_dead_network_is_said_and_not_scored(tmp_path):
    test = data.load("digits", "test", 20)
    model = models.build("lenet_300_100", image_size=8)
    model.network[3].weight.data.zero_()
    row = measuring.measure(model.eval(), test, tmp_path, linf=(), l2=("deepfool",))
    assert "a dead network" in row["dead"] and row["r_2"] is None and row["robust"] is None
    assert len(test) == row["n"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--share", "1"], "share: expected a number in (0, 1), got 1.0"),
        (["--seeds", "0"], "seeds: expected an integer of at least 1, got 0"),
        (["--l2", "sparse_rs"], "l2: expected attacks within L2, got sparse_rs"),
        (["--l2", "fool"], "attack: expected one of"),
        (["--k", "one"], "k: expected integers with commas between them"),
        (["--model", "nowhere"], "model: expected"),
        (
            ["--keep-dense", "conv7"],
            "keep_dense: expected layers of the model (1, 3, 5, first, last), got 'conv7'",
        ),
        (["--keep-dense", "1,3,5"], "keep_dense: expected a layer at least that may be pruned"),
        (["--share", "-0.1"], "share: expected a number in (0, 1), got -0.1"),
        (["--limit", "1"], "limit: expected an integer of at least 2, got 1"),
        (["--data", "digitz"], "data: expected one of"),
    ],
)
def test_refuses(tmp_path, capsys, words, said):
    assert run([*QUICK, "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1]
