"""Small tables with columns of every kind, and small ensembles of every library trained on them."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

import zeronorm as zn
from zeronorm.data import Column, Schema

SKLEARN = ("tree", "forest", "extra", "boosting", "histogram")
OTHERS = ("xgboost", "lightgbm", "catboost")


def table(rng, dtype, *, missing=False, directions=True, kinds=None):
    """A random schema of some columns, 60 rows of it, and what labels may depend on.

    With given `kinds` all columns matter alike, so that several must change.
    """

    def direction():
        return str(rng.choice(["any", "any", "up", "down", "never"])) if directions else "any"

    def column(i, kind):
        if kind == "real":
            by = float(rng.uniform(0.2, 1)) if directions and rng.random() < 0.2 else None
            absent = missing and rng.random() < 0.5
            return Column(f"c{i}", "real", -1.0, 1.0, changes=direction(), by=by, missing=absent)
        if kind == "whole":
            return Column(
                f"c{i}",
                "whole",
                0,
                int(rng.integers(2, 6)),
                changes=direction(),
                missing=missing and rng.random() < 0.3,
            )
        if kind == "binary":
            return Column(f"c{i}", "binary", changes=direction())
        names = tuple("abcdef"[: int(rng.integers(2, 5))])
        reachable = (
            names[: int(rng.integers(1, len(names) + 1))] if directions and rng.random() < 0.3 else None
        )
        return Column(
            f"c{i}", "category", categories=names, one_hot=kind == "group", reachable=reachable, changes=direction(),
            missing=kind == "code" and missing and rng.random() < 0.3,
        )  # fmt: skip

    alike = kinds is not None
    kinds = kinds or rng.choice(["real", "real", "whole", "binary", "code", "group"], int(rng.integers(2, 5)))
    schema = Schema(tuple(column(i, str(kind)) for i, kind in enumerate(kinds)))
    rows = np.zeros((60, schema.features))
    signal = np.zeros(60)
    for c, place in zip(schema.columns, schema.slices, strict=True):
        if c.kind == "real":
            v = rng.uniform(-1, 1, 60).round(int(rng.integers(1, 3)))
        elif c.kind == "category":
            v = rng.integers(0, len(c.categories), 60)
        else:
            v = rng.integers(0, int(c.bounds[1]) + 1, 60)
        signal += v / max(1, c.bounds[1]) if alike else rng.normal() * np.cos(rng.uniform(1, 3) * v)
        if c.one_hot:
            rows[:, place] = np.eye(c.width)[v]
        else:
            rows[:, place.start] = v
            if c.missing:
                rows[rng.random(60) < 0.2, place.start] = np.nan
    x = torch.tensor(rows, dtype=dtype)
    return schema, x, signal


def labels(rng, signal, classes):
    edges = np.quantile(signal, np.linspace(0, 1, classes + 1)[1:-1])
    y = np.searchsorted(edges, signal + 0.1 * rng.normal(size=len(signal)))
    y[:classes] = np.arange(classes)
    return y


def fitted(kind, rng, x, y, small=True):
    """A small model of a library, as zeronorm takes it."""
    n, depth = int(rng.integers(1, 8 if small else 40)), int(rng.integers(1, 4))
    seed = int(rng.integers(1000))
    data = x.numpy()
    if kind in SKLEARN:
        model = {
            "tree": lambda: DecisionTreeClassifier(max_depth=depth + 1, random_state=seed),
            "forest": lambda: RandomForestClassifier(n, max_depth=depth, random_state=seed),
            "extra": lambda: ExtraTreesClassifier(n, max_depth=depth, random_state=seed),
            "boosting": lambda: GradientBoostingClassifier(
                n_estimators=n, max_depth=depth, random_state=seed
            ),
            "histogram": lambda: HistGradientBoostingClassifier(
                max_iter=n, max_depth=depth, min_samples_leaf=3, random_state=seed, early_stopping=False
            ),
        }[kind]()
        return zn.models.from_sklearn(model.fit(data, y))
    if kind == "xgboost":
        from xgboost import XGBClassifier

        return zn.models.from_xgboost(
            XGBClassifier(n_estimators=n, max_depth=depth, n_jobs=1, random_state=seed).fit(data, y)
        )
    if kind == "lightgbm":
        from lightgbm import LGBMClassifier

        return zn.models.from_lightgbm(
            LGBMClassifier(
                n_estimators=n, max_depth=depth, min_child_samples=3, n_jobs=1, random_state=seed, verbose=-1
            ).fit(data, y)
        )
    from catboost import CatBoostClassifier

    policy = str(rng.choice(["SymmetricTree", "Lossguide", "Depthwise"]))
    return zn.models.from_catboost(
        CatBoostClassifier(
            iterations=n, depth=depth, grow_policy=policy, thread_count=1, random_seed=seed, verbose=0,
            allow_writing_files=False,
        ).fit(data, y)
    )  # fmt: skip
