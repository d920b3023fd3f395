"""How many changes each example is proved to withstand, over a data set, with the evidence kept.

Every finished example is a row on disk with its integer counts; a run that was killed goes on with whoever has no
row yet.  The counts are all that a confidence level or a bound needs: `recertify` reads them again, without a model.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zeronorm import checks, models, records
from zeronorm.certification import catalogue as certificates
from zeronorm.certification.catalogue import Certifier, get, made_for
from zeronorm.certification.certificate import ABSTAIN
from zeronorm.certification.confidence import check_probability, leading_class
from zeronorm.certification.randomized_ablation import BOUNDS, votes_at_looks
from zeronorm.data import Dataset, Stream
from zeronorm.defenses.smoothed import smoothed
from zeronorm.defenses.smoothed_classifier import SmoothedClassifier, part_in_training_mode
from zeronorm.errors import ArgumentError, reads_records
from zeronorm.evaluation.examples import DataLike, as_dataset, check_box, first_columns, on_device
from zeronorm.evaluation.fresh_pass import changes, device_of, predict, rebuild
from zeronorm.evaluation.identity import ASKED
from zeronorm.evaluation.in_process import Events, InProcess, Spent, Underway
from zeronorm.evaluation.plan import described_threat, digest, resolve_threats
from zeronorm.evaluation.ray_workers import Workers, at_work
from zeronorm.evaluation.result import Certification
from zeronorm.evaluation.runner import cut, describe_data, execution, open_run, pictures, tidy_up
from zeronorm.evaluation.session import Progress, Session, noted
from zeronorm.evaluation.verify import (
    Verification,
    check_facts,
    check_files,
    check_page,
    check_words,
    patience,
    sample,
)
from zeronorm.records.folders import CertificateFolder, Row, digest_rows
from zeronorm.threat_model import L0

METHODS = tuple(certificates)

_BATCH = 1024  # inputs, or randomised copies, unless said
_PICTURES = 12  # examples whose clean input is kept for the report: most and least certified
_VOTED = 2  # examples whose first votes tell whether it is the same model
_PACKED = 8  # batches of randomised copies to one writing of rows
_NEAR_TIES = 1e-3  # share of votes that another machine's rounding may move
_LEFT_OUT = {"looks": 1, "precision": "float32"}  # options that a record names where they are others


@torch.inference_mode(False)
def certify(
    model: Any,
    data: DataLike,
    method: str | None = None,
    out: str | Path | None = None,
    *,
    threats: L0 | Sequence[L0] | None = None,
    seconds: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    name: str | None = None,
    command: str | None = None,
    workers: int | Workers | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Certification:
    """For each input: how many pixels may be changed, to any values, without changing the answer, proved?

    Args:
        model: of a probabilistic method the base classifier, or a `SmoothedClassifier` such as `RandomizedAblation`; of
            other methods the model that is certified.
        data: a `Dataset`, a tuple (x, y), or a name that `zeronorm.data.load` knows.
        method: a row of `zeronorm.certification.catalogue`; None: the one the model is made for.
        out: folder of the run.  A run that was interrupted there goes on; one of another plan is refused.
        threats: of methods that try budgets one after the other: what the adversary may do, with ascending k.
        seconds: of methods that search for a proof: how long, for each example.
        batch_size: inputs, or randomised copies, per pass; the result does not depend on it.  By default 1024, or fewer
            where some of the workers would have none otherwise.
        seed: of every random number, together with the example's id.
        name, command: how the model is called, and what started the run, for the record.
        workers: so many processes, or `Workers` that are there already, share the work; the result is the same.
        on_progress: called now and then with the state of the run.
        options: of the method, as its row of the catalogue lists them: of votes `n0`, `n`, `alpha`, and what
            `RandomizedAblation` and its `certify` take; `retained` and `null` are by default those that a model of
            `zeronorm train` was trained for.

    Returns:
        The certificates; a wrong prediction and no certificate count alike in `certified_accuracy`.

    Raises:
        ArgumentError: before anything is certified, for input that cannot be used.
    """
    row = get(method or made_for(model))
    shared = batch_size is None  # shards are for whoever there is
    batch_size = _BATCH if batch_size is None else checks.integer("batch_size", batch_size, 1)
    seed = checks.integer("seed", seed, 0)
    given = _given(row, threats, seconds)
    prover: SmoothedClassifier | _Prover
    if row.votes:
        asked = options
        if isinstance(model, SmoothedClassifier):
            prover = smoothed(model, row.name, **options)
            asked = model.options | options
        else:
            row.check_options(options)
            prover = smoothed(model, row.name, **options)
        options = row.check_options(asked | prover.options)
        options = {key: value for key, value in options.items() if _LEFT_OUT.get(key) != value}
        model = prover.base_classifier
    else:
        row.check_options(options)
        prover = _Prover(row.name, model)
    if (part := part_in_training_mode(model)) is not None:
        raise ArgumentError(
            f"model: expected a model in evaluation mode, got {part} in training mode; call model.eval()"
        )
    dataset = as_dataset(data)
    examples = on_device(dataset, device_of(model))
    for threat in given.get("threats", ()):
        check_box(examples, threat)
    if "threats" in given and (why := row.misfit(examples.first(1).x, given["threats"])) is not None:
        raise ArgumentError(f"threats: {row.name} proves nothing of these: {why}")
    facts = models.describe(model)
    # before anything is written: an unfit model leaves no folder
    proving = _Proving(options, given, seed, batch_size)
    if not row.votes:
        row.accepts(model, examples.first(1).x)
    else:
        first = proving.of(prover, examples.first(1), n0=1, n=1)[0]
        if (counts := first["counts"]) is not None and len(counts) <= int(examples.y.max()):
            raise ArgumentError(
                f"model: expected a logit for every label up to {int(examples.y.max())}, got {len(counts)} classes"
            )
    plan: dict[str, Any] = {
        "model": {"name": name or facts["architecture"]} | facts,
        "data": describe_data(dataset),
        "method": {
            "name": row.name,
            "kind": row.kind,
            "unit": given["threats"][0].unit if "threats" in given else options.get("unit", row.unit),
            "arithmetic": options.get("arithmetic", row.arithmetic),
            "options": options,
        }
        | (_described(given["threats"]) if "threats" in given else {})
        | ({"seconds": seconds} if "seconds" in given else {}),
        "seed": seed,
    }

    with ExitStack() as temporary:
        if out is None:
            out = temporary.enter_context(tempfile.TemporaryDirectory(prefix="zeronorm-"))
        folder = CertificateFolder(out)
        with folder.locked():
            run, rows = open_run(folder, plan, command)
            there = rows or (folder.read_rows().to_pylist() if folder.table.exists() else [])
            _check_answers(prover, examples, there, proving, folder.path)
            if run["status"] != "complete":
                with at_work(workers, prover, examples.y.device) as engine:
                    run["execution"] = execution(examples.y.device, batch_size) | {"workers": engine.count}
                    session = Session(len(examples), on_progress, engine.count)
                    with noted(session, folder, run) as note:
                        rows = _go_on(engine, proving, examples, folder, rows, session, note, shared)
                _finish(folder, run, rows, examples)
            elif folder.journal.exists() or not folder.page.exists():
                tidy_up(folder)
        return Certification(folder, keep=temporary.pop_all())


def _given(row: Certifier, threats: L0 | Sequence[L0] | None, seconds: float | None) -> dict[str, Any]:
    """Of what a method may ask for, what it was given; `ArgumentError` for what it does not ask for, or lacks."""
    several = [threats] if isinstance(threats, L0) else threats
    given: dict[str, Any] = {}
    for what, value in (("threats", several), ("seconds", seconds)):
        if what in row.needs:
            given[what] = value
        elif value is not None:
            those = ", ".join(other.name for other in certificates.values() if what in other.needs)
            raise ArgumentError(
                f"{what}: expected none for the method {row.name}, got {value!r:.80}; methods with {what}: {those}"
            )
    if "threats" in given:
        if several is None:
            raise ArgumentError(
                f"threats: expected L0 threat models with budgets for the method {row.name}, got None"
            )
        given["threats"] = resolve_threats(several, False, torch.empty(0))
    if seconds is not None and "seconds" in given:
        given["seconds"] = checks.real("seconds", seconds, 0.0, open_low=True)
    return {what: value for what, value in given.items() if value is not None}


def _described(threats: Sequence[L0]) -> dict[str, Any]:
    """Threat models as a plan keeps them."""
    return {"threat": threats[0].describe() | {"budgets": [threat.k for threat in threats]}}


def _check_answers(
    prover: SmoothedClassifier | _Prover,
    examples: Dataset | Stream,
    rows: Sequence[Row],
    proving: _Proving,
    folder: Path,
) -> None:
    """`ArgumentError` unless the model answers a few examples, drawn anew, as the rows in its folder say.

    Of votes, those that choose the class are cast again; else the answers are compared.
    """
    place = {id_: i for i, id_ in enumerate(examples.ids.tolist())}
    known = [row for row in rows if row["example"] in place]
    votes = isinstance(prover, SmoothedClassifier)
    some = random.SystemRandom().sample(known, min(_VOTED if votes else ASKED, len(known)))
    if not some:
        return
    asked = examples.at([place[row["example"]] for row in some])
    if isinstance(prover, SmoothedClassifier):
        cast = prover.vote_counts(
            asked.x, proving.options["n0"], ids=asked.ids, purpose="selection", batch_size=proving.batch_size,
            seed=proving.seed,
        ).tolist()  # fmt: skip
        moved = [
            sum(abs(a - b) for a, b in zip(row["selection"], now, strict=False)) / 2
            for row, now in zip(some, cast, strict=True)
        ]
        differ = [count > _NEAR_TIES * proving.options["n0"] for count in moved]
    else:
        found = predict(prover.model, asked.x).argmax(1).tolist()
        differ = [row["answer"] not in (None, now) for row, now in zip(some, found, strict=True)]
    if any(differ):
        raise ArgumentError(
            f"out: {folder} holds the answers of another model: of {sum(differ)} of {len(some)} examples asked again "
            "they differ; choose another folder"
        )


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
        run: folder of a complete run of a method that casts votes.
        out: folder for the new run.
        alpha, bound: as for `certify`; None: as in the run.
    """
    source = CertificateFolder(run)
    record = source.read_complete()
    plan, method = record["plan"], record["plan"]["method"]
    row = get(method["name"])
    if not row.votes:
        raise ArgumentError(
            f"run: expected one of randomized_ablation, which has votes to read again, got {row.name}, which "
            "is a proof without a confidence level"
        )
    options = dict(method["options"])
    options |= {} if alpha is None else {"alpha": check_probability(alpha, "alpha")}
    if bound is not None:
        if "bound" not in row.options:
            raise ArgumentError(f"bound: the method {row.name} has one only, got {bound!r}")
        options["bound"] = checks.choice("bound", bound, BOUNDS)
    rows = source.read_rows().to_pylist()
    judged = _judged(rows, options, plan["data"]["shape"], row)
    new_plan = plan | {"method": method | {"options": options}}
    folder = CertificateFolder(out)
    with folder.locked():
        new, _ = open_run(folder, new_plan, command)
        if new["status"] != "complete":
            new |= {key: record[key] for key in ("execution", "sessions")}
            new["counts_of"] = {"plan_digest": record["plan_digest"], "rows_digest": record["rows_digest"]}
            folder.write(new)
            shown = [{"example": e, "x": x} for e, x in source.read_images().items()]
            _close(folder, new, [one | more for one, more in zip(rows, judged, strict=True)], shown)
    return Certification(folder)


