"""Tabular data: how many of 30 measurements must change before a scikit-learn classifier errs?

Run it: `python examples/sklearn_tabular.py`.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads sleep

import argparse

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import zeronorm as zn


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--limit", type=int, default=143)
    options.add_argument("--queries", type=int, default=500)
    asked = options.parse_args()

    table = load_breast_cancer()
    x_train, x_test, y_train, y_test = train_test_split(
        table.data, table.target, random_state=0, stratify=table.target
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression()).fit(x_train, y_train)

    # each feature has bounds of its own: here, the smallest and largest value ever measured
    measured = torch.tensor(table.data)
    bounds = {"low": measured.amin(0), "high": measured.amax(0)}
    evaluation = zn.evaluate(
        zn.models.from_sklearn(classifier),
        (torch.tensor(x_test)[: asked.limit], torch.tensor(y_test)[: asked.limit]),
        [zn.L0(k, unit="feature", **bounds) for k in (1, 2, 3)],
        queries=asked.queries,
    )
    print(evaluation)

    first = next(row for row in evaluation.records.to_pylist() if row["outcome"] == "broken")
    for position, value in zip(first["positions"], first["values"], strict=True):
        name, was = table.feature_names[position], x_test[first["example"], position]
        print(f"\nexample {first['example']} errs once '{name}' is {value:g}, not {was:g}")


if __name__ == "__main__":
    main()
