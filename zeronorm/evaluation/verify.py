"""Re-check a run from scratch: every claim in its records against the model and the data."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zeronorm import distances, models
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.catalogue import catalogue
from zeronorm.attacks.sparse_autoattack import Stage, Version, stages
from zeronorm.certification.catalogue import catalogue as certificates
from zeronorm.data import Dataset, Stream
from zeronorm.errors import one_line, reads_records
from zeronorm.evaluation import diagnosis
from zeronorm.evaluation.batches import in_batches
from zeronorm.evaluation.examples import DataLike, as_dataset, on_device
from zeronorm.evaluation.fresh_pass import changes, device_of, predict, rebuild, verdict
from zeronorm.evaluation.plan import PlannedStage, described_threat, digest
from zeronorm.evaluation.proofs import certificate_of
from zeronorm.evaluation.result import summary_of
from zeronorm.evaluation.runner import describe_data, pictured
from zeronorm.files import read_file
from zeronorm.records.figures import summarise
from zeronorm.records.folders import Folder, Row, RunFolder, digest_rows
from zeronorm.report.html import page
from zeronorm.threat_model import L0

Key = tuple[int | None, int | None, int | None]  # example, budget, stage; a damaged row may lack any

_BATCH = 256
_OUTCOMES = {
    "clean": ("correct", "wrong"),
    "proof": ("broken", "proved", "unknown"),
}  # of others broken or robust
_FORGED, _MISSED = 0.05, 0.05  # share of rows, and the chance that `verify` misses all that were forged
# where a page says how it is checked again: the folder, as a shell or Python would have it, and nothing beside it
_PLACE = re.compile(
    r"(zeronorm(?: verify |\.verify\w*\())"
    # one word, which is no option: bare, or in quotes that nothing within ends
    r"(?:(?!-)[\w@%+=:,./-]+|&#39;(?:(?!&#39;)[^<\n]|&#39;&#34;&#39;&#34;&#39;)*&#39;|&#34;(?:(?!&#34;)[^<\n])*&#34;)"
    r"(?=(?: --trust)?<|, models?, data\)<)"
)
_OF_THREATS = (
    "norm", "unit", "low", "high", "linf", "allowed", "channels", "schema", "budgets", "curve"
)  # fmt: skip
_KEYS = {
    "format", "status", "created", "finished", "command", "plan", "plan_digest", "versions", "execution", "sessions",
    "diagnosis", "checks", "summary", "rows_digest",
}  # fmt: skip
_FILES = ("rows.parquet", "images.parquet", "rows.jsonl", "transfer.parquet")  # beside the JSON and the page
_PATIENCE = 4.0  # times as long for a proof made again: another machine may be slower
_LEAST_SECONDS = 10.0


@dataclass
class Verification:
    """What was checked, and what did not hold.  True if everything held.

    Attributes:
        predictions, adversarials: how many were made again on fresh passes.
        problems: what did not hold.
        figures: those that were confirmed, in words; none where something did not hold.
        notes: what claims nothing, and what was checked in part.
        unchecked: what the records say beyond that, and nobody can tell from them, the model and the data.
    """

    predictions: int = 0
    adversarials: int = 0
    problems: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def add(self, part: Verification, where: str) -> None:
        """Count in what was checked of a part; what did not hold says where."""
        self.predictions += part.predictions
        self.adversarials += part.adversarials
        self.problems += [f"{where}: {problem}" for problem in part.problems]
        self.figures += [f"{where}: {figure}" for figure in part.figures]
        self.notes += [f"{where}: {note}" for note in part.notes]
        self.unchecked += [words for words in part.unchecked if words not in self.unchecked]

    def compare(self, what: str, claimed: Any, found: Any) -> None:
        """A problem, unless what the records claim is what was found."""
        if claimed != found:
            self.problems.append(f"{what} is {_short(found)}, the run says {_short(claimed)}")

    @property
    def ok(self) -> bool:
        """Whether every claim held."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok


