"""Small runs with real content: a linear classifier, really attacked, written through `RunFolder`.

Each stage of the pretend cascade knows a random part of the positions and finds the fewest of them that flip a
linear classifier; the last stage knows all.  So rows, positions, values and predictions belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

from zeronorm.records.folders import ComparisonFolder, RunFolder

STAGES = (
    {"name": "sparse_pgd (unprojected)", "attack": "sparse_pgd", "options": {"steps": 200, "gradient": "unprojected"}},
    {"name": "sparse_pgd (projected)", "attack": "sparse_pgd", "options": {"steps": 200, "gradient": "projected"}},
    {"name": "sparse_rs", "attack": "sparse_rs", "options": {"queries": 1000, "loss": "cross_entropy"}},
)  # fmt: skip


# what conftest.py writes
KINDS = (
    "list",
    "curve",
    "tabular",
    "colour",
    "features_of_images",
    "unfinished_list",
    "unfinished_curve",
    "one_class_missing",
    "all_broken",
    "none_broken",
    "all_wrong",
    "one_example",
    "nothing_yet",
    "large_budgets",
    "minimal_list",
    "minimal_curve",
    "unfinished_minimal_list",
)
COMPARISONS = ("two_models", "curve", "many_attacks", "one_attack", "unfinished", "nothing_broken")


def digits(n: int, colour: bool = False) -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    x = (data.images / 16)[:, None]
    if colour:
        tint = np.random.default_rng(1).uniform(0.35, 1, (len(x), 3, 1, 1))
        x = x * tint
    return x[-n:], data.target[-n:]


def tabular(n: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.min(0)) / (x.max(0) - x.min(0))
    return x[-n:], y[-n:]


def fit(x: np.ndarray, y: np.ndarray, ridge: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression onto one-hot labels: (classes, features) and (classes,)."""
    flat = np.c_[x.reshape(len(x), -1), np.ones(len(x))]
    targets = np.eye(int(y.max()) + 1)[y]
    solution = np.linalg.solve(flat.T @ flat + ridge * np.eye(flat.shape[1]), flat.T @ targets)
    return solution[:-1].T, solution[-1]


