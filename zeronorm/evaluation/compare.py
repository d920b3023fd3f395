"""Several attacks on one model or several: one ordinary run for each pair, and what they say together.

Every run is a folder of its own, which resumes and is verified by itself.  All runs share the data and the threat
model, so their examples can be compared one by one.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zeronorm import records, report
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.data import Dataset, Stream
from zeronorm.errors import ArgumentError, reads_records
from zeronorm.evaluation.comparison_plan import Attacks, check_comparison, named_attacks, named_models
from zeronorm.evaluation.examples import DataLike, as_dataset
from zeronorm.evaluation.plan import described_threat, resolve_threats
from zeronorm.evaluation.ray_workers import Workers, begun
from zeronorm.evaluation.result import Evaluation, RobustAccuracy, frame_of
from zeronorm.evaluation.runner import evaluate
from zeronorm.evaluation.session import Progress
from zeronorm.evaluation.transfer import check_transfers, transfer
from zeronorm.evaluation.verify import (
    Verification,
    catalogue_word,
    check_files,
    check_page,
    check_words,
    verify,
)
from zeronorm.files import unless_refused
from zeronorm.records.folders import ComparisonFolder, digest_rows
from zeronorm.threat_model import L0, Linf

_REPORT = "report.html"
_NOT_YET = {"status": "running", "finished": None, "transfer": None, "summary": None}


class Comparison:
    """The result of a comparison, read from its folder."""

    def __init__(self, path: str | Path, keep: ExitStack | None = None) -> None:
        self._folder = ComparisonFolder(path)
        if keep is not None:
            weakref.finalize(self, keep.close)  # a temporary folder lives as long as its comparison
        self.figures = records.read_comparison(self._folder)

    @property
    def path(self) -> Path:
        """The folder of the comparison."""
        return self._folder.path

    @property
    def evaluations(self) -> dict[tuple[str, str], Evaluation]:
        """Each run by (model, attack)."""
        entries = self.figures.entries
        return {(e.model, e.attack): Evaluation(self._folder.run(e.path)) for e in entries}

    @property
    def worst_case(self) -> dict[str, RobustAccuracy]:
        """Robust accuracy of each model against all attacks together: broken if any of them broke it."""
        return {model.name: RobustAccuracy.over(model.robust_accuracy) for model in self.figures.models}

    def table(self) -> str:
        """The figures as tables of text."""
        return records.comparison_table(self.figures)

    def to_html(self, path: str | Path) -> Path:
        """Write the comparison as one page."""
        return report.render([self.path], Path(path))

    def to_frame(self) -> Any:
        """The figures as a pandas DataFrame; see `zeronorm.evaluation.result.frame_of`."""
        return frame_of(self.path)

    def as_json(self) -> dict[str, Any]:
        """The figures for a machine."""
        told = records.comparison_json(self.figures)
        return told | {"complete": self.figures.complete, "run": str(self.path)}

    def __repr__(self) -> str:
        return self.table()


def compare(
    model: Model | Mapping[str, Model],
    data: DataLike,
    threat: L0 | Linf | Sequence[L0],
    attacks: Attacks = ("sparse_pgd", "sparse_rs"),
    out: str | Path | None = None,
    *,
    steps: int | None = None,
    queries: int | None = None,
    curve: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    precision: str = "float32",
    command: str | None = None,
    workers: int | Workers | None = None,
    on_progress: Callable[[str, Progress], None] | None = None,
) -> Comparison:
    """Run several attacks on one model or several, and set their results side by side, example by example.

    As Zhong, Huang & Liu, "Towards efficient training and evaluation of robust models against ℓ0 bounded
    adversarial perturbations" (ICML 2024) compare attacks: robust accuracy of each and of all together (Table
    1), against passes (Figure 1) and k (Figure 3), how long each needs (Figure 4), and, with several models,
    whether adversarials made for one fool another (Table 4).

    Args:
        model: a model as `evaluate` takes it, or several by their names.
        data, threat, curve, batch_size, seed, precision: as of `evaluate`, the same for every run.
        attacks: each as of `evaluate`, under its own name; or by names of your choice, where one may also be a
            list, a cascade.
        out: folder of the comparison; a run is `out/MODEL/ATTACK`.  Called again it goes on where it stopped,
            and another attack or model is added to what is there.  None keeps it in a temporary folder.
        steps, queries: length of every white-box and black-box search, so that budgets can be compared.
        command: what started the comparison, for the record.
        workers: so many processes, or `Workers` that are there already, share the searches; the result is the same.
        on_progress: called now and then with which run it is, in words, and its state.

    Raises:
        ArgumentError: before anything is attacked, with all that cannot be used.
    """
    dataset = as_dataset(data)
    named = named_models(model)
    threats = resolve_threats(threat, curve, dataset.x[:1], named.values())
    asked = named_attacks(attacks)
    given = {name: value for name, value in (("steps", steps), ("queries", queries)) if value is not None}
    lengths = check_comparison(named, dataset, threats, asked, given, batch_size)

    with ExitStack() as temporary:
        if out is None:
            out = temporary.enter_context(tempfile.TemporaryDirectory(prefix="zeronorm-"))
        folder = ComparisonFolder(out)
        with folder.locked(), unless_refused(folder.json), begun(workers) as engine:
            record = _open(folder, named, asked, command)
            for number, run in enumerate(record["runs"], start=1):
                title = f"{number}/{len(record['runs'])} {run['model']}"
                evaluate(
                    named[run["model"]],
                    dataset,
                    threats,
                    asked[run["attack"]],
                    folder.path / run["path"],
                    **lengths[run["attack"]],  # type: ignore[arg-type]
                    curve=curve,
                    batch_size=batch_size,
                    seed=seed,
                    precision=precision,
                    name=run["model"],
                    command=command,
                    workers=engine,
                    on_progress=None if on_progress is None else _titled(on_progress, title),
                )
                digest = folder.run(run["path"]).read()["rows_digest"]
                if run.get("rows_digest") != digest:  # another run than the one compared so far
                    run["rows_digest"] = digest
                    record |= _NOT_YET
            _finish(folder, record, named, dataset, threats[0], on_progress)
        return Comparison(folder.path, keep=temporary.pop_all())


@reads_records
def verify_comparison(comparison: str | Path, models: Mapping[str, Model], data: DataLike) -> Verification:
    """Check every claim of a complete comparison: each of its runs, what was carried over, and the figures.

    Args:
        comparison: its folder.
        models: by name, as given to `compare`.
        data: as given to `compare`.
    """
    folder = ComparisonFolder(comparison)
    record = folder.read_complete()
    if unknown := {run["model"] for run in record["runs"]} - set(models):
        raise ArgumentError(f"models: expected all that were compared, got none called {', '.join(unknown)}")
    dataset = as_dataset(data)
    result = Verification()
    for run in record["runs"]:
        checked = verify(folder.run(run["path"]).path, models[run["model"]], dataset)
        result.add(checked, run["path"])
        if folder.run(run["path"]).read().get("rows_digest") != run.get("rows_digest"):
            result.problems.append(f"{run['path']}: it is another run than the one compared")
    if not result.problems:  # else the adversarials to carry over are not to be trusted
        claimed = folder.read_transfers()
        compared = {run["model"]: models[run["model"]] for run in record["runs"]}
        told = folder.run(record["runs"][0]["path"]).read()["plan"]["threat"]
        threat = described_threat(told, dataset.x[:1])
        fresh = list(transfer(folder, record["runs"], compared, dataset, threat))
        result.problems += check_transfers(claimed.to_pylist(), fresh)
        result.adversarials += len(fresh)
        if record["transfer"] and digest_rows(claimed) != record["transfer"].get("rows_digest"):
            result.problems.append("transfer: the digest of its rows differs from the one in comparison.json")
        carried = len(fresh) if record["transfer"] else 0
        result.compare("transfer: its rows", (record["transfer"] or {}).get("rows", 0), carried)
        if records.comparison_json(records.read_comparison(folder)) != record["summary"]:
            result.problems.append("summary: comparison.json says other figures than the rows")
        _check_names(folder, record["runs"], result)
    check_words(folder, record, _KEYS, result)
    check_files(folder, result)
    for run in record["runs"]:
        check_words(folder, run, ("model", "attack", "path", "rows_digest"), result)
    result.unchecked.append(LEFT_OUT)
    if not result.problems:
        check_page(folder, result)
    return result


_KEYS = ("format", "created", "command", "runs", "status", "finished", "transfer", "summary")
LEFT_OUT = "that no other model or attack was tried and left out"


def _check_names(folder: ComparisonFolder, runs: Sequence[Mapping[str, Any]], result: Verification) -> None:
    """What the runs are called: each model as in its plan, an attack of the catalogue as one that took part."""
    for run in runs:
        plan = folder.run(run["path"]).read()["plan"]
        result.compare(f"{run['path']}: its model", run["model"], plan["model"]["name"])
        took_part = {plan["attack"]["name"], *(stage["attack"] for stage in plan["attack"]["stages"])}
        if catalogue_word(run["attack"]) not in (None, *took_part):
            result.problems.append(
                f"{run['path']}: its attack is {plan['attack']['name']}, it is called {run['attack']}"
            )
        for option, value in _said_options(run["attack"]):
            taken = [stage["options"].get(option) for stage in plan["attack"]["stages"]]
            if not any(str(one).lower() == value.lower() or _same_number(one, value) for one in taken):
                result.problems.append(
                    f"{run['path']}: it is called {run['attack']}, {option} is {', '.join(map(str, taken))}"
                )
    result.unchecked.append("the names of attacks of a comparison that are none of the catalogue's")


def _said_options(called: Any) -> list[tuple[str, str]]:
    """Options in the name of an attack, `name:option=value`."""
    parts = [part.partition("=") for part in str(called).split(":")[1:]]
    return [(option, value) for option, equals, value in parts if equals]


def _same_number(one: Any, text: str) -> bool:
    try:
        return not isinstance(one, bool) and float(one) == float(text)
    except (TypeError, ValueError):
        return False


# -- the folder ---------------------------------------------------------------------------------------------


def _open(
    folder: ComparisonFolder, named: Iterable[str], attacks: Iterable[str], command: str | None
) -> dict[str, Any]:
    """A new comparison, or the one in the folder with what is asked for now."""
    asked = list(attacks)
    runs: list[dict[str, Any]] = [
        {"model": model, "attack": attack, "path": f"{folder_name(model)}/{folder_name(attack)}"}
        for model in named
        for attack in asked
    ]
    if not folder.exists():
        if folder.run("").exists():
            raise ArgumentError(
                f"out: expected the folder of a comparison, {folder.path} holds a run; choose another"
            )
        record: dict[str, Any] = {
            "format": folder.format,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command,
            "runs": runs,
        } | _NOT_YET
        folder.write(record)
        return record
    record = folder.read()
    known = {run["path"]: run for run in record["runs"]}
    if list(known) != [run["path"] for run in runs]:
        record |= _NOT_YET | {"runs": [known.get(run["path"], run) for run in runs], "command": command}
        folder.write(record)
    return record


def folder_name(name: str) -> str:
    """The name itself if a folder can be called so; else what is left of it, told apart by a digest."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return slug if slug == name else f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".lstrip("-")


