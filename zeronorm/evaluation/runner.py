"""The main job: attack a model on a data set within a budget, and keep the evidence.

Work is done stage by stage over all examples that are left, in batches; every finished example is a row on
disk.  What an example's search finds does not depend on its batch, so a run that was killed goes on with
whoever has no row yet and ends as if it never had been.

    evaluate    checks what was asked and opens the folder            plan, examples, diagnosis
    _Runner     who is searched next: budgets, stages, batches         ledger, session
    Search      one attack on one batch, measured again                batch_search, replay, query_counter
    Workers     who does it: this process, or several                  workers
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import torch

import zeronorm
from zeronorm import checks, models, report
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.data import Dataset, Stream, TableDataset
from zeronorm.errors import ArgumentError, reading
from zeronorm.evaluation import diagnosis
from zeronorm.evaluation.attack_batch import AttackShard, StageWork
from zeronorm.evaluation.batches import in_batches
from zeronorm.evaluation.examples import DataLike, as_dataset, check_box, first_columns, on_device
from zeronorm.evaluation.fresh_pass import device_of, predict, verdict
from zeronorm.evaluation.identity import check_answers
from zeronorm.evaluation.in_process import InProcess, Spent, Underway
from zeronorm.evaluation.ledger import CLEAN, Ledger
from zeronorm.evaluation.plan import (
    AttackLike,
    PlannedStage,
    differences,
    digest,
    resolve_stages,
    resolve_threats,
)
from zeronorm.evaluation.proofs import proof_stages
from zeronorm.evaluation.ray_workers import Workers, at_work
from zeronorm.evaluation.result import Evaluation, summary_of
from zeronorm.evaluation.session import Progress, Session, noted
from zeronorm.records.folders import Row, RunFolder, finite
from zeronorm.threat_model import L0, Linf

_BATCH = 256  # examples, unless said
_PROOFS = 4  # examples that are proved together, each for seconds
_LEAST = 16  # in a shard, unless there are too few for that: a pass costs something however small it is
_PICTURES = 48  # examples whose clean input is kept for the report


@torch.inference_mode(False)
def evaluate(
    model: Model,
    data: DataLike,
    threat: L0 | Linf | Sequence[L0],
    attack: AttackLike | Sequence[AttackLike] = "sparse_autoattack",
    out: str | Path | None = None,
    *,
    steps: int | None = None,
    queries: int | None = None,
    curve: bool = False,
    prove: bool = False,
    seconds: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    precision: str = "float32",
    name: str | None = None,
    command: str | None = None,
    workers: int | Workers | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """How often does the model still answer right when an adversary may change a few pixels?

    Args:
        model: from inputs to logits (batch, class), in evaluation mode, normalisation inside; or a
            `zeronorm.models.BlackBox`.  It is attacked where its parameters are.
        data: a `Dataset`, a tuple (x, y), or a name that `zeronorm.data.load` knows.
        threat: an `L0`, or several that differ in k only; or an `Linf`, which is recorded as the `L0` that it is:
            all features may change, each by at most ε.
        attack: a name in the catalogue, a `Stage` with options, a function
            `(model, x, y, threat, *, seed, ids)`, or a list of these: a cascade, each on the survivors of
            the last.  On a model without gradients an ensemble keeps its black-box stages.
        out: folder of the run.  A run that was interrupted there goes on; one of another plan is refused.
            None keeps the run in a temporary folder for as long as the result lives.
        steps, queries: length of each white-box and black-box stage; the attacks' own by default.
        curve: search, for each example, the smallest number of changes up to `threat.k`: robust accuracy at
            every budget from one run.
        prove: hand whom the attacks left to every certificate that accepts the model, from the easiest: each is
            proved, broken by a counterexample, or unknown.  `certified_accuracy[k]` is the share proved.
        seconds: that a proof may take for each example and budget, before it is unknown; by default the method's.
        batch_size: examples per batch; the result does not depend on it.  By default 256, or fewer where some of
            the workers would have none otherwise.
        seed: of every random number, together with the example's id.
        precision: "float32", or "bfloat16" for faster passes during the search; verdicts are float32 always.
        name, command: how the model is called, and what started the run, for the record.
        workers: so many processes, or `Workers` that are there already, share the searches; the result is the same.
        on_progress: called now and then with the state of the run.

    Returns:
        The evaluation; `robust_accuracy[k]` counts inputs misclassified without an attack as not robust.

    Raises:
        ArgumentError: before anything is attacked, for input that cannot be used.
    """
    dataset = as_dataset(data)
    threats = resolve_threats(threat, curve, dataset.x[:1], [model])
    checks.model(model)
    batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, 1)
    seed = checks.integer("seed", seed, 0)
    checks.choice("precision", precision, ("float32", "bfloat16"))
    checks.evaluation_mode(model)
    examples = on_device(dataset, device_of(model))
    for one in threats:
        check_box(examples, one)

    owned, model = model, in_batches(model, batch_size, examples.first(1).x)
    look = diagnosis.look_at(model, examples)
    stages = resolve_stages(attack, differentiable=look.differentiable, steps=steps, queries=queries)
    some = examples.first(1)
    if seconds is not None and not prove:
        raise ArgumentError(f"seconds: expected none without prove, got {seconds!r}")
    proofs = proof_stages(model, some.x, threats, seconds, len(stages)) if prove else []
    for stage, one in product(stages, threats):
        stage.check(model, some.x, some.y, one)
    findings = list(look.findings)
    if not look.differentiable and getattr(model, "differentiable", True):
        findings.append(diagnosis.NO_GRADIENTS)
    facts = models.describe(owned)
    plan: dict[str, Any] = {
        "model": {"name": name or facts["architecture"]} | facts | {"differentiable": look.differentiable},
        "data": describe_data(dataset),
        "threat": threats[0].describe() | {"budgets": [t.k for t in threats], "curve": curve},
        "attack": {
            "name": attack
            if isinstance(attack, str) and (look.differentiable or len(stages) > 1)
            else " + ".join(stage.name for stage in stages),
            "stages": [stage.describe() for stage in (*stages, *proofs)],
        },
        "seed": seed,
        "precision": precision,
    }

    with ExitStack() as temporary:
        if out is None:
            out = temporary.enter_context(tempfile.TemporaryDirectory(prefix="zeronorm-"))
        folder = RunFolder(out)
        with folder.locked():
            run, rows = open_run(folder, plan, command)
            check_answers(model, examples, rows or folder.clean_rows(), folder.path)
            if run["status"] != "complete":
                with reading(folder.path):
                    ledger = Ledger(examples, folder, rows)
                with at_work(workers, model, examples.y.device) as engine:
                    run["execution"] = execution(examples.y.device, batch_size or _BATCH) | {
                        "workers": engine.count
                    }
                    session = Session(len(examples), on_progress, engine.count)
                    with noted(session, folder, run) as note:
                        _Runner(
                            model, examples, threats, [*stages, *proofs], ledger, session, note, batch_size, seed,
                            precision, engine,
                        ).run(curve)  # fmt: skip
                        again, changed = diagnosis.asked_again(
                            look, model, examples, session.passes, any(stage.custom for stage in stages)
                        )
                        session.doubts |= {"asked_again": again, "changed": changed}
                findings += diagnosis.inspect_answers(look, examples, ledger.rows)
                findings += diagnosis.inspect_rows(run, ledger.rows)
                _finish(folder, run, ledger, examples, findings)
            elif folder.journal.exists() or not folder.page.exists():
                tidy_up(folder)
        return Evaluation(folder, keep=temporary.pop_all())


@dataclass
class _Runner:
    """The order of work: which examples are searched next, by which stage, within which budget."""

    model: Model
    examples: Dataset | Stream
    threats: tuple[L0, ...]
    stages: list[PlannedStage]
    ledger: Ledger
    session: Session
    note: Callable[[], None]
    batch_size: int | None
    seed: int
    precision: str
    engine: InProcess | Workers

    def run(self, curve: bool) -> None:
        """Everything that has no row yet."""
        self._predict_clean()
        if curve:
            self._go_down()
        else:
            self._go_up()

    def _go_up(self) -> None:
        """Budget by budget, the smallest first: each is for who withstood those before.

        A minimal attack is run in the turn of the smallest budget only, but up to the largest: the one change
        it finds is the answer for every budget.
        """
        for threat in self.threats:
            for stage in self.stages:
                if stage.proof:
                    self._search(threat, stage, self.ledger.unproved(_k(threat), stage.index))
                elif not stage.minimal:
                    self._search(threat, stage, self.ledger.left(_k(threat), stage.index))
                elif threat is self.threats[0]:
                    largest = self.threats[-1]
                    left = self.ledger.left(_k(largest), stage.index, above=_k(threat))
                    self._search(largest, stage, left)

    def _go_down(self) -> None:
        """From the largest budget down: who is broken with d changes is searched again with d - 1.

        A minimal attack is run once for each example, when its turn comes first: it has gone down by itself.
        """
        most = _k(self.threats[0])
        for k in range(most, 0, -1):
            for stage in self.stages:
                # an earlier stage may have broken it at this very budget; then it is a smaller budget's business
                broken_with = float("inf") if k == most else float(k + 1)
                who = self.ledger.unproved if stage.proof else self.ledger.left
                left = who(k, stage.index, broken_with=broken_with)
                if stage.minimal:
                    left = [i for i in left if self.ledger.budget_of(i, stage.index) in (None, k)]
                self._search(self.threats[0].with_k(k), stage, left, sparser=True)

    def _predict_clean(self) -> None:
        for batch in cut(list(range(len(self.examples))), self.batch_size or _BATCH, 1):
            fresh = [i for i in batch if not self.ledger.has(i, None, CLEAN)]
            if not fresh:
                continue
            some = self.examples.at(batch)
            z = predict(self.model, some.x)
            if not bool((z < float("inf")).all()):
                raise ArgumentError("model: expected finite logits, got NaN or infinity for clean inputs")
            found = dict(zip(batch, zip(*verdict(z, some.y), strict=True), strict=True))
            rows = []
            for j, i in enumerate(batch):
                if i not in fresh:
                    continue
                prediction, wrong, margin = found[i]
                rows.append(
                    first_columns(some, j, None, CLEAN, "clean")
                    | {
                        "outcome": "wrong" if wrong else "correct",
                        "prediction": prediction,
                        "margin": finite(margin),
                        "forwards": 1,
                        "backwards": 0,
                    }
                )
            self.write(rows)
            self.show("clean predictions", None, batch[-1] + 1, len(self.examples))

    def _search(self, threat: L0, stage: PlannedStage, left: list[int], *, sparser: bool = False) -> None:
        """One stage at one budget over the examples that are left, batch by batch.

        A batch that was interrupted is done again as a whole: the last bits of a model's answer may depend on
        the place in the batch, and a search on its last bits.
        """
        # batches that were asked for are those of one process, to the last bit
        workers = self.engine.count if self.batch_size is None else 1
        # a proof may take long: little of it is lost when it is stopped
        size = _PROOFS if "seconds" in stage.options else self.batch_size or _BATCH
        todo = [
            batch
            for batch in cut(left, size, workers)
            if not all(self.ledger.has(i, threat.k, stage.index) for i in batch)
        ]
        events = _StageEvents(self, stage.name, threat.k, len(left), len(left) - sum(map(len, todo)))
        work = StageWork(threat, stage, self.seed, self.precision, sparser)
        shards = (self._shard(places, threat, stage, sparser) for places in todo)
        for shard, doubts in self.engine.map(work, shards, events):
            for doubt, count in doubts.items():
                self.session.doubts[doubt] += count
            events.done_with(shard)

    def _shard(self, places: list[int], threat: L0, stage: PlannedStage, sparser: bool) -> AttackShard:
        return AttackShard(
            places,
            self.examples.at(places),
            self.ledger.start_for(places, threat) if sparser else None,
            [self.ledger.has(i, threat.k, stage.index) for i in places],
        )

    def write(self, rows: list[Row]) -> None:
        """Put rows on disk."""
        self.session.rows += len(rows)
        self.note()  # first: a kill in between leaves time without rows, never rows that took none
        self.ledger.write(rows)

    def show(self, stage: str, k: int | None, done: int, todo: int) -> None:
        """Tell whoever watches how far a stage is."""
        if self.session.is_watched:
            self.session.show(stage, k, done, todo, self.ledger.robust(k))


class _StageEvents:
    """What happens while a stage is at work: counted, shown and written.

    Attributes:
        done: examples that the stage is finished with, of `todo`.
    """

    def __init__(self, runner: _Runner, stage: str, k: int | None, todo: int, done: int) -> None:
        self.runner, self.stage, self.k, self.todo, self.done = runner, stage, k, todo, done

    def passed(self, passes: int, underway: Underway) -> None:
        self.runner.session.passes += passes
        if self.runner.session.is_due():
            self.runner.show(self.stage, self.k, self.done + int(underway()), self.todo)

    def finished(self, shard: AttackShard, rows: list[Row], spent: Spent) -> None:
        self.runner.session.spent(self.stage, spent)
        if rows:
            self.runner.write(rows)

    def fault(self, what: str) -> None:
        self.runner.session.faults.append(f"{self.stage}, k={self.k}: {what}")
        self.runner.note()

    def done_with(self, shard: AttackShard) -> None:
        """Count in a shard that is done."""
        self.done += len(shard)
        self.runner.show(self.stage, self.k, self.done, self.todo)


def _finish(
    folder: RunFolder,
    run: dict[str, Any],
    ledger: Ledger,
    examples: Dataset | Stream,
    findings: list[dict[str, str]],
) -> None:
    """Fold the rows in the order of the examples, whatever order they came in, and close the run."""
    order = ledger.order
    rows = sorted(ledger.rows, key=lambda r: (order[r["example"]], r["stage"] >= 0, r["k"] or 0, r["stage"]))
    images = pictures(examples, [order[e] for e in pictured(rows)])
    run["rows_digest"] = folder.fold(rows, images)
    run["diagnosis"], run["checks"] = findings, diagnosis.passed(run, findings)
    run["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    run["status"] = "complete"
    run["summary"] = summary_of(run, folder.read_rows())
    folder.write(run)
    tidy_up(folder)


def pictures(examples: Dataset | Stream, places: list[int]) -> list[dict[str, Any]]:
    """The clean inputs of some examples, as rows of `records.IMAGES`."""
    some = examples.at(places)
    return [
        {"example": int(e), "x": x.double().flatten().cpu().numpy()}
        for e, x in zip(some.ids, some.x, strict=True)
    ]


def tidy_up(folder: RunFolder) -> None:
    """What is left to do once the records are complete; done again if a kill came in between."""
    folder.drop_journal()
    report.render([folder.path], folder.page)


def pictured(rows: list[Row]) -> list[int]:
    """Examples for the report's gallery: the easiest and the hardest to break, some never broken, some wrong."""
    fewest: dict[int, float] = {}
    for row in rows:
        if row["stage"] == -1:
            fewest[row["example"]] = float("inf") if row["outcome"] == "correct" else 0
        elif row["outcome"] == "broken":
            fewest[row["example"]] = min(fewest[row["example"]], row["distance"])
    broken = sorted((e for e, d in fewest.items() if 0 < d < float("inf")), key=lambda e: fewest[e])
    robust = [e for e, d in fewest.items() if d == float("inf")]
    third = _PICTURES // 3
    return list(dict.fromkeys(broken[:third] + broken[-third:] + robust[:third]))


