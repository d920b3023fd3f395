"""Tables I and II of Beliaev et al. 2022 on MNIST, and what stronger attacks leave of them.

    python reproductions/beliaev2022_truncation/reproduce.py --scale cpu
    python reproductions/beliaev2022_truncation/reproduce.py --scale paper --device cuda

Writes measured-SCALE.json beside itself, row by row.  MNIST is looked for in $ZERONORM_DATA or on the Hub.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import zeronorm as zn
from zeronorm.certification import certify_truncated
from zeronorm.data import Dataset
from zeronorm.training.append import train_appending

SCALES: dict[str, dict[str, Any]] = {
    "cpu": {
        "train": 10_000, "widths": [128, 256, 100], "rounds": 2, "epochs": 6, "attacked": 1000,
        "test": 50, "queries": [300, 1000], "steps": 200, "pointwise": 25, "pointwise_queries": 5000,
    },
    "paper": {
        "train": None, "widths": [1568, 3136, 500, 100], "rounds": 4, "epochs": 25, "attacked": None,
        "test": 512, "queries": [300, 1000, 5000], "steps": 10_000, "pointwise": 512,
        "pointwise_queries": 100_000,
    },
}  # fmt: skip
BUDGETS, K, BETA = (3, 5, 8), 10, 100
WHITE_BOX = ("sparse_pgd", "sigma_zero", "fmn_l0", "guided_exchange")


def box(k: int | None, beta: float) -> zn.L0:
    """k pixels, each anywhere in the box of the images widened by beta about its middle."""
    return zn.L0(k, low=(1 - beta) / 2, high=(1 + beta) / 2)


def right(model: Any, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def attacked(model: Any, data: Dataset, name: str, threat: zn.L0, **options: Any) -> tuple[float, float]:
    """Robust accuracy, clean errors counted as errors; and the seconds it took."""
    began, correct = time.perf_counter(), 0
    for rows in torch.arange(len(data)).split(128):
        x, y, ids = data.x[rows], data.y[rows], data.ids[rows]
        x_adv = zn.attacks.catalogue[name].function(model, x, y, threat, ids=ids, **options)
        assert bool(threat.contains(x, x_adv).all())
        correct += round(len(rows) * right(model, x_adv, y))
    return correct / len(data), round(time.perf_counter() - began, 1)


def median_changes(model: Any, data: Dataset, beta: float, queries: int) -> float:
    """Pointwise: the median number of pixels it needs, 0 for clean errors."""
    threat = box(None, beta)
    x_adv = zn.attacks.pointwise(model, data.x, data.y, threat, queries=queries, restarts=10, ids=data.ids)
    changes = threat.distance(data.x, x_adv).double()
    with torch.no_grad():
        changes[model(x_adv).argmax(1) == data.y] = torch.inf
    return float(changes.median())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--only", choices=[f"{name}{how}" for name in ("F0", "F10") for how in ("", "-appending")]
    )
    scale = SCALES[(asked := parser.parse_args()).scale]
    suffix = f"-{asked.only}" if asked.only else ""
    out = Path(__file__).parent / f"measured-{asked.scale}{suffix}.json"
    rows: list[dict[str, Any]] = []

    def tell(**row: Any) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        out.write_text(json.dumps({"scale": asked.scale, **scale, "rows": rows}, indent=1) + "\n")

    def on_device(data: Dataset) -> Dataset:
        return Dataset(
            data.x.to(asked.device), data.y.to(asked.device), data.ids.to(asked.device), data.name,
            data.split, data.class_names,
        )  # fmt: skip

    train = on_device(zn.data.load("mnist", "train", scale["train"]))
    test = on_device(zn.data.load("mnist", "test", scale["test"]))
    whole = on_device(zn.data.load("mnist", "test"))
    for truncation, appending in ((0, False), (K, True), (0, True), (K, False)):
        name = f"F({truncation})"
        if asked.only not in (None, f"F{truncation}{'-appending' if appending else ''}"):
            continue
        model = zn.models.build(
            "mlp", widths=scale["widths"], truncation=truncation, mean=[0.1307], std=[0.3081]
        ).to(asked.device)
        began = time.perf_counter()
        rounds = scale["rounds"] if appending else 0
        history = train_appending(
            model, train, box(10, BETA), rounds=rounds, epochs=scale["epochs"],
            queries=300, limit=scale["attacked"],
        )  # fmt: skip
        tell(
            model=name, appending=appending, clean=right(model, whole.x, whole.y), n=len(whole),
            history=history, seconds=round(time.perf_counter() - began, 1),
        )  # fmt: skip
        for attack in WHITE_BOX if truncation else WHITE_BOX[:1]:
            for budget in BUDGETS:
                robust, seconds = attacked(model, test, attack, box(budget, BETA), steps=scale["steps"])
                tell(
                    model=name, appending=appending, attack=attack, k=budget, steps=scale["steps"],
                    robust=robust, n=len(test), seconds=seconds,
                )  # fmt: skip
        if truncation:
            for budget in BUDGETS:
                robust, seconds = attacked(
                    model, test, "sparse_autoattack", box(budget, BETA), steps=scale["steps"],
                    queries=scale["queries"][-1], version="plus",
                )  # fmt: skip
                tell(
                    model=name, appending=appending, attack="sparse_autoattack plus", k=budget,
                    steps=scale["steps"], robust=robust, n=len(test), seconds=seconds,
                )  # fmt: skip
            proven = certify_truncated(model, test.x.cpu()).holds(test.y.cpu(), 1)
            tell(
                model=name, appending=appending, certified_at_1=float(proven.double().mean()),
                n=len(test),
            )  # fmt: skip
        for budget in BUDGETS:
            for queries in scale["queries"]:
                robust, seconds = attacked(model, test, "sparse_rs", box(budget, BETA), queries=queries)
                tell(
                    model=name, appending=appending, attack="sparse_rs", k=budget, queries=queries,
                    robust=robust, n=len(test), seconds=seconds,
                )  # fmt: skip
        few = on_device(zn.data.load("mnist", "test", scale["pointwise"]))
        for beta in (BETA, 1):
            tell(
                model=name, appending=appending, attack="pointwise", beta=beta, n=len(few),
                median=median_changes(model, few, beta, scale["pointwise_queries"]),
            )  # fmt: skip


if __name__ == "__main__":
    main()
