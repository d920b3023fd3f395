"""From the rows of a run to the numbers a person reads.

An example's `smallest` is the fewest changed positions found to break it: 0 where the clean prediction is
wrong, infinity where no search broke it.  Robust accuracy at k is the share of examples with `smallest` above
k.  In an unfinished run, examples whose search has not ended count as robust: the figures can only fall.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from zeronorm.errors import ArgumentError, printable
from zeronorm.metrics import Magnitude, interval, median_magnitude
from zeronorm.records.columns import table_columns

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "status": str,
    "plan.model.name": str,
    "plan.data.name": str,
    "plan.data.n": int,
    "plan.data.shape": list,
    "plan.threat.unit": str,
    "plan.threat.low": (int, float, list),
    "plan.threat.high": (int, float, list),
    "plan.threat.budgets": list,
    "plan.attack.name": str,
    "plan.attack.stages": list,
}
_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # package.module:callable
_RUN_WHEN_READ = re.compile(r"joblib:|.*\.(pt|pth|pt2)(:|$)")  # files whose code may run
_SEVERAL = ("_comparison", "_matrix")
_MOST = 1 << 24  # budget of a run: there is a place for each k below in its curve
_COLUMNS = ["example", "label", "k", "stage", "outcome", "distance", "prediction", "forwards", "backwards"]


@dataclass(frozen=True)
class Share:
    """`count` of `n` examples, with its exact 95 % interval."""

    count: int
    n: int

    @property
    def value(self) -> float:
        """The share, NaN without examples."""
        return self.count / self.n if self.n else float("nan")

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Clopper-Pearson, 95 %."""
        return interval(self.count, self.n)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        low, high = self.interval
        return f"{percent(self.value)} % [{percent(low)}, {percent(high)}] (n={self.n})"


@dataclass(frozen=True)
class Effort:
    """Passes of the model (forward and backward counted alike) that a budget's answers took.

    In a list, what this budget's cascade spent on each example that the smaller budgets had left, a minimal
    attack counted in full: `start` of them, of which those it broke `fell` after so many passes (ascending).  In
    a curve, what an example had cost altogether when the first adversarial within k was found.  `iterations` are
    the forward ones of these passes (ascending too): updates of a white-box search, queries of a black-box one.
    `most` is the largest cost of any example.
    """

    start: int
    fell: Ints
    iterations: Ints
    most: int


@dataclass(frozen=True)
class StageFigures:
    """One stage of the cascade over the whole run."""

    name: str
    searches: int  # (example, budget) pairs it was given
    broke: int  # of those, how many it broke
    kept: int  # examples whose smallest adversarial is its own
    forwards: int
    backwards: int
    seconds: float | None  # None where the run did not say


@dataclass(frozen=True)
class Class:
    """The examples of one true class."""

    label: int
    name: str
    clean: Share
    robust: dict[int, Share]
    mistaken_for: tuple[str, int] | None  # the commonest wrong answer to an adversarial, and how often


