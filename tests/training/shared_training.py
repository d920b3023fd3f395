"""Trains in float64, by whatever processes it is run in: `python shared_training.py OUT CASE ...`.

A program for `torchrun`, and the cases that it knows.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

CASES = {
    "standard": {"crop": 1, "flip": True, "average": 0.9},
    "sat": {"method": "sat", "k": 1, "multi_k": 2.0, "steps": 3},
    "strades": {"method": "strades", "k": 1, "multi_k": 2.0, "steps": 3},
    "fast_ls": {"method": "fast_ls", "k": 1, "multi_k": 2.0, "label_warm_up": 0.0},
    "ablation": {"method": "ablation", "retained": 20},
    "truncated": {
        "method": "truncated",
        "k": 2,
        "steps": 20,
        "append_every": 1,
        "lr": 0.02,
        "model_arguments": {"truncation": 2},
    },
    "sparse": {"prune": 0.5, "prune_rounds": 2, "l1": 1e-4},
    "batch_norm": {"model": "resnet20", "limit": 90, "batch_size": 33, "epochs": 2},
}
SMALL = {
    "model": "lenet_300_100", "limit": 301, "epochs": 3, "batch_size": 64, "lr": 0.1, "validation_limit": 21,
    "validation_steps": 3, "validation_queries": 10,
}  # fmt: skip


def main(out: Path, names: list[str]) -> None:
    import torch

    from zeronorm import data
    from zeronorm.training import TrainingPlan, loop, train
    from zeronorm.training.plan import PRECISIONS

    torch.set_num_threads(1)
    PRECISIONS["float32"] = "64-true"
    load, build = data.load, loop.starting_model

    def doubled(*asked):
        found = load(*asked)
        object.__setattr__(found, "x", found.x.double())
        return found

    data.load, loop.starting_model = doubled, lambda *given: build(*given).double()
    told = {}
    for name in names:
        result = train(TrainingPlan(out=out / name, **(SMALL | CASES[name])))
        figures = ("loss", "accuracy", "validation_loss", "validation_accuracy", "robust_accuracy")
        told[name] = [[float(row[figure] or 0) for figure in figures] for row in result.history]
    if os.environ.get("RANK", "0") == "0":
        (out / "curves.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