@reads_records
def verify_certificates(
    run: str | Path, model: Any, data: DataLike, *, everything: bool = False
) -> Verification:
    """Check every claim of a complete run of certificates.

    Digests of plan, model, data and rows; that no row is missing or doubled; of every row, that answer, prediction and
    radius are what its votes prove, and the votes as many as were to be cast.  A method without votes is run again on
    all, and every counterexample is tried.  Votes are cast again for some examples that chance chooses now, so that
    nobody could know them, and so are proofs with a time limit made again: enough that of a run with 5 % forged rows
    one is among them with probability 95 %, and the notes say so.

    Args:
        run: folder of a complete run.
        model, data: as given to `certify`.
        everything: cast all votes again, and make all proofs again.
    """
    folder = CertificateFolder(run)
    record = folder.read_complete()
    table, plan = folder.read_rows(), record["plan"]
    rows, result, dataset = table.to_pylist(), Verification(), as_dataset(data)
    result.unchecked += _UNCHECKED
    for what, claimed, found in (
        ("plan: its digest", record["plan_digest"], digest(plan)),
        ("data: digest", plan["data"]["digest"], dataset.digest),
        ("rows: their digest", record.get("rows_digest"), digest_rows(table)),
        ("rows: their examples", sorted(row["example"] for row in rows), sorted(dataset.ids.tolist())),
    ):
        if claimed != found:
            result.problems.append(f"{what} is {_short(found)}, the run says {_short(claimed)}")
    check_facts(plan, model, dataset, result)
    if result.problems:
        return result
    examples = on_device(dataset, device_of(model))
    place = {id_: i for i, id_ in enumerate(examples.ids.tolist())}
    method, options = plan["method"], plan["method"]["options"]
    certifier = get(method["name"])
    of_threat = (method.get("threat") or {}).get(
        "unit"
    )  # a method that asks for threats counts what they count
    unit = options.get("unit", certifier.unit) if of_threat is None else of_threat
    arithmetic = options.get("arithmetic", certifier.arithmetic)
    for what, found in (("kind", certifier.kind), ("unit", unit), ("arithmetic", arithmetic)):
        result.compare(f"method: {what}", method.get(what), found)
    if method.get("seconds") is not None and "seconds" not in certifier.needs:
        result.problems.append(f"method: {certifier.name} takes no seconds, the run says {method['seconds']}")
    check_words(folder, record, _KEYS, result)
    check_files(folder, result)
    check_words(folder, plan, ("model", "data", "method", "seed"), result)
    result.compare("diagnosis", record["diagnosis"], [])
    prover: SmoothedClassifier | _Prover
    again = rows
    given: dict[str, Any] = {}
    if certifier.votes:
        copies = {
            key: value for key, value in options.items() if key not in ("n0", "n", "alpha", "bound", "looks")
        }
        prover = smoothed(model, certifier.name, **copies)
        _check_votes(certifier, rows, options, plan["data"]["shape"], result)
        if result.problems:
            return result
        again = sample(rows, everything, "votes", result)
    else:
        prover = _Prover(certifier.name, model)
        threats: list[L0] = []
        if "threat" in method:
            any_budget = described_threat(method["threat"], examples.first(1).x)
            threats = [any_budget.with_k(k) for k in method["threat"]["budgets"]]
        given = {"threats": threats} if threats else {}
        _check_counterexamples(rows, model, examples, place, threats, result)
        if "seconds" in method:
            given["seconds"] = patience(method["seconds"])
            again = sample(rows, everything, "proofs", result)
    proving = _Proving(options, given, plan["seed"], 1024)
    for start in range(0, len(again), 256):
        some = again[start : start + 256]
        found = proving.of(prover, examples.at([place[row["example"]] for row in some]))
        for row, fresh in zip(some, found, strict=True):
            _compare(row, fresh, result, "seconds" in method)
    for row in rows:
        i = place[row["example"]]
        if (row["label"], row["name"]) != (int(examples.y[i]), examples.names[i] if examples.names else None):
            result.problems.append(f"example {row['example']}: label or name is not the data's")
    result.predictions, result.adversarials = len(rows), 0
    if (found_summary := records.certified_json(records.summarise_certificates(record, table))) != record[
        "summary"
    ]:
        result.problems.append(f"summary: run.json says {record['summary']}, its rows say {found_summary}")
    if result.ok:
        check_page(folder, result)
    if result.ok:
        figures = records.summarise_certificates(record, table)
        result.figures.append(f"unchanged: {figures.clean_accuracy} right")
        result.figures += [f"k = {k}: at least {figures.shares[k]} right" for k in figures.shown[1:]]
    return result


