"""What a run says about its own figure: could it be better than the truth, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model, evaluation_mode, filled_up
from zeronorm.attacks.catalogue import catalogue, get
from zeronorm.data import Dataset, Stream
from zeronorm.errors import ArgumentError, one_line
from zeronorm.evaluation.fresh_pass import predict, verdict

Finding = dict[str, str]

SOME = 64  # inputs on which a model is looked at before the search

# what is looked at, by the code of the finding that says otherwise
CHECKS = {
    "randomised-model": "the model answers the same twice",
    "batch-dependent-model": "the model answers the same alone and in a batch",
    "no-gradients": "the model gives gradients",
    "zero-gradient": "input gradients are not zero",
    "undefined-gradient": "input gradients are finite",
    "saturated-logits": "logits are not saturated",
    "clean-accuracy-near-chance": "clean accuracy is above chance",
    "black-box-beats-white-box": "black-box stages alone broke at most one example, or under 1 % of all, or under a "
    "tenth of what white-box stages broke",
    "search-not-converged": "the search had converged",
    "unconfirmed-adversarials": "every adversarial held on a fresh pass",
    "outside-threat-model": "every result was within the threat model",
    "undefined-logits": "the model answered every input of the search with numbers",
}


def passed(run: Mapping[str, Any], findings: list[Finding]) -> list[str]:
    """The checks that were made and found nothing, in words."""
    codes = {finding["code"] for finding in findings}
    stages = run["plan"]["attack"]["stages"]
    if not all(_length(stage) for stage in stages):  # rows cannot show it
        codes.add("search-not-converged")
    if not run["plan"]["model"]["differentiable"]:
        codes |= {"no-gradients", "zero-gradient", "undefined-gradient"}
    if not {"white", "black"} <= {_knowledge(stage["attack"]) for stage in stages}:
        codes.add("black-box-beats-white-box")
    return [words for code, words in CHECKS.items() if code not in codes]


@dataclass(frozen=True)
class Look:
    """What a few clean inputs show of a model before the search.

    Attributes:
        logits: its answers to them.
        differentiable: whether its logits can be differentiated by its inputs.
        findings: what is to be said of its figure.
    """

    logits: Tensor
    differentiable: bool
    findings: list[Finding]


def look_at(model: Model, examples: Dataset | Stream) -> Look:
    """Look at the model on the first clean inputs, in one pass forward and backward and one over a single input.

    A few inputs are enough to notice a habit.  Whether it answers the same twice is seen when the run predicts all
    clean inputs (`inspect_answers`).

    Raises:
        ArgumentError: if the model does not fit the data at all.
    """
    some = examples.first(SOME)
    z, gradient = _logits_and_gradient(model, some.x, some.y)
    _check_fit(model, z, some, int(examples.y.max()))
    if not getattr(model, "abstains", False):  # whose shares of votes lie beside one that is no share
        _refuse_probabilities(z)
    return Look(z, gradient is not None, _inspect_model(model, some.x, z, gradient))


def _logits_and_gradient(model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits, and the gradient of a label's lead over the mean; None of a model that gives none."""
    try:
        if not getattr(model, "differentiable", True):
            return predict(model, x), None
        with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(model):
            leaf = x.detach().clone().requires_grad_()
            z = model(filled := filled_up(model, leaf.clone()))
            if not (isinstance(z, Tensor) and z.requires_grad):
                return predict(model, x), None  # which says what is wrong with them
            checks.logits(z, len(filled), int(y.max()))
            z = z[: len(x)]
            lead = z.gather(1, y[:, None]).sum() - z.sum() / z.shape[1]
            # where the weights want gradients the logits do too, even if a step in between has cut the input off
            return z.detach(), torch.autograd.grad(lead, leaf, allow_unused=True)[0]
    except ArgumentError:
        raise
    except Exception as error:  # whatever a stranger's model raises
        raise ArgumentError(
            f"model: expected a model of inputs of shape {tuple(x.shape[1:])} and {x.dtype}, but it failed on "
            f"them: {one_line(error)}"
        ) from error


def _check_fit(model: Model, z: Tensor, some: Dataset, largest_label: int) -> None:
    """`ArgumentError` unless there is a finite logit for every class of the data."""
    checks.logits(z, len(some), largest_label)
    if not bool((z < float("inf")).all()):  # minus infinity is a class ruled out
        raise ArgumentError("model: expected finite logits, got NaN or infinity for the first clean inputs")
    classes, may_abstain = len(some.class_names), bool(getattr(model, "abstains", False))
    if classes and z.shape[1] != classes + may_abstain:  # its last logit is of that
        in_folder = some.name.startswith("folder:")
        hint = "; a class without images is a class if it has a folder" if in_folder else ""
        raise ArgumentError(
            f"model: expected {classes} logits, one per class of {some.name}, got {z.shape[1]}{hint}"
        )


