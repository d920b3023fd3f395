"""The plan: every option declared once, and read by the checks, the command line and the records."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, fields, replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import typer

from zeronorm.cli import main
from zeronorm.errors import ArgumentError
from zeronorm.models.checkpoint import RELEASED
from zeronorm.training import TrainingPlan
from zeronorm.training.method import CertifiedMethod
from zeronorm.training.methods import METHODS
from zeronorm.training.plan import CERTIFIED, KINDS, LOOP, METHOD_HELP, OPTIONS

MLP = {"model": "mlp", "model_arguments": {"truncation": 5}}
# by what was asked: sha256 of `identity()` as version 1 of the records has it, and the end of the command
IDENTITIES = [
    ({}, "a9f9f6c5df9c3260", "standard --model small_cnn --data digits"),
    (
        {"model": "preact-resnet18", "model_arguments": {"activation": "relu"}, "epochs": 1, "batch_size": 7,
         "lr": 0.01, "schedule": "step", "momentum": 0.5, "weight_decay": 0.0, "crop": 2, "flip": True,
         "normalize": False, "validation": 0.25, "limit": 16, "seed": 9, "precision": "bfloat16", "average": 0.9,
         "data": "mnist", "device": "cpu", "resume": True, "track": ("mlflow",)},
        "8c6b765d535942ec",
        "standard --model preact_resnet18 --data mnist --epochs 1 --batch-size 7 --lr 0.01 --schedule step "
        "--momentum 0.5 --weight-decay 0.0 --average 0.9 --crop 2 --flip --no-normalize --validation 0.25 --limit 16 "
        "--seed 9 --precision bfloat16 --set activation=relu",
    ),
    (
        {"k": 3, "validation_limit": 7, "validation_steps": 8, "validation_queries": 9},
        "0e47820fee2565e1",
        "standard --model small_cnn --data digits --k 3 --validation-limit 7 --validation-steps 8 "
        "--validation-queries 9",
    ),
    (
        {"prune": 0.5, "prune_rounds": 2, "keep_dense": ("first",), "l1": 1e-4},
        "0bc2a552a6dd5f50",
        "standard --model small_cnn --data digits --prune 0.5 --prune-rounds 2 --keep-dense first --l1 0.0001",
    ),
    ({"method": "sat", "k": 2}, "9a087bb10144dd07", "sat --model small_cnn --data digits --k 2"),
    (
        {"method": "sat", "k": 2, "attack": {"sparse_pgd": {"step_size": 0.5}, "sparse_rs": {"loss": "margin"}},
         "steps": 2, "gradient": "alternate", "tolerance": 4, "multi_k": 1.5},
        "ba9880d6be61e850",
        "sat --model small_cnn --data digits --k 2 --multi-k 1.5 --attack "
        "sparse_pgd:step_size=0.5,sparse_rs:loss=margin --steps 2 --gradient alternate --tolerance 4",
    ),
    (
        {"method": "strades", "k": 10, "beta": 1.5},
        "e92009fb7a0a0dc8",
        "strades --model small_cnn --data digits --k 10 --beta 1.5",
    ),
    (
        {"method": "fast_ls", "k": 2, "noise": 0.5, "label_momentum": 0.8, "label_warm_up": 0.5},
        "3aabf5d677647d59",
        "fast_ls --model small_cnn --data digits --k 2 --noise 0.5 --label-momentum 0.8 --label-warm-up 0.5",
    ),
    (
        {"method": "linf_adversarial", "epsilon": 0.1},
        "62d53bfcd4bf4e2f",
        "linf_adversarial --model small_cnn --data digits --epsilon 0.1",
    ),
    (
        {"method": "linf_adversarial", "epsilon": 0.1, "steps": 5, "step_size": 0.02},
        "e7df4c8c64df5fd2",
        "linf_adversarial --model small_cnn --data digits --epsilon 0.1 --steps 5 --step-size 0.02",
    ),
    ({"method": "ablation"}, "53c8f812cae2b7c5", "ablation --model small_cnn --data digits"),
    (
        {"method": "ablation", "retained": 9, "null": "mean"},
        "f398910a1bccb6f2",
        "ablation --model small_cnn --data digits --retained 9 --null mean",
    ),
    (
        {"method": "truncated", "k": 2, "model": "mlp"},
        "ac14fc40edeccb75",
        "truncated --model mlp --data digits --k 2 --set truncation=2",
    ),
    (
        {"method": "truncated", "k": 2, "append_every": 3, "append_limit": 50, "box_factor": 100.0, "steps": 7} | MLP,
        "9e365b329bfb5fbc",
        "truncated --model mlp --data digits --k 2 --steps 7 --append-every 3 --append-limit 50 --box-factor 100.0 "
        "--set truncation=5",
    ),
    (
        {"method": "truncation_window"} | MLP,
        "11da33aeb355ffbf",
        "truncation_window --model mlp --data digits --set truncation=5",
    ),
    (
        {"method": "truncation_window", "budget": 3, "k": 2} | MLP,
        "0be1ea3c60b240ed",
        "truncation_window --model mlp --data digits --k 2 --budget 3 --set truncation=5",
    ),
    (
        {"initial": "digits", "prune": 0.5, "method": "strades", "k": 1},
        "5913db2777e26f69",
        "strades --model small_cnn --data digits --initial digits --prune 0.5 --k 1",
    ),
]  # fmt: skip
# what a sidecar keeps of the plan of a network made to be certified
RECORDS = {
    "l0_lipschitz": {
        "budget": 26.0, "epochs": 6, "batch_size": 250, "lr": 0.01, "temperature": 5.0, "softness": 1.0,
        "patch_softness": 0.5, "seed": 0,
    },
    "feature_partition": {
        "budget": 44.0, "temperature": 24.0, "sharpness": 2.0, "groups": 8, "epochs": 120, "batch_size": 250,
        "lr": 0.004, "warm_up": 0.3, "weight_decay": 0.02, "crop": 2, "flip": True, "precision": "bfloat16", "seed": 0,
    },
}  # fmt: skip
PARAMETERS = {p.name: p for p in typer.main.get_command(main.app).commands["train"].params}
NUMBERS = [name for name, option in OPTIONS.items() if option.low is not None]
FREE = {"out", "data", "model_arguments", "initial", "keep_dense", "attack", "flip", "normalize", "resume"}


def flag(name):
    return "--set" if name == "model_arguments" else f"--{name.replace('_', '-')}"


def of_method(name):
    """A method that takes the option, and what else it needs."""
    option = OPTIONS[name]
    method = next(method for method in METHOD_HELP if option.takes(method))
    needs = {"k": 1, "epsilon": 0.1}
    return {"method": method} | {
        other: value for other, value in needs.items() if method in OPTIONS[other].needed
    }


@pytest.mark.parametrize(("asked", "digest", "command"), IDENTITIES)
def test_identity_and_command_are_those_of_the_records(asked, digest, command):
    plan = TrainingPlan(out="DIR", **asked)
    said = json.dumps(plan.identity())
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == digest, said
    assert plan.command() == f"zeronorm train --method {command} --out DIR"


@pytest.mark.parametrize("method", CERTIFIED)
def test_a_certified_method_has_its_own_defaults(method):
    plan = TrainingPlan(out="DIR", method=method)
    said = plan.identity()
    elsewhere = {name: said.pop(name) for name in ("data", "model", "model_arguments", "limit")}
    assert said == {"method": method} | RECORDS[method]
    assert elsewhere == {"data": "digits", "model": method, "model_arguments": {}, "limit": None}
    assert plan.command() == f"zeronorm train --method {method} --model {method} --data digits --out DIR"
    shorter = replace(plan, epochs=2, budget=3)
    assert shorter.identity() == plan.identity() | {"epochs": 2, "budget": 3.0}
    assert "--budget 3.0 --epochs 2" in shorter.command()


@pytest.mark.parametrize(("asked", "digest", "command"), IDENTITIES)
def test_a_plan_is_the_same_from_its_fields_and_from_its_command(asked, digest, command, monkeypatch):
    plan = TrainingPlan(out="DIR", **asked)
    if plan.initial is None:
        assert TrainingPlan(**asdict(plan)) == plan
    assert from_command_line(shlex.split(plan.command())[2:], monkeypatch).identity() == plan.identity()


SIDECARS = sorted([*RELEASED.glob("*/model.json"), *Path(__file__).parents[2].glob("models/*/model.json")])


@pytest.mark.parametrize("sidecar", SIDECARS, ids=lambda path: path.parent.name)
def test_the_command_of_a_released_model_states_the_plan_beside_it(sidecar, monkeypatch):
    training = json.loads(sidecar.read_text())["training"]
    said = from_command_line(shlex.split(training["command"])[2:], monkeypatch).identity()
    if training["plan"]["method"] in CERTIFIED:
        said = {name: value for name, value in said.items() if name in training["plan"]}
    assert said == training["plan"]


def from_command_line(words, monkeypatch):
    """The plan that the command line makes."""
    from zeronorm.cli import train as command

    class Made(Exception): ...

    def made(plan):
        raise Made(plan)

    monkeypatch.setattr(command, "_train", made)
    with pytest.raises(Made) as caught:
        main.app(["train", *words], standalone_mode=False)
    return caught.value.args[0]


def test_every_method_has_a_row_and_a_word_of_help():
    assert list(METHODS) == list(METHOD_HELP)
    assert {name for name, method in METHODS.items() if isinstance(method, CertifiedMethod)} == set(CERTIFIED)
    for option in OPTIONS.values():
        assert set(option.methods) | set(option.by_method) | set(option.needed) <= set(METHODS)
        assert all(option.takes(method) for method in (*option.needed, *option.by_method))


@pytest.mark.parametrize("name", [field.name for field in fields(TrainingPlan)])
def test_every_field_has_a_help_text_and_a_range(name):
    option = OPTIONS[name]
    assert option.help[0].isupper() and option.help.endswith(".") and len(option.help) > 10
    assert (option.low is not None) == (KINDS[name] in (int, float))
    assert bool(option.low is not None or option.choices) != (name in FREE)
    assert f"- `{name}`: {option.sentence(LOOP)}" in TrainingPlan.__doc__


def test_the_command_line_has_exactly_the_fields_of_the_plan():
    assert set(PARAMETERS) - {"help"} == set(OPTIONS) | {"devices", "json_"}
    for name, option in OPTIONS.items():
        parameter = PARAMETERS[name]
        assert flag(name) in parameter.opts and parameter.help == option.sentence(LOOP)
        assert parameter.default is None and parameter.required == (name == "out")


@pytest.fixture
def as_installed(monkeypatch):
    """Without the checks of types at run time: here the plan is to complain."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", [*NUMBERS, *(name for name, option in OPTIONS.items() if option.choices)])