@dataclass(frozen=True)
class Summary:
    """All figures of a run.

    `budgets` are the k a table shows (all of a list; powers of two and the last of a curve), `after_stage[k]`
    the examples left at the start of the cascade and after each of its stages, `curve[k]` how many of `n` are
    left at every k from 0.  `smallest` goes with `examples`, the ids in ascending order.
    """

    run: Mapping[str, Any]
    n: int  # examples with a clean prediction; all of `asked` once complete
    asked: int
    settled: int  # examples whose search has ended
    complete: bool
    unit: str
    budgets: list[int]
    clean_accuracy: Share
    robust_accuracy: dict[int, Share]  # by k: every k of a list, every k from 0 of a curve
    certified: dict[int, Share] | None  # those of which are proved; None of a run without proofs
    after_stage: dict[int, list[Share]]
    curve: Ints
    effort: dict[int, Effort]
    reach: dict[int, Effort]  # with the searches of the smaller budgets counted in, on all that were right
    median: Magnitude | None  # None before the first example, and within an ℓ∞ ball
    classes: list[Class]
    stages: list[StageFigures]
    passes: int  # of all searches together
    seconds: float
    examples: Ints
    smallest: npt.NDArray[np.float64]

    @property
    def is_curve(self) -> bool:
        """Whether every k up to the largest was answered, not only the budgets asked for."""
        return bool(self.run["plan"]["threat"].get("curve"))

    @property
    def epsilon(self) -> float | None:
        """ε of a run within an ℓ∞ ball, where the number of changes says nothing; else None."""
        return _epsilon(self.run["plan"])

    def label(self, k: int) -> str:
        """A budget as a table's heading: "k = 4", "ε = 0.1"."""
        return f"k = {k}" if self.epsilon is None else f"ε = {self.epsilon:g}"

    def proved_words(self, k: int | str) -> str:
        """What is proved at a budget: "exactly" where that is all that is left, else a lower bound."""
        if self.certified is None or not str(k).isdigit() or int(k) not in self.certified:
            return ""
        proved = self.certified[int(k)]
        return "exactly" if proved == self.robust_accuracy[int(k)] else f"at least {percent(proved.value)} %"

    def unknown(self, k: int) -> Share:
        """The examples that are neither broken within k changes nor proved to withstand them."""
        proved = 0 if self.certified is None else self.certified[k].count
        return Share(self.robust_accuracy[k].count - proved, self.n)

    def within(self, k: int) -> str:
        """A budget in words: "4 pixels", "ε = 0.1"."""
        return count(k, self.unit) if self.epsilon is None else self.label(k)


def summarise(run: Mapping[str, Any], rows: pa.Table) -> Summary:
    """The figures of a run, complete or not, from its run.json and its rows."""
    check_run(run)
    plan = run["plan"]
    unit = plan["threat"]["unit"]
    if unit == "pixel" and len(plan["data"]["shape"]) < 2:
        unit = "feature"
    curve = bool(plan["threat"].get("curve"))
    asked = sorted(set(plan["threat"]["budgets"]))
    every = list(range(asked[-1] + 1)) if curve else asked
    shown = _powers_of_two(asked[-1]) if curve else asked
    names = [stage["name"] for stage in plan["attack"]["stages"]]
    proof = np.array([stage.get("kind") == "proof" for stage in plan["attack"]["stages"]], dtype=bool)
    minimal = np.array([stage.get("kind") == "minimal" for stage in plan["attack"]["stages"]], dtype=bool)

    clean, searches = _split(rows, minimal)
    n = len(clean.example)
    broken = searches.distance > 0
    smallest = np.where(clean.correct, np.inf, 0.0)
    np.minimum.at(smallest, searches.at[broken], searches.distance[broken])
    own = np.flatnonzero(broken & (searches.distance == smallest[searches.at]))  # smallest adversarials
    own = own[np.unique(searches.at[own], return_index=True)[1]]
    left = n - np.searchsorted(np.sort(smallest), np.arange(asked[-1] + 1), side="right")
    complete = run["status"] == "complete"

    return Summary(
        run=run,
        n=n,
        asked=plan["data"]["n"],
        settled=n if complete else int(_settled(searches, smallest, minimal, asked, curve)),
        complete=complete,
        unit=unit,
        budgets=shown,
        clean_accuracy=Share(int(clean.correct.sum()), n),
        robust_accuracy={k: Share(int(left[k]), n) for k in every},
        certified=_certified(clean, searches, every) if proof.any() else None,
        after_stage={k: _after_stage(clean, searches, k, len(names), curve) for k in shown},
        curve=left,
        effort={k: _effort(clean, searches, k, curve) for k in shown},
        reach={k: _effort(clean, searches, k, curve, since=asked[0]) for k in shown},
        median=median_magnitude(smallest) if n and _epsilon(plan) is None else None,
        classes=_classes(clean, searches, own, smallest, shown, plan["data"].get("class_names")),
        stages=_stages(searches, own, names, run.get("sessions") or []),
        passes=int((searches.forwards + searches.backwards).sum()),
        seconds=float(sum(session.get("seconds", 0.0) for session in run.get("sessions") or [])),
        examples=clean.example,
        smallest=smallest,
    )


