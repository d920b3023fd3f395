"""Every defence against every attack and certificate: one comparison for each model, its proof, and what both cost.

A model's searches are an ordinary comparison in MODEL/attacks, its certificates an ordinary run in MODEL/certificate;
matrix.json says which there are, and what could not be done with which model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zeronorm import checks, models, records, report
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.catalogue import catalogue
from zeronorm.attacks.custom import CustomAttack
from zeronorm.certification.catalogue import get, made_for
from zeronorm.certification.confidence import check_probability
from zeronorm.data import Dataset, Stream
from zeronorm.defenses.smoothed import defended
from zeronorm.defenses.smoothed_classifier import SmoothedClassifier
from zeronorm.errors import ArgumentError, reads_records
from zeronorm.evaluation.certify import certify, verify_certificates
from zeronorm.evaluation.compare import compare, folder_name, verify_comparison
from zeronorm.evaluation.comparison_plan import (
    Attacks,
    catalogued,
    lengths_for,
    named_attacks,
    named_models,
    unfit_attacks,
)
from zeronorm.evaluation.examples import DataLike, as_dataset, check_box, on_device
from zeronorm.evaluation.fresh_pass import device_of
from zeronorm.evaluation.plan import described_threat, differences, digest, resolve_threats
from zeronorm.evaluation.ray_workers import Workers, begun
from zeronorm.evaluation.runner import describe_data
from zeronorm.evaluation.session import Progress
from zeronorm.evaluation.verify import (
    Verification,
    as_json,
    catalogue_word,
    check_files,
    check_page,
    check_words,
)
from zeronorm.files import unless_refused
from zeronorm.modules import evaluation_mode
from zeronorm.records.folders import CertificateFolder, ComparisonFolder, MatrixFolder
from zeronorm.threat_model import L0, Linf

_TIMED = 128  # examples answered to time an answer, at most
_ROUNDS = 5

OnProgress = Callable[[str, Progress], None]


class Matrix:
    """The result of a matrix, read from its folder."""

    def __init__(self, path: str | Path) -> None:
        self._folder = MatrixFolder(path)
        self.figures = records.read_matrix(self._folder)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    def table(self) -> str:
        """The figures as tables of text."""
        return records.matrix_table(self.figures)

    def as_json(self) -> dict[str, Any]:
        """The figures for a machine."""
        return records.matrix_json(self.figures) | {"run": str(self.path)}

    def __repr__(self) -> str:
        return self.table()


def matrix(
    model: Mapping[str, Model],
    data: DataLike,
    threat: L0 | Sequence[L0],
    attacks: Attacks,
    out: str | Path,
    *,
    steps: int | None = None,
    queries: int | None = None,
    votes: int = 100,
    n: int = 1000,
    alpha: float = 0.05,
    batch_size: int | None = None,
    seed: int = 0,
    sources: Mapping[str, str] | None = None,
    command: str | None = None,
    workers: int | Workers | None = None,
    on_progress: OnProgress | None = None,
) -> Matrix:
    """Attack every model with every attack, certify those that can be, and set all beside the first model.

    A model that was trained on ablated images is judged as the smoothed classifier that it is the base of; for who
    attacks it, it is a black box that casts `votes` votes an answer, and abstaining counts as broken.  An attack that
    cannot be run on a model, such as one that needs gradients on a model without, is left out and said to be.

    Args:
        model: several by their names; the others are judged against the first.
        data, threat, attacks, steps, queries, batch_size, seed, workers: as of `compare`.
        out: folder of the matrix.  Called again it goes on where it stopped.
        votes: of a smoothed classifier, for each answer under attack.
        n, alpha: votes and confidence of its certificates, as of `certify`, with n / 10 votes to choose the class.
        sources: how `zeronorm verify` loads the models again, by their names; a path may start in `out`.
        command: what started it, for the record.
        on_progress: called now and then with which run it is, in words, and its state.

    Raises:
        ArgumentError: before anything is attacked, with all that cannot be used.
    """
    dataset, named = as_dataset(data), named_models(model)
    threats = check_matrix(
        named, dataset, threat,
        steps=steps, queries=queries, votes=votes, n=n, alpha=alpha, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    networks = {name: defended(one, votes) for name, one in named.items()}
    asked = named_attacks(attacks)
    given = {name: value for name, value in (("steps", steps), ("queries", queries)) if value is not None}
    unfit = {}
    for name, one in networks.items():
        with _named(name):
            unfit[name] = unfit_attacks(one, dataset, threats, asked, given, batch_size)
    for attack in asked:
        if all(attack in why for why in unfit.values()):
            raise ArgumentError(
                f"attack: no model can be attacked by {attack}: {next(iter(unfit.values()))[attack]}"
            )
    if useless := [name for name, why in unfit.items() if len(why) == len(asked)]:
        whys = "; ".join(f"{attack}: {why}" for attack, why in unfit[useless[0]].items())
        raise ArgumentError(f"attack: expected one at least that {useless[0]} can be attacked by: {whys}")
    plan = {
        "models": {name: models.describe(one) for name, one in networks.items()},
        "data": describe_data(dataset),
        "k": [threat.k for threat in threats],
        "certificate": {"votes": votes, "n": n, "alpha": alpha},
    }
    folder = MatrixFolder(out)
    with folder.locked(), unless_refused(folder.json), begun(workers) as engine:
        knowledge = {name: _knowledge(attack) for name, attack in asked.items()}
        record = _open(folder, plan, networks, sources or {}, knowledge, command)
        for number, entry in enumerate(record["models"], start=1):
            name = entry["name"]
            network = networks[name]
            title = f"{number}/{len(record['models'])} {name}"
            entry["unfit"] = unfit[name]
            fit = {attack: asked[attack] for attack in asked if attack not in unfit[name]}
            taken: dict[str, int] = {}
            for how in fit.values():
                taken |= lengths_for(how, given)
            shared: dict[str, Any] = {"seed": seed, "command": command, "workers": engine}
            compare(
                {name: network},
                dataset,
                threats,
                fit,
                folder.within(entry["attacks"]),
                **taken,  # type: ignore[arg-type]
                batch_size=batch_size,
                on_progress=None if on_progress is None else _under(on_progress, title),
                **shared,
            )
            if entry["cost"] is None:
                entry["cost"] = _answering(network, dataset)
            method, entry["uncertified"] = _method(network, dataset)
            if method is not None:
                votes_of = {"n0": max(n // 10, 1), "n": n, "alpha": alpha}
                path = f"{Path(entry['attacks']).parent}/certificate"
                certify(
                    network,
                    dataset,
                    method,
                    folder.within(path),
                    **(votes_of if get(method).votes else {}),  # type: ignore[arg-type]
                    threats=list(threats) if "threats" in get(method).needs else None,
                    name=name,
                    on_progress=None if on_progress is None else partial(on_progress, title),
                    **shared,
                )
                entry["certificate"] = path
            folder.write(record)
        record |= {"status": "complete", "finished": _now()}
        folder.write(record)
        report.render(folder.path, folder.page)
    return Matrix(folder.path)


def check_matrix(
    names: Collection[str],
    dataset: Dataset | Stream,
    threat: L0 | Sequence[L0],
    *,
    steps: int | None,
    queries: int | None,
    votes: int,
    n: int,
    alpha: float,
    batch_size: int | None,
    seed: int,
) -> tuple[L0, ...]:
    """The threat models asked for, if all that can be judged without the models can be used; else `ArgumentError`."""
    if isinstance(threat, Linf):
        raise ArgumentError(
            f"threat: expected L0, of which there are certificates, got {threat}; see compare"
        )
    models = names.values() if isinstance(names, Mapping) else ()
    threats = resolve_threats(threat, False, dataset.x[:1], models)
    examples = on_device(dataset, torch.device("cpu"))
    for one in threats:
        check_box(examples, one)
    if len(names) < 2:
        raise ArgumentError(
            f"model: expected at least two models to compare, got {', '.join(names) or 'none'}"
        )
    for what, value, low in (("steps", steps, 0), ("queries", queries, 1), ("votes", votes, 1), ("n", n, 10),
                             ("batch_size", batch_size, 1)):  # fmt: skip
        if value is not None:
            checks.integer(what, value, low)
    checks.integer("seed", seed, 0, 2**63 - 1)
    check_probability(alpha, "alpha")
    return threats


@reads_records
def verify_matrix(
    run: str | Path, model: Mapping[str, Model], data: DataLike, *, everything: bool = False
) -> Verification:
    """Check every claim of a complete matrix: all searches and all certificates of every model, what ties them
    together in matrix.json, the verdicts, and the page.

    Args:
        run: its folder.
        model, data: as given to `matrix`.
        everything: as of `verify_certificates`.
    """
    folder = MatrixFolder(run)
    record = folder.read()
    if record["status"] != "complete":
        raise ArgumentError(
            f"run: expected a complete matrix, got one that stopped early in {folder.path}; resume it"
        )
    if missing := {entry["name"] for entry in record["models"]} - set(model):
        raise ArgumentError(
            f"model: expected all models of the matrix, got none called {', '.join(sorted(missing))}"
        )
    dataset, result = as_dataset(data), Verification()
    for entry in record["models"]:
        network = defended(model[entry["name"]], record["plan"]["certificate"]["votes"])
        parts = [verify_comparison(folder.within(entry["attacks"]), {entry["name"]: network}, dataset)]
        if entry["certificate"]:
            base = network.base_classifier if isinstance(network, SmoothedClassifier) else network
            place = folder.within(entry["certificate"])
            parts.append(verify_certificates(place, base, dataset, everything=everything))
        for part in parts:
            result.add(part, entry["name"])
        if not result.problems:
            _check_entry(folder, record, entry, network, dataset, result)
    result.unchecked.append("the time of an answer")
    check_words(folder, record, _KEYS, result)
    check_files(folder, result)
    check_words(folder, record["plan"], ("models", "data", "k", "certificate"), result)
    for entry in record["models"]:
        check_words(folder, entry, _ENTRY, result)
    result.compare(
        "matrix: its models", [e["name"] for e in record["models"]], list(record["plan"]["models"])
    )
    for what, found in describe_data(dataset).items():
        if what not in ("name", "split"):
            result.compare(f"matrix: data: {what}", record["plan"]["data"].get(what), found)
    for attack, kind in record["knowledge"].items():
        if (word := catalogue_word(attack)) is not None:
            result.compare(f"matrix: what {attack} knows", kind, _knowledge(word))
    if result.ok:
        check_page(folder, result)
    if result.ok:
        result.figures += [f"{v.name} {v.word}" for v in records.verdicts(records.read_matrix(folder))]
    return result


_KEYS = ("format", "created", "command", "knowledge", "plan", "models", "status", "finished")
_ENTRY = ("name", "source", "attacks", "certificate", "uncertified", "unfit", "cost", "training")


def _check_entry(
    folder: MatrixFolder,
    record: Mapping[str, Any],
    entry: Mapping[str, Any],
    network: Model,
    dataset: Dataset | Stream,
    result: Verification,
) -> None:
    """What matrix.json says of a model, against the model and its runs."""
    name, plan, runs = entry["name"], record["plan"], ComparisonFolder(folder.within(entry["attacks"]))
    result.compare(f"{name}: facts", plan["models"].get(name), as_json(models.describe(network)))
    result.compare(f"{name}: training", entry["training"], as_json(_training(network)))
    passes = network.votes if isinstance(network, SmoothedClassifier) else 1
    result.compare(f"{name}: passes of an answer", (entry["cost"] or {}).get("passes"), passes)
    method, why = _method(network, dataset)
    result.compare(f"{name}: why it has no certificate", entry["uncertified"], why)
    result.compare(
        f"{name}: whether it has a certificate", entry["certificate"] is not None, method is not None
    )
    if entry["certificate"] and get(method or "").votes:
        options = CertificateFolder(folder.within(entry["certificate"])).read()["plan"]["method"]["options"]
        for what in ("n", "alpha"):
            result.compare(f"{name}: {what} of its certificate", plan["certificate"][what], options[what])
    made = runs.read()["runs"]
    for run in made:
        threat = runs.run(run["path"]).read()["plan"]["threat"]
        result.compare(f"{name}: budgets of {run['attack']}", plan["k"], threat["budgets"])
    asked = {run["attack"] for run in made} | entry["unfit"].keys()
    result.compare(f"{name}: attacks", sorted(record["knowledge"]), sorted(asked))
    any_budget = described_threat(threat, dataset.x[:1])
    words = {attack: word for attack in asked if (word := catalogue_word(attack)) is not None}
    unfit = unfit_attacks(network, dataset, [any_budget.with_k(k) for k in plan["k"]], words, {})
    for attack in words:
        result.compare(f"{name}: why {attack} cannot be run", entry["unfit"].get(attack), unfit.get(attack))


# -- the folder ---------------------------------------------------------------------------------------------


def _open(
    folder: MatrixFolder,
    plan: dict[str, Any],
    networks: Mapping[str, Model],
    sources: Mapping[str, str],
    knowledge: Mapping[str, str],
    command: str | None,
) -> dict[str, Any]:
    """A new matrix, or the one in the folder, which may gain models and attacks."""
    entries = {
        name: {
            "name": name,
            "source": sources.get(name),
            "attacks": f"{folder_name(name)}/attacks",
            "certificate": None,
            "uncertified": None,
            "unfit": {},
            "cost": None,
            "training": _training(network),
        }
        for name, network in networks.items()
    }
    made: dict[str, Any] = {"format": folder.format, "created": _now(), "command": command}
    if folder.exists():
        made = folder.read()
        for what in ("data", "k", "certificate"):
            if found := differences(plan[what], made["plan"][what], what):
                raise ArgumentError(
                    f"out: {folder.path} holds another matrix ({'; '.join(found[:4])}); choose another folder"
                )
        for entry in made["models"]:
            name = entry["name"]
            # of the same model, as JSON has it
            if name in entries and digest(made["plan"]["models"].get(name, {})) == digest(
                plan["models"][name]
            ):
                entries[name] |= {key: entry[key] for key in ("cost", "certificate", "uncertified")}
    elif ComparisonFolder(folder.path).exists():
        raise ArgumentError(
            f"out: expected the folder of a matrix, {folder.path} holds a comparison; choose another"
        )
    made |= {
        "command": command or made["command"],
        "knowledge": knowledge,
        "plan": plan,
        "models": list(entries.values()),
        "status": "running",
        "finished": None,
    }
    folder.write(made)
    return made


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _training(network: Model) -> dict[str, Any] | None:
    """How a model of `zeronorm train` came to be; None of a stranger's."""
    base = network.base_classifier if isinstance(network, SmoothedClassifier) else network
    told = models.describe(base).get("training")
    if not isinstance(told, dict):
        return None
    return {key: told.get(key) for key in ("command", "seconds") if told.get(key) is not None}


