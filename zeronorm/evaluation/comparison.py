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

import torch
from torch import Tensor, nn

from zeronorm import checks, models, report
from zeronorm.attacks.catalogue import Attack, catalogue, get
from zeronorm.attacks.search import Model
from zeronorm.attacks.sparse_autoattack import Stage
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.evaluation import diagnosis
from zeronorm.evaluation.plan import AttackLike, resolve_stages, resolve_threats
from zeronorm.evaluation.records import COMPARISON_FORMAT, ComparisonFolder, digest_rows
from zeronorm.evaluation.result import Evaluation, RobustAccuracy
from zeronorm.evaluation.runner import DataLike, Progress, _check_logits, as_dataset, evaluate
from zeronorm.evaluation.transfer import check_transfers, transfer
from zeronorm.evaluation.verify import Verification, verify
from zeronorm.threat_model import L0

Attacks = Sequence[AttackLike] | Mapping[str, AttackLike | Sequence[AttackLike]]

_REPORT = "report.html"
_NOT_YET = {"status": "running", "finished": None, "transfer": None, "summary": None}


class Comparison:
    """The result of a comparison, read from its folder."""

    def __init__(self, path: str | Path, keep: ExitStack | None = None) -> None:
        self._folder = ComparisonFolder(path)
        if keep is not None:
            weakref.finalize(self, keep.close)  # a temporary folder lives as long as its comparison
        self.figures = report.read_comparison(self._folder)

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
        return report.comparison_table(self.figures)

    def to_html(self, path: str | Path) -> Path:
        """Write the comparison as one page."""
        return report.render([self.path], Path(path))

    def as_json(self) -> dict[str, Any]:
        """The figures for a machine."""
        told = report.comparison_json(self.figures)
        return told | {"complete": self.figures.complete, "run": str(self.path)}

    def __repr__(self) -> str:
        return self.table()