def text_table(summary: Summary) -> str:
    """The summary for a terminal: one line per budget, one line per stage."""
    plan = summary.run["plan"]
    lines = [
        f"{plan['model']['name']} on {data_title(plan['data'])}, n = {summary.n}, {plan['attack']['name']}, "
        + norm_title(summary)
    ]
    if not summary.complete:
        lines.append(
            f"unfinished: {summary.settled} of {summary.asked} examples settled; the figures can only fall"
        )
    proved = "" if summary.certified is None else "         proved"
    lines += ["", f"{'changed':>9}   {'right':>7}   95 % interval{proved}"]
    for k, share in [("none", summary.clean_accuracy)] + [
        (str(k) if summary.epsilon is None else f"by {summary.epsilon:g}", summary.robust_accuracy[k])
        for k in summary.budgets
    ]:
        low, high = share.interval
        between = f"{percent(low)} to {percent(high)} %"
        lines.append(
            f"{k:>9}   {percent(share.value):>5} %   {between:<19}{summary.proved_words(k)}".rstrip()
        )
    if summary.median is not None:
        lines += ["", f"   median   {describe_median(summary)}"]
    width = max([len(stage.name) for stage in summary.stages] + [5])
    lines += ["", f"   {'stage':<{width}}   {'searches':>9}   {'broke':>7}   {'passes':>12}   {'seconds':>8}"]
    for stage in summary.stages:
        seconds = "" if stage.seconds is None else f"{stage.seconds:.1f}"
        lines.append(
            f"   {stage.name:<{width}}   {stage.searches:>9,}   {stage.broke:>7,}   "
            f"{stage.forwards + stage.backwards:>12,}   {seconds:>8}"
        )
    return printable(lines)


def norm_title(summary: Summary) -> str:
    """What is bounded: the number of changes, or where all values may change, the size of each."""
    if summary.epsilon is not None:
        return f"Linf, every value by at most {summary.epsilon:g}"
    cap = summary.run["plan"]["threat"].get("linf")
    return f"L0 in {summary.unit}s" + ("" if cap is None else f", each by at most {cap:g}")


def _epsilon(plan: Mapping[str, Any]) -> float | None:
    """The cap on each change, if every value may change."""
    threat = plan["threat"]
    whole = threat["budgets"] == [math.prod(plan["data"]["shape"])] and threat.get("allowed") is None
    return threat.get("linf") if whole else None


def describe_median(summary: Summary) -> str:
    """The median magnitude in words, with its interval."""
    assert summary.median is not None
    median, low, high = summary.median
    if median == 0:
        return "0: at least half of the clean predictions are wrong"
    if median == np.inf:
        so_far = "" if summary.complete else " so far"
        return f"above {len(summary.curve) - 1}: more than half withstood every search{so_far}"
    bounds = f"{low:g} or more" if high == np.inf else f"{low:g} to {high:g}"
    at_most = "" if summary.is_curve and summary.complete else "at most "
    return f"{at_most}{count(int(median), summary.unit)} (95 % interval: {bounds})"


def percent(share: float) -> str:
    """A share as per cent, one decimal; 0.0 and 100.0 are kept for exactly none and all."""
    if share != share:
        return "–"
    text = f"{100 * share:.1f}"
    if text == "100.0" and share < 1:
        return "99.9"
    return "0.1" if text == "0.0" and share > 0 else text