def _inspect_model(model: Model, x: Tensor, first: Tensor, gradient: Tensor | None) -> list[Finding]:
    findings: list[Finding] = []
    scale = float(first.std()) + 1e-12
    with torch.no_grad(), evaluation_mode(model):
        alone = model(x[:1].clone())
        if float((first[:1] - alone).abs().max()) > 1e-3 * scale:  # is it chance, or the rest of the batch?
            second = model(x.clone())
            alike = float((first - second).abs().max()) <= 1e-3 * scale
            findings.append(_BATCH_DEPENDENT if alike else _randomised(first.argmax(1), second.argmax(1)))
    margins = first.sort(1, descending=True).values
    if float((margins[:, 0] - margins[:, 1]).median()) > 17:
        findings.append(
            _finding(
                "saturated-logits",
                "note",
                f"half of the inputs have a lead of over {float((margins[:, 0] - margins[:, 1]).median()):.0f} "
                "between the two largest logits",
                "cross-entropy and its gradient are exactly 0 in float32 there: attacks that use them as they "
                "are stop, those of this library do not",
                "nothing to do here; distrust gradient attacks of other tools on this model",
            )
        )
    flat = torch.ones(len(x), 1) if gradient is None else gradient.flatten(1)
    zero = float((flat == 0).all(1).float().mean())
    undefined = float((~flat.isfinite()).any(1).float().mean())
    if undefined > 0.05:
        findings.append(
            _finding(
                "undefined-gradient",
                "warning",
                f"{undefined:.0%} of {len(x)} inputs have an input gradient with NaN or infinity in it",
                "attacks by gradients see nothing there: white-box figures are not to be trusted on their own",
                "look for a division, a root or a logarithm at 0 behind torch.where, whose gradient counts though its "
                "value does not",
            )
        )
    if zero > 0.05:
        findings.append(
            _finding(
                "zero-gradient",
                "warning",
                f"{zero:.0%} of {len(x)} inputs have an input gradient of exactly 0",
                "the model hides its gradients: white-box figures are not to be trusted on their own",
                "rely on the black-box stage, with more queries, and attack without the layer that hides them",
            )
        )
    return findings