def _knowledge(attack: Any) -> str:
    """Whether it asks for gradients: "white", "black", or "" of one that does both, or of a stranger's."""
    names = catalogued(attack)
    kinds = {"white" if catalogue[name].knowledge == "white" else "black" for name in names}
    parts = attack if isinstance(attack, list | tuple) else [attack]
    for own in (part for part in parts if isinstance(part, CustomAttack)):
        kinds.add({"white": "white", None: ""}.get(own.knowledge, "black"))
    return "" if "sparse_autoattack" in names or len(kinds) != 1 else kinds.pop()


def _answering(network: Model, dataset: Dataset | Stream) -> dict[str, Any]:
    """Time of one answer, of the fastest of a few batches, and how many passes of the network it takes."""
    some = on_device(dataset, device_of(network)).first(_TIMED)
    passes = network.votes if isinstance(network, SmoothedClassifier) else 1
    fastest = math.inf
    with torch.inference_mode(), evaluation_mode(network):
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            float(torch.as_tensor(network(some.x)).double().sum())  # waits for a GPU
            fastest = min(fastest, time.perf_counter() - began)
    return {"milliseconds": 1000 * fastest / len(some), "passes": passes, "batch": len(some)}


def _method(network: Model, dataset: Dataset | Stream) -> tuple[str | None, str | None]:
    """What certifies a model, or why nothing does."""
    row = get(made_for(network))
    if row.votes:
        if isinstance(network, SmoothedClassifier):
            return row.name, None
        return None, "there is no certificate for such a model"
    # such as of a truncated network that is no chain of linear layers
    why = row.refusal(network, on_device(dataset, device_of(network)).first(1).x)
    return (row.name, None) if why is None else (None, why)


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Within, what cannot be used is said to be that model's."""
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(f"{model}: {error}") from error


def _under(on_progress: OnProgress, title: str) -> OnProgress:
    return lambda run, state: on_progress(f"{title}, {run}", state)