_KEYS = {
    "format", "status", "created", "finished", "command", "plan", "plan_digest", "versions", "execution", "sessions",
    "diagnosis", "summary", "rows_digest", "counts_of",
}  # fmt: skip
_UNCHECKED = (
    "that an example without a proof has none, or no counterexample",
    "times, machine, versions and dates",
    "the names that the model and the data go by, and the command",
)


def _check_votes(
    certifier: Certifier,
    rows: list[Row],
    options: Mapping[str, Any],
    shape: Sequence[int],
    result: Verification,
) -> None:
    at_looks = votes_at_looks(options["n"], options.get("looks", 1))
    for row in rows:
        for votes, cast in (("selection", [options["n0"]]), ("counts", at_looks)):
            if sum(row[votes] or ()) not in cast or min(row[votes] or [-1]) < 0:
                result.problems.append(f"example {row['example']}: its {votes} are not {cast[-1]} votes")
        if row["passes"] != sum(row["selection"] or ()) + sum(row["counts"] or ()):
            result.problems.append(
                f"example {row['example']}: {row['passes']} passes are not those of its votes"
            )
    if not result.problems:
        for row, judged in zip(rows, _judged(rows, options, shape, certifier), strict=True):
            for what, found in judged.items():
                if row[what] != found:
                    result.problems.append(
                        f"example {row['example']}: its votes give {what} {found}, the run says {row[what]}"
                    )


