"""Several attacks on one or several models: the figures of a comparison, from its records alone.

All attacks saw the same examples, so what they broke is compared example by example.  The worst case counts an
example as broken if any attack broke it.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from zeronorm.errors import ArgumentError, printable
from zeronorm.metrics import (
    Difference,
    Magnitude,
    broken_alone,
    broken_by_first_only,
    broken_within,
    median_magnitude,
    paired_difference,
    transferred,
    worst_case,
)
from zeronorm.records.figures import Ints, Share, Summary, data_title, norm_title, percent, summarise
from zeronorm.records.folders import ComparisonFolder

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Entry:
    """One run of the comparison; `path` within its folder."""

    model: str
    attack: str
    path: str
    summary: Summary


@dataclass(frozen=True)
class Agreement:
    """What the attacks on one model broke within k changes, each in the order of the entries.

    `first_only[i][j]` counts the examples that i broke and j did not; `names` are those that one attack alone
    broke.  `behind` is how much more robust accuracy an attack left than the strongest one did, None for that
    one itself.
    """

    k: int
    broke: list[int]
    alone: list[int]
    names: list[list[str]]
    first_only: list[list[int]]
    behind: list[Difference | None]
    by_any: int
    by_all: int


@dataclass(frozen=True)
class ModelFigures:
    """All attacks on one model, and their worst case; `curve` and `robust_accuracy` as in a `Summary`."""

    name: str
    n: int
    entries: list[Entry]
    clean_accuracy: Share
    robust_accuracy: dict[int, Share]
    curve: Ints
    median: Magnitude | None  # None within an ℓ∞ ball
    agreement: dict[int, Agreement]  # by the budgets a table shows
    differ_at: int  # the budget at which the attacks disagree about most examples

    @property
    def half_k(self) -> int:
        """The budget at which all attacks together leave nearest to half of what was right: there they can differ."""
        half = self.clean_accuracy.count / 2
        return min(self.agreement, key=lambda k: abs(self.robust_accuracy[k].count - half))


@dataclass(frozen=True)
class Carried:
    """Adversarials of a source within k changes, on a target: still right, and the share that fooled it."""

    right: Share
    success: Share


@dataclass(frozen=True)
class Transfer:
    """From one attack on one model, or from all of them (`attack` None), to another model."""

    source: str
    attack: str | None
    target: str
    by_k: dict[int, Carried]


@dataclass(frozen=True)
class ComparisonFigures:
    """All figures of a comparison."""

    record: Mapping[str, Any]
    models: list[ModelFigures]
    transfers: list[Transfer]
    complete: bool

    @property
    def entries(self) -> list[Entry]:
        """Every run, model by model."""
        return [entry for model in self.models for entry in model.entries]

    @property
    def first(self) -> Summary:
        """A summary that speaks for what all runs share: the data, the threat model, the budgets."""
        return self.models[0].entries[0].summary


def read_comparison(folder: ComparisonFolder) -> ComparisonFigures:
    """The figures of a comparison, finished or not; a run that has not begun yet is left out."""
    record = folder.read()
    entries: list[Entry] = []
    names: dict[int, str] = {}
    for run in record["runs"]:
        place = folder.run(run["path"])
        if not place.exists():
            continue
        rows = place.read_rows()
        summary = summarise(place.read(), rows)
        if summary.n < summary.asked:
            continue  # its clean predictions are not all there
        entries.append(Entry(run["model"], run["attack"], run["path"], summary))
        clean = rows.filter(pc.less(rows["stage"], 0)).select(["example", "name"]).to_pylist()
        names |= {row["example"]: row["name"] for row in clean if row["name"]}
    if not entries:
        raise ArgumentError(
            f"comparison: expected at least one run that has begun in {folder.path}, found none"
        )
    _check_alike(entries)
    models = [
        _model(name, list(mine), names)
        for name, mine in groupby(entries, key=lambda entry: entry.model)
    ]  # fmt: skip
    return ComparisonFigures(
        record=record,
        models=models,
        transfers=_transfers(models, folder.read_transfers()) if record.get("transfer") else [],
        complete=record.get("status") == "complete" and all(entry.summary.complete for entry in entries),
    )


def _check_alike(entries: Sequence[Entry]) -> None:
    def shared(entry: Entry) -> Any:
        plan = entry.summary.run["plan"]
        return plan["data"].get("digest"), plan["threat"], entry.summary.examples.tolist()

    for entry in entries[1:]:
        if shared(entry) != shared(entries[0]):
            raise ArgumentError(
                f"comparison: expected runs of the same data and threat model, got others in {entry.path} than "
                f"in {entries[0].path}"
            )


def _model(name: str, entries: list[Entry], names: Mapping[int, str]) -> ModelFigures:
    first = entries[0].summary
    table = [entry.summary.smallest for entry in entries]
    smallest = worst_case(table)
    last = len(first.curve) - 1
    left = first.n - np.searchsorted(np.sort(smallest), np.arange(last + 1), side="right")
    agreement = {k: _agreement(k, entries, table, names) for k in first.budgets}
    return ModelFigures(
        name=name,
        n=first.n,
        entries=entries,
        clean_accuracy=Share(int((smallest > 0).sum()), first.n),
        robust_accuracy={k: Share(int(left[k]), first.n) for k in first.robust_accuracy},
        curve=left,
        median=median_magnitude(smallest) if first.epsilon is None else None,
        agreement=agreement,
        differ_at=max(agreement, key=lambda k: agreement[k].by_any - agreement[k].by_all),
    )


def _agreement(
    k: int, entries: Sequence[Entry], table: Sequence[Floats], names: Mapping[int, str]
) -> Agreement:
    broken = broken_within(table, k)
    alone = broken_alone(broken)
    first_only = broken_by_first_only(broken).tolist()
    strongest = int(broken.sum(axis=1).argmax())
    examples, n = entries[0].summary.examples.tolist(), len(table[0])
    return Agreement(
        k=k,
        broke=broken.sum(axis=1).tolist(),
        alone=alone.sum(axis=1).tolist(),
        names=[[names.get(examples[i], str(examples[i])) for i in np.flatnonzero(row)] for row in alone],
        first_only=first_only,
        behind=[
            None
            if i == strongest
            else paired_difference(first_only[strongest][i], first_only[i][strongest], n)
            for i in range(len(entries))
        ],
        by_any=int(broken.any(axis=0).sum()),
        by_all=int(broken.all(axis=0).sum()),
    )


def _transfers(models: Sequence[ModelFigures], rows: pa.Table) -> list[Transfer]:
    """Every source on every other model; from the stored adversarials of its runs, tried on that model."""
    found: list[Transfer] = []
    for source in models:
        for target in models:
            if target is source:
                continue
            parts = []
            for entry in source.entries:
                mine = rows.filter(
                    pc.and_(pc.equal(rows["source"], entry.path), pc.equal(rows["target"], target.name))
                )
                parts.append(_tried(entry.summary, target, mine))
                found.append(_transfer(source, entry.attack, target, *parts[-1]))
            if len(parts) > 1:
                made, fooled = (np.min(column, axis=0) for column in zip(*parts, strict=True))
                found.append(_transfer(source, None, target, made, fooled))
    return found


def _tried(summary: Summary, target: ModelFigures, rows: pa.Table) -> tuple[Floats, Floats]:
    """Per example, the fewest changes of an adversarial that was made, and of one that fools the target."""
    made = np.where(summary.smallest > 0, summary.smallest, np.inf)
    # of a clean error of the target there is nothing to fool
    wrong = worst_case([entry.summary.smallest for entry in target.entries]) == 0
    fooled = np.where(wrong, 0.0, np.inf)
    hit = rows.filter(pc.equal(rows["outcome"], "broken"))
    example = hit["example"].to_numpy()
    at = np.searchsorted(summary.examples, example)
    if len(example) and not ((at < len(summary.examples)).all() and (summary.examples[at] == example).all()):
        raise ArgumentError("comparison: transfer.parquet speaks of examples that the runs do not have")
    np.minimum.at(fooled, at, hit["distance"].to_numpy().astype(np.float64))
    return made, fooled


def _transfer(
    source: ModelFigures, attack: str | None, target: ModelFigures, made: Floats, fooled: Floats
) -> Transfer:
    by_k = {}
    for k in source.agreement:
        count = transferred(made, fooled, k)
        by_k[k] = Carried(Share(count.right, count.n), Share(count.fooled, count.tried))
    return Transfer(source.name, attack, target.name, by_k)


# -- saying it --------------------------------------------------------------------------------------------


def comparison_json(comparison: ComparisonFigures) -> dict[str, Any]:
    """The figures for a machine, and for `verify` to compute again."""
    return {
        "n": comparison.first.n,
        "models": {model.name: _model_json(model) for model in comparison.models},
        "transfer": [
            {
                "source": t.source,
                "attack": t.attack,
                "target": t.target,
                **_by_k("robust_accuracy", {k: carried.right for k, carried in t.by_k.items()}),
                **_by_k("success", {k: carried.success for k, carried in t.by_k.items()}),
            }
            for t in comparison.transfers
        ],
    }


def _model_json(model: ModelFigures) -> dict[str, Any]:
    attacks = {}
    for i, entry in enumerate(model.entries):
        summary = entry.summary
        attacks[entry.attack] = {
            **_by_k("robust_accuracy", summary.robust_accuracy),
            **_median_json(summary.median),
            "passes": summary.passes,
            "seconds": round(summary.seconds, 3),
            "broke": {str(k): a.broke[i] for k, a in model.agreement.items()},
            "broke_alone": {str(k): a.alone[i] for k, a in model.agreement.items()},
            "behind_strongest": {
                str(k): None if (behind := a.behind[i]) is None else list(behind)
                for k, a in model.agreement.items()
            },
            "run": entry.path,
        }
    return {
        "clean_accuracy": model.clean_accuracy.value,
        "clean_accuracy_interval": list(model.clean_accuracy.interval),
        "worst_case": {
            **_by_k("robust_accuracy", model.robust_accuracy),
            **_median_json(model.median),
        },
        "attacks": attacks,
    }


def _by_k(name: str, shares: Mapping[int, Share]) -> dict[str, Any]:
    return {
        name: {str(k): share.value if share.n else None for k, share in shares.items()},
        f"{name}_interval": {str(k): list(share.interval) for k, share in shares.items()},
    }


def _median_json(magnitude: Magnitude | None) -> dict[str, Any]:
    median, low, high = (v if v < math.inf else None for v in magnitude or (math.inf, 0.0, math.inf))
    return {"median_distance": median, "median_distance_interval": [low, high]}


def short_median(magnitude: Magnitude, summary: Summary) -> str:
    """The median magnitude in few characters: "2 (1–3)", "≤4 (2–8)", "over 8 (4–∞)", or "over 8" for sure."""
    last = len(summary.curve) - 1
    if magnitude.low == math.inf:
        return f"over {last}"
    at_most = "" if summary.is_curve or magnitude.median == 0 else "≤"
    median = f"over {last}" if magnitude.median == math.inf else f"{at_most}{magnitude.median:g}"
    high = "∞" if magnitude.high == math.inf else f"{magnitude.high:g}"
    return f"{median} ({magnitude.low:g}–{high})"


def comparison_table(comparison: ComparisonFigures) -> str:
    """The comparison for a terminal: a block for each model, then the transfer."""
    first = comparison.first
    lines = [
        f"{data_title(first.run['plan']['data'])}, n = {first.n}, {norm_title(first)}; right answers in per cent"
    ]

    def label(k: int) -> str:
        return first.label(k).replace(" ", "")

    def median(magnitude: Magnitude | None) -> str:
        # within an ℓ∞ ball there is none
        return (
            ""
            if first.epsilon is not None or magnitude is None
            else f"   {short_median(magnitude, first):<14}"
        )

    heading = "" if first.epsilon is not None else f"   {'median':<14}"
    if not comparison.complete:
        lines.append("unfinished: runs are missing, or their figures can still fall")
    width = max(len("95 % interval"), *(len(entry.attack) for entry in comparison.entries))
    for model in comparison.models:
        budgets = list(model.agreement)
        low, high = model.clean_accuracy.interval
        lines += [
            "",
            f"{model.name}, unchanged {percent(model.clean_accuracy.value)} ({percent(low)} to {percent(high)})",
            f"   {'attack':<{width}}" + "".join(f"{label(k):>10}" for k in budgets)
            + f"{heading}{'passes':>9}{'seconds':>9}{f'alone {label(model.differ_at)}':>14}",
        ]  # fmt: skip
        for i, entry in enumerate(model.entries):
            summary = entry.summary
            lines.append(
                f"   {entry.attack:<{width}}"
                + "".join(f"{percent(summary.robust_accuracy[k].value):>10}" for k in budgets)
                + f"{median(summary.median)}{summary.passes / summary.n:>9,.0f}"
                + f"{summary.seconds:>9,.1f}{model.agreement[model.differ_at].alone[i]:>14}"
            )
        lines += [
            f"   {'worst case':<{width}}"
            + "".join(f"{percent(model.robust_accuracy[k].value):>10}" for k in budgets)
            + median(model.median).rstrip(),
            f"   {'95 % interval':<{width}}"
            + "".join(f"{_range(model.robust_accuracy[k]):>10}" for k in budgets),
        ]
    lines += [
        "",
        "passes: per example; alone: examples that no other attack broke",
    ]
    if comparison.transfers:
        lines += ["", *_transfer_lines(comparison)]
    return printable([*lines, *warning_lines(comparison.entries)])


def warning_lines(entries: Sequence[Entry]) -> list[str]:
    """How many runs warn of what, for a terminal; nothing without warnings."""
    warnings = Counter(
        code
        for entry in entries
        for code in {
            str(found.get("code"))
            for found in entry.summary.run.get("diagnosis") or []
            if found.get("level") == "warning"
        }
    )
    if not warnings:
        return []
    told = ", ".join(
        f"{code.replace('-', ' ')} ({runs} of {len(entries)} runs)" for code, runs in warnings.most_common()
    )
    return ["", *textwrap.wrap(f"warnings, see the report: {told}", 118, subsequent_indent="   ")]


def _transfer_lines(comparison: ComparisonFigures) -> list[str]:
    k = max(comparison.first.budgets)
    between = [f"{t.source}, {t.attack or 'all attacks'}, on {t.target}" for t in comparison.transfers]
    width = max(len(words) for words in between)
    of = (
        f"of at most {k} changes"
        if comparison.first.epsilon is None
        else f"within {comparison.first.within(k)}"
    )
    lines = [f"adversarials {of}, tried where the other model reads the clean input right"]
    for words, t in zip(between, comparison.transfers, strict=True):
        right, success = t.by_k[k].right, t.by_k[k].success
        lines.append(
            f"   {words:<{width}}   right {percent(right.value):>5} ({_range(right)}), "
            f"{success.count} of {success.n} fooled it too"
        )
    return lines


def _range(share: Share) -> str:
    return "–".join(percent(bound) for bound in share.interval)
