"""Files of other libraries: trees without a pickle, and a pickle for who trusts it."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

import zeronorm as zn
from zeronorm.errors import ArgumentError
from zeronorm.models import from_file

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 5))
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)


class Mine:
    """What nobody asked to run."""

    ran = False

    def __reduce__(self):
        return setattr, (Mine, "ran", True)


def answers(model):
    return model(torch.tensor(X)).argmax(1).tolist()


def test_xgboost(tmp_path):
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=40, n_jobs=1, early_stopping_rounds=2)
    model.fit(X[:80], Y[:80], eval_set=[(X[80:], Y[80:])], verbose=False)
    model.save_model(tmp_path / "wrapped.json")
    model.get_booster().save_model(tmp_path / "plain.ubj")
    wrapped, plain = (from_file(f"xgboost:{tmp_path / name}") for name in ("wrapped.json", "plain.ubj"))
    assert answers(wrapped) == model.predict(X).tolist()
    assert wrapped.trees.trees == model.best_iteration + 1 < plain.trees.trees
    assert wrapped.digest.startswith("sha256:") and wrapped.digest != plain.digest


def test_lightgbm(tmp_path):
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1).fit(X, Y)
    model.booster_.save_model(tmp_path / "model.txt")
    assert answers(from_file(f"lightgbm:{tmp_path / 'model.txt'}")) == model.predict(X).tolist()


def test_joblib_is_read_for_who_trusts_it_only(tmp_path):
    forest = RandomForestClassifier(5, random_state=0).fit(X, Y)
    joblib.dump(forest, tmp_path / "forest.joblib")
    name = f"joblib:{tmp_path / 'forest.joblib'}"
    with pytest.raises(
        ArgumentError, match="a pickle, whose code would run when it is read; if you trust it"
    ):
        from_file(name)
    model = from_file(name, trust=True)
    assert answers(model) == forest.predict(X).tolist() and model.trees.trees == 5
    joblib.dump([1, 2], tmp_path / "list.joblib")
    with pytest.raises(ArgumentError, match="classifier: expected a fitted scikit-learn classifier"):
        from_file(f"joblib:{tmp_path / 'list.joblib'}", trust=True)


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_what_is_no_file_of_theirs_is_one_line(tmp_path, kind):
    pytest.importorskip(kind)
    (tmp_path / "mine.pkl").write_bytes(pickle.dumps(Mine()))
    (tmp_path / "text.json").write_text("{}")
    (tmp_path / "empty.json").write_text("")
    for file, said in {
        "mine.pkl": "got .*mine.pkl, a pickle",
        "text.json": f"expected a file of {kind}",
        "empty.json": f"expected a file of {kind}",
        "none.json": "expected a readable file",
    }.items():
        with pytest.raises(ArgumentError, match=f"^model: .*{said}") as caught:
            from_file(f"{kind}:{tmp_path / file}")
        assert "\n" not in str(caught.value)
    assert not Mine.ran
    with pytest.raises(
        ArgumentError, match="model: expected one of xgboost:PATH, lightgbm:PATH, joblib:PATH"
    ):
        zn.models.from_file("catboost:x")
