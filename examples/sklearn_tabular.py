"""Tabular data: how many of 30 measurements must change before a classifier errs, and which?

Run it: `python examples/sklearn_tabular.py`.  A forest is searched as any function, then opened for an exact answer.
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
schema = zn.data.Schema.infer(table.data, table.feature_names)  # ranges: whatever was ever measured
threats = [zn.L0(k, unit="column", schema=schema) for k in (1, 2, 3, 4)]
for name, model in {"forest": forest, "network": network(x, y)}.items():
    # a forest is opened: whom the search leaves is proved or broken; a network has gradients
    effort = {"prove": True} if name == "forest" else {"steps": 100}
    out = asked.out / name
    evaluation = zn.evaluate(model, data, threats, name=name, out=out, queries=asked.queries, **effort)
    print(f"\n{evaluation}\n")
    first = next(row for row in evaluation.records.to_pylist() if row["outcome"] == "broken")
    was = x_test[first["example"]]
    now = was.index_put((torch.tensor(first["positions"]),), torch.tensor(first["values"], dtype=was.dtype))
    print(f"example {first['example']} errs once {' and '.join(schema.differences(was, now))}")
runs = [asked.out / "forest", asked.out / "network"]
print(f"\nreport: {zn.report.render(runs, asked.out / 'report.html')}")
