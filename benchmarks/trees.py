"""Exact answers for forests and boosted trees: how many rows are decided, how fast, and how much faster than a MILP.

    python -m benchmarks.trees
    python -m benchmarks.trees --tables digits --models forest --rows 100 --milp 0

Tables: breast cancer, wine, digits, diabetes (above the median or not) of scikit-learn, and the penguins of the package
`palmerpenguins` (categories, missing values), where it is installed.  The mixed-integer program is Kantchelian,
Tygar & Joseph's (ICML 2016), over the same cells, solved by HiGHS as scipy ships it; rows of the same run.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from torch import Tensor

import zeronorm as zn
from zeronorm.certification.certificate import UNBOUNDED
from zeronorm.certification.tree_ensemble import TreeOutcome, TreeProver, _Row

TABLES = ("breast_cancer", "wine", "digits", "diabetes", "penguins")
MODELS = ("forest", "lightgbm", "xgboost", "catboost")


def fewest_by_milp(prover: TreeProver, x: Tensor, seconds: float = 60.0) -> tuple[int, bool, bool]:
    """The smallest number of changes of one row by HiGHS; whether it finished, and whether the library confirms it.

    Ties of the sums count as flips here, to the solver's tolerance, so an unconfirmed number may be too small.
    Missing values are not in the program.
    """
    table = prover._tables[x.dtype]
    low, high = (end.double().numpy() for end in prover.threat.bounds(x))
    answer = int(prover.model.answers(x.numpy())[0])
    row = _Row(prover, table, x.numpy()[0], table.places(x.numpy(), low, high).of(0), answer)
    best, finished, confirmed = UNBOUNDED, True, True
    for rival in range(table.trees.classes):
        if rival == answer:
            continue
        found = _milp_of_rival(row, rival, seconds)
        finished &= found is not None
        if found is not None and found[0] < best:
            best = found[0]
            written = row._write(found[1], found[1], found[1])
            confirmed = written is not None and row.flips(written)
    return best, finished, confirmed


def _milp_of_rival(row: _Row, rival: int, seconds: float) -> tuple[int, Any] | None:
    table, units = row.table, row.units
    pair = table.pair(row.answer, rival)
    # columns of the program: for each unit whether it changes, then its cells (an interval: "beyond cell c"), leaves
    first = np.concatenate([[0], np.cumsum([u["cells"] if u["is_mask"] else u["cells"] - 1 for u in units])])
    first += len(units)
    leaves = {int(leaf): int(first[-1]) + n for n, leaf in enumerate(pair.order)}
    size = int(first[-1]) + len(leaves)
    entries: list[tuple[int, int, float]] = []
    below, above = list[float](), list[float]()

    def constrain(terms: list[tuple[int, float]], at_least: float, at_most: float) -> None:
        entries.extend((len(below), column, value) for column, value in terms)
        below.append(at_least)
        above.append(at_most)

    least, most = np.zeros(size), np.ones(size)
    for u, unit in enumerate(units):
        at, cells, own = int(first[u]), int(unit["cells"]), int(unit["own"])
        if unit["is_mask"]:
            constrain([(at + c, 1.0) for c in range(cells)], 1, 1)
            constrain([(at + own, 1.0), (u, 1.0)], 1, np.inf)
            for c in range(cells):
                most[at + c] = (int(unit["d_mask"]) >> c) & 1
            continue
        for c in range(cells - 2):
            constrain([(at + c, 1.0), (at + c + 1, -1.0)], 0, np.inf)
        if own > 0:
            constrain([(at + own - 1, 1.0), (u, 1.0)], 1, np.inf)
        if own < cells - 1:
            constrain([(at + own, 1.0), (u, -1.0)], -np.inf, 0)
        least[at : at + int(unit["d_lo"])] = 1
        most[at + int(unit["d_hi"]) : at + cells - 1] = 0
    for leaf, column in leaves.items():
        for i in range(table.start[leaf], table.start[leaf + 1]):
            condition = table.conditions[i]
            u = int(condition["unit"])
            at, cells = int(first[u]), int(units[u]["cells"])
            if units[u]["is_mask"]:
                bits = [(at + c, -1.0) for c in range(cells) if (int(condition["mask"]) >> c) & 1]
                constrain([(column, 1.0), *bits], -np.inf, 0)
                continue
            if condition["lo"] > 0:
                constrain([(column, 1.0), (at + int(condition["lo"]) - 1, -1.0)], -np.inf, 0)
            if condition["hi"] < cells - 1:
                constrain([(column, 1.0), (at + int(condition["hi"]), 1.0)], -np.inf, 1)
    for t in range(pair.trees):
        constrain([(leaves[int(leaf)], 1.0) for leaf in pair.order[pair.tree == t]], 1, 1)
    constrain(
        [(column, float(pair.value[leaf])) for leaf, column in leaves.items()], 1e-9 - pair.base, np.inf
    )
    cost = np.zeros(size)
    cost[: len(units)] = 1
    whole = np.ones(size)
    whole[first[-1] :] = 0
    lines, columns, values = zip(*entries, strict=True)
    matrix = csr_array((values, (lines, columns)), shape=(len(below), size))
    found = milp(
        cost, constraints=LinearConstraint(matrix, below, above), bounds=Bounds(least, most), integrality=whole,
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )  # fmt: skip
    if found.status == 2:
        return UNBOUNDED, row.own
    if found.status != 0 or found.x is None:
        return None
    cells = row.own.copy()
    for u, unit in enumerate(units):
        part = found.x[first[u] : first[u + 1]]
        if found.x[u] > 0.5:
            cells[u] = int(part.argmax()) if unit["is_mask"] else int((part > 0.5).sum())
    return round(float(found.fun)), cells


@dataclass
class Measured:
    """What one model on one table came to, in CPU seconds a row."""

    outcome: list[TreeOutcome]
    seconds: np.ndarray
    in_batch: float
    milp_seconds: float
    ratio: float
    finished: str


def measure(model: Any, schema: Any, x: Tensor, milp_rows: int, milp_seconds: float) -> Measured:
    """All rows by zeronorm, one by one and in one batch; the first few by HiGHS too, and once more by zeronorm."""
    prover = TreeProver(model, zn.L0(None, unit="column", schema=schema))
    prover(x[:1])  # compiled, cells and leaves prepared
    outcomes, spent = [], []
    for i in range(len(x)):
        began = time.process_time()
        outcomes.append(prover(x[i : i + 1]))
        spent.append(time.process_time() - began)
    began = time.process_time()
    prover(x)
    in_batch = (time.process_time() - began) / len(x)
    few = x[:milp_rows]
    began = time.process_time()
    prover(few)
    ours = time.process_time() - began
    theirs, finished, agreed = 0.0, 0, 0
    for i in range(min(milp_rows, len(x))):
        began = time.process_time()
        k, done, confirmed = fewest_by_milp(prover, x[i : i + 1], milp_seconds)
        theirs += time.process_time() - began
        finished += done
        agreed += done and confirmed and k == int(outcomes[i].upper[0])
    told = f"{finished} of {milp_rows}, {agreed} confirmed alike" if milp_rows else ""
    return Measured(
        outcomes,
        np.array(spent),
        in_batch,
        theirs / milp_rows if milp_rows else np.nan,
        theirs / ours if milp_rows else np.nan,
        told,
    )


def table(name: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Schema, rows and labels."""
    if name == "penguins":
        import pandas as pd
        from palmerpenguins import load_penguins

        frame = load_penguins().dropna().reset_index(drop=True)
        y = pd.factorize(frame.pop("species"), sort=True)[0]
        schema = zn.data.Schema.infer(frame.convert_dtypes())
        return schema, schema.encode(frame.convert_dtypes()).numpy(), y
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    y = found.target if name != "diabetes" else (found.target > np.median(found.target)).astype(int)
    return zn.data.Schema.infer(found.data), found.data, y