def _fewest(
    x: np.ndarray, label: int, w: np.ndarray, b: np.ndarray, known: np.ndarray, channels: int, linf: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Fewest known positions (with values, position after position) that flip one example within the box."""
    low, high = (bound.reshape(channels, -1) for bound in (np.maximum(x - linf, 0), np.minimum(x + linf, 1)))
    best = None
    logits = w @ x + b
    for rival in range(len(b)):
        if rival == label:
            continue
        slope = (w[rival] - w[label]).reshape(channels, -1)
        target = np.where(slope > 0, high, low)
        gain = np.where(known, (slope * (target - x.reshape(channels, -1))).sum(0), 0)
        order = np.argsort(-gain, kind="stable")
        needed = np.flatnonzero(np.cumsum(gain[order]) > logits[label] - logits[rival])
        if len(needed) and (best is None or needed[0] < len(best[0]) - 1):
            positions = np.sort(order[: needed[0] + 1])
            best = positions, target[:, positions].T.ravel()
    return best


def write_run(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    *,
    model: tuple[np.ndarray, np.ndarray] | None = None,
    budgets: Sequence[int] = (1, 2, 4, 8),
    curve: bool = False,
    unit: str = "pixel",
    keep_rows: float = 1.0,
    seed: int = 0,
    pictures: int = 60,
    known: Sequence[float] = (0.55, 0.8, 1.0),
    linf: float | None = None,
    differentiable: bool = True,
    minimal: Sequence[int] = (),
    **changes: Any,
) -> RunFolder:
    """Write a run.

    `keep_rows` < 1 leaves it unfinished; `minimal` stages are run once for all budgets; `changes` replace entries
    of run.json or its plan.
    """
    rng = np.random.default_rng(seed)
    w, b = model or fit(x, y)
    n, shape = len(x), x.shape[1:]
    channels = shape[0] if unit == "pixel" and len(shape) > 1 else 1
    size = int(np.prod(shape)) // channels
    rows: list[dict[str, Any]] = []
    for i in range(n):
        id_, flat, label = 7 * i + 3, x[i].ravel(), int(y[i])  # ids are not positions
        logits = w @ flat + b
        prediction = int(logits.argmax())
        base = {"example": id_, "name": None, "label": label}
        rows.append(
            base
            | {
                "k": None,
                "stage": -1,
                "attack": "clean",
                "outcome": "correct" if prediction == label else "wrong",
            }
            | {"prediction": prediction, "margin": _margin(logits, label), "forwards": 1, "backwards": 0}
        )
        if prediction != label:
            continue
        finds = [
            _fewest(flat, label, w, b, rng.random(size) < share, channels, linf or 1.0) for share in known
        ]
        waiting = [max(budgets)] if curve else sorted(budgets)
        past, smallest = set[int](), size + 1
        while waiting:
            turn = waiting.pop(0)
            for stage, found in enumerate(finds):
                if smallest <= turn or stage in past:
                    continue
                k = max(budgets) if stage in minimal and not curve else turn
                past |= {stage} & set(minimal)
                cap = 1000 if stage == 2 else 200
                row = base | {"k": k, "stage": stage, "attack": STAGES[stage]["name"]}
                d = len(found[0]) if found else size + 1
                spent = cap if d > k else max(1, int(cap * rng.beta(1.2, 6) * d / k))
                row |= {"forwards": spent, "backwards": spent if stage < 2 and differentiable else 0}
                if d > k:
                    rows.append(row | {"outcome": "robust", "prediction": prediction, "margin": 0.1})
                    continue
                assert found is not None
                positions, values = _padded(rng, flat, *found, k, channels)
                adversarial = flat.reshape(channels, -1).copy()
                adversarial[:, positions] = values.reshape(-1, channels).T
                after = w @ adversarial.ravel() + b
                rows.append(
                    row
                    | {
                        "outcome": "broken",
                        "prediction": int(after.argmax()),
                        "margin": _margin(after, label),
                    }
                    | {"distance": len(positions), "linf": float(np.abs(adversarial.ravel() - flat).max())}
                    | {"positions": positions.tolist(), "values": values.tolist()}
                )
                smallest = min(smallest, len(positions))
            if curve and 1 < smallest <= turn:
                waiting = [smallest - 1]

    run = _run(x, budgets, curve, unit, differentiable, n, len(rows))
    run["plan"]["threat"]["linf"] = linf
    for stage in minimal:
        run["plan"]["attack"]["stages"][stage]["kind"] = "minimal"
    run["plan"]["model"]["parameters"] = w.size + b.size
    for key, value in changes.items():
        place = run["plan"] if key in run["plan"] else run
        place[key] = place[key] | value if isinstance(value, dict) else value
    folder = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    if keep_rows < 1:
        run |= {"status": "running", "finished": None, "rows_digest": None, "summary": None}
        folder.append(rows[: int(keep_rows * len(rows))])
    else:
        images = [{"example": 7 * i + 3, "x": x[i].ravel().tolist()} for i in range(min(n, pictures))]
        run["rows_digest"] = folder.fold(rows, images)
    folder.write(run)
    return folder


def write_comparison(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    *,
    models: Sequence[str] = ("digits", "runs/other-model_of_the_same_digits"),
    attacks: Sequence[str] = ("sparse_pgd", "sparse_pgd:gradient=projected", "sparse_rs"),
    begun: int | None = None,
    **options: Any,
) -> ComparisonFolder:
    """A comparison of linear models, each attack with stages of its own luck; `options` as of `write_run`.

    With `begun` it is unfinished: only so many of its runs are there.
    """
    complete = begun is None
    folder, runs, transfers = ComparisonFolder(path), [], []
    weights = {name: fit(*digits(1797), ridge) for name, ridge in zip(models, (30.0, 3000.0), strict=False)}
    for model in models:
        for i, attack in enumerate(attacks):
            place = f"{len(runs)}-{model.rpartition('/')[2]}/{i}"
            if begun is not None and len(runs) >= begun:
                runs.append({"model": model, "attack": attack, "path": place})
                continue
            known = [share * (1 - 0.6 * i / len(attacks)) for share in (0.5, 0.8, 1)]
            run = write_run(path / place, x, y, model=weights[model], seed=i, known=known, **options)
            record = run.read()
            record["plan"]["model"] |= {"name": model}
            record["plan"]["attack"] = {"name": attack, "stages": record["plan"]["attack"]["stages"]}
            run.write(record)
            runs.append(
                {"model": model, "attack": attack, "path": place, "rows_digest": record["rows_digest"]}
            )
            for row in run.read_rows().to_pylist():
                for target in [name for name in models if name != model and row["outcome"] == "broken"]:
                    transfers.append(
                        _tried(row, x[(row["example"] - 3) // 7], *weights[target], place, target)
                    )
    tried = (
        {"rows": len(transfers), "rows_digest": folder.write_transfers(transfers)}
        if len(models) > 1
        else None
    )
    folder.write(
        {
            "format": "zeronorm-comparison/1",
            "created": "2026-11-20T11:00:00+00:00",
            "command": "zeronorm compare --model digits --attack sparse_pgd,sparse_rs --out runs/compared",
            "runs": runs,
            "status": "complete" if complete else "running",
            "finished": "2026-11-20T11:02:00+00:00" if complete else None,
            "transfer": tried if complete else None,
            "summary": None,
        }
    )
    return folder


def _tried(
    row: dict[str, Any], x: np.ndarray, w: np.ndarray, b: np.ndarray, source: str, target: str
) -> dict[str, Any]:
    """One adversarial of a run on another linear model."""
    adversarial = x.reshape(x.shape[0], -1).copy()
    adversarial[:, row["positions"]] = np.reshape(row["values"], (-1, x.shape[0])).T
    logits = w @ adversarial.ravel() + b
    same = {key: row[key] for key in ("example", "k", "stage", "distance")}
    return same | {
        "source": source,
        "target": target,
        "outcome": "robust" if int(logits.argmax()) == row["label"] else "broken",
        "prediction": int(logits.argmax()),
        "margin": _margin(logits, row["label"]),
    }


def _padded(
    rng: np.random.Generator, x: np.ndarray, positions: np.ndarray, values: np.ndarray, k: int, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """A find with up to two wasted changes, as a search with a budget leaves them."""
    spare = min(k - len(positions), int(rng.integers(0, 3)))
    others = np.setdiff1d(np.arange(x.size // channels), positions)
    extra = rng.choice(others, min(spare, len(others)), replace=False)
    wasted = x.reshape(channels, -1)[:, extra].T
    wasted = wasted + np.where(wasted < 0.5, 1e-3, -1e-3)  # too little to undo the break
    places = np.r_[positions, extra].astype(int)
    table = np.r_[values.reshape(-1, channels), wasted]
    order = np.argsort(places)
    return places[order], table[order].ravel()


def _margin(logits: np.ndarray, label: int) -> float:
    return float(logits[label] - np.delete(logits, label).max())


def _run(
    x: np.ndarray, budgets: Sequence[int], curve: bool, unit: str, differentiable: bool, n: int, rows: int
) -> dict[str, Any]:
    return {
        "format": "zeronorm-run/1",
        "status": "complete",
        "created": "2026-11-20T11:00:00+00:00",
        "finished": "2026-11-20T11:00:14+00:00",
        "command": "zeronorm evaluate --model digits --data digits --limit 200 --k 1,2,4,8 --steps 200 "
        "--queries 1000 --out runs/quickstart",
        "plan": {
            "model": {
                "name": "digits",
                "architecture": "linear",
                "digest": "sha256:" + "3f1c" * 16,
                "parameters": 0,
                "differentiable": differentiable,
            },
            "data": {
                "name": "digits",
                "split": "test",
                "n": n,
                "digest": "sha256:" + "a90b" * 16,
                "shape": list(x.shape[1:]),
                "dtype": "float32",
                "class_names": None,
            },
            "threat": {
                "norm": "L0",
                "unit": unit,
                "low": 0.0,
                "high": 1.0,
                "linf": None,
                "allowed": None,
                "budgets": list(budgets),
                "curve": curve,
            },
            "attack": {"name": "sparse_autoattack", "stages": [dict(stage) for stage in STAGES]},
            "seed": 0,
            "precision": "float32",
        },
        "plan_digest": "sha256:" + "77d2" * 16,
        "versions": {"zeronorm": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "execution": {"device": "cpu", "device_name": "AMD EPYC 7R13", "threads": 2, "batch_size": 256},
        "sessions": [
            {
                "started": "2026-11-20T11:00:00+00:00",
                "seconds": 14.2,
                "rows": rows,
                "stages": {
                    stage["name"]: {"seconds": 2.5 * (i + 1), "forwards": 1, "backwards": 0}
                    for i, stage in enumerate(STAGES)
                },
            }
        ],
        "diagnosis": [],
        "summary": None,
    }