def count(number: int, thing: str) -> str:
    """A number of things: "1 pixel", "20 pixels"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def data_title(data: Mapping[str, Any]) -> str:
    """The data by name and split: "mnist (test)"; data that were given as tensors have neither."""
    split, toward = data.get("split"), data.get("toward")
    title = f"{data['name']} ({split})" if split and split != data["name"] else f"{data['name']}"
    return title if toward is None else f"{title}, toward {toward}"


def channels_last(plan: Mapping[str, Any]) -> bool:
    """Whether the last axis of a run's inputs holds channels that change together."""
    threat = plan["threat"]
    return threat.get("channels") == "last" and threat["unit"] == "pixel" and len(plan["data"]["shape"]) > 1


def positions(plan: Mapping[str, Any], unit: str) -> int:
    """How many positions an input of a run has, in that unit."""
    shape = plan["data"]["shape"]
    if (columns := table_columns(plan)) is not None:
        return len(columns)
    if unit != "pixel":
        return math.prod(shape)
    return math.prod(shape[:-1] if channels_last(plan) else shape[1:])


def check_again(command: str | None, models: Iterable[Any], path: Path, kind: str = "") -> str:
    """How a run is verified, as it can be typed: on the command line what was made there, in Python the rest.

    A part of a matrix or a comparison is verified with the whole, which knows where its models are.
    """
    if not kind and (path.parent.parent / "comparison.json").exists():
        path, kind = path.parent.parent, "_comparison"
    if (path.parent.parent / "matrix.json").exists():
        path, kind = path.parent.parent, "_matrix"
    if command is None:
        return f"zeronorm.verify{kind}({str(path)!r}, {'models' if kind in _SEVERAL else 'model'}, data)"
    trusted = any(_CODE.fullmatch(str(model)) or _RUN_WHEN_READ.match(str(model)) for model in models)
    trust = " --trust" if trusted else ""
    return f"zeronorm verify {shlex.quote(str(path))}{trust}"


def facts(entries: Iterable[tuple[str, Sequence[Any]]]) -> list[tuple[str, list[str]]]:
    """What is said under each heading, as text, without the lines and headings that have nothing to say."""
    said = [(name, [str(line) for line in lines if line is not None]) for name, lines in entries]
    return [(name, lines) for name, lines in said if lines]


def model_title(model: Mapping[str, Any]) -> str:
    """The model as a heading: of the path of a checkpoint its folder, of the path of a class its name."""
    name = str(model["name"])
    if name == model.get("architecture"):
        return name.rpartition(".")[2] or name
    return name if ":" in name else name.rstrip("/").rpartition("/")[2] or name


def class_name(names: Sequence[str] | None, label: int) -> str:
    """A class by its name, where it has one."""
    return str(names[label]) if names and 0 <= label < len(names) else str(label)


