"""A finished evaluation for MLflow: its plan, figures and evidence.

log_to_mlflow(zn.evaluate(model, data, threat))       # zeronorm evaluate ... --track mlflow
"""

from __future__ import annotations

import os
from typing import Any

from zeronorm.errors import ArgumentError
from zeronorm.evaluation.result import Evaluation
from zeronorm.integrations.extras import require
from zeronorm.records.folders import RunFolder


def log_to_mlflow(run: Evaluation | str | os.PathLike[str]) -> str:
    """Log an evaluation, or the folder of one; returns the id of the MLflow run.

    Parameters are the plan; metrics `clean_accuracy` and, with the budget as step, `robust_accuracy` and the ends
    of its interval; tags the digests that `zeronorm verify` checks, and the warnings.  The folder is an artifact:
    what is downloaded from there can be verified.  Within an active MLflow run it is logged there.
    """
    mlflow = require("mlflow", "mlflow")
    evaluation = run if isinstance(run, Evaluation) else Evaluation(os.fspath(run))
    record = RunFolder(evaluation.run).read()
    plan = record["plan"]
    if mlflow.active_run() is not None:
        return _log(mlflow, mlflow.active_run(), evaluation, record)
    name = f"{plan['model']['name']} on {plan['data']['name']}"
    with mlflow.start_run(run_name=name) as active:
        return _log(mlflow, active, evaluation, record)


def check_tracking() -> None:
    """`ArgumentError` unless MLflow can keep runs where its own settings say, before work that is to be logged."""
    mlflow = require("mlflow", "mlflow")
    try:
        mlflow.MlflowClient().search_experiments(max_results=1)
    except Exception as error:  # of its stores and servers, of many kinds
        said = " ".join(str(error).split())[:300]
        raise ArgumentError(f"track: mlflow cannot log to {mlflow.get_tracking_uri()}: {said}") from None


def _log(mlflow: Any, active: Any, evaluation: Evaluation, record: dict[str, Any]) -> str:
    plan = record["plan"]
    flat = _flat({name: plan[name] for name in ("model", "data", "threat", "attack", "seed", "precision")})
    mlflow.log_params({name: str(value)[:500] for name, value in flat.items()})
    mlflow.log_metric("clean_accuracy", float(evaluation.clean_accuracy))
    for k, accuracy in evaluation.robust_accuracy.items():
        low, high = accuracy.interval
        values = {
            "robust_accuracy": float(accuracy),
            "robust_accuracy_low": low,
            "robust_accuracy_high": high,
        }
        mlflow.log_metrics(values, step=k)
    warnings = [f["code"] for f in evaluation.diagnosis if f["level"] == "warning"]
    mlflow.set_tags(
        {
            "zeronorm.version": record["versions"]["zeronorm"],
            "zeronorm.plan_digest": record["plan_digest"],
            "zeronorm.rows_digest": record.get("rows_digest", ""),
            "zeronorm.warnings": ", ".join(warnings),
        }
    )
    mlflow.log_artifacts(str(evaluation.run), "run")
    return str(active.info.run_id)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names; what is long and named by a digest is left out."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        elif name not in ("class_names", "stages", "training", "versions"):
            found[f"{prefix}{name}"] = value
    return found
