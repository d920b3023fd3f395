"""One call of one attack on one batch: attack, measure again, hand over the rows."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from zeronorm import distances
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.shrink import shrink
from zeronorm.certification.certificate import ABSTAIN
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.examples import first_columns
from zeronorm.evaluation.fresh_pass import changes, predict, verdict
from zeronorm.evaluation.in_process import Events, Spent
from zeronorm.evaluation.plan import PlannedStage, takes
from zeronorm.evaluation.proofs import certificate_of
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.modules import evaluation_mode
from zeronorm.records.folders import Row, finite
from zeronorm.threat_model import L0

_FLUSH_SECONDS = 2.0  # how much finished work a kill may cost at most, within a batch


@dataclass(frozen=True)
class AttackShard:
    """Examples that are searched together, by their places among those of the run."""

    places: list[int]
    examples: Dataset
    start: Tensor | None  # adversarials to begin a sparser search from
    written: list[bool]  # who has a row already

    def __len__(self) -> int:
        return len(self.places)

    def halves(self) -> tuple[AttackShard, AttackShard]:
        """The same work in two."""
        first, second = self.examples.halves()

        def part(examples: Dataset, which: slice) -> AttackShard:
            start = None if self.start is None else self.start[which]
            return AttackShard(self.places[which], examples, start, self.written[which])

        return part(first, slice(len(first))), part(second, slice(len(first), None))


@dataclass(frozen=True)
class StageWork:
    """A stage of the cascade within one budget, as work on shards."""

    threat: L0
    stage: PlannedStage
    seed: int
    precision: str
    sparser: bool

    def __call__(self, model: Model, shard: AttackShard, events: Events) -> dict[str, int]:
        """Attack the shard's examples; returns how many results were doubtful."""
        attempt = _Attempt(self, model, shard, events)
        try:
            attempt.run()
        finally:
            attempt.finished([])
        undefined = int(attempt.counter.undefined)
        return {"unconfirmed": attempt.unconfirmed, "outside": attempt.outside, "undefined": undefined}