def fitted(kind: str, trees: int, x: np.ndarray, y: np.ndarray) -> Any:
    """A model as its library makes it, with this many trees (rounds, of boosting)."""
    if kind == "forest":
        return zn.models.from_sklearn(RandomForestClassifier(trees, random_state=0).fit(x, y))
    if kind == "lightgbm":
        from lightgbm import LGBMClassifier

        return zn.models.from_lightgbm(LGBMClassifier(n_estimators=trees, n_jobs=1, verbose=-1).fit(x, y))
    if kind == "xgboost":
        from xgboost import XGBClassifier

        return zn.models.from_xgboost(XGBClassifier(n_estimators=trees, n_jobs=1).fit(x, y))
    from catboost import CatBoostClassifier

    options = {"thread_count": 1, "verbose": 0, "allow_writing_files": False}
    return zn.models.from_catboost(CatBoostClassifier(iterations=trees, **options).fit(x, y))


def runs(options: argparse.Namespace) -> Iterator[tuple[str, str, Any, Any, Tensor]]:
    for name in options.tables.split(","):
        if name == "penguins" and find_spec("palmerpenguins") is None:
            continue
        schema, x, y = table(name)
        x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0)
        for kind in options.models.split(","):
            model = fitted(kind, options.trees, x_train, y_train)
            right = model.answers(x_test) == y_test
            yield name, kind, model, schema, torch.tensor(x_test[right][: options.rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--models", default=",".join(MODELS[:3]), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--rows", type=int, default=60, help="correctly predicted test rows")
    parser.add_argument("--milp", type=int, default=2, help="of these also by HiGHS")
    parser.add_argument("--milp-seconds", type=float, default=60.0, help="the most for a row and rival")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    shown = Table(title=f"{options.trees} trees or rounds; CPU seconds a row")
    for column in (
        "table",
        "model",
        "leaves",
        "rows",
        "exact",
        "k",
        "median",
        "99 %",
        "most",
        "in a batch",
        "HiGHS",
        "ratio",
        "HiGHS finished",
    ):
        shown.add_column(column, justify="right")
    for name, kind, model, schema, x in runs(options):
        found = measure(model, schema, x, options.milp, options.milp_seconds)
        k = [int(o.lower[0]) for o in found.outcome]
        exact = np.mean([bool(o.exact[0]) for o in found.outcome])
        shown.add_row(
            name, kind, f"{len(model.trees.leaves):,}", str(len(x)), f"{exact:.0%}", f"{min(k)}-{max(k)}",
            *(f"{np.quantile(found.seconds, q):.3f}" for q in (0.5, 0.99, 1.0)),
            f"{found.in_batch:.4f}", f"{found.milp_seconds:.2f}", f"{found.ratio:.0f}", found.finished,
        )  # fmt: skip
    Console(width=150).print(shown)


if __name__ == "__main__":
    main()