def _finish(
    folder: ComparisonFolder,
    record: dict[str, Any],
    named: Mapping[str, Model],
    dataset: Dataset | Stream,
    threat: L0,
    on_progress: Callable[[str, Progress], None] | None,
) -> None:
    """Carry adversarials over, write the figures and the page; nothing of it if it is done already."""
    page = folder.path / _REPORT
    if record["status"] != "complete":
        if len(named) > 1 and not record["transfer"]:
            started, before = time.perf_counter(), 0

            def show(run: str, target: str, done: int, todo: int, right: int) -> None:
                nonlocal before
                if on_progress is not None:
                    spent = time.perf_counter() - started
                    state = Progress(
                        f"{run} on {target}", None, done, todo, right, todo, before + done, spent
                    )
                    on_progress("transfer", state)
                before += done if done == todo else 0

            rows = list(transfer(folder, record["runs"], named, dataset, threat, show))
            record["transfer"] = {
                "rows": len(rows),
                "rows_digest": folder.write_transfers(rows),
                "seconds": round(time.perf_counter() - started, 3),
            }
        elif len(named) == 1:
            folder.transfers.unlink(missing_ok=True)
        folder.write(record)
        record["summary"] = records.comparison_json(records.read_comparison(folder))
        record |= {"status": "complete", "finished": datetime.now(UTC).isoformat(timespec="seconds")}
        page.unlink(missing_ok=True)
        folder.write(record)
    if not page.exists():
        report.render([folder.path], page)


def _titled(on_progress: Callable[[str, Progress], None], title: str) -> Callable[[Progress], None]:
    return lambda state: on_progress(title, state)
