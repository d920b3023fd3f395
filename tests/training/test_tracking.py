"""Metrics for TensorBoard and MLflow, and what is said where they are not installed."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType

import pytest

from zeronorm.errors import ArgumentError
from zeronorm.training import train


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow")]
)
def test_not_installed(plan, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ArgumentError,
        match=rf"track: expected {name} to be installed \(pip install 'zeronorm\[{name}\]'\), got",
    ):
        train(plan(track=(name,)))


def test_mlflow_gets_the_plan_and_every_row(plan, monkeypatch):
    told = []

    @contextmanager
    def start_run(run_name):
        told.append(run_name)
        yield
        told.append("ended")

    mlflow = ModuleType("mlflow")
    mlflow.start_run = start_run
    mlflow.log_params = told.append
    mlflow.log_metrics = lambda values, step: told.append((step, values))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    asked = plan(track=("mlflow",), epochs=2)
    result = train(asked)
    name, parameters, *rows, end = told
    assert (name, end) == ("out", "ended") and parameters == asked.identity()
    assert rows == [
        (row["epoch"], {key: value for key, value in row.items() if key != "epoch" and value is not None})
        for row in result.history
    ]


def test_tensorboard_event_files(plan):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(plan(track=("tensorboard",), epochs=2, validation=0.0))
    events = EventAccumulator(str(result.out / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"lr", "loss", "accuracy", "seconds"}
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (row["epoch"], pytest.approx(row["loss"], rel=1e-6)) for row in result.history
    ]