def test_out_of_range_is_refused_with_the_same_words_everywhere(as_installed, name, tmp_path, capsys):
    option = OPTIONS[name]
    bad = ["nothing-like-it"] if option.choices else [option.low - 1, float("nan"), "x"]
    bad += [option.low] * option.open_low
    if option.high is not None:
        bad += [option.high if option.open_high else 2 * option.high]
    for value in bad:
        others = {} if name == "method" else {**of_method(name)}
        others.pop(name, None)
        with pytest.raises(ArgumentError) as refused:
            TrainingPlan(out=tmp_path / "out", **others, **{name: (value,) if name == "track" else value})
        words = [word for other, said in others.items() for word in (flag(other), str(said))]
        status = main.run(["train", "--out", str(tmp_path / "out"), *words, flag(name), str(value)])
        assert status == 2
        assert capsys.readouterr().err == f"zeronorm: {refused.value}\n"
        assert str(refused.value).startswith(f"{name}: expected ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.methods])
def test_an_option_of_other_methods_is_refused(name):
    option = OPTIONS[name]
    method = next(method for method in METHOD_HELP if not option.takes(method))
    words = {
        "attack": {"saif": {}}, "initial": "digits", "track": ("mlflow",), "keep_dense": ("last",),
        "gradient": "projected", "null": "mean", "schedule": "step", "precision": "bfloat16",
        "normalize": False, "flip": True, "resume": True,
    }  # fmt: skip
    if option.low is not None:
        whole = KINDS[name] is int or type(option.default) is int
        words[name] = option.low + (1 if whole else 0.25)
    with pytest.raises(ArgumentError, match=f"^{name}: the method {method} takes no {name}$"):
        TrainingPlan(out="out", method=method, **{name: words[name]})


def test_numbers_become_pythons_own(as_installed):
    plan = TrainingPlan(out="out", epochs=np.int64(3), lr=np.float32(0.5), limit=np.int32(7))
    assert json.dumps(plan.identity()) and type(plan.epochs) is int and type(plan.lr) is float


def test_help_is_grouped(capsys):
    assert main.run(["train", "--help"]) == 0
    said = capsys.readouterr().out
    groups = {option.group for option in OPTIONS.values()} - {""}
    assert len(groups) == 5 and all(group in said for group in groups)
    assert "Example: zeronorm train --model small_cnn --data mnist --out runs/mnist" in said