@reads_records
def verify(run: str | Path, model: Model, data: DataLike, *, everything: bool = False) -> Verification:
    """Check every claim of a complete run against the model and the data it names.

    Of the plan, the model and the data: their digests, and every fact that they tell of themselves.  Of every clean
    row: the prediction and its margin.  Of every broken row: that the stored values make an input within the budget,
    the box and the allowed positions, at the distance claimed, which the model misclassifies as claimed.  Of the rows
    together: that none is missing, doubled or changed since the run ended, that they give the figures in the summary
    and the findings of the diagnosis, and that a search that failed spent the passes it was asked for.  Of the
    pictures: that they are the data's; one that is missing is noted, since no figure needs it.  Of the page: every
    byte, but for the place that it names to check it again.

    That an example was *not* broken cannot be checked without searching again: the run is repeatable, so the
    same command in another folder does that.  `unchecked` lists this and the rest that nobody can tell.

    Args:
        run: folder of a complete run.
        model, data: as given to `evaluate`.
        everything: make every proof again, not only so many, chosen by chance, that a forger of 5 % of them is caught
            with 95 % probability.

    Returns:
        A `Verification`: its problems, in words, and how much was checked.

    Raises:
        ArgumentError: if the records cannot be read at all.
    """
    folder = RunFolder(run)
    record = folder.read_complete()
    table = folder.read_rows()
    rows, plan = table.to_pylist(), record["plan"]
    result = Verification()
    result.unchecked += UNCHECKED
    if digest(plan) != record["plan_digest"]:
        result.problems.append(
            "plan: its digest differs from the one in run.json: what was asked was changed"
        )
        return result

    dataset = as_dataset(data)
    if list(dataset.x.shape[1:]) != plan["data"]["shape"]:
        shape = tuple(dataset.x.shape[1:])
        result.problems.append(
            f"data: inputs are of shape {shape}, the run's of {tuple(plan['data']['shape'])}"
        )
        return result
    if dataset.digest != plan["data"]["digest"]:
        result.problems.append(
            f"data: digest of its {len(dataset)} examples is {dataset.digest[:19]}..., of the "
            f"{plan['data']['n']} that the run used {plan['data']['digest'][:19]}..."
        )
    _check_plan(folder, record, result)
    check_facts(plan, model, dataset, result)
    if digest_rows(table) != record.get("rows_digest"):
        result.problems.append("rows: their digest differs from the one in run.json: rows were changed")

    position = {int(id_): i for i, id_ in enumerate(dataset.ids.tolist())}
    known = [row for row in rows if row["example"] in position]
    absent = {row["example"]: row["name"] for row in rows if row["example"] not in position}
    if absent:
        result.problems.append(f"rows: the data lacks {_some(absent)}")
    examples = on_device(dataset, device_of(model))
    first = examples.first(1).x
    threat = described_threat(plan["threat"], first)
    asked = in_batches(model, _batch_size(record), first)

    labels, names = dataset.y.tolist(), dataset.names or (None,) * len(dataset)
    _check_completeness(known, plan, dict(zip(position, names, strict=True)), result)
    for row in known:
        i = position[row["example"]]
        _check_names(row, labels[i], names[i], plan, result)
        _check_effort(row, plan, result)
    clean = [row for row in known if row["stage"] == -1]
    broken = [row for row in known if row["stage"] != -1 and row["outcome"] == "broken"]
    for some in _batches(clean):
        these = examples.at([position[row["example"]] for row in some])
        _check_predictions(some, predict(asked, these.x), these.y, result)
        result.predictions += len(some)
    for some in _batches(broken):
        these = examples.at([position[row["example"]] for row in some])
        _check_adversarials(some, asked, these, threat, result)
        result.adversarials += len(some)
    _check_proofs(known, plan, model, threat, examples, position, everything, result)
    pictures = folder.read_images()
    _check_pictures(pictures, examples, position, result)
    try:
        claimed, found = record.get("summary"), summary_of(record, table)
    except (LookupError, ValueError, TypeError) as error:
        result.problems.append(f"rows: they give no figures: {error}")
    else:
        if claimed != found:
            result.problems.append(f"summary: run.json says {claimed}, its rows say {found}")
    if result.ok:
        _check_diagnosis(record, rows, asked, examples, result)
    if result.ok:
        if missing := len((due := set(pictured(rows))) - pictures.keys()):
            result.notes.append(
                f"images.parquet lacks {missing} of {len(due)} pictures: a report made now cannot show them"
            )
            result.unchecked.append("the page, whose pictures are missing")
        else:
            check_page(folder, result)
    if result.ok:
        figures = summarise(record, table)
        result.figures.append(f"unchanged: {figures.clean_accuracy} right")
        result.figures += [
            f"{figures.label(k)}: {'exactly' if figures.proved_words(k) == 'exactly' else 'at most'} "
            f"{figures.robust_accuracy[k]} right"
            for k in figures.budgets
        ]
    return result


