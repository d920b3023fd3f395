"""Pipelines of scikit-learn on tables: the adversary writes raw columns, and trees behind steps are opened."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

import zeronorm as zn
from zeronorm.errors import ArgumentError

GRADES = ["low", "mid", "high"]


def people(n=160, seed=0, missing=True):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "income": rng.gamma(2, 1500, n).round(),
            "rate": rng.normal(size=n),
            "age": rng.integers(18, 80, n),
            "job": rng.choice(["none", "clerk", "chief"], n),
            "grade": rng.choice(GRADES, n),
            "owner": rng.integers(0, 2, n),
            "district": rng.choice([3, 7, 11], n),
        }
    )
    points = frame.income / 300 + frame.age / 4 + 10 * frame.owner + 12 * frame.rate
    points += frame.job.map({"none": 0, "clerk": 10, "chief": 20}) + 9 * frame.grade.map(
        {"low": 0, "mid": 1, "high": 2}
    )
    frame["granted"] = np.where(points + (frame.district == 7) * 15 > points.median(), "yes", "no")
    if missing:
        frame.loc[rng.random(n) < 0.1, "rate"] = np.nan
        frame.loc[rng.random(n) < 0.1, "job"] = np.nan
    return frame


def preparation():
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    job = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    return ColumnTransformer(
        [
            ("numbers", numbers, ["rate", "income"]),
            ("job", job, ["job"]),
            ("district", OneHotEncoder(), ["district", "owner"]),
            ("grade", OrdinalEncoder(categories=[GRADES]), ["grade"]),
        ],
        remainder=MinMaxScaler(),
    )


def loaded(frame):
    """The table with its schema: the district is a name, though it looks like a number."""
    table = frame.astype({"district": str})
    schema = zn.data.Schema.infer(table.drop(columns="granted"))
    return zn.data.from_frame(table, "granted", schema)


def fitted(classifier, frame, prep=None):
    numeric = type(classifier).__module__.split(".")[0] in ("xgboost", "lightgbm")
    y = (frame.granted == "yes").astype(int) if numeric else frame.granted
    return Pipeline([("prep", preparation() if prep is None else prep), ("classifier", classifier)]).fit(
        frame.drop(columns="granted"), y
    )


def libraries():
    yield "forest", lambda: RandomForestClassifier(15, max_depth=5, random_state=0)
    yield "boosting", lambda: GradientBoostingClassifier(n_estimators=15, random_state=0)
    yield "histogram", lambda: HistGradientBoostingClassifier(max_iter=15, min_samples_leaf=5, random_state=0)

    def xgboost():
        return pytest.importorskip("xgboost").XGBClassifier(n_estimators=15, max_depth=3, n_jobs=1)

    def lightgbm():
        return pytest.importorskip("lightgbm").LGBMClassifier(
            n_estimators=15, num_leaves=6, n_jobs=1, verbose=-1
        )

    yield "xgboost", xgboost
    yield "lightgbm", lightgbm


@pytest.mark.parametrize(("name", "make"), list(libraries()), ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_exact_on_raw_columns(name, make):
    frame = people()
    data = loaded(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some libraries warn of names of columns
        pipeline = fitted(make(), frame[:120])
    model = zn.models.from_sklearn(pipeline, schema=data.schema)
    assert model.trees.features == 7 and model.trees.library.endswith("behind a Pipeline")
    x = data.x[120:]
    own = pipeline.predict(frame[120:].drop(columns="granted"))
    own = (own == "yes").astype(int) if own.dtype.kind not in "iu" else own
    threat = zn.L0(None, unit="column", schema=data.schema)
    outcome = zn.certification.smallest_change(model, x, threat)
    assert outcome.prediction.tolist() == own.tolist() and outcome.exact.all()
    # every single change to very many values, by the pipeline itself
    rng = np.random.default_rng(1)
    for i in range(0, len(x), 4):
        flipped = False
        for column, place in zip(data.schema.columns, data.schema.slices, strict=True):
            cuts = model.trees.threshold[model.trees.feature == place.start]
            if column.kind == "real":
                cuts = np.concatenate(
                    [cuts, np.nextafter(cuts, np.inf), rng.uniform(column.low, column.high, 50)]
                )
                values = np.clip(cuts, column.low, column.high)
            else:
                low, high = column.bounds
                values = np.unique(
                    np.concatenate([np.linspace(low, high, 40).round(), np.clip(np.ceil(cuts), low, high)])
                )
            values = np.append(values, np.nan) if column.missing else values
            rows = x[i].repeat(len(values), 1)
            rows[:, place.start] = torch.tensor(values)
            flipped |= bool((model(rows).argmax(1) != outcome.prediction[i]).any())
        assert flipped == (outcome.upper[i] == 1)


def test_attacked_and_proved_in_one_run(tmp_path):
    frame = people()
    data = loaded(frame)
    pipeline = fitted(RandomForestClassifier(10, random_state=0), frame)
    model = zn.models.from_sklearn(pipeline, schema=data.schema)
    threats = [zn.L0(k, unit="column", schema=data.schema) for k in (1, 2)]
    small = zn.data.from_frame(frame.astype({"district": str}), "granted", data.schema, limit=25)
    run = zn.evaluate(model, small, threats, "corner_search", tmp_path / "run", queries=60, prove=True)
    assert run.robust_accuracy == run.certified_accuracy and run.clean_accuracy == 1
    assert zn.verify(tmp_path / "run", model, small).ok


def test_without_a_frame():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)) * [1, 100, 1e-3, 5]
    y = (x / [1, 100, 1e-3, 5]).sum(1) > 0
    steps = make_pipeline(RobustScaler(), FunctionTransformer(), RandomForestClassifier(8, random_state=0))
    model = zn.models.from_sklearn(steps.fit(x, y.astype(int)))
    bounds = {"low": torch.tensor(x.min(0)), "high": torch.tensor(x.max(0))}
    threat = zn.L0(None, unit="feature", **bounds)
    outcome = zn.certification.smallest_change(model, torch.tensor(x), threat)
    assert outcome.exact.all() and outcome.prediction.tolist() == steps.predict(x).tolist()


def test_an_unknown_step_is_refused_by_name_and_searched_all_the_same():
    frame = people(missing=False)
    data = loaded(frame)
    prep = ColumnTransformer([("numbers", PolynomialFeatures(2), ["rate", "income"])])
    model = zn.models.from_sklearn(
        fitted(RandomForestClassifier(8, random_state=0), frame, prep), schema=data.schema
    )
    threat = zn.L0(1, unit="column", schema=data.schema)
    with pytest.raises(ArgumentError, match="got PolynomialFeatures"):
        zn.certification.smallest_change(model, data.x[:2], threat)
    small = (data.x[:20], data.y[:20])
    with pytest.raises(ArgumentError, match=r"prove: no certificate accepts.*got PolynomialFeatures"):
        zn.evaluate(model, small, threat, queries=10, prove=True)
    assert zn.evaluate(model, small, threat, "corner_search", queries=100).robust_accuracy[1] < 1


def test_a_classifier_that_is_no_forest_is_a_black_box():
    frame = people()
    data = loaded(frame)
    pipeline = fitted(LogisticRegression(max_iter=1000), frame)
    model = zn.models.from_sklearn(pipeline, schema=data.schema)
    answers = pipeline.predict(frame.drop(columns="granted")) == "yes"
    assert model(data.x).argmax(1).tolist() == answers.astype(int).tolist()


def test_what_cannot_be_meant_is_one_line():
    frame = people(missing=False)
    data = loaded(frame)
    pipeline = fitted(RandomForestClassifier(3, random_state=0), frame)
    fewer = zn.data.Schema(data.schema.columns[1:])
    with pytest.raises(ArgumentError, match="none called 'income'"):
        zn.models.from_sklearn(pipeline, schema=fewer)
    with pytest.raises(ArgumentError, match="schema: expected none but of a Pipeline"):
        zn.models.from_sklearn(RandomForestClassifier(2).fit(data.x[:, [0, 1]], data.y), schema=data.schema)
    numbers = zn.data.Schema.infer(frame.drop(columns="granted"))
    model = zn.models.from_sklearn(pipeline, schema=numbers)
    with pytest.raises(ArgumentError, match="schema: expected kind 'category' of 'district'"):
        _ = model.trees
