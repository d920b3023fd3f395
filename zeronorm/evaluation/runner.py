"""The main job: attack a model on a data set within a budget, and keep the evidence.

Work is done stage by stage over all examples that are left, in batches; every finished example is a row on
disk.  What an example's search finds does not depend on its batch, so a run that was killed goes on with
whoever has no row yet and ends as if it never had been.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

import zeronorm
from zeronorm import checks, distances, losses, models, report
from zeronorm.attacks.search import Model, evaluation_mode, filled_up
from zeronorm.attacks.shrink import shrink
from zeronorm.attacks.sparse_autoattack import Stage
from zeronorm.data import Dataset
from zeronorm.data import load as load_data
from zeronorm.errors import ArgumentError
from zeronorm.evaluation import diagnosis
from zeronorm.evaluation.plan import (
    AttackFunction,
    AttackLike,
    differences,
    digest,
    resolve_stages,
    resolve_threats,
    takes,
)
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.evaluation.records import FORMAT, RunFolder
from zeronorm.evaluation.result import Evaluation
from zeronorm.threat_model import L0

Row = dict[str, Any]
DataLike = Dataset | Sequence[Tensor] | str  # a sequence is the pair (x, y)

_FLUSH_SECONDS = 2.0  # how much finished work a kill may cost at most, within a batch
_SHOW_SECONDS = 0.2
_PICTURES = 48  # examples whose clean input is kept for the report
_REPORT = "report.html"


@dataclass(frozen=True)
class Progress:
    """Where a run is: for whoever shows it."""

    stage: str
    k: int | None
    done: int  # examples this stage is finished with
    todo: int  # examples this stage was given
    robust: int  # examples not broken at this budget so far, of `n`
    n: int
    passes: int  # model passes over one example so far, in this session
    seconds: float


@torch.inference_mode(False)
def evaluate(
    model: Model,
    data: DataLike,
    threat: L0 | Sequence[L0],
    attack: AttackLike | Sequence[AttackLike] = "sparse_autoattack",
    out: str | Path | None = None,
    *,
    steps: int | None = None,
    queries: int | None = None,
    curve: bool = False,
    batch_size: int = 256,
    seed: int = 0,
    precision: str = "float32",
    name: str | None = None,
    command: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """How often does the model still answer right when an adversary may change a few pixels?

    Args:
        model: from inputs to logits (batch, class), in evaluation mode, normalisation inside; or a
            `zeronorm.models.BlackBox`.  It is attacked where its parameters are.
        data: a `Dataset`, a tuple (x, y), or a name that `zeronorm.data.load` knows.
        threat: an `L0`, or several that differ in k only.
        attack: a name in the catalogue, a `Stage` with options, a function
            `(model, x, y, threat, *, seed, ids)`, or a list of these: a cascade, each on the survivors of
            the last.  On a model without gradients an ensemble keeps its black-box stages.
        out: folder of the run.  A run that was interrupted there goes on; one of another plan is refused.
            None keeps the run in a temporary folder for as long as the result lives.
        steps, queries: length of each white-box and black-box stage; the attacks' own by default.
        curve: search, for each example, the smallest number of changes up to `threat.k`: robust accuracy at
            every budget from one run.
        batch_size: examples per batch; the result does not depend on it.
        seed: of every random number, together with the example's id.
        precision: "float32", or "bfloat16" for faster passes during the search; verdicts are float32 always.
        name, command: how the model is called, and what started the run, for the record.
        on_progress: called now and then with the state of the run.

    Returns:
        The evaluation; `robust_accuracy[k]` counts inputs misclassified without an attack as not robust.

    Raises:
        ArgumentError: before anything is attacked, for input that cannot be used.
    """
    threats = resolve_threats(threat, curve)
    checks.model(model)
    batch_size = checks.integer("batch_size", batch_size, 1)
    seed = checks.integer("seed", seed, 0)
    checks.choice("precision", precision, ("float32", "bfloat16"))
    if isinstance(model, nn.Module) and model.training:
        raise ArgumentError(
            "model: expected a model in evaluation mode, got one in training mode; call model.eval()"
        )
    dataset = as_dataset(data)
    x, y, ids = _on(_device(model), checks.examples(dataset.x), dataset.y, dataset.ids)
    if len(x) == 0:
        raise ArgumentError("data: expected at least one example, got none")
    if x.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            f"data: expected float32 or float64, got {x.dtype}; precision='bfloat16' is for the search's passes"
        )
    y, ids = checks.labels(y, x), checks.identifiers(ids, x)
    if len(ids.unique()) < len(ids):
        raise ArgumentError("data: expected different example ids, got duplicates")
    for one in threats:
        one.check_inputs(x)

    _check_logits(model, x, y, dataset)
    differentiable = diagnosis.gives_gradients(model, x)
    stages = resolve_stages(attack, differentiable=differentiable, steps=steps, queries=queries)
    findings = diagnosis.inspect_model(model, x, y, differentiable)
    if not differentiable and getattr(model, "differentiable", True):
        findings.append(diagnosis.NO_GRADIENTS)
    facts = models.describe(model)
    plan: dict[str, Any] = {
        "model": {"name": name or facts["architecture"]} | facts | {"differentiable": differentiable},
        "data": _describe(dataset, x),
        "threat": threats[0].describe() | {"budgets": [t.k for t in threats], "curve": curve},
        "attack": {
            "name": attack
            if isinstance(attack, str) and (differentiable or len(stages) > 1)
            else " + ".join(stage.name for stage, _ in stages),
            "stages": [{"name": s.name, "attack": s.attack, "options": s.options} for s, _ in stages],
        },
        "seed": seed,
        "precision": precision,
    }

    with ExitStack() as temporary:
        if out is None:
            out = temporary.enter_context(tempfile.TemporaryDirectory(prefix="zeronorm-"))
        folder = RunFolder(out)
        with folder.locked():
            run, rows = _open(folder, plan, command)
            if run["status"] != "complete":
                run["execution"] = {
                    "device": str(x.device),
                    "device_name": _device_name(x.device),
                    "threads": torch.get_num_threads(),
                    "batch_size": batch_size,
                }
                folder.write_run(run)
                runner = _Runner(
                    model, x, y, ids, dataset, threats, stages, plan, folder, rows, batch_size, on_progress
                )
                try:
                    runner.run(curve)
                finally:
                    runner.close_session(run)
                findings += diagnosis.inspect_rows(run, runner.rows)
                _finish(folder, run, runner, findings)
            elif folder.journal.exists() or not (folder.path / _REPORT).exists():
                _tidy_up(folder)
        return Evaluation(folder, keep=temporary.pop_all())


class _Runner:
    """The state of a run in progress: the rows so far, and for each example the fewest changes found."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        ids: Tensor,
        dataset: Dataset,
        threats: tuple[L0, ...],
        stages: list[tuple[Stage, AttackFunction]],
        plan: Mapping[str, Any],
        folder: RunFolder,
        rows: list[Row],
        batch_size: int,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.model, self.x, self.y, self.ids = model, x, y, ids
        self.threats, self.stages, self.folder, self.batch_size = threats, stages, folder, batch_size
        self.precision, self.seed = plan["precision"], plan["seed"]
        self.names = dataset.names
        self.rows: list[Row] = []
        self.tally = {"unconfirmed": 0, "outside": 0}
        self._index = {int(id_): i for i, id_ in enumerate(ids.tolist())}
        self._done: set[tuple[int, int, int]] = set()  # (example, k, stage) with a row
        self._correct = torch.zeros(len(x), dtype=torch.bool)
        self._smallest: list[float] = [float("inf")] * len(x)
        self._sparser: dict[int, list[Row]] = {}  # each example's adversarials, ever sparser
        self._clean_rows = 0
        for row in rows:
            self._note(row)
        self._on_progress = on_progress
        self._started, self._stamp = time.perf_counter(), datetime.now(UTC)
        self._session_rows, self._passes, self._shown = 0, 0, 0.0
        self._effort: dict[str, dict[str, float]] = {}

    # -- the order of work ------------------------------------------------------------------------------

    def run(self, curve: bool) -> None:
        """Everything that has no row yet."""
        self._predict_clean()
        if curve:
            self._run_curve()
            return
        for threat in self.threats:
            assert threat.k is not None
            for stage in range(len(self.stages)):
                self._search(threat, stage, self._left(threat.k, stage))

    def _run_curve(self) -> None:
        """From the largest budget down: who is broken with d changes is searched again with d - 1."""
        most = self.threats[0].k
        assert most is not None
        for k in range(most, 0, -1):
            for stage in range(len(self.stages)):
                # an earlier stage may have broken it at this very budget; then it is a smaller budget's business
                left = self._left(k, stage, float("inf") if k == most else float(k + 1))
                self._search(self.threats[0].with_k(k), stage, left, sparser=True)

    def _left(self, k: int, stage: int, broken_with: float = float("inf")) -> list[int]:
        """The examples this search is given: not yet broken with k changes, or given to it before an interruption."""
        return [
            i
            for i, smallest in enumerate(self._smallest)
            if self._correct[i] and (k < smallest <= broken_with or (i, k, stage) in self._done)
        ]

    def _predict_clean(self) -> None:
        have = {self._index[row["example"]] for row in self.rows if row["stage"] == -1}
        for batch in _batches(list(range(len(self.x))), self.batch_size):
            if have.issuperset(batch):
                continue
            z = predict(self.model, self.x[batch])
            if not bool((z < float("inf")).all()):
                raise ArgumentError("model: expected finite logits, got NaN or infinity for clean inputs")
            wrong, margin = losses.is_wrong(z, self.y[batch]), -losses.margin(z, self.y[batch])
            prediction = z.argmax(1)
            self._write(
                [
                    self._row(i, None, -1)
                    | {
                        "outcome": "wrong" if wrong[j] else "correct",
                        "prediction": int(prediction[j]),
                        "margin": _finite(float(margin[j])),
                        "forwards": 1,
                        "backwards": 0,
                    }
                    for j, i in enumerate(batch)
                    if i not in have
                ]
            )
            self._show("clean predictions", None, batch[-1] + 1, len(self.x), force=True)

    def _search(self, threat: L0, stage: int, left: list[int], *, sparser: bool = False) -> None:
        """One stage at one budget over the examples that are left, batch by batch.

        A batch that was interrupted is done again as a whole: the last bits of a model's answer may depend on
        the place in the batch, and a search on its last bits.
        """
        done = 0
        for batch in _batches(left, self.batch_size):
            if not all((i, threat.k, stage) in self._done for i in batch):
                _Batch(self, threat, stage, batch, done, len(left), sparser).run()
            done += len(batch)

    # -- rows -------------------------------------------------------------------------------------------

    def _row(self, i: int, k: int | None, stage: int) -> Row:
        return {
            "example": int(self.ids[i]),
            "name": self.names[i] if self.names else None,
            "label": int(self.y[i]),
            "k": k,
            "stage": stage,
            "attack": self.stages[stage][0].name if stage >= 0 else "clean",
        }

    def _note(self, row: Row) -> None:
        i = self._index[row["example"]]
        self.rows.append(row)
        if row["stage"] == -1:
            self._correct[i] = row["outcome"] == "correct"
            if row["outcome"] == "wrong":
                self._smallest[i] = 0
            return
        self._done.add((i, row["k"], row["stage"]))
        if row["outcome"] == "broken" and row["distance"] < self._smallest[i]:
            self._smallest[i] = row["distance"]
            self._sparser.setdefault(i, []).append(row)

    def _write(self, rows: list[Row]) -> None:
        self.folder.append(rows)
        self._session_rows += len(rows)
        for row in rows:
            self._note(row)

    def start_for(self, batch: list[int], threat: L0) -> Tensor | None:
        """The sparsest adversarials of larger budgets, to begin a smaller search from; None if there are none."""
        start, known = self.x[batch], False
        for j, i in enumerate(batch):
            larger = [row for row in self._sparser.get(i, ()) if row["k"] > threat.k]
            if larger:
                start[j : j + 1], known = rebuild(start[j : j + 1], larger[-1], threat), True
        return start if known else None

    # -- telling ----------------------------------------------------------------------------------------

    def is_due(self) -> bool:
        """Whether it is time to show where the run is."""
        return self._on_progress is not None and time.perf_counter() - self._shown > _SHOW_SECONDS

    def _show(self, stage: str, k: int | None, done: int, todo: int, *, force: bool = False) -> None:
        if self._on_progress is None or not (force or self.is_due()):
            return
        now = self._shown = time.perf_counter()
        bar = float("inf") if k is None else k
        robust = sum(s > bar for s in self._smallest) if k is not None else int(self._correct.sum())
        self._on_progress(
            Progress(stage, k, done, todo, robust, len(self.x), self._passes, now - self._started)
        )

    def close_session(self, run: dict[str, Any]) -> None:
        """Note what this session did, complete or not."""
        run["sessions"].append(
            {
                "started": self._stamp.isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - self._started, 3),
                "rows": self._session_rows,
                "stages": self._effort,
                **self.tally,
            }
        )
        self.folder.write_run(run)


