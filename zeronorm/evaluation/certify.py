"""How many changes each example is proved to withstand, over a data set, with the evidence kept.

Every finished example is a row on disk with its integer counts; a run that was killed goes on with whoever has no
row yet.  The counts are all that a confidence level or a bound needs: `recertify` reads them again, without a model.
"""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zeronorm import checks, models, records
from zeronorm.certification.certificate import ABSTAIN, Certificate
from zeronorm.certification.confidence import check_probability, leading_class
from zeronorm.certification.feature_partition import certify_feature_partition
from zeronorm.certification.l0_lipschitz import certify_l0_lipschitz
from zeronorm.certification.randomized_ablation import BOUNDS, certify_votes, votes_at_looks
from zeronorm.certification.truncation_window import certify_truncated
from zeronorm.data import Dataset, Stream
from zeronorm.defenses import RandomizedAblation
from zeronorm.errors import ArgumentError, reads_records
from zeronorm.evaluation.certification import Certification
from zeronorm.evaluation.examples import DataLike, as_dataset, first_columns, on_device
from zeronorm.evaluation.fresh_pass import device_of
from zeronorm.evaluation.in_process import Events, InProcess, Spent, Underway
from zeronorm.evaluation.plan import digest
from zeronorm.evaluation.ray_workers import Workers, at_work
from zeronorm.evaluation.runner import cut, describe_data, execution, open_run, pictures, tidy_up
from zeronorm.evaluation.session import Progress, Session, noted
from zeronorm.evaluation.verify import Verification
from zeronorm.records.folders import CertificateFolder, Row, digest_rows

Proof = Callable[[Tensor], Certificate]  # of inputs, by a deterministic method on its model

# methods whose certificate is one function of model and inputs
DETERMINISTIC: dict[str, Callable[[Any, Tensor], Certificate]] = {
    "l0_lipschitz": certify_l0_lipschitz,
    "feature_partition": certify_feature_partition,
    "truncation_window": certify_truncated,
}
METHODS = ("randomized_ablation", *DETERMINISTIC)

_BATCH = 1024  # inputs, or ablated images, unless said
_PICTURES = 12  # examples whose clean input is kept for the report: most and least certified
_PACKED = 8  # batches of ablated images to one writing of rows
_RECOUNTED = 2  # examples whose votes `verify` casts again
_NEAR_TIES = 1e-3  # share of votes that another machine's rounding may move


