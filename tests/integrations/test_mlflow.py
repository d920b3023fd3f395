"""MLflow's own store keeps an evaluation, and what comes out of it can be verified."""

from __future__ import annotations

import sys

import pytest

import zeronorm as zn
from zeronorm.cli.main import run
from zeronorm.errors import ArgumentError
from zeronorm.integrations import log_to_mlflow


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)  # where artifacts are kept beside a file
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield mlflow
    mlflow.set_tracking_uri(before)


@pytest.fixture
def evaluation(model, images, tmp_path):
    return zn.evaluate(
        model, images, [zn.L0(1), zn.L0(4)], "sparse_rs", tmp_path / "run", queries=30, name="digits"
    )


def test_an_evaluation_is_logged(mlflow, evaluation, model, images, tmp_path):
    client = mlflow.MlflowClient()
    logged = client.get_run(log_to_mlflow(evaluation))
    assert logged.info.run_name == "digits on digits" and logged.info.status == "FINISHED"
    parameters = logged.data.params
    assert parameters["model.name"] == "digits" and parameters["threat.budgets"] == "[1, 4]"
    assert parameters["attack.name"] == "sparse_rs" and parameters["seed"] == "0"
    assert logged.data.metrics["clean_accuracy"] == float(evaluation.clean_accuracy)
    told = {m.step: m.value for m in client.get_metric_history(logged.info.run_id, "robust_accuracy")}
    assert told == {k: pytest.approx(float(v)) for k, v in evaluation.robust_accuracy.items()}
    assert logged.data.tags["zeronorm.rows_digest"].startswith("sha256:")
    there = mlflow.artifacts.download_artifacts(
        run_id=logged.info.run_id, artifact_path="run", dst_path=str(tmp_path / "there")
    )
    assert zn.verify(there, model, images).ok


def test_within_an_active_run(mlflow, evaluation):
    with mlflow.start_run(run_name="mine") as active:
        assert log_to_mlflow(evaluation.run) == active.info.run_id


def test_on_the_command_line(mlflow, tmp_path):
    words = [
        "--limit",
        "4",
        "--k",
        "1",
        "--attack",
        "sparse_rs",
        "--queries",
        "3",
        "--out",
        str(tmp_path / "cli"),
    ]
    assert run(["evaluate", *words, "--track", "mlflow"]) == 0
    (logged,) = mlflow.MlflowClient().search_runs(["0"])
    assert logged.data.params["data.n"] == "4"


@pytest.mark.parametrize("where", ["http://127.0.0.1:1", "odd://store"])
def test_nowhere_to_log_to(mlflow, capsys, tmp_path, monkeypatch, where):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(where)
    words = ["evaluate", "--limit", "2", "--out", str(tmp_path / "run"), "--track", "mlflow"]
    assert run(words) == 2 and f"track: mlflow cannot log to {where}: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_not_installed(evaluation, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        ArgumentError, match=r"mlflow: expected it to be installed \(pip install 'zeronorm\[mlflow\]'"
    ):
        log_to_mlflow(evaluation)
    assert run(["evaluate", "--limit", "2", "--track", "mlflow"]) == 2
    assert run(["evaluate", "--limit", "2", "--track", "mlfow"]) == 2
    assert "track: expected one of mlflow, got 'mlfow'" in capsys.readouterr().err
