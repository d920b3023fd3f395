"""One call of one attack on one batch: attack, measure again, hand over the rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zeronorm import distances
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.shrink import shrink
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.examples import Examples
from zeronorm.evaluation.fresh_pass import predict, verdict
from zeronorm.evaluation.plan import PlannedStage, takes
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.evaluation.ray_workers import Effort, Passed, Report
from zeronorm.records.folders import Row, finite
from zeronorm.threat_model import L0

_FLUSH_SECONDS = 2.0  # how much finished work a kill may cost at most, within a batch


@dataclass(frozen=True)
class Batch:
    """Examples that are searched together, by their places among those of the run."""

    places: list[int]
    examples: Examples
    start: Tensor | None  # adversarials to begin a sparser search from
    written: list[bool]  # who has a row already

    def __len__(self) -> int:
        return len(self.places)

    def halves(self) -> tuple[Batch, Batch]:
        """The same work in two."""
        first, second = self.examples.halves()

        def part(examples: Examples, which: slice) -> Batch:
            start = None if self.start is None else self.start[which]
            return Batch(self.places[which], examples, start, self.written[which])

        return part(first, slice(len(first))), part(second, slice(len(first), None))


@dataclass(frozen=True)
class Search:
    """A stage of the cascade within one budget, as work for whoever does it."""

    threat: L0
    stage: PlannedStage
    seed: int
    precision: str
    sparser: bool

    def __call__(self, model: Model, batch: Batch, passed: Passed, report: Report) -> dict[str, int]:
        """Search the batch; returns how many results were doubtful."""
        before = Effort(0.0, 0, 0)
        started = time.perf_counter()

        def told(rows: list[Row]) -> None:
            nonlocal before
            seconds = time.perf_counter() - started
            counter = search.counter
            forwards = int(counter.forwards.sum()) + counter.unattributed
            now = Effort(seconds, forwards, int(counter.backwards.sum()))
            spent, before = now - before, now
            report(rows, spent)

        search = BatchSearch(
            model,
            batch.examples,
            self.threat,
            self.stage,
            seed=self.seed,
            precision=self.precision,
            sparser=self.sparser,
            start=batch.start,
            written={j for j, written in enumerate(batch.written) if written},
            on_rows=told,
            on_pass=lambda examples: passed(examples, search.share),
        )
        try:
            search.run()
        finally:
            told([])
        undefined = int(search.counter.undefined)
        return {"unconfirmed": search.unconfirmed, "outside": search.outside, "undefined": undefined}


class BatchSearch:
    """A stage of the cascade on a batch of examples, within one budget.

    What the attack claims is not believed: `on_rows` gets what a fresh pass says of its results.  Successes
    are handed over while the attack goes on, unless a sparser one may follow, the rest when it ends; examples
    that are `written` already, from before an interruption, take part but get no second row.

    Attributes:
        counter: the passes of each example.
        unconfirmed, outside: results the attack called adversarial that did not hold, or outside the threat model.
    """

    def __init__(
        self,
        model: Model,
        examples: Examples,
        threat: L0,
        stage: PlannedStage,
        *,
        seed: int,
        precision: str,
        sparser: bool,
        start: Tensor | None,
        written: set[int],
        on_rows: Callable[[list[Row]], None],
        on_pass: Callable[[int], None],
    ) -> None:
        self.model, self.examples, self.threat, self.stage = model, examples, threat, stage
        self.seed, self.sparser, self.start = seed, sparser, start
        self.unconfirmed = self.outside = 0
        self._written, self._on_rows = written, on_rows
        self._claimed: set[int] = set()  # rows that the attack called broken
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._flushed = time.perf_counter()
        self.counter = QueryCounter(
            model,
            len(examples),
            examples.x.device,
            precision=precision,
            # a sparser adversarial is still to be made of what broke: nothing to write early
            on_broken=None if sparser else self._broken,
            on_pass=on_pass,
        )
        self.counter.training = False

    def run(self) -> None:
        """Attack, check, write."""
        x, y, attack = self.examples.x, self.examples.y, self.stage.function
        options = dict(self.stage.options)
        for name, value in (("seed", self.seed), ("ids", self.examples.ids)):
            if takes(attack, name):
                options[name] = value
        if self.sparser and takes(attack, "start"):
            options["start"] = self.start
        # copies: an attack that writes into its arguments does not change what it is measured against
        x_adv = attack(self.counter, x.clone(), y.clone(), self.stage.own(self.threat, x), **options)
        if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
            got = f"shape {tuple(x_adv.shape)}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
            raise ArgumentError(
                f"attack: expected inputs of shape {tuple(x.shape)} from {self.stage.name}, got {got}"
            )
        x_adv = x_adv.detach().to(x)
        if self.sparser:
            x_adv = shrink(self.counter, x, x_adv, y, self.threat)
        self._settle(torch.arange(len(x), device=x.device), x_adv, finished=True)

    def share(self) -> float:
        """How much of the search is done, from 0 to 1, as far as its length is known."""
        length = max((v for n, v in self.stage.options.items() if n in ("steps", "queries")), default=0)
        return min(0.99, float(self.counter.forwards.max()) / length) if length else 0.0

    def _broken(self, rows: Tensor, x_adv: Tensor) -> None:
        """The attack says that these just broke: written before it ends, in case it does not."""
        self._claimed.update(rows.tolist())
        # a minimal attack may still find fewer changes, and a model that is only called, perhaps for money, is
        # asked for one verdict at the end
        if self.stage.minimal or not self.counter.differentiable:
            return
        self._pending.append((rows, x_adv.clone()))
        if time.perf_counter() - self._flushed > _FLUSH_SECONDS:
            pending, self._pending = self._pending, []
            self._settle(
                torch.cat([r for r, _ in pending]), torch.cat([a for _, a in pending]), finished=False
            )
            self._flushed = time.perf_counter()

    def _settle(self, rows: Tensor, x_adv: Tensor, *, finished: bool) -> None:
        """Re-measure what the attack returned, and write it.  Before the attack ends, only successes count."""
        # an attack may call one example broken twice: the first time counts
        first = {local: j for j, local in reversed(list(enumerate(rows.tolist())))}
        fresh = sorted(j for local, j in first.items() if local not in self._written)
        if not fresh:
            return
        rows, x_adv = rows[fresh], x_adv[fresh]
        threat, x, y = self.threat, self.examples.x[rows], self.examples.y[rows]
        # each in its place in the batch, whoever else is settled now: the same bits again after a resume
        everyone = self.examples.x.clone()
        everyone[rows] = x_adv
        found = verdict(predict(self.model, everyone)[rows], y)
        inside = threat.contains(x, x_adv).tolist()
        distance, linf = threat.distance(x, x_adv).tolist(), distances.linf(x, x_adv).tolist()
        changed = (threat.grid(x) != threat.grid(x_adv)).any(1)
        new_rows = []
        for j, local in enumerate(rows.tolist()):
            # an unchanged input that a randomised model gets wrong this time is no adversarial
            broken = inside[j] and found.wrong[j] and distance[j] > 0
            if not broken and not finished:
                continue
            self.unconfirmed += not broken and local in self._claimed
            self.outside += not inside[j]
            row = self.examples.row(local, threat.k, self.stage.index, self.stage.name) | {
                "outcome": "broken" if broken else "robust",
                "prediction": found.prediction[j] if broken else int(y[j]),
                "margin": finite(found.margin[j]) if inside[j] else None,
                "forwards": int(self.counter.forwards[local]),
                "backwards": int(self.counter.backwards[local]),
            }
            if broken:
                at = changed[j].nonzero().flatten()
                row |= {
                    "distance": distance[j],
                    "linf": linf[j],
                    "positions": at.tolist(),
                    "values": threat.grid(x_adv[j : j + 1])[0, :, at].T.flatten().tolist(),
                }
            self._written.add(local)
            new_rows.append(row)
        self._on_rows(new_rows)