UNCHECKED = (
    "that an example was not broken by searches of that plan (threat model, options, seed, precision, source of "
    "attacks of one's own): only the same searches again show it",
    "the margins of unbroken examples, which are of inputs that are not kept",
    "passes, time limits and margins of proofs, beyond that each looked at succeeds again",
    "passes beyond the least a search takes, what searches met on the way (results that did not hold, undefined "
    "or changed answers, searches without a pass), times, machine, versions and dates",
    "the names that the model and the data go by, and the command",
)


def _check_plan(folder: RunFolder, record: Mapping[str, Any], result: Verification) -> None:
    """What run.json says beside figures: nothing that nobody wrote, and attacks by the names that are theirs."""
    plan = record["plan"]
    check_words(folder, record, _KEYS, result)
    check_files(folder, result)
    check_words(folder, plan, {"model", "data", "threat", "attack", "seed", "precision"}, result)
    check_words(folder, plan["threat"], _OF_THREATS, result)
    check_words(folder, plan["attack"], ("name", "stages"), result)
    if plan.get("precision") not in ("float32", "bfloat16"):
        result.problems.append(f"plan: no run has the precision {_short(plan.get('precision'))}")
    searches = [stage for stage in plan["attack"]["stages"] if stage.get("kind") != "proof"]
    for stage in plan["attack"]["stages"]:
        _check_stage(stage, result)
    called = plan["attack"].get("name")
    if {str(called), str(called).replace("-", "_")}.isdisjoint(_names_of(searches)):
        result.problems.append(
            f"plan: its stages are {' + '.join(str(stage['name']) for stage in searches)}, the run calls them "
            f"{_short(called)}"
        )


def check_words(
    folder: Folder, told: Mapping[str, Any], known: Collection[str], result: Verification
) -> None:
    """A problem for names in a JSON file that nobody writes."""
    if unknown := sorted(set(told) - set(known)):
        result.problems.append(f"{folder.json.name}: no {folder.what} says {_short(', '.join(unknown))}")


def check_files(folder: Folder, result: Verification) -> None:
    """A note on files of a folder that are none of ours."""
    files = [path.name for path in folder.path.iterdir() if path.is_file() and not path.name.startswith(".")]
    others = sorted(set(files) - {folder.json.name, folder.page.name, *_FILES})
    if others:
        result.notes.append(
            f"the folder holds files of no {folder.what}, which nobody looked at: {_short(', '.join(others))}"
        )


def _check_stage(stage: Mapping[str, Any], result: Verification) -> None:
    name, attack, options = stage["name"], stage["attack"], stage["options"]
    if "custom" in stage:
        theirs = "library" in stage["custom"] or str(name).startswith("custom ")
        expected = theirs and catalogue_word(attack) is None and catalogue_word(name) is None
    elif stage.get("kind") == "proof":
        expected = attack in certificates and name == attack
    else:
        entry = catalogue.get(attack)
        expected = (
            entry is not None
            and options.keys() == entry.options.keys()
            and (name, stage.get("kind")) == (Stage(attack, options).name, entry.kind)
        )
    if not expected:
        result.problems.append(
            f"plan: no stage is called {_short(name)}, with such options, for {_short(attack)}"
        )


