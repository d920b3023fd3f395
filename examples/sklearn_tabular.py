"""Tabular data: how many of 30 measurements must change before a classifier errs, and which?

Run it: `python examples/sklearn_tabular.py`.  A forest is searched as any function, and opened for an exact answer.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads sleep
import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from torch import nn

import zeronorm as zn


def network(x: torch.Tensor, y: torch.Tensor, epochs: int = 40) -> nn.Module:
    """The first layer standardises, so that inputs stay in the units they were measured in."""
    torch.manual_seed(0)
    standardise = nn.BatchNorm1d(30, affine=False, momentum=None)
    model = nn.Sequential(standardise, nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2)).to(x.dtype)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--limit", type=int, default=143)
options.add_argument("--queries", type=int, default=500)
options.add_argument("--out", type=Path, default=Path("runs/tabular"))
asked = options.parse_args()
table = load_breast_cancer()
x, x_test, y, y_test = map(torch.tensor, train_test_split(table.data, table.target, random_state=0))
forest = zn.models.from_sklearn(RandomForestClassifier(30, random_state=0).fit(x, y))
data = x_test[: asked.limit], y_test[: asked.limit]
low, high = (torch.tensor(b) for b in (table.data.min(0), table.data.max(0)))  # ever measured, by feature
threats = [zn.L0(k, unit="feature", low=low, high=high) for k in (1, 2, 3)]
for name, model in {"forest": forest, "network": network(x, y)}.items():
    effort = {"queries": asked.queries} | ({"steps": 100} if name == "network" else {})
    evaluation = zn.evaluate(model, data, threats, name=name, out=asked.out / name, **effort)
    print(f"\n{evaluation}\n")
    first = next(row for row in evaluation.records.to_pylist() if row["outcome"] == "broken")
    for position, value in zip(first["positions"], first["values"], strict=True):
        feature, was = table.feature_names[position], float(x_test[first["example"], position])
        print(f"example {first['example']} errs once '{feature}' is {value:g}, not {was:g}")
exact = zn.certification.smallest_change(forest, data[0], threats[0].with_k(None))
known = "exactly" if exact.exact.all() else "at least"
for k in range(5):
    right = ((exact.lower > k) & (exact.prediction == data[1])).double().mean()
    print(f"forest, {k} of 30 measurements changed: {known} {right:.1%} right")
runs = [asked.out / "forest", asked.out / "network"]
print(f"\nreport: {zn.report.render(runs, asked.out / 'report.html')}")