@torch.inference_mode(False)
def certify(
    model: Any,
    data: DataLike,
    method: str | None = None,
    out: str | Path | None = None,
    *,
    retained: int | None = None,
    null: str = "multichannel",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    n0: int = 1000,
    n: int = 10_000,
    alpha: float = 0.05,
    bound: str = "half",
    looks: int = 1,
    precision: str = "float32",
    batch_size: int | None = None,
    seed: int = 0,
    name: str | None = None,
    command: str | None = None,
    workers: int | Workers | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Certification:
    """For each input: how many pixels may be changed, to any values, without changing the answer, proved?

    Args:
        model: of `randomized_ablation` the base classifier, or a `RandomizedAblation` (then without `retained`,
            `null`, `mean`, `std`); of other methods the model that is certified.
        data: a `Dataset`, a tuple (x, y), or a name that `zeronorm.data.load` knows.
        method: one of `METHODS`; None: the one the model is made for.
        out: folder of the run.  A run that was interrupted there goes on; one of another plan is refused.
        retained, null, mean, std, n0, n, alpha, bound, looks, precision: of randomized ablation, see
            `RandomizedAblation` and its `certify`.
            `retained` and `null` are by default those that a model of `zeronorm train` was trained for.
        batch_size: inputs, or ablated images, per pass; the result does not depend on it.  By default 1024, or fewer
            where some of the workers would have none otherwise.
        seed: of every random number, together with the example's id.
        name, command: how the model is called, and what started the run, for the record.
        workers: so many processes, or `Workers` that are there already, share the work; the result is the same.
        on_progress: called now and then with the state of the run.

    Returns:
        The certificates; a wrong prediction and no certificate count alike in `certified_accuracy`.

    Raises:
        ArgumentError: before anything is certified, for input that cannot be used.
    """
    chosen = checks.choice("method", (method or made_for(model)).replace("-", "_"), METHODS)
    shared = batch_size is None  # shards are for whoever there is
    batch_size = _BATCH if batch_size is None else checks.integer("batch_size", batch_size, 1)
    seed = checks.integer("seed", seed, 0)
    options: dict[str, Any] = {}
    of_votes = {
        "retained": retained, "null": null, "mean": mean, "std": std, "n0": n0, "n": n, "alpha": alpha, "bound": bound,
        "looks": looks, "precision": precision,
    }  # fmt: skip
    prover: RandomizedAblation | Proof
    if chosen == "randomized_ablation":
        prover = (
            model
            if isinstance(model, RandomizedAblation)
            else smoothed(model, retained, null, mean, std, precision)
        )
        options = {
            "retained": prover.retained,
            "null": prover.null,
            "mean": None if prover.mean is None else list(prover.mean),
            "std": None if prover.std is None else list(prover.std),
            "n0": checks.integer("n0", n0, 1),
            "n": checks.integer("n", n, 1),
            "alpha": check_probability(alpha, "alpha"),
            "bound": checks.choice("bound", bound, BOUNDS),
        }
        if checks.integer("looks", looks, 1) > 1:
            options["looks"] = looks
        if prover.precision != "float32":
            options["precision"] = prover.precision
        model = prover.base_classifier
    else:
        defaults = inspect.signature(certify).parameters
        if foreign := [name for name, value in of_votes.items() if value != defaults[name].default]:
            raise ArgumentError(f"{foreign[0]}: the method {chosen} casts no votes and takes no {foreign[0]}")
        prover = partial(DETERMINISTIC[chosen], model)
    checks.evaluation_mode(model)
    dataset = as_dataset(data)
    examples = on_device(dataset, device_of(model))
    facts = models.describe(model)
    plan: dict[str, Any] = {
        "model": {"name": name or facts["architecture"]} | facts,
        "data": describe_data(dataset),
        "method": {"name": chosen, "options": options},
        "seed": seed,
    }
    # the first rows before anything is written: an unfit model leaves no folder
    first = _prove(prover, examples.at([0]), {**options, "n0": 1, "n": 1}, seed, batch_size)[0]
    if (counts := first.get("counts")) is not None and len(counts) <= int(examples.y.max()):
        raise ArgumentError(
            f"model: expected a logit for every label up to {int(examples.y.max())}, got {len(counts)} classes"
        )

    with ExitStack() as temporary:
        if out is None:
            out = temporary.enter_context(tempfile.TemporaryDirectory(prefix="zeronorm-"))
        folder = CertificateFolder(out)
        with folder.locked():
            run, rows = open_run(folder, plan, command)
            if run["status"] != "complete":
                with at_work(workers, prover, examples.y.device) as engine:
                    run["execution"] = execution(examples.y.device, batch_size) | {"workers": engine.count}
                    session = Session(len(examples), on_progress, engine.count)
                    proving = _Proving(options, seed, batch_size)
                    with noted(session, folder, run) as note:
                        rows = _go_on(engine, proving, examples, folder, rows, session, note, shared)
                _finish(folder, run, rows, examples)
            elif folder.journal.exists() or not folder.page.exists():
                tidy_up(folder)
        return Certification(folder, keep=temporary.pop_all())


@reads_records
def recertify(
    run: str | Path,
    out: str | Path,
    *,
    alpha: float | None = None,
    bound: str | None = None,
    command: str | None = None,
) -> Certification:
    """The certificates that the votes of a complete run give at another confidence level, or by another bound.

    No model, no data and no new votes.  Levels chosen after looking at the outcomes are no longer each at their
    stated confidence; one level chosen beforehand is.

    Args:
        run: folder of a complete run of randomized ablation.
        out: folder for the new run.
        alpha, bound: as for `certify`; None: as in the run.
    """
    source = CertificateFolder(run)
    record = source.read_complete()
    plan, method = record["plan"], record["plan"]["method"]
    if method["name"] != "randomized_ablation":
        raise ArgumentError(
            f"run: expected one of randomized_ablation, which has votes to read again, got {method['name']}, which "
            "is a proof without a confidence level"
        )
    options = dict(method["options"])
    options |= {} if alpha is None else {"alpha": check_probability(alpha, "alpha")}
    options |= {} if bound is None else {"bound": checks.choice("bound", bound, BOUNDS)}
    rows = source.read_rows().to_pylist()
    judged = _judged(rows, options, plan["data"]["shape"])
    new_plan = plan | {"method": {"name": method["name"], "options": options}}
    folder = CertificateFolder(out)
    with folder.locked():
        new, _ = open_run(folder, new_plan, command)
        if new["status"] != "complete":
            new |= {key: record[key] for key in ("execution", "sessions")}
            new["counts_of"] = {"plan_digest": record["plan_digest"], "rows_digest": record["rows_digest"]}
            folder.write(new)
            shown = [{"example": e, "x": x} for e, x in source.read_images().items()]
            _close(folder, new, [row | more for row, more in zip(rows, judged, strict=True)], shown)
    return Certification(folder)


@reads_records
def verify_certificates(run: str | Path, model: Any, data: DataLike) -> Verification:
    """Check every claim of a complete run of certificates.

    Digests of plan, model, data and rows; that no row is missing or doubled; of every row, that answer, prediction and
    radius are what its votes prove, and the votes as many as were to be cast.  The votes of the first two examples
    are cast again; a method without votes is run again on all.
    """
    folder = CertificateFolder(run)
    record = folder.read_complete()
    table, plan = folder.read_rows(), record["plan"]
    rows, result, dataset = table.to_pylist(), Verification(), as_dataset(data)
    model_digest = models.describe(model).get("digest")
    for what, claimed, found in (
        ("plan: its digest", record["plan_digest"], digest(plan)),
        ("data: digest", plan["data"]["digest"], dataset.digest),
        ("model: digest", plan["model"].get("digest"), model_digest),
        ("rows: their digest", record.get("rows_digest"), digest_rows(table)),
        ("rows: their examples", sorted(row["example"] for row in rows), sorted(dataset.ids.tolist())),
    ):
        if claimed != found:
            result.problems.append(f"{what} is {_short(found)}, the run says {_short(claimed)}")
    if result.problems:
        return result
    examples = on_device(dataset, device_of(model))
    place = {id_: i for i, id_ in enumerate(examples.ids.tolist())}
    method, options = plan["method"]["name"], plan["method"]["options"]
    prover: RandomizedAblation | Proof
    if method != "randomized_ablation":
        prover = partial(DETERMINISTIC[method], model)
    else:
        told = {key: options[key] for key in ("retained", "null", "mean", "std")}
        prover = smoothed(model, **told, precision=options.get("precision", "float32"))
        _check_votes(rows, options, plan["data"]["shape"], result)
        if result.problems:
            return result
    again = rows[:_RECOUNTED] if method == "randomized_ablation" else rows
    for start in range(0, len(again), 256):
        some = again[start : start + 256]
        found = _prove(
            prover, examples.at([place[row["example"]] for row in some]), options, plan["seed"], 1024
        )
        for row, fresh in zip(some, found, strict=True):
            _compare(row, fresh, result)
    for row in rows:
        i = place[row["example"]]
        if (row["label"], row["name"]) != (int(examples.y[i]), examples.names[i] if examples.names else None):
            result.problems.append(f"example {row['example']}: label or name is not the data's")
    result.predictions, result.adversarials = len(rows), 0
    if (found_summary := records.certified_json(records.summarise_certificates(record, table))) != record[
        "summary"
    ]:
        result.problems.append(f"summary: run.json says {record['summary']}, its rows say {found_summary}")
    return result


def _check_votes(
    rows: list[Row], options: Mapping[str, Any], shape: Sequence[int], result: Verification
) -> None:
    at_looks = votes_at_looks(options["n"], options.get("looks", 1))
    for row in rows:
        for votes, cast in (("selection", [options["n0"]]), ("counts", at_looks)):
            if sum(row[votes] or ()) not in cast or min(row[votes] or [-1]) < 0:
                result.problems.append(f"example {row['example']}: its {votes} are not {cast[-1]} votes")
    if not result.problems:
        for row, judged in zip(rows, _judged(rows, options, shape), strict=True):
            for what, found in judged.items():
                if row[what] != found:
                    result.problems.append(
                        f"example {row['example']}: its votes give {what} {found}, the run says {row[what]}"
                    )


def _compare(row: Row, fresh: Row, result: Verification) -> None:
    for what in ("selection", "counts"):
        if row[what] is not None:
            moved = sum(abs(a - b) for a, b in zip(row[what], fresh[what], strict=True)) // 2
            if moved > _NEAR_TIES * sum(row[what]):
                result.problems.append(
                    f"example {row['example']}: {moved} of its {what} are others when cast again"
                )
    if row["counts"] is None:
        for what in ("answer", "prediction", "radius", "margin"):
            if row[what] != fresh[what]:
                result.problems.append(
                    f"example {row['example']}: {what} is {fresh[what]}, the run says {row[what]}"
                )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:30]}..."


