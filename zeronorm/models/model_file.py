"""Trees in the files of other libraries: `xgboost:PATH`, `lightgbm:PATH`, and `joblib:PATH` for who trusts it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zeronorm.errors import ArgumentError, one_line
from zeronorm.files import open_regular, read_file
from zeronorm.models.black_box import BlackBox
from zeronorm.models.scikit_learn import from_sklearn
from zeronorm.models.tree_ensemble import from_lightgbm, from_xgboost, library

_PICKLES = b"\x80"  # how every pickle since protocol 2 begins


def from_file(name: str, *, schema: Any = None, trust: bool = False) -> BlackBox:
    """The classifier in a file, `xgboost:PATH` (as `save_model` writes it), `lightgbm:PATH`, or `joblib:PATH`.

    - `schema`: of a scikit-learn pipeline that was fitted on a data frame, as of `from_sklearn`.
    - `trust`: read a joblib file, which is a pickle: whoever wrote it has its code run here.
    """
    kind, _, place = name.partition(":")
    path = Path(place).expanduser()
    if kind not in FILES or not place:
        raise ArgumentError(f"model: expected one of {', '.join(f'{k}:PATH' for k in FILES)}, got {name!r}")
    if kind == "joblib" and not trust:
        raise ArgumentError(
            f"model: expected a file that is only data, got {path}, a pickle, whose code would run when it is read; if "
            "you trust it, say so: --trust, or trust=True in Python"
        )
    try:
        with open_regular(path) as file:
            start = file.read(1)
    except OSError as error:
        raise ArgumentError(f"model: expected a readable file, got {path}: {error.strerror}") from None
    if kind != "joblib" and start == _PICKLES:
        raise ArgumentError(f"model: expected a file as save_model writes it, got {path}, a pickle")
    try:
        model = FILES[kind](path, schema)
    except ArgumentError:
        raise
    except Exception as error:  # whatever the library says of it
        raise ArgumentError(
            f"model: expected a file of {kind} at {path}, got: {one_line(error)[:200]}"
        ) from None
    model.digest = f"sha256:{hashlib.sha256(read_file(path)).hexdigest()}"
    return model


def _xgboost(path: Path, schema: Any) -> BlackBox:
    xgboost = library("xgboost")
    booster = xgboost.Booster()
    booster.load_model(str(path))
    if booster.attr("scikit_learn") is None:
        return from_xgboost(booster)
    wrapped = xgboost.XGBClassifier()  # which stops where its training was stopped early
    wrapped.load_model(str(path))
    return from_xgboost(wrapped)


def _lightgbm(path: Path, schema: Any) -> BlackBox:
    return from_lightgbm(library("lightgbm").Booster(model_file=str(path)))


def _joblib(path: Path, schema: Any) -> BlackBox:
    import joblib  # type: ignore[import-untyped]

    found = joblib.load(path)
    kind = type(found).__module__.partition(".")[0]
    if kind in ("xgboost", "lightgbm"):
        return {"xgboost": from_xgboost, "lightgbm": from_lightgbm}[kind](found)
    takes_frames = type(found).__name__ == "Pipeline" and hasattr(found, "feature_names_in_")
    return from_sklearn(found, schema=schema if takes_frames else None)


FILES: dict[str, Callable[[Path, Any], BlackBox]] = {
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "joblib": _joblib,
}
