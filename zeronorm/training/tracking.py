"""Sends the metrics of a training to TensorBoard and MLflow, each an extra."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from zeronorm.errors import ArgumentError

Log = Callable[[Mapping[str, Any]], None]  # takes a row of metrics.csv


@contextmanager
def tracking(names: Collection[str], folder: Path, identity: Mapping[str, Any]) -> Iterator[Log]:
    """Yields a function that sends a row of metrics to all trackers asked for.

    **Raises:** `ArgumentError` for a tracker that is not installed.
    """
    with ExitStack() as stack:
        logs = [stack.enter_context(TRACKERS[name](folder, identity)) for name in names]

        def log(row: Mapping[str, Any]) -> None:
            measured = {name: value for name, value in row.items() if name != "epoch" and value is not None}
            for one in logs:
                one({"epoch": row["epoch"]} | measured)

        yield log


@contextmanager
def _tensorboard(folder: Path, identity: Mapping[str, Any]) -> Iterator[Log]:
    """Writes event files to the training's folder: `tensorboard --logdir FOLDER` shows them."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _missing("tensorboard", error) from None
    writer = SummaryWriter(str(folder / "tensorboard"))
    try:

        def log(row: Mapping[str, Any]) -> None:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, row["epoch"])
            writer.flush()

        yield log
    finally:
        writer.close()


@contextmanager
def _mlflow(folder: Path, identity: Mapping[str, Any]) -> Iterator[Log]:
    """Logs to a new MLflow run, named after the folder, where MLflow's own settings say."""
    try:
        import mlflow
    except ImportError as error:
        raise _missing("mlflow", error) from None
    with mlflow.start_run(run_name=folder.name):
        mlflow.log_params(dict(identity))

        def log(row: Mapping[str, Any]) -> None:
            values = {name: float(value) for name, value in row.items() if name != "epoch"}
            mlflow.log_metrics(values, step=row["epoch"])

        yield log


TRACKERS = {"tensorboard": _tensorboard, "mlflow": _mlflow}


def _missing(name: str, error: ImportError) -> ArgumentError:
    return ArgumentError(
        f"track: expected {name} to be installed (pip install 'zeronorm[{name}]'), got: {error}"
    )