class _Attempt:
    """One stage on one shard, while it goes on.

    What the attack claims is not believed: rows say what a fresh pass says of its results.  Successes are handed
    over while the attack goes on, unless a sparser one may follow, the rest when it ends; examples that are
    written already, from before an interruption, take part but get no second row.

    Attributes:
        counter: the passes of each example.
        unconfirmed, outside: results the attack called adversarial that did not hold, or outside the threat model.
    """

    def __init__(self, work: StageWork, model: Model, shard: AttackShard, events: Events) -> None:
        self.model, self.examples, self.shard, self.events = model, shard.examples, shard, events
        self.threat, self.stage, self.seed, self.sparser = work.threat, work.stage, work.seed, work.sparser
        self.unconfirmed = self.outside = 0
        self._idle = 0  # examples that the attack returned without a pass
        self._written = {j for j, written in enumerate(shard.written) if written}
        self._proved: list[bool] = []  # by a stage that proves
        self._claimed: set[int] = set()  # rows that the attack called broken
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._started = self._flushed = time.perf_counter()
        self._spent = Spent()  # as said so far
        self.counter = QueryCounter(
            model,
            len(shard),
            self.examples.x.device,
            precision=work.precision,
            # a sparser adversarial is still to be made of what broke: nothing to write early
            on_broken=None if work.sparser else self._broken,
            on_pass=self._passed,
        )
        self.counter.training = False

    def run(self) -> None:
        """Attack, check, write."""
        x, y, attack = self.examples.x, self.examples.y, self.stage.function
        if self.stage.proof:
            self._settle(torch.arange(len(x), device=x.device), self._prove(), finished=True)
            return
        options = dict(self.stage.options)
        for name, value in (("seed", self.seed), ("ids", self.examples.ids)):
            if takes(attack, name):
                options[name] = value
        if self.sparser and takes(attack, "start"):
            options["start"] = self.shard.start
        # copies: an attack that writes into its arguments does not change what it is measured against
        with evaluation_mode(
            self.model
        ):  # nor does one that changes the modes of layers, for longer than it runs
            x_adv = attack(self.counter, x.clone(), y.clone(), self.stage.own(self.threat, x), **options)
        if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
            got = f"shape {tuple(x_adv.shape)}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
            raise ArgumentError(
                f"attack: expected inputs of shape {tuple(x.shape)} from {self.stage.name}, got {got}"
            )
        if x_adv.layout != torch.strided:
            raise ArgumentError(
                f"attack: expected dense inputs from {self.stage.name}, got the layout {x_adv.layout}"
            )
        x_adv = x_adv.detach().to(x)
        if self.threat.schema is not None:
            # those of the catalogue make possible rows, one's own need not know how
            possible = self.threat.schema.possible(x, x_adv)[:, None]
            x_adv = torch.where(possible, x_adv, self.threat.schema.repair(x, x_adv))
        if self.threat.k and not self._passes():  # before what it found is made sparser, which asks the model
            self._idle = len(x)
        if self.sparser:
            x_adv = shrink(self.counter, x, x_adv, y, self.threat)
        self._settle(torch.arange(len(x), device=x.device), x_adv, finished=True)

    def finished(self, rows: list[Row]) -> None:
        """Hand over rows, and what was spent since the last time."""
        seconds, backwards = time.perf_counter() - self._started, int(self.counter.backwards.sum())
        before, self._spent = self._spent, Spent(seconds, self._passes(), backwards, self._idle)
        self.events.finished(self.shard, rows, self._spent - before)

    def _passes(self) -> int:
        return int(self.counter.forwards.sum()) + self.counter.unattributed

    def _prove(self) -> Tensor:
        """Note what is proved; counterexamples where there are some, the inputs elsewhere."""
        x, y = self.examples.x, self.examples.y
        certificate = certificate_of(self.stage, self.model, self.examples, self.threat, self.seed)
        self._proved = certificate.holds(y, self.threat.k or 0).tolist()
        passes = torch.ones_like(y) if certificate.passes is None else certificate.passes.to(y)
        self.counter.forwards += passes
        if certificate.broken is None or certificate.counterexamples is None:
            return x
        found = (certificate.broken != ABSTAIN).to(x.device).view(-1, *[1] * (x.dim() - 1))
        return torch.where(found, certificate.counterexamples.to(x), x)

    def _outcome(self, local: int, broken: bool) -> str:
        if not self.stage.proof:
            return "broken" if broken else "robust"
        if broken and self._proved[local]:
            raise RuntimeError(
                f"{self.stage.name} proved example {int(self.examples.ids[local])} within {self.threat.k} changes and "
                "broke it: an error of zeronorm, please report it"
            )
        return "broken" if broken else "proved" if self._proved[local] else "unknown"

    def _passed(self, passes: int) -> None:
        self.events.passed(passes, self._underway)

    def _underway(self) -> float:
        """The part of the search that is done, in examples, as far as its length is known."""
        length = max((v for n, v in self.stage.options.items() if n in ("steps", "queries")), default=0)
        share = min(0.99, float(self.counter.forwards.max()) / length) if length else 0.0
        return share * len(self.shard)

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
        new_rows = []
        for j, local in enumerate(rows.tolist()):
            # an unchanged input that a randomised model gets wrong this time is no adversarial
            broken = inside[j] and found.wrong[j] and distance[j] > 0
            if not broken and not finished:
                continue
            self.unconfirmed += not broken and local in self._claimed
            self.outside += not inside[j]
            row = first_columns(self.examples, local, threat.k, self.stage.index, self.stage.name) | {
                "outcome": self._outcome(local, broken),
                "prediction": found.prediction[j] if broken else int(y[j]),
                "margin": finite(found.margin[j]) if inside[j] else None,
                "forwards": int(self.counter.forwards[local]),
                "backwards": int(self.counter.backwards[local]),
            }
            if broken:
                row |= {"distance": distance[j], "linf": finite(linf[j])}
                row |= changes(x[j : j + 1], x_adv[j : j + 1], threat)
            self._written.add(local)
            new_rows.append(row)
        self.finished(new_rows)