class _Batch:
    """One call of one attack, and what becomes of its examples."""

    def __init__(
        self, runner: _Runner, threat: L0, stage: int, batch: list[int], done: int, todo: int, sparser: bool
    ) -> None:
        self.runner, self.threat, self.stage, self.batch = runner, threat, stage, batch
        self.sparser = sparser
        self._before, self._todo = done, todo
        self._written = {j for j, i in enumerate(batch) if (i, threat.k, stage) in runner._done}
        self._claimed: set[int] = set()  # rows that the attack called broken
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._flushed = time.perf_counter()
        self.x, self.y = runner.x[batch], runner.y[batch]
        self.counter = QueryCounter(
            runner.model,
            len(batch),
            runner.x.device,
            precision=runner.precision,
            # a sparser adversarial is still to be made of what broke: nothing to write early
            on_broken=None if sparser else self._broken,
            on_pass=self._passed,
        )
        self.counter.training = False

    def run(self) -> None:
        """Attack, check, write."""
        runner, (stage, attack) = self.runner, self.runner.stages[self.stage]
        started = time.perf_counter()
        options = dict(stage.options)
        if takes(attack, "seed"):
            options["seed"] = runner.seed
        if takes(attack, "ids"):
            options["ids"] = runner.ids[self.batch]
        if self.sparser and takes(attack, "start"):
            options["start"] = runner.start_for(self.batch, self.threat)
        # copies: an attack that writes into its arguments does not change what it is measured against
        x_adv = attack(self.counter, self.x.clone(), self.y.clone(), self.threat, **options)
        if not isinstance(x_adv, Tensor) or x_adv.shape != self.x.shape:
            got = f"shape {tuple(x_adv.shape)}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
            raise ArgumentError(
                f"attack: expected inputs of shape {tuple(self.x.shape)} from {stage.name}, got {got}"
            )
        x_adv = x_adv.detach().to(self.x)
        if self.sparser:
            x_adv = shrink(self.counter, self.x, x_adv, self.y, self.threat)
        self._settle(torch.arange(len(self.batch), device=self.x.device), x_adv, finished=True)
        effort = runner._effort.setdefault(stage.name, {"seconds": 0.0, "forwards": 0, "backwards": 0})
        effort["seconds"] = round(effort["seconds"] + time.perf_counter() - started, 3)
        effort["forwards"] += int(self.counter.forwards.sum())
        effort["backwards"] += int(self.counter.backwards.sum())
        runner._show(stage.name, self.threat.k, self._before + len(self.batch), self._todo, force=True)

    def _broken(self, rows: Tensor, x_adv: Tensor) -> None:
        """The attack says that these just broke: written before it ends, in case it does not."""
        self._claimed.update(rows.tolist())
        if not self.counter.differentiable:
            return  # a model that is only called, perhaps for money, is asked for one verdict at the end
        self._pending.append((rows, x_adv.clone()))
        if time.perf_counter() - self._flushed > _FLUSH_SECONDS:
            pending, self._pending = self._pending, []
            self._settle(
                torch.cat([r for r, _ in pending]), torch.cat([a for _, a in pending]), finished=False
            )
            self._flushed = time.perf_counter()

    def _passed(self, examples: int) -> None:
        self.runner._passes += examples
        if not self.runner.is_due():
            return
        stage = self.runner.stages[self.stage][0]
        length = max((v for n, v in stage.options.items() if n in ("steps", "queries")), default=0)
        share = min(0.99, float(self.counter.forwards.max()) / length) if length else 0.0
        self.runner._show(stage.name, self.threat.k, self._before + int(share * len(self.batch)), self._todo)

    def _settle(self, rows: Tensor, x_adv: Tensor, *, finished: bool) -> None:
        """Re-measure what the attack returned, and write it.  Before the attack ends, only successes count."""
        # an attack may call one example broken twice: the first time counts
        first = {local: j for j, local in reversed(list(enumerate(rows.tolist())))}
        fresh = sorted(j for local, j in first.items() if local not in self._written)
        if not fresh:
            return
        rows, x_adv = rows[fresh], x_adv[fresh]
        runner, x, y = self.runner, self.x[rows], self.y[rows]
        # each in its place in the batch, whoever else is settled now: the same bits again after a resume
        everyone = self.x.clone()
        everyone[rows] = x_adv
        z = predict(runner.model, everyone)[rows]
        inside = self.threat.contains(x, x_adv)
        wrong = losses.is_wrong(z, y)
        margin, prediction = -losses.margin(z, y), z.argmax(1)
        distance, linf = self.threat.distance(x, x_adv), distances.linf(x, x_adv)
        changed = (self.threat.grid(x) != self.threat.grid(x_adv)).any(1)
        new_rows = []
        for j, local in enumerate(rows.tolist()):
            # an unchanged input that a randomised model gets wrong this time is no adversarial
            broken = bool(inside[j] & wrong[j] & (distance[j] > 0))
            if not broken and not finished:
                continue
            runner.tally["unconfirmed"] += int(not broken and local in self._claimed)
            runner.tally["outside"] += int(not bool(inside[j]))
            row = runner._row(self.batch[local], self.threat.k, self.stage) | {
                "outcome": "broken" if broken else "robust",
                "prediction": int(prediction[j]) if broken else int(y[j]),
                "margin": _finite(float(margin[j])) if bool(inside[j]) else None,
                "forwards": int(self.counter.forwards[local]),
                "backwards": int(self.counter.backwards[local]),
            }
            if broken:
                at = changed[j].nonzero().flatten()
                row |= {
                    "distance": int(distance[j]),
                    "linf": float(linf[j]),
                    "positions": at.tolist(),
                    "values": self.threat.grid(x_adv[j : j + 1])[0, :, at].T.flatten().tolist(),
                }
            self._written.add(local)
            new_rows.append(row)
        runner._write(new_rows)