# -- proving -----------------------------------------------------------------------------------------------


def made_for(model: Any) -> str:
    """The method of a model that is made for one; randomized ablation, which goes with any, of others."""
    architecture = getattr(model, "architecture", None)
    if architecture in DETERMINISTIC:
        return architecture
    # a truncated network that was trained on ablated images is made for those
    truncates = isinstance(model, models.Classifier) and bool(model.arguments.get("truncation"))
    return "truncation_window" if truncates and "ablation" not in model.facts else "randomized_ablation"


def smoothed(
    model: Any,
    retained: int | None,
    null: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    precision: str,
) -> RandomizedAblation:
    """The smoothed classifier of a base classifier, as it was trained for where nothing else is said."""
    trained_for = getattr(model, "facts", {}).get("ablation")
    if retained is None:
        if trained_for is None:
            raise ArgumentError(
                "retained: expected how many pixels the base classifier is shown, got None; a model of "
                "zeronorm train --method ablation knows it"
            )
        asked = {"null": null if null != "multichannel" else None, "mean": mean and list(mean)}
        for what, given in asked.items():
            if given is not None and given != trained_for[what]:
                raise ArgumentError(
                    f"{what}: expected {trained_for[what]}, which the model was trained for, got {given}"
                )
        retained, null, mean = trained_for["retained"], trained_for["null"], trained_for["mean"]
    return RandomizedAblation(model, retained, null, mean=mean, std=std, precision=precision)