def _names_of(searches: list[Mapping[str, Any]]) -> set[str]:
    """What searches may be called together: by the names of all, or by that of the catalogue that stands for them."""
    names = [stage["name"] for stage in searches]
    together = {" + ".join(map(str, names))}
    if len(searches) == 1 and "custom" not in searches[0]:
        together.add(searches[0]["attack"])
    for version in get_args(Version):
        cascade = stages(version=version)
        black = [stage.name for stage in cascade if catalogue[stage.attack].knowledge != "white"]
        if names == [stage.name for stage in cascade] or (names == black and len(black) > 1):
            together.add("sparse_autoattack")
    return together


def check_facts(
    plan: Mapping[str, Any], model: Model, dataset: Dataset | Stream, result: Verification
) -> None:
    """What a plan says of the model and the data, against what they tell of themselves."""
    told, facts = plan["model"], as_json(models.describe(model))
    result.compare("model: digest", told.get("digest"), facts.get("digest"))
    ours = isinstance(model, models.Classifier)
    for what in sorted((told.keys() | facts.keys()) - {"name", "digest", "differentiable"}):
        if what == "architecture" and not ours:
            if told.get(what) != facts[what]:  # a function may be called otherwise elsewhere
                result.notes.append(f"the run calls the model {told.get(what)}, here it is {facts[what]}")
        else:
            result.compare(f"model: {what}", told.get(what), facts.get(what))
    of_data = describe_data(dataset)
    if others := sorted(set(plan["data"]) - set(of_data)):
        result.problems.append(f"data: no run on these says {_short(', '.join(others))}")
    for what in ("n", "shape", "dtype", "toward"):
        result.compare(f"data: {what}", plan["data"].get(what), of_data.get(what))
    if (told := plan["data"].get("class_names")) and not of_data["class_names"]:
        result.notes.append("the data given here have no class names: those of the run were not checked")
    elif told:
        result.compare("data: class_names", told, of_data["class_names"])
    for what in ("name", "split"):
        if plan["data"].get(what) != of_data[what]:
            result.notes.append(
                f"the run's {what} of the data is {plan['data'].get(what)}, here {of_data[what]}"
            )


def as_json(value: Any) -> Any:
    """A value as a record gives it back."""
    return json.loads(json.dumps(value))


def catalogue_word(called: Any) -> str | None:
    """The attack of the catalogue that one is called by, with its options or without; None of another."""
    word = str(called).partition(":")[0].partition(" (")[0].replace("-", "_")
    return word if word in catalogue else None


def check_page(folder: Folder, result: Verification) -> None:
    """That the page of a folder is the one that its records give."""
    if not folder.page.exists():
        result.notes.append(f"there is no {folder.page.name}: zeronorm report makes it")
        return
    made = page([folder.path], folder.path)
    there = read_file(folder.page).decode(errors="replace")
    if _placeless(there) != _placeless(made):
        result.problems.append(f"{folder.page.name}: it is not the page that the records give")


def _placeless(text: str) -> str:
    """A page without the folder that it names, which may have been moved."""
    return _PLACE.sub(r"\1", text)


def _check_diagnosis(
    record: Mapping[str, Any],
    rows: list[Row],
    model: Model,
    examples: Dataset | Stream,
    result: Verification,
) -> None:
    """The findings, made again from the model and the rows; and what was looked at."""
    look = diagnosis.look_at(model, examples)
    findings = [*look.findings]
    if not look.differentiable and getattr(model, "differentiable", True):
        findings.append(diagnosis.NO_GRADIENTS)
    findings += diagnosis.inspect_answers(look, examples, rows)
    of_rows = diagnosis.inspect_rows(dict(record), [dict(row) for row in rows])
    findings += of_rows
    # what follows from the rows alone has the same figures everywhere
    exact = {finding["code"] for finding in of_rows}
    claimed, found = (
        [one if one.get("code") in exact else _figureless(one) for one in some]
        for some in (record["diagnosis"], findings)
    )
    if claimed != found:
        said, now = (
            ", ".join(finding["code"] for finding in some) or "nothing"
            for some in (record["diagnosis"], findings)
        )
        what = f"{now}, the run says {said}" if said != now else "worded otherwise than in the run"
        result.problems.append(f"diagnosis: what was found is {what}")
    result.compare("diagnosis: what was looked at", record.get("checks"), diagnosis.passed(record, findings))
    result.compare(
        "model: differentiable", record["plan"]["model"].get("differentiable"), look.differentiable
    )