def _refuse_probabilities(z: Tensor) -> None:
    sums = z.sum(1)
    if len(z) and bool((z >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        raise ArgumentError(
            "model: expected logits, got probabilities (every row is non-negative and sums to 1); return the "
            "values before softmax, or their logarithms"
        )


def inspect_answers(
    look: Look, examples: Dataset | Stream, rows: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    """Whether the model's clean predictions in the rows are those of the look at it before the search."""
    some = examples.first(SOME)
    at = {id_: i for i, id_ in enumerate(some.ids.tolist())}
    clean = [row for row in rows if row["stage"] == -1 and row["example"] in at]
    found = verdict(look.logits, some.y)
    before = torch.tensor([found.margin[at[row["example"]]] for row in clean])
    now = torch.tensor([math.nan if row["margin"] is None else row["margin"] for row in clean])
    scale = float(look.logits.std()) + 1e-12
    if not bool(((before - now).abs() > 1e-3 * scale).any()):
        return []
    predicted = torch.tensor([found.prediction[at[row["example"]]] for row in clean])
    return [_randomised(predicted, torch.tensor([row["prediction"] for row in clean]))]


def inspect_rows(run: dict[str, Any], rows: list[dict[str, Any]]) -> list[Finding]:
    """Look at a complete run: what do the successes say about the failures?"""
    findings: list[Finding] = []
    data, stages = run["plan"]["data"], run["plan"]["attack"]["stages"]
    n = data["n"]
    clean = [row for row in rows if row["stage"] == -1]
    correct = sum(row["outcome"] == "correct" for row in clean)
    classes = max(2, len(data["class_names"] or ()), 1 + max((row["label"] for row in clean), default=1))
    if correct < n * min(1.5 / classes, 0.9 / classes + 0.1):
        findings.append(
            _finding(
                "clean-accuracy-near-chance",
                "warning",
                f"{correct} of {n} clean inputs are classified correctly, with {classes} classes",
                "the model does not see what it was trained on; robust accuracy says nothing",
                "check normalisation (it belongs inside the model), channel order and class order",
            )
        )

    curve = run["plan"]["threat"]["curve"]  # there, passes that make an adversarial sparser are no search
    worth_saying = max(2, math.ceil(0.01 * n))
    broken = [row for row in rows if row["outcome"] == "broken"]
    white = [i for i, stage in enumerate(stages) if _knowledge(stage["attack"]) == "white"]
    kinds = {row["example"]: set[str]() for row in broken}
    for row in broken:
        kinds[row["example"]].add(_knowledge(stages[row["stage"]]["attack"]))
    by_white = sum("white" in kind for kind in kinds.values())
    withstood: dict[int, int] = {}  # the largest budget within which a white-box stage failed
    for row in rows:
        if row["stage"] in white and row["outcome"] == "robust":
            withstood[row["example"]] = max(row["k"], withstood.get(row["example"], 0))
    black_only = {
        row["example"]
        for row in broken
        if kinds[row["example"]].isdisjoint({"white", "other"})
        and row["distance"] <= withstood.get(row["example"], 0)
    }
    if len(black_only) >= max(worth_saying, 0.1 * by_white):
        findings.append(
            _finding(
                "black-box-beats-white-box",
                "warning",
                f"black-box stages broke {len(black_only)} examples that white-box stages never broke "
                f"(they broke {by_white})",
                "gradients mislead on this model (gradient masking); more black-box search would lower the "
                "figure further",
                "raise --queries, and do not quote a white-box figure alone",
            )
        )
    for index, stage in enumerate(stages):
        length = _length(stage)
        late = {
            row["example"]
            for row in broken
            if row["stage"] == index and 2 * (row["forwards"] - curve * 2 * (row["k"] + 1)) > length
        }
        if length and len(late) >= worth_saying:
            findings.append(
                _finding(
                    "search-not-converged",
                    "warning",
                    f"{stage['name']} broke {len(late)} examples in the second half of its {length} passes",
                    "the search was still finding adversarials when it ended: robust accuracy is an "
                    "over-estimate",
                    "double --steps or --queries until the figure stops moving",
                )
            )
    unconfirmed, outside, undefined = (
        sum(session.get(what, 0) for session in run["sessions"])
        for what in ("unconfirmed", "outside", "undefined")
    )
    if undefined:
        findings.append(
            _finding(
                "undefined-logits",
                "warning",
                "in the search the model answered inputs with NaN or infinity",
                "they are not counted as broken, and searches go around them: robust accuracy may be too high, and "
                "such an answer is a failure of its own",
                "find out which inputs do this, and make the model answer with finite numbers",
            )
        )
    if unconfirmed:
        findings.append(
            _finding(
                "unconfirmed-adversarials",
                "note",
                f"{unconfirmed} results an attack called adversarial did not fool the model again",
                "they are not counted as broken",
                "a randomised model or low-precision passes do this",
            )
        )
    if outside:
        findings.append(
            _finding(
                "outside-threat-model",
                "warning",
                f"{outside} results of an attack were outside the budget or the box",
                "they are not counted as broken: the attack may be weaker than it could be",
                "look at the attack; those of this library never do this",
            )
        )
    return findings


def _randomised(first: Tensor, second: Tensor) -> Finding:
    flips = int((first != second).sum())
    return _finding(
        "randomised-model",
        "warning",
        f"two passes over the same {len(first)} inputs gave different logits ({flips} predictions changed)",
        "each verdict is one draw of the model: an adversarial may not fool it again, and robust "
        "accuracy is biased low",
        "fix the randomness, or average many passes inside the model",
    )


_BATCH_DEPENDENT = {
    "code": "batch-dependent-model",
    "level": "warning",
    "seen": "an example's logits change with the other examples of its batch",
    "meaning": "the figure depends on the batch size, and is not that of one input at a time",
    "advice": "call model.eval(), and replace layers that use batch statistics",
}
NO_GRADIENTS = {
    "code": "no-gradients",
    "level": "warning",
    "seen": "the model's output cannot be differentiated by its input; only black-box stages were run",
    "meaning": "a white-box adversary, who has the weights, may well do better",
    "advice": "evaluate the differentiable model if there is one; for a real black box use zeronorm.models.BlackBox",
}


def _length(stage: Mapping[str, Any]) -> int:
    """How many passes a stage searches for, at most; 0 where that is not known, or not spent on breaking."""
    options = stage["options"]
    # the one goes on after it has broken an example, for fewer changes; the other begins anew for each class
    if stage.get("kind") == "minimal" or "rivals" in options:
        return 0
    length = next((options[cost] for cost in ("steps", "queries") if cost in options), 0)
    return int(length * options.get("restarts", 1))


def _knowledge(name: str) -> str:
    return get(name).knowledge if name in catalogue else "other"


def _finding(code: str, level: str, seen: str, meaning: str, advice: str) -> Finding:
    return {"code": code, "level": level, "seen": seen, "meaning": meaning, "advice": advice}