def _check_counterexamples(
    rows: list[Row],
    model: Any,
    examples: Dataset | Stream,
    place: Mapping[int, int],
    threats: Sequence[L0],
    result: Verification,
) -> None:
    for row in rows:
        if row["broken"] is not None:
            clean = examples.at([place[row["example"]]])
            threat = next((threat for threat in threats if (threat.k or 0) >= row["broken"]), None)
            if (
                threat is None
                or row["positions"] is None
                or not _breaks(model, clean.x, rebuild(clean.x, row, threat), threat, row["broken"])
            ):
                result.problems.append(f"example {row['example']}: its counterexample does not hold")


def _compare(row: Row, fresh: Row, result: Verification, timed: bool) -> None:
    for what in ("selection", "counts"):
        if row[what] is not None:
            moved = sum(abs(a - b) for a, b in zip(row[what], fresh[what], strict=True)) // 2
            if moved > _NEAR_TIES * sum(row[what]):
                result.problems.append(
                    f"example {row['example']}: {moved} of its {what} are others when cast again"
                )
    if row["counts"] is None and not timed:
        _compare_columns(row, fresh, ("answer", "prediction", "radius", "margin", "passes"), result)
    if timed:
        _compare_columns(row, fresh, ("answer", "margin"), result)
        if (row["passes"] or 0) < 0:
            result.problems.append(f"example {row['example']}: it says {row['passes']} passes")
        broken = fresh.get("broken")
        if broken is not None and row["radius"] is not None and row["radius"] >= broken:
            result.problems.append(
                f"example {row['example']}: proved for {row['radius']} changes, broken by {broken}"
            )
        elif (fresh["radius"] or 0) < (row["radius"] or 0):
            result.problems.append(
                f"example {row['example']}: proved for {fresh['radius'] or 0} changes when tried again, with patience, "
                f"the run says {row['radius']}"
            )