def open_run(
    folder: RunFolder, plan: dict[str, Any], command: str | None
) -> tuple[dict[str, Any], list[Row]]:
    """A new run, or the one in the folder if it has the same plan."""
    if folder.exists():
        run = folder.read()
        if run["plan_digest"] != digest(plan):
            what = "; ".join(differences(plan, run["plan"])[:4])
            raise ArgumentError(f"out: {folder.path} holds another run ({what}); choose another folder")
        return run, ([] if run["status"] == "complete" else folder.recover())
    if folder.journal.exists() or folder.table.exists():
        raise ArgumentError(f"out: {folder.path} holds rows but no run.json; choose another folder")
    run = {
        "format": folder.format,
        "status": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": None,
        "command": command,
        "plan": plan,
        "plan_digest": digest(plan),
        "versions": {
            "zeronorm": zeronorm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "execution": {},
        "sessions": [],
        "diagnosis": [],
        "summary": None,
    }
    return run, []


def describe_data(dataset: Dataset | Stream) -> dict[str, Any]:
    """The data of a run, as its plan holds them."""
    return {
        "name": dataset.name,
        "split": dataset.split,
        "n": len(dataset),
        "digest": dataset.digest,
        "shape": list(dataset.x.shape[1:]),
        "dtype": str(dataset.x.dtype).removeprefix("torch."),
        "class_names": list(dataset.class_names),
    } | _of_table(dataset)


def _of_table(dataset: Dataset | Stream) -> dict[str, Any]:
    if not isinstance(dataset, TableDataset):
        return {}
    told = {"target": dataset.target, "schema": dataset.schema.text}
    return told if dataset.toward is None else told | {"toward": dataset.toward}


def _k(threat: L0) -> int:
    assert threat.k is not None, "a run has budgets"
    return threat.k


def cut(todo: list[int], size: int, workers: int) -> Iterator[list[int]]:
    """Shards of `size`; for several workers, each half of everybody's share of what is left, `size` at most, so that
    all have work until the end (Polychronopoulos & Kuck, "Guided self-scheduling", 1987; the simulation in
    `benchmarks.workers` says what it gains)."""
    least = min(_LEAST, max(1, len(todo) // workers))
    while todo:
        now = size if workers == 1 else min(size, max(least, len(todo) // (2 * workers)))
        yield todo[:now]
        todo = todo[now:]


def execution(device: torch.device, batch_size: int) -> dict[str, Any]:
    """What a run is carried out on, for its record; the result does not depend on it."""
    return {
        "device": str(device),
        "device_name": _device_name(device),
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