@dataclass(frozen=True)
class _Proving:
    """The certificates of some examples, as work for whoever does it."""

    options: Mapping[str, Any]
    seed: int
    batch_size: int

    def __call__(self, prover: Any, some: Dataset, events: Events) -> None:
        began = time.perf_counter()
        proved = _prove(prover, some, self.options, self.seed, self.batch_size)
        rows: list[Row] = [
            {name: row.get(name) for name in CertificateFolder.schema.names}
            for row in (first_columns(some, i, None, 0, "") | found for i, found in enumerate(proved))
        ]
        passes = sum(row["passes"] for row in rows)
        events.passed(passes, lambda: len(some))
        events.finished(some, rows, Spent(time.perf_counter() - began, passes, 0))


def _go_on(
    engine: InProcess | Workers,
    proving: _Proving,
    examples: Dataset | Stream,
    folder: CertificateFolder,
    rows: list[Row],
    session: Session,
    note: Callable[[], None],
    shared: bool,
) -> list[Row]:
    """Everything that has no row yet."""
    rows = list(rows)
    done = {row["example"] for row in rows}
    left = [i for i, id_ in enumerate(examples.ids.tolist()) if id_ not in done]
    options, together = proving.options, proving.batch_size
    if options:
        together = max(1, _PACKED * together // (options["n0"] + options["n"]))

    shards = (examples.at(some) for some in cut(left, together, engine.count if shared else 1))
    events = _ProvingEvents(rows, len(examples), folder, session, note)
    for _ in engine.map(proving, shards, events):
        pass
    return rows


@dataclass
class _ProvingEvents:
    """What happens while certificates are made: counted, shown and written."""

    rows: list[Row]
    n: int
    folder: CertificateFolder
    session: Session
    note: Callable[[], None]

    def passed(self, passes: int, underway: Underway) -> None:
        self.session.passes += passes

    def finished(self, shard: Dataset, rows: list[Row], spent: Spent) -> None:
        self.session.spent("certificates", spent)
        self.session.rows += len(rows)
        self.rows.extend(rows)
        self.note()
        self.folder.append(rows)
        certified = len([r for r in self.rows if r["radius"] is not None and r["prediction"] == r["label"]])
        self.session.show("certificates", None, len(self.rows), self.n, certified)

    def fault(self, what: str) -> None:
        self.session.faults.append(what)
        self.note()


def _prove(
    prover: RandomizedAblation | Proof,
    examples: Dataset,
    options: Mapping[str, Any],
    seed: int,
    batch_size: int,
) -> list[Row]:
    """What each example's row says beyond whose it is."""
    if isinstance(prover, RandomizedAblation):
        selection, counts = prover.votes_for_certificate(
            examples.x,
            options["n0"],
            options["n"],
            options["alpha"],
            batch_size,
            bound=options["bound"],
            looks=options.get("looks", 1),
            seed=seed,
            ids=examples.ids,
        )
        rows = [
            {"selection": s, "counts": c, "passes": sum(s) + sum(c)}
            for s, c in zip(selection.tolist(), counts.tolist(), strict=True)
        ]
        judged = _judged(rows, options, list(examples.x.shape[1:]))
        return [row | more for row, more in zip(rows, judged, strict=True)]
    certificate = prover(examples.x)
    found = [certificate.prediction, certificate.radius, certificate.margin, certificate.passes]
    columns = zip(*([None] * len(certificate) if v is None else v.tolist() for v in found), strict=True)
    return [
        {"answer": _null(p), "prediction": _null(p), "radius": _null(r), "margin": m, "passes": n or 1}
        for p, r, m, n in columns
    ]


def _judged(rows: list[Row], options: Mapping[str, Any], shape: Sequence[int]) -> list[Row]:
    """What the votes of each row prove."""
    selection, counts = (
        np.array([row[votes] for row in rows], dtype=np.int64) for votes in ("selection", "counts")
    )
    if not len(rows):
        return []
    looks = options.get("looks", 1)
    told = options["retained"], options["alpha"], options["bound"], looks
    prediction, radius = certify_votes(selection, counts, int(np.prod(shape[1:])), *told)
    answers = leading_class(counts, options["alpha"] / looks, alike=looks == 1)
    return [
        {"answer": _null(a), "prediction": _null(p), "radius": _null(r)}
        for a, p, r in zip(answers.tolist(), prediction.tolist(), radius.tolist(), strict=True)
    ]


def _null(value: int) -> int | None:
    return None if value == ABSTAIN else value


# -- closing the run ---------------------------------------------------------------------------------------


def _finish(
    folder: CertificateFolder, run: dict[str, Any], rows: list[Row], examples: Dataset | Stream
) -> None:
    order = {id_: i for i, id_ in enumerate(examples.ids.tolist())}
    rows = sorted(rows, key=lambda row: order[row["example"]])
    shown = records.pictured(rows, _PICTURES)
    _close(folder, run, rows, pictures(examples, [order[e] for e in shown]))


def _close(
    folder: CertificateFolder, run: dict[str, Any], rows: list[Row], shown: list[dict[str, Any]]
) -> None:
    run["rows_digest"] = folder.fold(rows, shown)
    run["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    run["status"] = "complete"
    run["summary"] = records.certified_json(records.summarise_certificates(run, folder.read_rows()))
    folder.write(run)
    tidy_up(folder)