def _figureless(finding: Mapping[str, str]) -> dict[str, str]:
    """A finding without its figures, some of which chance or another machine may change."""
    return {key: re.sub(r"[\d.,]+", "#", str(value)) for key, value in finding.items()}


def _check_effort(row: Row, plan: Mapping[str, Any], result: Verification) -> None:
    """A search that failed has spent its passes; one of the catalogue asks the model at least once."""
    stage = row["stage"] if row["stage"] is not None else -1
    if stage == -1 and (row["forwards"], row["backwards"]) != (1, 0):
        result.problems.append(f"{_who(row)}: a clean prediction is one pass, the run says {row['forwards']}")
    if not 0 <= stage < len(plan["attack"]["stages"]) or not row["k"] or row["forwards"] is None:
        return
    told = plan["attack"]["stages"][stage]
    if "custom" in told or told["attack"] not in catalogue:
        return
    least, entry = 1, catalogue[told["attack"]]
    # where they find nothing, sparse attacks of a budget go on to the end of their steps or queries
    if row["outcome"] == "robust" and entry.kind == "budget" and "L0" in entry.norms and len(entry.cost) == 1:
        asked = told["options"].get(entry.cost[0])
        least = max(1, asked) if isinstance(asked, int) else 1
    if row["forwards"] < least:
        result.problems.append(
            f"{_who(row)}: {row['forwards']} passes, fewer than the {least} that its search takes at least"
        )
    if least > 1 and entry.knowledge == "white" and not row["backwards"]:
        result.problems.append(f"{_who(row)}: no backward pass, which its search makes")


def sample(rows: list[Row], everything: bool, what: str, result: Verification) -> list[Row]:
    """The rows to make again: all, or as many as chance needs to meet a forger of 5 % of them."""
    if not rows:
        return []
    if everything or (enough := sample_size(len(rows))) >= len(rows):
        result.notes.append(f"the {what} of all {len(rows)} examples were made again")
        return rows
    result.notes.append(
        f"the {what} of {enough} of {len(rows)} examples, drawn by chance just now, were made again: had {_FORGED:.0%} "
        f"of them been forged, one would be among these with probability {1 - _MISSED:.0%}; --all makes all again"
    )
    return random.SystemRandom().sample(rows, enough)


def sample_size(n: int) -> int:
    """The least number of n rows of which one is forged with probability 95 % if 5 % of the n are."""
    forged = max(1, math.ceil(_FORGED * n))
    missed, size = 1.0, 0
    while missed > _MISSED and size < n:
        missed *= max(0, n - forged - size) / (n - size)
        size += 1
    return size


def _check_proofs(
    rows: list[Row],
    plan: Mapping[str, Any],
    model: Model,
    threat: L0,
    examples: Dataset | Stream,
    position: Mapping[int, int],
    everything: bool,
    result: Verification,
) -> None:
    """Make proofs again, as many as `sample` draws."""
    proved = [row for row in rows if row["outcome"] == "proved"]
    for row in sample(proved, everything, "proofs", result):
        told = plan["attack"]["stages"][row["stage"]]
        options = dict(told["options"])
        if "seconds" in options:
            options["seconds"] = patience(options["seconds"])
        name = told["attack"]
        stage = PlannedStage(
            row["stage"], name, name, options, certificates[name].function, False, proof=True
        )
        one = examples.at([position[row["example"]]])
        certificate = certificate_of(stage, model, one, threat.with_k(row["k"]), plan["seed"])
        if not bool(certificate.holds(one.y, row["k"]).all()):
            within = f" within {options['seconds']:g} s" if "seconds" in options else ""
            result.problems.append(f"{_who(row)}: it is not proved when tried again{within}")


def patience(seconds: float) -> float:
    """How long to seek a proof that was found in so many seconds, perhaps on a faster machine."""
    return max(_LEAST_SECONDS, _PATIENCE * seconds)


def _some(examples: Mapping[Any, str | None]) -> str:
    """Examples by how many they are and the name of one: "3 examples, such as cat/7.png"."""
    id_, name = next(iter(examples.items()))
    return f"{len(examples)} example{'' if len(examples) == 1 else 's'}, such as {name or id_}"


