"""The figures of certificates, from their records alone, and what attacks found beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from zeronorm.errors import ArgumentError, printable
from zeronorm.metrics import median_certified
from zeronorm.records.figures import Ints, Share, Summary, class_name, count, percent

Floats = npt.NDArray[np.float64]

_UNBOUNDED = 2**63 - 1
_SHOWN = 8  # radii in a table


@dataclass(frozen=True)
class CertifiedClass:
    """The examples of one true class; `median` is -infinity where half have no certificate."""

    name: str
    clean: Share
    certified: dict[int, Share]
    median: float


@dataclass(frozen=True)
class CertificateSummary:
    """All figures of a run of certificates.

    `radii` go with `examples`: -infinity where the prediction is wrong or nothing is proved, infinity where no number
    of changes moves it.  `shares[k]` counts the examples proved right within k changes.
    """

    run: Mapping[str, Any]
    n: int
    asked: int
    complete: bool
    method: str
    clean_accuracy: Share
    abstained: int  # examples without an answer
    uncertified: int  # examples without a certificate, right or wrong
    shares: list[Share]
    shown: list[int]  # budgets for a table
    median: float
    classes: list[CertifiedClass]
    passes: int
    seconds: float
    examples: Ints
    radii: Floats
    unit: str  # what radii count
    arithmetic: str | None  # the program that proofs are about: deployed, real; None: the run does not say
    broken: (
        Floats | None
    )  # changes by which counterexamples were found, infinity without; of a method that looks for them

    def at(self, k: int) -> Share:
        """The share proved right within k changes, whether or not any radius reaches so far."""
        return Share(int((self.radii >= k).sum()), self.n)

    def broken_at(self, k: int) -> Share | None:
        """The share wrong on the unchanged input, or by a counterexample within k changes; None: nobody looked."""
        return None if self.broken is None else Share(int((self.broken <= k).sum()), self.n)

    @property
    def votes(self) -> bool:
        """Whether the method counts votes."""
        return "alpha" in self.run["plan"]["method"]["options"]

    @property
    def failure_probability(self) -> float:
        """The chance, for each example, that its certificate is wrong; 0 of a proof."""
        return float(self.run["plan"]["method"]["options"].get("alpha", 0.0))


def summarise_certificates(run: Mapping[str, Any], rows: pa.Table) -> CertificateSummary:
    """The figures of a run of certificates, complete or not."""
    plan = run["plan"]
    try:
        method, asked, shape = plan["method"]["name"], plan["data"]["n"], plan["data"]["shape"]
    except (KeyError, TypeError) as error:
        raise ArgumentError(f"run: expected {error} in the plan of run.json, found none") from None
    columns = {
        name: rows[name].to_pylist() for name in ("example", "label", "answer", "prediction", "radius")
    }
    examples = np.array(columns["example"], dtype=np.int64)
    if len(np.unique(examples)) < len(examples):
        raise ArgumentError("rows: expected one row per example, got several of one")
    radii = np.array(
        [
            -math.inf if r is None or p != y else math.inf if r == _UNBOUNDED else r
            for y, p, r in zip(columns["label"], columns["prediction"], columns["radius"], strict=True)
        ],
        dtype=np.float64,
    )
    right = np.array([a == y for a, y in zip(columns["answer"], columns["label"], strict=True)], dtype=bool)
    labels = np.array(columns["label"], dtype=np.int64)
    told = plan["method"]
    broken = None
    if "seconds" in told or any(found is not None for found in rows["broken"].to_pylist()):
        broken = np.array(
            [
                0.0 if not ok else math.inf if k is None else k
                for ok, k in zip(right, rows["broken"].to_pylist(), strict=True)
            ]
        )
    finite = radii[np.isfinite(radii)]
    unit = told.get("unit", "pixel")
    last = min(int(finite.max(initial=0)) + 1, math.prod((shape[1:] or shape) if unit == "pixel" else shape))
    shares = _shares(radii, last)
    shown = sorted({0, *np.linspace(0, last, _SHOWN).round().astype(int).tolist()})
    sessions = run.get("sessions") or []
    return CertificateSummary(
        run=run,
        n=len(radii),
        asked=asked,
        complete=run["status"] == "complete",
        method=method,
        clean_accuracy=Share(int(right.sum()), len(radii)),
        abstained=sum(a is None for a in columns["answer"]),
        uncertified=sum(r is None for r in columns["radius"]),
        shares=shares,
        shown=shown,
        median=median_certified(radii) if len(radii) else -math.inf,
        classes=[
            CertifiedClass(
                class_name(plan["data"].get("class_names"), label),
                Share(int(right[mine].sum()), int(mine.sum())),
                {k: Share(int((radii[mine] >= k).sum()), int(mine.sum())) for k in shown},
                median_certified(radii[mine]),
            )
            for label in np.unique(labels).tolist()
            for mine in [labels == label]
        ],
        passes=int(sum(rows["passes"].to_pylist())),
        seconds=float(sum(session.get("seconds", 0.0) for session in sessions)),
        examples=examples,
        radii=radii,
        unit=unit,
        arithmetic=told.get("arithmetic"),
        broken=broken,
    )


def _shares(radii: Floats, last: int) -> list[Share]:
    return [Share(int((radii >= k).sum()), len(radii)) for k in range(last + 1)]


def certified_json(summary: CertificateSummary) -> dict[str, Any]:
    """The headline as plain values: what `verify` computes again."""
    return {
        "n": summary.n,
        "clean_accuracy": summary.clean_accuracy.value if summary.n else None,
        "certified_accuracy": {
            str(k): share.value if share.n else None for k, share in enumerate(summary.shares)
        },
        "median": short_radius(summary.median),
    }


def short_radius(radius: float) -> str:
    """A radius in few characters; N/A where there is none."""
    return "N/A" if radius == -math.inf else "any" if radius == math.inf else f"{radius:g}"


def describe_method(summary: CertificateSummary) -> str:
    """The method, what it was asked, and which program its proofs are about, in a line."""
    about = "" if summary.arithmetic is None else f", arithmetic: {summary.arithmetic}"
    options = summary.run["plan"]["method"]["options"]
    if summary.votes:
        votes = f"{options['n0']:,} + {options['n']:,} votes"
        if (looks := options.get("looks", 1)) > 1:
            spent = summary.passes / max(summary.n, 1) - options["n0"]
            votes = (
                f"{options['n0']:,} + up to {options['n']:,} votes ({spent:,.0f} on average: ended early at one of "
                f"{looks} looks, each at its share of the confidence)"
            )
        precision = ", votes in bfloat16" if options.get("precision") == "bfloat16" else ""
        copies = (
            f"{options['retained']} pixels retained ({options['null']})"
            if summary.method == "randomized_ablation"
            else f"values kept with probability {options['keep']:g} among {options['levels']}"
        )
        return (
            f"{summary.method.replace('_', ' ')}, {copies}, {votes}{precision}, "
            f"{100 * (1 - options['alpha']):g} % confidence for each image{about}"
        )
    return f"{summary.method.replace('_', ' ')}, deterministic{about}"


def certificates_table(summary: CertificateSummary) -> str:
    """The summary for a terminal."""
    plan = summary.run["plan"]
    split = f" ({plan['data']['split']})" if plan["data"].get("split") else ""
    lines = [
        f"{plan['model']['name']} on {plan['data']['name']}{split}, n = {summary.n}",
        describe_method(summary),
    ]
    if not summary.complete:
        lines.append(f"unfinished: {summary.n} of {summary.asked} examples certified")
    if summary.n:
        unknown = "" if summary.broken is None else f"   {'broken':>8}   {'unknown':>8}"
        lines += ["", f"{'changed':>9}   {'proved right':>12}   95 % interval   {unknown}".rstrip()]
        for k in summary.shown:
            low, high = summary.shares[k].interval
            line = f"{k:>9}   {percent(summary.shares[k].value):>10} %   {percent(low)} to {percent(high)} %"
            if (broken := summary.broken_at(k)) is not None:
                left = (summary.n - broken.count - summary.shares[k].count) / summary.n
                line = f"{line:<44}   {percent(broken.value):>6} %   {percent(left):>6} %"
            lines.append(line)
        if summary.votes:  # PREDICT of Levine & Feizi, on the votes that bound the share
            lines += [
                "",
                f"   PREDICT            {percent(summary.clean_accuracy.value)} % right, "
                f"{percent(summary.abstained / summary.n)} % abstained",
            ]
        else:
            lines += [
                "",
                f"   answered rightly   {percent(summary.clean_accuracy.value)} %"
                + (f", no answer {percent(summary.abstained / summary.n)} %" if summary.abstained else ""),
            ]
        lines += [
            f"   median radius      {_median_words(summary.median, summary.unit)}",
            f"   passes             {summary.passes / summary.n:,.0f} per image, {summary.seconds:,.1f} s in all",
        ]
    return printable(lines)


def _median_words(median: float, unit: str) -> str:
    if median == -math.inf:
        return "N/A: at least half of the images have no certificate of the right answer"
    return "any number" if median == math.inf else count(int(median), unit)


def pictured(rows: Sequence[Mapping[str, Any]], most: int) -> list[int]:
    """Examples for the gallery: the most and the least certified of those answered rightly."""
    right = [row for row in rows if row["prediction"] == row["label"]]
    by_radius = sorted(right, key=lambda row: (row["radius"], row["example"]))
    half = most // 2
    return list(dict.fromkeys(row["example"] for row in by_radius[:half] + by_radius[half:][-half:]))


def contradictions(certified: CertificateSummary, attacked: Summary) -> list[int]:
    """Examples that are certified within a number of changes by which an attack on the same model broke them.

    None of another model or of other data can contradict; of a method with draws the attacked model must be the
    smoothed classifier, not its base.
    """
    ours, theirs = certified.run["plan"], attacked.run["plan"]
    if (
        certified.votes
        or attacked.unit != certified.unit
        or ours["model"].get("digest") is None
        or ours["model"].get("digest") != theirs["model"].get("digest")
        or ours["data"].get("digest") != theirs["data"].get("digest")
    ):
        return []
    smallest = dict(zip(attacked.examples.tolist(), attacked.smallest.tolist(), strict=True))
    return [
        example
        for example, radius in zip(certified.examples.tolist(), certified.radii.tolist(), strict=True)
        if radius >= smallest.get(example, math.inf)
    ]