def compare(
    model: Model | Mapping[str, Model],
    data: DataLike,
    threat: L0 | Sequence[L0],
    attacks: Attacks = ("sparse_pgd", "sparse_rs"),
    out: str | Path | None = None,
    *,
    steps: int | None = None,
    queries: int | None = None,
    curve: bool = False,
    batch_size: int = 256,
    seed: int = 0,
    precision: str = "float32",
    command: str | None = None,
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
        on_progress: called now and then with which run it is, in words, and its state.

    Raises:
        ArgumentError: before anything is attacked, with all that cannot be used.
    """
    threats = resolve_threats(threat, curve)
    named = _named_models(model)
    asked = _named_attacks(attacks)
    dataset = as_dataset(data)
    given = {name: value for name, value in (("steps", steps), ("queries", queries)) if value is not None}
    lengths = _check(named, dataset, threats, asked, given)

    with ExitStack() as temporary:
        if out is None:
            out = temporary.enter_context(tempfile.TemporaryDirectory(prefix="zeronorm-"))
        folder = ComparisonFolder(out)
        with folder.locked():
            record = _open(folder, named, asked, command)
            for number, run in enumerate(record["runs"], start=1):
                title = f"{number}/{len(record['runs'])} {run['model']}"
                evaluate(
                    named[run["model"]],
                    dataset,
                    threats,
                    asked[run["attack"]],
                    folder.path / run["path"],
                    **lengths[run["attack"]],
                    curve=curve,
                    batch_size=batch_size,
                    seed=seed,
                    precision=precision,
                    name=run["model"],
                    command=command,
                    on_progress=None if on_progress is None else _titled(on_progress, title),
                )
                digest = folder.run(run["path"]).read_run()["rows_digest"]
                if run.get("rows_digest") != digest:  # another run than the one compared so far
                    run["rows_digest"] = digest
                    record |= _NOT_YET
            _finish(folder, record, named, dataset, threats[0], on_progress)
        return Comparison(folder.path, keep=temporary.pop_all())


def verify_comparison(comparison: str | Path, models: Mapping[str, Model], data: DataLike) -> Verification:
    """Check every claim of a complete comparison: each of its runs, what was carried over, and the figures.

    Args:
        comparison: its folder.
        models: by name, as given to `compare`.
        data: as given to `compare`.
    """
    folder = ComparisonFolder(comparison)
    record = folder.read()
    if record["status"] != "complete":
        raise ArgumentError(
            f"comparison: expected a complete one, got one that stopped early in {folder.path}; resume it"
        )
    if unknown := {run["model"] for run in record["runs"]} - set(models):
        raise ArgumentError(f"models: expected all that were compared, got none called {', '.join(unknown)}")
    dataset = as_dataset(data)
    result = Verification()
    for run in record["runs"]:
        checked = verify(folder.run(run["path"]).path, models[run["model"]], dataset)
        result.predictions += checked.predictions
        result.adversarials += checked.adversarials
        result.problems += [f"{run['path']}: {problem}" for problem in checked.problems]
        if folder.run(run["path"]).read_run().get("rows_digest") != run.get("rows_digest"):
            result.problems.append(f"{run['path']}: it is another run than the one compared")
    if not result.problems:  # else the adversarials to carry over are not to be trusted
        claimed = folder.read_transfers()
        compared = {run["model"]: models[run["model"]] for run in record["runs"]}
        unit = folder.run(record["runs"][0]["path"]).read_run()["plan"]["threat"]["unit"]
        fresh = list(transfer(folder, record["runs"], compared, dataset, L0(None, unit)))
        result.problems += check_transfers(claimed.to_pylist(), fresh)
        result.adversarials += len(fresh)
        if record["transfer"] and digest_rows(claimed) != record["transfer"].get("rows_digest"):
            result.problems.append("transfer: the digest of its rows differs from the one in comparison.json")
        if report.comparison_json(report.read_comparison(folder)) != record["summary"]:
            result.problems.append("summary: comparison.json says other figures than the rows")
    return result


# -- before any work ----------------------------------------------------------------------------------------


def _named_models(model: Model | Mapping[str, Model]) -> dict[str, Model]:
    if not isinstance(model, Mapping):
        return {models.describe(checks.model(model))["architecture"]: model}
    if not model or not all(isinstance(name, str) and name for name in model):
        raise ArgumentError(f"model: expected at least one model, each by its name, got {list(model)}")
    return dict(model)


def _named_attacks(attacks: Attacks) -> dict[str, AttackLike | Sequence[AttackLike]]:
    if isinstance(attacks, Mapping):
        named = dict(attacks)
    else:
        one = isinstance(attacks, str) or not isinstance(attacks, Sequence)
        listed: list[Any] = [attacks] if one else list(attacks)
        names = [_name(attack) for attack in listed]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ArgumentError(
                f"attacks: expected different attacks, or names for them, got {twice[0]} twice"
            )
        named = dict(zip(names, listed, strict=True))
    if not named or not all(isinstance(name, str) and name for name in named):
        raise ArgumentError(f"attacks: expected at least one attack, each by its name, got {list(named)}")
    return named


def _name(attack: Any) -> str:
    if isinstance(attack, str):
        return attack.replace("-", "_")
    if isinstance(attack, Stage):
        return attack.name
    if callable(attack):
        return str(getattr(attack, "__name__", type(attack).__name__))
    raise ArgumentError(f"attacks: expected names, Stages or functions, got {type(attack).__name__}")


def _check(
    named: Mapping[str, Model],
    dataset: Dataset,
    threats: Sequence[L0],
    attacks: Mapping[str, AttackLike | Sequence[AttackLike]],
    given: Mapping[str, int],
) -> dict[str, dict[str, int]]:
    """Which of the lengths given each attack takes; `ArgumentError` with all that stands in the way of any run."""
    for name, low in (("steps", 0), ("queries", 1)):
        if name in given:
            checks.integer(name, given[name], low)
    checks.labels(dataset.y, checks.examples(dataset.x))
    if not len(dataset):
        raise ArgumentError("data: expected at least one example, got none")

    possible = ", ".join(name for name, entry in catalogue.items() if "L0" in entry.norms)
    parts = {name: list(_parts(attack)) for name, attack in attacks.items()}
    asked = {part.attack if isinstance(part, Stage) else str(part): None for p in parts.values() for part in p
             if isinstance(part, str | Stage)}  # fmt: skip
    unfit = [name for name in asked if not _counts_changes(name)]
    if unfit:
        raise ArgumentError(f"attack: expected some of {possible}, got {', '.join(map(repr, unfit))}")
    costs = {name: {cost for entry in _entries(p) for cost in entry.cost} for name, p in parts.items()}
    taken = sorted(set().union(*costs.values()))
    problems = [
        f"{length}: none of the attacks asked for takes it, only {', '.join(taken) or 'none'}"
        for length in given
        if length not in taken
    ]
    lengths = {
        name: {length: value for length, value in given.items() if length in costs[name]} for name in attacks
    }
    for model_name, model in named.items():
        try:
            differentiable = _fits(model, dataset, threats)
        except ArgumentError as error:
            problems.append(f"{model_name}: {error}")
            continue
        for name, attack in attacks.items():
            try:
                _try(model, dataset, threats[-1], attack, differentiable, lengths[name])
            except ArgumentError as error:
                problems.append(f"{name} on {model_name}: {error}")
    if len(problems) > 1:
        problems = [f"({number}) {problem}" for number, problem in enumerate(problems, start=1)]
    if problems:
        raise ArgumentError("; ".join(problems))
    return lengths


def _parts(attack: AttackLike | Sequence[AttackLike]) -> Iterable[AttackLike]:
    return attack if isinstance(attack, Sequence) and not isinstance(attack, str) else [attack]


def _counts_changes(name: str) -> bool:
    entry = catalogue.get(name.replace("-", "_"))
    return entry is not None and "L0" in entry.norms


def _entries(parts: Iterable[AttackLike]) -> list[Attack]:
    names = [part.attack if isinstance(part, Stage) else part for part in parts]
    return [get(name) for name in names if isinstance(name, str)]


def _fits(model: Model, dataset: Dataset, threats: Sequence[L0]) -> bool:
    """Whether the model gives gradients; `ArgumentError` if it cannot be attacked on this data at all."""
    checks.model(model)
    if isinstance(model, nn.Module) and model.training:
        raise ArgumentError(
            "model: expected a model in evaluation mode, got one in training mode; call model.eval()"
        )
    x, y = _start(model, dataset)
    for threat in threats:
        threat.check_inputs(x)
    _check_logits(model, x, y, dataset)
    differentiable = diagnosis.gives_gradients(model, x)
    diagnosis.inspect_model(model, x, y, differentiable)
    return differentiable


def _try(
    model: Model,
    dataset: Dataset,
    threat: L0,
    attack: AttackLike | Sequence[AttackLike],
    differentiable: bool,
    lengths: Mapping[str, int],
) -> None:
    """A search of one step on one example: whatever the attack refuses, it refuses now."""
    x, y = _start(model, dataset)
    stages = resolve_stages(
        attack,
        differentiable=differentiable,
        steps=lengths.get("steps"),
        queries=lengths.get("queries"),
    )
    for stage, function in stages:
        if stage.attack in catalogue and function is get(stage.attack).function:
            short = {cost: min(1, stage.options[cost]) for cost in get(stage.attack).cost}
            function(model, x[:1].clone(), y[:1], threat, seed=0, **stage.options | short)


def _start(model: Model, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Inputs and labels where the model's parameters are."""
    parameter = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
    device = torch.device("cpu") if parameter is None else parameter.device
    return dataset.x.to(device), dataset.y.to(device)


# -- the folder ---------------------------------------------------------------------------------------------


def _open(
    folder: ComparisonFolder, named: Iterable[str], attacks: Iterable[str], command: str | None
) -> dict[str, Any]:
    """A new comparison, or the one in the folder with what is asked for now."""
    asked = list(attacks)
    runs: list[dict[str, Any]] = [
        {"model": model, "attack": attack, "path": f"{_folder_name(model)}/{_folder_name(attack)}"}
        for model in named
        for attack in asked
    ]
    if not folder.exists():
        if folder.run("").exists():
            raise ArgumentError(
                f"out: expected the folder of a comparison, {folder.path} holds a run; choose another"
            )
        record: dict[str, Any] = {
            "format": COMPARISON_FORMAT,
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


def _folder_name(name: str) -> str:
    """The name itself if a folder can be called so; else what is left of it, told apart by a digest."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return slug if slug == name else f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".lstrip("-")


def _finish(
    folder: ComparisonFolder,
    record: dict[str, Any],
    named: Mapping[str, Model],
    dataset: Dataset,
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
        record["summary"] = report.comparison_json(report.read_comparison(folder))
        record |= {"status": "complete", "finished": datetime.now(UTC).isoformat(timespec="seconds")}
        page.unlink(missing_ok=True)
        folder.write(record)
    if not page.exists():
        report.render([folder.path], page)


def _titled(on_progress: Callable[[str, Progress], None], title: str) -> Callable[[Progress], None]:
    return lambda state: on_progress(title, state)