def _compare_columns(row: Row, fresh: Row, columns: Sequence[str], result: Verification) -> None:
    for what in columns:
        if row[what] != fresh[what]:
            result.problems.append(
                f"example {row['example']}: {what} is {fresh[what]}, the run says {row[what]}"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:30]}..."


# -- proving -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prover:
    """A deterministic method, and the model that it is about."""

    method: str
    model: Any


@dataclass(frozen=True)
class _Proving:
    """The certificates of some examples, as work for whoever does it."""

    options: Mapping[str, Any]
    given: Mapping[str, Any]
    seed: int
    batch_size: int

    def __call__(self, prover: Any, some: Dataset, events: Events) -> None:
        began = time.perf_counter()
        proved = self.of(prover, some)
        rows: list[Row] = [
            {name: row.get(name) for name in CertificateFolder.schema.names}
            for row in (first_columns(some, i, None, 0, "") | found for i, found in enumerate(proved))
        ]
        passes = sum(row["passes"] for row in rows)
        events.passed(passes, lambda: len(some))
        events.finished(some, rows, Spent(time.perf_counter() - began, passes, 0))

    def of(self, prover: SmoothedClassifier | _Prover, examples: Dataset, **votes: int) -> list[Row]:
        """What each example's row says beyond whose it is; `votes` instead of the options'."""
        return (
            self._voted(prover, examples, dict(self.options) | votes)
            if isinstance(prover, SmoothedClassifier)
            else self._proved(prover, examples)
        )

    def _voted(self, prover: SmoothedClassifier, examples: Dataset, options: Mapping[str, Any]) -> list[Row]:
        selection, counts = prover.votes_for_certificate(
            examples.x, options, self.batch_size, seed=self.seed, ids=examples.ids
        )
        rows = [
            {"selection": s, "counts": c, "passes": sum(s) + sum(c)}
            for s, c in zip(selection.tolist(), counts.tolist(), strict=True)
        ]
        judged = _judged(rows, options, list(examples.x.shape[1:]), get(prover.certificate))
        return [row | more for row, more in zip(rows, judged, strict=True)]

    def _proved(self, prover: _Prover, examples: Dataset) -> list[Row]:
        asked = {"y": examples.y, "ids": examples.ids, "seed": self.seed} | dict(self.given)
        certificate = get(prover.method).prove(prover.model, examples.x, self.options, **asked)
        found = [certificate.prediction, certificate.radius, certificate.margin, certificate.passes]
        columns = zip(*([None] * len(certificate) if v is None else v.tolist() for v in found), strict=True)
        rows: list[Row] = [
            {"answer": _null(p), "prediction": _null(p), "radius": _null(r), "margin": m, "passes": n or 1}
            for p, r, m, n in columns
        ]
        if certificate.broken is not None and certificate.counterexamples is not None:
            threats = self.given.get("threats", ())
            for i, broken in enumerate(certificate.broken.tolist()):
                x, x_adv = examples.x[i : i + 1], certificate.counterexamples[i : i + 1]
                threat = next((threat for threat in threats if (threat.k or 0) >= broken), None)
                if broken != ABSTAIN and threat and _breaks(prover.model, x, x_adv, threat, broken):
                    rows[i] |= {"broken": broken} | changes(x, x_adv, threat)
        return rows


def _breaks(model: Any, x: Tensor, x_adv: Tensor, threat: L0, broken: int) -> bool:
    """Whether an input is within so many changes of another, and answered otherwise on a fresh pass."""
    within = bool(threat.with_k(broken).contains(x, x_adv).all())
    return within and int(predict(model, x_adv).argmax()) != int(predict(model, x).argmax())


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
    if "n0" in options:
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


def _judged(
    rows: list[Row],
    options: Mapping[str, Any],
    shape: Sequence[int],
    certifier: Certifier = certificates["randomized_ablation"],
) -> list[Row]:
    """What the votes of each row prove."""
    selection, counts = (
        np.array([row[votes] for row in rows], dtype=np.int64) for votes in ("selection", "counts")
    )
    if not len(rows):
        return []
    looks = options.get("looks", 1)
    prediction, radius = certifier.judge(selection, counts, shape, options)
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