def predict(model: Model, x: Tensor) -> Tensor:
    """Logits on a fresh pass, in full precision, the batch filled up so that they do not depend on it."""
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model):
        return model(filled_up(model, x.clone()))[: len(x)]  # a copy: the model may write into its input


def rebuild(x: Tensor, row: Mapping[str, Any], threat: L0) -> Tensor:
    """The adversarial of a row: the clean input (1, ...) with the stored values written into it."""
    x_adv = x.clone().contiguous()
    grid = threat.grid(x_adv)
    at = torch.tensor(row["positions"], dtype=torch.int64, device=x.device)
    values = torch.tensor(row["values"], dtype=x.dtype, device=x.device)
    grid[0, :, at] = values.view(len(at), grid.shape[1]).T
    return x_adv


def _finish(folder: RunFolder, run: dict[str, Any], runner: _Runner, findings: list[dict[str, str]]) -> None:
    """Fold the rows in the order of the examples, whatever order they came in, and close the run."""
    order = {int(id_): i for i, id_ in enumerate(runner.ids.tolist())}
    rows = sorted(runner.rows, key=lambda r: (order[r["example"]], r["stage"] >= 0, r["k"] or 0, r["stage"]))
    pictured = _pictured(rows)
    images = [{"example": e, "x": runner.x[runner._index[e]].double().flatten().tolist()} for e in pictured]
    run["rows_digest"] = folder.fold(rows, images)
    run["diagnosis"], run["checks"] = findings, diagnosis.passed(findings)
    run["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    run["status"] = "complete"
    run["summary"] = summary_of(run, folder.read_rows())
    folder.write_run(run)
    _tidy_up(folder)


def _tidy_up(folder: RunFolder) -> None:
    """What is left to do once the records are complete; done again if a kill came in between."""
    folder.drop_journal()
    report.render([folder.path], folder.path / _REPORT)


def summary_of(run: Mapping[str, Any], rows: pa.Table) -> dict[str, Any]:
    """The headline of a run as plain values: what `verify` computes again."""
    figures = report.summarise(run, rows)
    return {
        "n": figures.n,
        "clean_accuracy": figures.clean_accuracy.value,
        "robust_accuracy": {str(k): share.value for k, share in figures.robust_accuracy.items()},
    }


def _pictured(rows: list[Row]) -> list[int]:
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


def _open(folder: RunFolder, plan: dict[str, Any], command: str | None) -> tuple[dict[str, Any], list[Row]]:
    """A new run, or the one in the folder if it has the same plan."""
    if folder.exists():
        run = folder.read_run()
        if run["plan_digest"] != digest(plan):
            what = "; ".join(differences(plan, run["plan"])[:4])
            raise ArgumentError(f"out: {folder.path} holds another run ({what}); choose another folder")
        return run, ([] if run["status"] == "complete" else folder.recover())
    if folder.journal.exists() or folder.table.exists():
        raise ArgumentError(f"out: {folder.path} holds rows but no run.json; choose another folder")
    run = {
        "format": FORMAT,
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


def as_dataset(data: DataLike) -> Dataset:
    """The data set itself, the one of that name, or one made of (x, y)."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str):
        return load_data(data)
    if isinstance(data, tuple | list) and len(data) == 2:
        x = checks.examples(data[0]).detach()
        y = checks.labels(data[1], x)
        return Dataset(
            x=x,
            y=y.to(torch.int64),
            ids=torch.arange(len(x)),
            name="given",
            split="given",
            class_names=(),
            names=None,
        )
    raise ArgumentError(f"data: expected a Dataset, a tuple (x, y) or a name, got {type(data).__name__}")


def _describe(dataset: Dataset, x: Tensor) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "split": dataset.split,
        "n": len(x),
        "digest": dataset.digest,
        "shape": list(x.shape[1:]),
        "dtype": str(x.dtype).removeprefix("torch."),
        "class_names": list(dataset.class_names),
    }


def _check_logits(model: Model, x: Tensor, y: Tensor, dataset: Dataset) -> None:
    """One pass over two inputs: does the model fit the data at all?"""
    try:
        z = predict(model, x[:2])
    except ArgumentError:
        raise
    except Exception as error:  # whatever a stranger's model raises
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArgumentError(
            f"model: expected a model of inputs of shape {tuple(x.shape[1:])} and {x.dtype}, but it failed on "
            f"them: {first}"
        ) from error
    checks.logits(z, min(len(x), 2), int(y.max()))
    if dataset.class_names and z.shape[1] != len(dataset.class_names):
        raise ArgumentError(
            f"model: expected {len(dataset.class_names)} logits, one per class of {dataset.name}, got {z.shape[1]}"
        )


def _batches(todo: list[int], size: int) -> Iterator[list[int]]:
    return (todo[i : i + size] for i in range(0, len(todo), size))


def _on(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().to(device) for t in tensors)


def _device(model: Model) -> torch.device:
    parameter = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _finite(number: float) -> float | None:
    return number if abs(number) < float("inf") else None