def _check_completeness(
    rows: list[Row], plan: Mapping[str, Any], names: Mapping[int, str | None], result: Verification
) -> None:
    """Exactly the rows that the plan asks for, given what they say was found."""
    found: dict[Key, Row] = {}
    for row in rows:
        key = (row["example"], row["k"], row["stage"])
        if key in found:
            result.problems.append(f"{_who(row)}: stage {row['stage']} at k={row['k']} has two rows")
        found[key] = row
    due = {key for example in names for key in _due(example, found, plan)}
    if missing := due - found.keys():
        lacking = {example for example, *_ in missing}
        of = {example: name for example, name in names.items() if example in lacking}
        result.problems.append(f"rows: {len(missing)} are missing, of {_some(of)}")
    if surplus := len(found.keys() - due):
        result.problems.append(f"rows: {surplus} are of searches that the plan does not ask for")


def _due(example: int, found: Mapping[Key, Row], plan: Mapping[str, Any]) -> Iterator[Key]:
    """The rows of an example, in the order they were made (`runner._Runner`), given what they say was found."""
    yield example, None, -1
    if found.get((example, None, -1), {}).get("outcome") != "correct":
        return
    budgets, stages = plan["threat"]["budgets"], plan["attack"]["stages"]
    minimal = [stage.get("kind") == "minimal" for stage in stages]
    proof = [stage.get("kind") == "proof" for stage in stages]
    smallest, proved, gave_up = math.inf, -1, set[int]()

    def search(k: int, stage: int) -> Key:
        nonlocal smallest, proved
        key = example, k, stage
        row = found.get(key, {})
        if row.get("outcome") == "broken":
            smallest = min(smallest, row["distance"] or 0)
        elif row.get("outcome") == "proved":
            proved = max(proved, k)
        elif row.get("outcome") == "unknown":
            gave_up.add(stage)
        return key

    def settled(k: int, stage: int) -> bool:
        return proof[stage] and (proved >= k or stage in gave_up)

    if plan["threat"]["curve"]:  # down: each time with one change fewer, a minimal attack once
        k, past = budgets[0], set[int]()
        while k >= 1:
            for stage in range(len(stages)):
                if stage not in past and not settled(k, stage):
                    yield search(k, stage)
                    if minimal[stage]:
                        past.add(stage)
                    if smallest <= k:
                        break
            else:
                return
            k = int(smallest) - 1
        return
    for k in budgets:  # up: until broken, a minimal attack at the first turn for all budgets
        for stage in range(len(stages)):
            if smallest > k and not (minimal[stage] and k > budgets[0]) and not settled(k, stage):
                yield search(budgets[-1] if minimal[stage] else k, stage)


def _check_names(
    row: Row, label: int, name: str | None, plan: Mapping[str, Any], result: Verification
) -> None:
    """What a row says without a look at the model: whose it is, of which search, with which outcome."""
    searched = row["stage"] is not None and row["stage"] >= 0
    stages = ["clean"] if not searched else [stage["name"] for stage in plan["attack"]["stages"]]
    stage = row["stage"] if searched and row["stage"] < len(stages) else 0
    kinds = ["clean"] if not searched else [stage.get("kind") for stage in plan["attack"]["stages"]]
    outcomes = _OUTCOMES.get(kinds[stage], ("broken", "robust"))
    claims = [
        ("label", label, row["label"]),
        ("name", name, row["name"]),
        ("attack", stages[stage], row["attack"]),
        ("outcome", row["outcome"] if row["outcome"] in outcomes else " or ".join(outcomes), row["outcome"]),
    ]
    if row["outcome"] != "broken":
        claims += [(what, None, row[what]) for what in ("distance", "linf", "positions", "values")]
    if searched and row["outcome"] != "broken":
        claims.append(("prediction", label, row["prediction"]))
        claims.append(("margin", "at least 0", "at least 0" if (row["margin"] or 0) >= 0 else row["margin"]))
    if row["forwards"] is None or row["backwards"] is None or min(row["forwards"], row["backwards"]) < 0:
        claims.append(("passes", "at least 0", f"{row['forwards']} and {row['backwards']}"))
    for what, found, claimed in claims:
        if claimed != found:
            result.problems.append(f"{_who(row)}: {what} is {found}, the run says {claimed}")


