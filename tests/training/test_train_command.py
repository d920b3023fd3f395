"""`zeronorm train`, and the model that ships with the package, which it made."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from zeronorm import data, models
from zeronorm.attacks.sparse_autoattack import sparse_autoattack
from zeronorm.cli.train import train as command
from zeronorm.errors import ArgumentError
from zeronorm.models.checkpoint import RELEASED
from zeronorm.threat_model import L0
from zeronorm.training import TrainingPlan, train

app = typer.Typer()
app.command()(command)


def run(*words):
    result = CliRunner().invoke(app, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_last_line_is_json_and_progress_goes_to_stderr(tmp_path):
    quick = ("--limit", 200, "--epochs", 2, "--set", "width=0.1")
    result = run("--out", tmp_path / "out", "--json", *quick)
    *summary, last = result.stdout.splitlines()
    told = json.loads(last)
    assert told["n"] == 360 and told["epochs"] == 2 and 0 <= told["accuracy"] <= 1
    assert f"{told['accuracy']:.1%} of 360 test images right" in summary[0]
    assert models.digest(models.load(told["out"])) == told["digest"]
    assert all(os.path.exists(told[name]) for name in ("weights", "sidecar", "metrics"))
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["epoch 1/2", "epoch 2/2"]


def test_a_network_pruned_to_death_is_said(tmp_path):
    quick = ("--limit", 100, "--epochs", 2, "--model", "lenet_300_100", "--prune")
    assert "a dead network" in run("--out", tmp_path / "dead", *quick, 0.99999).stderr
    assert "warning" not in run("--out", tmp_path / "alive", *quick, 0.5).stderr


def test_the_sidecar_keeps_the_plan_and_the_command_that_states_it(tmp_path):
    plan = TrainingPlan(
        out=tmp_path / "out",
        model_arguments={"width": 0.1},
        method="fast_ls",
        k=2,
        attack={"sparse_pgd": {"step_size": 0.5}, "sparse_rs": {"loss": "margin"}},
        steps=2,
        average=0.9,
        normalize=False,
        epochs=2,
        limit=50,
        validation_limit=3,
        validation_steps=4,
        validation_queries=5,
    )
    words = shlex.split(plan.command().replace("DIR", str(plan.out)))
    assert words[:2] == ["zeronorm", "train"]
    run(*words[2:])
    sidecar = models.load(plan.out).facts
    assert sidecar["training"]["plan"] == plan.identity()
    assert sidecar["training"]["command"] == plan.command()
    assert "mean" not in sidecar["arguments"]


def test_a_certified_method_takes_the_same_path(tmp_path):
    out = tmp_path / "out"
    quick = (
        "--method",
        "l0-lipschitz",
        "--limit",
        200,
        "--epochs",
        2,
        "--batch-size",
        50,
        "--set",
        "templates=2",
    )
    result = run("--out", out, "--json", *quick)
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["n"] == told["certified"]["n"] == 360 and os.path.exists(told["weights"])
    assert f"{told['accuracy']:.1%} of 360 test images right, half proved at" in result.stdout.splitlines()[0]
    assert f"next: zeronorm certify --model {out}" in result.stdout
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["epoch 1/2", "epoch 2/2"]
    facts = models.load(out).facts
    assert facts["certified"] == told["certified"] and facts["training"]["command"].endswith("--out DIR")
    assert set(facts["training"]) == {"command", "plan", "seconds", "device", "threads"}
    again = train(TrainingPlan(
        method="l0_lipschitz", limit=200, epochs=2, batch_size=50, model_arguments={"templates": 2}, out=tmp_path / "b"
    ))  # fmt: skip
    assert models.digest(again.model) == told["digest"] and again.certified == told["certified"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--resume",), "resume: the method l0_lipschitz takes no resume"),
        (("--device", "cuda"), "device: the method l0_lipschitz trains on the cpu, got 'cuda'"),
        (("--devices", 2), "devices: the method l0_lipschitz trains on one, got 2"),
        (("--retained", 9), "retained: the method l0_lipschitz takes no retained"),
    ],
)
def test_what_a_certified_method_refuses(tmp_path, words, says):
    with pytest.raises(ArgumentError, match=f"^{says}$"):
        run("--out", tmp_path / "out", "--method", "l0_lipschitz", *words)
    assert not (tmp_path / "out").exists()


def test_bad_settings(tmp_path):
    for words, match in [
        (("--set", "width"), "set: expected NAME=VALUE, got 'width'"),
        (("--set", "seed=3"), "set: expected none of in_channels"),
    ]:
        with pytest.raises(ArgumentError, match=match):
            run("--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_help_needs_no_torch():
    code = (
        "import sys, typer; from zeronorm.cli.train import train; app = typer.Typer(); app.command()(train)\n"
        "try: app(['--help'])\n"
        "except SystemExit: assert not {'torch', 'rich.progress', 'lightning_fabric'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "Example: zeronorm train --model small_cnn --data mnist --out runs/mnist" in shown.stdout


SHIPPED = sorted(path.name for path in RELEASED.iterdir())
MODELS = sorted((Path(__file__).parents[2] / "models").glob("*/model.json"))

MNIST = [
    pytest.mark.slow,
    pytest.mark.skipif("ZERONORM_DATA" not in os.environ, reason="needs a copy of MNIST"),
]
BY_NAME = [pytest.param(name, marks=MNIST) if name.endswith("-mnist") else name for name in SHIPPED]
AGAIN = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("digits", "digits-robust") else name
    for name in BY_NAME
]


@pytest.mark.parametrize("name", BY_NAME)
def test_a_shipped_model_is_small_and_as_accurate_as_it_says(name):
    released = models.load(name)
    facts = released.facts
    size = sum(path.stat().st_size for path in (RELEASED / name).iterdir())
    assert size < (2_400_000 if name == "l0-lipschitz-mnist" else 200_000)
    test = data.load(facts["data"]["name"], "test")
    assert int((answers(released, test) == test.y).sum()) == facts["accuracy"]["correct"]
    assert data.load(facts["data"]["name"], "train").digest == facts["data"]["digest"]


@pytest.mark.parametrize("name", AGAIN)
def test_the_recorded_command_makes_the_shipped_model_again(name, tmp_path):
    # Bitwise the same weights need the same processor and number of threads: here the same but for rounding,
    # which a training amplifies.  Within two points of accuracy, and one voice on nearly every image.
    released = models.load(name)
    facts = released.facts
    test = data.load(facts["data"]["name"], "test")
    words = shlex.split(facts["training"]["command"].replace("DIR", str(tmp_path / "again")))
    told = json.loads(run(*words[2:], "--json").stdout.splitlines()[-1])
    again = models.load(tmp_path / "again")
    assert again.facts["training"]["plan"] == facts["training"]["plan"]
    assert again.arguments == released.arguments
    assert abs(told["accuracy"] - facts["accuracy"]["value"]) <= 0.02
    assert (answers(again, test) == answers(released, test)).double().mean() > 0.95


def test_the_robust_digits_model_withstands_what_the_plain_one_does_not():
    test = data.load("digits", "test", 100)
    right = {}
    for name in ("digits", "digits-robust"):
        model = models.load(name)
        x_adv = sparse_autoattack(model, test.x, test.y, L0(2), steps=50, queries=200)
        right[name] = int((answers(model, replace(test, x=x_adv)) == test.y).sum())
    assert right["digits-robust"] > right["digits"] + 25


@pytest.mark.parametrize("sidecar", MODELS, ids=lambda path: path.parent.name)
def test_a_model_beside_the_package_loads_by_its_path(sidecar):
    model = models.load(sidecar.parent)
    facts = model.facts
    assert sum(path.stat().st_size for path in sidecar.parent.iterdir()) < 1_700_000
    assert facts["accuracy"]["value"] == facts["accuracy"]["correct"] / facts["accuracy"]["n"]
    assert facts["accuracy"]["value"] > (0.9 if facts["data"]["name"] == "mnist" else 0.6)
    assert facts["training"]["command"].startswith(
        f"zeronorm train --method {facts['training']['plan']['method']} "
    )
    with torch.no_grad():
        side = model.arguments["image_size"]
        assert model(torch.zeros(2, model.arguments["in_channels"], side, side)).shape == (2, 10)


def answers(model, dataset):
    with torch.no_grad():
        return torch.cat([model(x).argmax(1) for x in dataset.x.split(500)])
