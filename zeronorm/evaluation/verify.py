"""Re-check a run from scratch: every claim in its records against the model and the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeronorm import distances, losses, models
from zeronorm.attacks.search import Model
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.records import RunFolder, digest_rows
from zeronorm.evaluation.runner import as_dataset, predict, rebuild, summary_of
from zeronorm.threat_model import L0

Row = Mapping[str, Any]

_BATCH = 256


@dataclass
class Verification:
    """What was checked, and what did not hold.  True if everything held."""

    predictions: int = 0
    adversarials: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every claim held."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok


def verify(run: str | Path, model: Model, data: Dataset | tuple[Tensor, Tensor] | str) -> Verification:
    """Check every claim of a complete run against the model and the data it names.

    Of the model and the data: their digests.  Of every clean row: the prediction and its margin.  Of every
    broken row: that the stored values make an input within the budget, the box and the allowed positions, at
    the distance claimed, which the model misclassifies as claimed.  Of the rows together: that none is
    missing, doubled or changed since the run ended, and that they give the figures in the summary.

    That an example was *not* broken cannot be checked without searching again: the run is repeatable, so the
    same command in another folder does that.

    Args:
        run: folder of a complete run.
        model, data: as given to `evaluate`.

    Returns:
        A `Verification`: its problems, in words, and how much was checked.

    Raises:
        ArgumentError: if the records cannot be read at all.
    """
    folder = RunFolder(run)
    record = folder.read_run()
    if record["status"] != "complete":
        raise ArgumentError(
            f"run: expected a complete run, got one that stopped early in {folder.path}; resume it"
        )
    table = folder.read_rows()
    rows, plan = table.to_pylist(), record["plan"]
    result = Verification()

    dataset = as_dataset(data)
    if dataset.digest != plan["data"]["digest"]:
        result.problems.append(
            f"data: digest is {dataset.digest[:19]}..., the run used {plan['data']['digest'][:19]}..."
        )
    model_digest = models.describe(model).get("digest")
    if model_digest != plan["model"].get("digest"):
        result.problems.append(f"model: digest is {model_digest}, the run used {plan['model'].get('digest')}")
    if digest_rows(table) != record["rows_digest"]:
        result.problems.append("rows: their digest differs from the one in run.json: rows were changed")

    position = {int(id_): i for i, id_ in enumerate(dataset.ids.tolist())}
    known = [row for row in rows if row["example"] in position]
    if len(known) < len(rows):
        result.problems.append(
            f"rows: {len(rows) - len(known)} rows are of examples that the data does not have"
        )
    parameter = next(iter(model.parameters()), None) if isinstance(model, torch.nn.Module) else None
    device = torch.device("cpu") if parameter is None else parameter.device
    x, y = dataset.x.to(device), dataset.y.to(device)
    threat = _threat(plan["threat"], x)

    _check_completeness(known, plan, position, result)
    clean = [row for row in known if row["stage"] == -1]
    broken = [row for row in known if row["outcome"] == "broken"]
    for some in _batches(clean):
        at = [position[row["example"]] for row in some]
        _check_predictions(some, predict(model, x[at]), y[at], result)
        result.predictions += len(some)
    for some in _batches(broken):
        at = [position[row["example"]] for row in some]
        _check_adversarials(some, model, x[at], y[at], threat, result)
        result.adversarials += len(some)
    try:
        claimed, found = record["summary"], summary_of(record, table)
    except (KeyError, ValueError, TypeError) as error:
        result.problems.append(f"rows: they give no figures: {error}")
    else:
        if claimed != found:
            result.problems.append(f"summary: run.json says {claimed}, its rows say {found}")
    return result


def _check_completeness(
    rows: list[Row], plan: Mapping[str, Any], position: Mapping[int, int], result: Verification
) -> None:
    """Each example once clean, and searched by every stage until one broke it, at every budget it survived to."""
    outcomes: dict[tuple[int, int | None, int], str] = {}
    for row in rows:
        key = (row["example"], row["k"], row["stage"])
        if key in outcomes:
            result.problems.append(
                f"example {row['example']}: stage {row['stage']} at k={row['k']} has two rows"
            )
        outcomes[key] = row["outcome"]
    budgets, stages = plan["threat"]["budgets"], len(plan["attack"]["stages"])
    fewest = {row["example"]: math.inf for row in rows}
    for row in rows:
        if row["outcome"] == "broken":
            fewest[row["example"]] = min(fewest[row["example"]], row["distance"])
    missing = 0
    for example in position:
        clean = outcomes.get((example, None, -1))
        if clean is None:
            missing += 1
        elif clean == "correct":
            if plan["threat"]["curve"]:
                # the last search is the one just below the fewest changes found
                last = min(budgets[0], fewest.get(example, math.inf) - 1)
                searched = [last] if last >= 1 else []
            else:
                searched = [k for k in budgets if k > 0]
            for k in searched:
                if not plan["threat"]["curve"] and fewest.get(example, math.inf) <= k:
                    continue
                missing += sum((example, int(k), stage) not in outcomes for stage in range(stages))
    if missing:
        result.problems.append(f"rows: {missing} are missing")


def _check_predictions(rows: list[Row], z: Tensor, y: Tensor, result: Verification) -> None:
    wrong, margin, prediction = losses.is_wrong(z, y), -losses.margin(z, y), z.argmax(1)
    for j, row in enumerate(rows):
        for what, claimed, found in (
            ("label", row["label"], int(y[j])),
            ("clean prediction", row["prediction"], int(prediction[j])),
            ("clean outcome", row["outcome"], "wrong" if wrong[j] else "correct"),
        ):
            if claimed != found:
                result.problems.append(f"example {row['example']}: {what} is {found}, the run says {claimed}")
        if not math.isclose(row["margin"], float(margin[j]), rel_tol=1e-3, abs_tol=1e-4):
            result.problems.append(
                f"example {row['example']}: clean margin is {float(margin[j]):.6g}, the run says {row['margin']:.6g}"
            )


def _check_adversarials(
    rows: list[Row], model: Model, x: Tensor, y: Tensor, threat: L0, result: Verification
) -> None:
    rebuilt, sound = [], []
    for j, row in enumerate(rows):
        try:
            rebuilt.append(rebuild(x[j : j + 1], row, threat))
            sound.append(j)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            first = str(error).splitlines()[0]
            result.problems.append(f"example {row['example']}: its adversarial cannot be rebuilt: {first}")
    if not sound:
        return
    x, y, x_adv = x[sound], y[sound], torch.cat(rebuilt)
    z = predict(model, x_adv)
    distance, linf = threat.distance(x, x_adv), distances.linf(x, x_adv)
    wrong, prediction = losses.is_wrong(z, y), z.argmax(1)
    inside = threat.with_k(None).contains(x, x_adv)
    for j, row in enumerate(rows[i] for i in sound):
        who = f"example {row['example']} (k={row['k']}, {row['attack']})"
        if not bool(inside[j]):
            result.problems.append(f"{who}: the adversarial leaves the box or the allowed positions")
        if int(distance[j]) != row["distance"]:
            result.problems.append(
                f"{who}: {int(distance[j])} positions changed, the run says {row['distance']}"
            )
        if int(distance[j]) > row["k"]:
            result.problems.append(f"{who}: {int(distance[j])} positions changed, more than the budget")
        if not bool(wrong[j]):
            result.problems.append(f"{who}: the model answers right on the adversarial")
        if int(prediction[j]) != row["prediction"]:
            result.problems.append(f"{who}: predicted {int(prediction[j])}, the run says {row['prediction']}")
        if row["label"] != int(y[j]):
            result.problems.append(f"{who}: label is {int(y[j])}, the run says {row['label']}")
        if row["linf"] is None or not math.isclose(row["linf"], float(linf[j]), rel_tol=1e-5, abs_tol=1e-6):
            result.problems.append(
                f"{who}: largest change is {float(linf[j]):.6g}, the run says {row['linf']}"
            )


def _threat(plan: Mapping[str, Any], x: Tensor) -> L0:
    low, high = (
        torch.tensor(v, dtype=x.dtype) if isinstance(v, list) else v for v in (plan["low"], plan["high"])
    )
    threat = L0(None, plan["unit"], low, high, plan["linf"])
    if plan["allowed"] is None:
        return threat
    allowed = torch.zeros(threat.positions(x), dtype=torch.bool)
    allowed[plan["allowed"]] = True
    return L0(None, plan["unit"], low, high, plan["linf"], allowed)


def _batches(rows: list[Row]) -> list[list[Row]]:
    return [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