def _check_pictures(
    pictures: Mapping[int, npt.NDArray[np.float64]],
    examples: Dataset | Stream,
    position: Mapping[int, int],
    result: Verification,
) -> None:
    for example, values in pictures.items():
        x = examples.at([position[example]]).x.double().flatten() if example in position else None
        if x is None or not np.array_equal(x.cpu().numpy(), values, equal_nan=True):
            result.problems.append(f"example {example}: its picture is not the input of the data")


def _check_predictions(rows: list[Row], z: Tensor, y: Tensor, result: Verification) -> None:
    for row, prediction, wrong, margin in zip(rows, *verdict(z, y), strict=True):
        for what, claimed, found in (
            ("clean prediction", row["prediction"], prediction),
            ("clean outcome", row["outcome"], "wrong" if wrong else "correct"),
        ):
            if claimed != found:
                result.problems.append(f"{_who(row)}: {what} is {found}, the run says {claimed}")
        _check_margin(row, margin, result)


def _check_margin(row: Row, found: float, result: Verification) -> None:
    claimed = row["margin"]
    if claimed is None and math.isinf(found):
        return
    if claimed is None or not math.isclose(claimed, found, rel_tol=1e-3, abs_tol=1e-4):
        result.problems.append(f"{_who(row)}: margin is {found:.6g}, the run says {claimed}")


def _who(row: Row) -> str:
    return f"example {row['name'] or row['example']}" + (
        "" if row["k"] is None else f" (k={row['k']}, {row['attack']})"
    )


def _check_adversarials(
    rows: list[Row], model: Model, examples: Dataset, threat: L0, result: Verification
) -> None:
    x, y = examples.x, examples.y
    rebuilt, sound = [], []
    for j, row in enumerate(rows):
        try:
            rebuilt.append(rebuild(x[j : j + 1], row, threat))
            sound.append(j)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            result.problems.append(f"{_who(row)}: its adversarial cannot be rebuilt: {one_line(error)}")
    if not sound:
        return
    x, y, x_adv = x[sound], y[sound], torch.cat(rebuilt)
    distance, linf = threat.distance(x, x_adv).tolist(), distances.linf(x, x_adv).tolist()
    prediction, wrong, margin = verdict(predict(model, x_adv), y)
    inside = threat.with_k(None).contains(x, x_adv).tolist()
    for j, row in enumerate(rows[i] for i in sound):
        who = _who(row)
        if not inside[j]:
            result.problems.append(f"{who}: the adversarial leaves the box, the cap or the allowed positions")
        if changes(x[j : j + 1], x_adv[j : j + 1], threat)["positions"] != row["positions"]:
            result.problems.append(f"{who}: the positions that differ from the clean input are others")
        if distance[j] != row["distance"]:
            result.problems.append(f"{who}: {distance[j]} positions changed, the run says {row['distance']}")
        if row["k"] is None or distance[j] > row["k"]:
            result.problems.append(f"{who}: {distance[j]} positions changed, more than the budget")
        if not wrong[j]:
            result.problems.append(f"{who}: the model answers right on the adversarial")
        if prediction[j] != row["prediction"]:
            result.problems.append(f"{who}: predicted {prediction[j]}, the run says {row['prediction']}")
        _check_margin(row, margin[j], result)
        size = math.inf if row["linf"] is None else row["linf"]  # of a value that went missing or came to be
        if not math.isclose(size, linf[j], rel_tol=1e-5, abs_tol=1e-6):
            result.problems.append(f"{who}: largest change is {linf[j]:.6g}, the run says {row['linf']}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:40]}..."


def _batch_size(record: Mapping[str, Any]) -> int:
    """Examples a pass may have: as many as the run was told."""
    size = (record.get("execution") or {}).get("batch_size")
    return size if isinstance(size, int) and 0 < size <= _BATCH else _BATCH


def _batches(rows: list[Row]) -> list[list[Row]]:
    return [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
