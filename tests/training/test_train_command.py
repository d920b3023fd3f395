"""`zeronorm train`, and the model that ships with the package, which it made."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
import typer
from typer.testing import CliRunner

from zeronorm import data, models
from zeronorm.cli.train import train as command
from zeronorm.errors import ArgumentError
from zeronorm.models.checkpoint import RELEASED
from zeronorm.training import TrainingPlan

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


def test_options_reach_the_plan(tmp_path):
    plan = TrainingPlan(
        out=tmp_path / "out",
        model="preact-resnet18",
        model_arguments={"activation": "relu"},
        epochs=1,
        batch_size=7,
        lr=0.01,
        schedule="step",
        momentum=0.5,
        weight_decay=0.0,
        crop=2,
        flip=True,
        normalize=False,
        validation=0.25,
        limit=16,
        seed=9,
        precision="bfloat16",
    )
    words = shlex.split(plan.command().replace("DIR", str(tmp_path / "out")))
    assert words[:2] == ["zeronorm", "train"]
    run(*words[2:])
    sidecar = models.load(tmp_path / "out").facts
    assert sidecar["training"]["plan"] == plan.identity()
    assert "mean" not in sidecar["arguments"]


def test_every_field_of_the_plan_is_an_option_and_the_defaults_agree():
    parameters = typer.main.get_command(app).params
    options = {parameter.name: parameter.default for parameter in parameters}
    for option in fields(TrainingPlan):
        name = {"model_arguments": "set_"}.get(option.name, option.name)
        assert name in options
        if name not in ("out", "set_"):
            assert options[name] == option.default


def test_bad_settings(tmp_path):
    for words, match in [
        (("--set", "width"), "set: expected NAME=VALUE, got 'width'"),
        (("--set", "seed=3"), "set: expected none of in_channels"),
        (("--model", "resnet21"), "model: expected one of"),
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


MNIST = [
    pytest.mark.slow,
    pytest.mark.skipif("ZERONORM_DATA" not in os.environ, reason="needs a copy of MNIST"),
]


def test_every_released_model_is_made_again():
    assert {path.name for path in RELEASED.iterdir()} == {"digits", "l0-lipschitz-mnist"}


@pytest.mark.parametrize(
    ("name", "most"), [("digits", 200_000), pytest.param("l0-lipschitz-mnist", 2_400_000, marks=MNIST)]
)
def test_the_recorded_command_makes_the_released_model_again(name, most, tmp_path):
    released = models.load(name)
    facts = released.facts
    size = sum(path.stat().st_size for path in (RELEASED / name).iterdir())
    assert size < most

    # the accuracy that is claimed
    test = data.load(facts["data"]["name"], "test")
    with torch.no_grad():
        answers = torch.cat([released(x).argmax(1) for x in test.x.split(500)])
    assert int((answers == test.y).sum()) == facts["accuracy"]["correct"]
    assert data.load(facts["data"]["name"], "train").digest == facts["data"]["digest"]

    # Bitwise the same weights need the same processor and number of threads: here the same but for rounding,
    # which a training amplifies.  Within two points of accuracy, and one voice on nearly every image.
    words = shlex.split(facts["training"]["command"].replace("DIR", str(tmp_path / "again")))
    told = json.loads(run(*words[2:], "--json").stdout.splitlines()[-1])
    again = models.load(tmp_path / "again")
    assert again.facts["training"]["plan"] == facts["training"]["plan"]
    assert again.arguments == released.arguments
    assert abs(told["accuracy"] - facts["accuracy"]["value"]) <= 0.02
    with torch.no_grad():
        said = torch.cat([again(x).argmax(1) for x in test.x.split(500)])
        agreement = (said == answers).double().mean()
    assert agreement > 0.95