def check_run(run: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` unless run.json says all that a report needs."""
    for path, kind in _REQUIRED.items():
        value: Any = run
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if not isinstance(value, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = " or ".join(k.__name__ for k in kinds)
            raise ArgumentError(f"run: expected {path} in run.json to be {names}, got {value!r}")
    budgets, stages = run["plan"]["threat"]["budgets"], run["plan"]["attack"]["stages"]
    if not budgets or not all(isinstance(k, int) and 0 <= k <= _MOST for k in budgets):
        raise ArgumentError(
            f"run: expected plan.threat.budgets in run.json to be integers, none above {_MOST}, got {budgets!r}"
        )
    if not all(isinstance(stage, Mapping) and isinstance(stage.get("name"), str) for stage in stages):
        raise ArgumentError("run: expected plan.attack.stages in run.json to be named, got some without")


# -- rows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clean:
    """The clean predictions, by ascending example id."""

    example: Ints
    label: Ints
    correct: Bools


@dataclass(frozen=True)
class _Searches:
    """The stage rows as columns; `at` is the example's place among the clean ones, `distance` 0 if robust.

    `minimal`: of an attack that is run once for all budgets.
    """

    at: Ints
    minimal: Bools
    proved: Bools
    k: Ints
    stage: Ints
    distance: Ints
    prediction: Ints
    forwards: Ints
    backwards: Ints

    def turn(self, k: int, curve: bool) -> Ints:
        """The budget in whose turn each was made, as seen from k: in a list a minimal attack's answer is every k's."""
        return self.k if curve else np.where(self.minimal, k, self.k)


def _split(rows: pa.Table, minimal: Bools) -> tuple[_Clean, _Searches]:
    rows = rows.select(_COLUMNS)  # not the adversarial examples: they are most of the bytes
    is_clean = pc.less(rows["stage"], 0)
    clean = rows.filter(is_clean).sort_by("example")
    example = _ints(clean, "example")
    if len(repeated := example[1:][example[1:] == example[:-1]]):
        raise ArgumentError(
            f"rows: expected one clean prediction per example, got two of example {repeated[0]}"
        )
    searches = rows.filter(pc.invert(is_clean))
    ids = _ints(searches, "example")
    at = np.searchsorted(example, ids)
    known = at < len(example)
    known[known] = example[at[known]] == ids[known]
    if not known.all():
        raise ArgumentError(
            f"rows: expected a clean prediction of every example, got none of {ids[~known][0]}"
        )
    correct = pc.equal(clean["outcome"], "correct").to_numpy()
    columns = (
        _ints(searches, name) for name in ("k", "stage", "distance", "prediction", "forwards", "backwards")
    )
    of_minimal = minimal[_ints(searches, "stage")]
    proved = pc.equal(searches["outcome"], "proved").to_numpy()
    return _Clean(example, _ints(clean, "label"), correct), _Searches(at, of_minimal, proved, *columns)


def _ints(table: pa.Table, name: str) -> Ints:
    return pc.fill_null(table[name], 0).to_numpy().astype(np.int64)


def _certified(clean: _Clean, searches: _Searches, budgets: Sequence[int]) -> dict[int, Share]:
    """By k, the examples predicted correctly and proved within k changes or more."""
    withstands = np.where(clean.correct, 0, -1)
    np.maximum.at(withstands, searches.at[searches.proved], searches.k[searches.proved])
    broken = searches.distance > 0  # where rounding breaks what is proved of real numbers, it is broken
    np.minimum.at(withstands, searches.at[broken], searches.distance[broken] - 1)
    return {k: Share(int((withstands >= k).sum()), len(clean.example)) for k in budgets}


def _powers_of_two(last: int) -> list[int]:
    return [k for k in (2**i for i in range(last.bit_length())) if k < last] + [last]


def _settled(
    searches: _Searches,
    smallest: npt.NDArray[np.float64],
    minimal: Bools,
    budgets: Sequence[int],
    curve: bool,
) -> int:
    """How many examples need no further search.

    What is next is the largest budget that did not break an example: of a list, or of a curve the one below the
    fewest changes found.  It is settled if there is none, or if the whole cascade has failed there, of which a
    minimal attack is run once.
    """
    if curve:
        following = np.minimum(smallest - 1, budgets[-1])
        done = following < 1
    else:
        place = np.searchsorted(budgets, smallest) - 1
        following = np.array(budgets)[place]
        done = place < 0
    over = np.ones_like(done)
    for stage in [*np.flatnonzero(minimal), *np.flatnonzero(~minimal)[-1:]]:
        mine = searches.stage == stage
        if not minimal[stage]:
            mine &= searches.k == following[searches.at]
        has_row = np.zeros_like(done)
        has_row[searches.at[mine]] = True
        over &= has_row
    return int((done | over).sum())


def _after_stage(clean: _Clean, searches: _Searches, k: int, stages: int, curve: bool) -> list[Share]:
    """Examples left at the start of the cascade with budget k, then after each stage.

    What a list's smaller budgets broke is gone at the start, whichever stage did it: this budget's stages never
    saw it.  A minimal attack's result counts as its stage's at every budget.  In a curve every search starts from
    the largest budget, so stages are told apart all the way down.
    """
    within = (searches.distance > 0) & (searches.distance <= k)
    turn = np.where(~curve & (searches.turn(k, curve) < k), -1, searches.stage)
    first = np.full(len(clean.example), stages)  # the first turn at which each falls
    np.minimum.at(first, searches.at[within], turn[within])
    first[~clean.correct] = -1
    return [Share(int((first > turn).sum()), len(first)) for turn in range(-1, stages)]


def _effort(clean: _Clean, searches: _Searches, k: int, curve: bool, since: int | None = None) -> Effort:
    """Of this budget's turn; of a list, of all turns from that of the budget `since`."""
    # a list goes up: what broke within k at a smaller budget is gone; a larger one may still find a smaller change
    within = (searches.distance > 0) & (searches.distance <= k)
    gone, turn = ~clean.correct, searches.turn(k if since is None else since, curve)
    if not curve and since is None:
        gone[searches.at[within & (turn < k)]] = True
    mine = np.flatnonzero(~gone[searches.at] & (curve | (turn >= (k if since is None else since))))
    order = mine[np.lexsort((searches.stage[mine], (-1 if curve else 1) * turn[mine], searches.at[mine]))]
    at = searches.at[order]
    starts = np.searchsorted(at, np.arange(len(clean.example)))

    def running_total(passes: Ints) -> Ints:
        """Of each example alone."""
        total = np.cumsum(passes[order])
        return total - np.concatenate([[0], total])[starts[at]]

    spent = running_total(searches.forwards + searches.backwards)
    hit = np.flatnonzero(within[order])
    hit = hit[np.unique(at[hit], return_index=True)[1]]
    return Effort(
        start=int((~gone).sum()),
        fell=np.sort(spent[hit]),
        iterations=np.sort(running_total(searches.forwards)[hit]),
        most=int(max(spent[curve | (turn[order] <= k)].max(initial=0), spent[hit].max(initial=0))),
    )


def _classes(
    clean: _Clean,
    searches: _Searches,
    own: Ints,
    smallest: npt.NDArray[np.float64],
    budgets: Sequence[int],
    names: Sequence[str] | None,
) -> list[Class]:
    labels, at = np.unique(clean.label, return_inverse=True)
    n = np.bincount(at, minlength=len(labels))
    right = np.bincount(at, clean.correct, minlength=len(labels)).astype(int)
    left = {k: np.bincount(at, smallest > k, minlength=len(labels)).astype(int) for k in budgets}
    truth, answer = at[searches.at[own]], searches.prediction[own]
    classes = []
    for i, label in enumerate(labels.tolist()):
        answers, times = np.unique(answer[truth == i], return_counts=True)
        common = int(times.argmax()) if len(times) else None
        classes.append(
            Class(
                label,
                class_name(names, label),
                Share(int(right[i]), int(n[i])),
                {k: Share(int(left[k][i]), int(n[i])) for k in budgets},
                None if common is None else (class_name(names, int(answers[common])), int(times[common])),
            )
        )
    return classes


def _stages(
    searches: _Searches, own: Ints, names: Sequence[str], sessions: Sequence[Mapping[str, Any]]
) -> list[StageFigures]:
    stages = []
    for i, name in enumerate(names):
        mine = searches.stage == i
        clocks = [session["stages"][name] for session in sessions if name in (session.get("stages") or {})]
        stages.append(
            StageFigures(
                name,
                searches=int(mine.sum()),
                broke=int((searches.distance[mine] > 0).sum()),
                kept=int((searches.stage[own] == i).sum()),
                forwards=int(searches.forwards[mine].sum()),
                backwards=int(searches.backwards[mine].sum()),
                seconds=float(sum(clock["seconds"] for clock in clocks)) if clocks else None,
            )
        )
    return stages
