"""What a run says about its own figure: could it be better than the truth, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from zeronorm import checks, losses
from zeronorm.attacks.batch_under_attack import Model, filled_up
from zeronorm.attacks.catalogue import catalogue, get
from zeronorm.data import Dataset, Stream
from zeronorm.errors import ArgumentError, one_line
from zeronorm.evaluation.fresh_pass import predict, verdict
from zeronorm.metrics import interval
from zeronorm.modules import evaluation_mode, is_training, layers_in_training, networks

Finding = dict[str, str]

SOME = 64  # inputs on which a model is looked at before the search
_AGAIN, _SHARE_AGAIN = (
    16,
    0.005,
)  # inputs on which it is looked at after the search, and their share of its passes
_AFTER_CUSTOM = 4  # who may change anything
_WIDE = 0.2  # of an interval
_TINY, _HUGE = 1e-4, 1e12  # leads between logits

# what is looked at, by the code of the finding that says otherwise
CHECKS = {
    "randomised-model": "the model answers the same twice",
    "batch-dependent-model": "the model answers the same alone and in a batch",
    "model-changed": "the model answers after the search as before it",
    "no-gradients": "the model gives gradients",
    "zero-gradient": "input gradients are not zero",
    "layer-in-training-mode": "every layer is in evaluation mode",
    "bounded-outputs": "logits are not squeezed by a sigmoid or tanh",
    "undefined-gradient": "input gradients are finite",
    "saturated-logits": "logits are not saturated",
    "badly-scaled-logits": "logits are neither tiny nor huge",
    "clean-accuracy-near-chance": "clean accuracy is above chance",
    "black-box-beats-white-box": "black-box stages alone broke at most one example, or under 1 % of all, or under a "
    "tenth of what white-box stages broke",
    "search-not-converged": "the search had converged",
    "no-passes": "every search asked the model",
    "few-examples": "there are enough examples for a 95 % interval of at most 20 points",
    "unconfirmed-adversarials": "every adversarial held on a fresh pass",
    "outside-threat-model": "every result was within the threat model",
    "undefined-logits": "the model answered every input of the search with numbers",
}


def passed(run: Mapping[str, Any], findings: list[Finding]) -> list[str]:
    """The checks that were made and found nothing, in words."""
    codes = {finding["code"] for finding in findings}
    if not any(session.get("asked_again") for session in run["sessions"]):
        codes.add("model-changed")
    stages = run["plan"]["attack"]["stages"]
    if not all(_length(stage) for stage in stages if stage["kind"] != "proof"):  # rows cannot show it
        codes.add("search-not-converged")
    if run["plan"]["data"].get("toward") is not None:  # all rows are of one class
        codes.add("clean-accuracy-near-chance")
    if not run["plan"]["model"]["differentiable"]:
        codes |= {"no-gradients", "zero-gradient", "undefined-gradient"}
    if not {"white", "black"} <= {_knowledge(stage) for stage in stages}:
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
    _refuse_training_within(model, some.x[:4])
    kept = _buffers(model)
    z, gradient = _logits_and_gradient(model, some.x, some.y)
    _refuse_moving(model, kept)
    _check_fit(model, z, some, int(examples.y.max()))
    z = losses.finite_below(z)
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
            _check_finite(checks.logits(z, len(filled), int(y.max())))
            z = z[: len(x)]
            lead = z.gather(1, y[:, None]).sum() - z.sum() / z.shape[1]
            # where the weights want gradients the logits do too, even if a step in between has cut the input off
            return z.detach(), torch.autograd.grad(lead, leaf, allow_unused=True)[0]
    except ArgumentError:
        raise
    except Exception as error:  # whatever a stranger's model raises
        raise ArgumentError(
            f"model: expected a model of inputs of shape {tuple(x.shape[1:])} and {x.dtype} on {x.device}, but it "
            f"failed on them: {one_line(error)} (one that takes certain batch sizes only needs batch_size)"
        ) from error


def _check_fit(model: Model, z: Tensor, some: Dataset, largest_label: int) -> None:
    """`ArgumentError` unless there is a finite logit for every class of the data."""
    checks.logits(z, len(some), largest_label)
    _check_finite(z)
    classes, may_abstain = len(some.class_names), bool(getattr(model, "abstains", False))
    if classes and z.shape[1] != classes + may_abstain:  # its last logit is of that
        in_folder = some.name.startswith("folder:")
        hint = "; a class without images is a class if it has a folder" if in_folder else ""
        raise ArgumentError(
            f"model: expected {classes} logits, one per class of {some.name}, got {z.shape[1]}{hint}"
        )


def _check_finite(z: Tensor) -> None:
    if not bool((z < float("inf")).all()):  # minus infinity is a class ruled out
        raise ArgumentError("model: expected finite logits, got NaN or infinity for the first clean inputs")


def _inspect_model(model: Model, x: Tensor, first: Tensor, gradient: Tensor | None) -> list[Finding]:
    findings: list[Finding] = []
    scale = float(first.std()) + 1e-12
    with torch.no_grad(), evaluation_mode(model):
        # the last: in another place of the batch as well
        alone = _checked(model, x[-1:])
        if float((first[-1:] - alone).abs().max()) > 1e-3 * scale:  # is it chance, or the rest of the batch?
            second = losses.finite_below(predict(model, x)).float()  # filled up as the first was
            alike = float((first - second).abs().max()) <= 1e-3 * scale
            findings.append(_BATCH_DEPENDENT if alike else _randomised(first.argmax(1), second.argmax(1)))
    if layers := [f"{name} ({type(layer).__name__})" for name, layer in layers_in_training(model)]:
        findings.append(
            _finding(
                "layer-in-training-mode",
                "warning",
                f"the model is in evaluation mode, and {_listed(layers)} in training mode",
                "it is measured as it is: with whatever such layers do in training, such as dropout",
                "call model.eval() if that was not meant",
            )
        )
    if (squeezed := _squeezed(first)) is not None:
        findings.append(
            _finding(
                "bounded-outputs",
                "warning",
                f"all {first.numel()} outputs for {len(x)} inputs lie in {squeezed[0]}, as after a {squeezed[1]}",
                "where it is sure it rounds to its ends: gradients vanish there and ties hide what moves, so that "
                "searches find less and robust accuracy is an over-estimate",
                f"return what comes before the {squeezed[1]}",
            )
        )
    best, second_best = first.topk(2, dim=1).values.unbind(1)
    lead = float((best - second_best).median())
    if gradient is not None and lead > 0 and not _TINY < lead < _HUGE:
        findings.append(
            _finding(
                "badly-scaled-logits",
                "warning",
                f"half of the inputs have a lead of {'under' if lead < 1 else 'over'} {lead:.1g} between the two "
                "largest logits",
                "gradients are as small or as large, and their squares leave the range of float32: attacks by "
                "gradients find less, and robust accuracy is an over-estimate",
                "multiply the logits by a constant that makes such leads about 1; the answers stay the same",
            )
        )
    elif gradient is not None and lead > 17:
        findings.append(
            _finding(
                "saturated-logits",
                "note",
                f"half of the inputs have a lead of over {lead:.0f} between the two largest logits",
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
    if (whole := losses.probabilities(z)) is not None:
        kind, remedy = ("", "") if whole == 1 else (" in per cent", "divided by 100, ")
        raise ArgumentError(
            f"model: expected logits, got probabilities{kind} (every row is non-negative and sums to {whole}); return "
            f"the values before softmax, or {remedy}their logarithms"
        )


def _squeezed(z: Tensor) -> tuple[str, str] | None:
    """The ends between which all outputs lie, and the function that may do so.  Logits know no ends and no sign."""
    low, high = (float(z.min()), float(z.max())) if len(z) else (0.0, 0.0)
    if low >= 0 and high <= 1 and high - low > 0.2:
        return "[0, 1]", "sigmoid"
    if -1 <= low < -0.9 and 0.9 < high <= 1:
        return "[-1, 1]", "tanh"
    return None


def _listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence, with the verb after them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more} {'is' if len(names) == 1 else 'are'}"


def _checked(model: Model, x: Tensor) -> Tensor:
    """Logits of a copy of the inputs."""
    return losses.finite_below(checks.logits(model(x.clone()), len(x))).float()


def _buffers(model: Model) -> dict[str, tuple[int, int]]:
    """What tells whether a pass has written into a buffer, by its name."""
    return {
        name: (id(buffer), buffer._version)
        for network in networks(model)
        for name, buffer in network.named_buffers()
        if not buffer.is_inference()
    }


def _refuse_training_within(model: Model, x: Tensor) -> None:
    """`ArgumentError` for a function of a network in training mode, where that changes what it answers.

    It does not if no layer minds, or if the function itself switches the network.
    """
    inner = [network for network in networks(model) if network is not model and is_training(network)]
    if not inner:
        return
    before = [(buffer, buffer.clone()) for network in inner for buffer in network.buffers()]
    modes = [(layer, layer.training) for network in inner for layer in network.modules()]
    try:
        with torch.no_grad():
            found = model(x.clone())
            with evaluation_mode(model):
                meant = model(x.clone())
    except Exception:  # whatever a stranger's model raises: the look at it says so
        return
    finally:
        still = [type(network).__name__ for network in inner if is_training(network)]
        with torch.no_grad():
            for buffer, was in before:
                buffer.copy_(was)
        for layer, training in modes:
            layer.training = training
    alike = isinstance(found, Tensor) and isinstance(meant, Tensor) and torch.equal(found, meant)
    if still and not alike:
        raise ArgumentError(
            f"model: expected a model in evaluation mode, got a {still[0]} within it in training mode; call its eval()"
        )


def _refuse_moving(model: Model, before: Mapping[str, tuple[int, int]]) -> None:
    if not (layers := layers_in_training(model)):
        return
    after = _buffers(model)
    if moved := [name for name in after if after[name] != before.get(name)]:
        raise ArgumentError(
            f"model: expected one that a pass leaves as it is, but {moved[0]} changes, with {layers[0][0]} "
            f"({type(layers[0][1]).__name__}) in training mode; call its eval()"
        )


def inspect_answers(
    look: Look, examples: Dataset | Stream, rows: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    """Whether the model's clean predictions in the rows are those of the look at it before the search."""
    if any(finding["code"] == "randomised-model" for finding in look.findings):
        return []  # which is said once
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


def asked_again(
    look: Look, model: Model, examples: Dataset | Stream, passes: int, custom: bool
) -> tuple[int, int]:
    """How many clean inputs were asked again after a search of so many passes, and how many answers had changed.

    A model may change while it is searched: by itself, or because an attack changes it.  The question costs at most
    0.5 % of the passes, after a `custom` attack four where that is fewer; where it is none, or each answer is a draw
    anyway, it is not asked.
    """
    n = min(_AGAIN, len(look.logits), max(int(_SHARE_AGAIN * passes), _AFTER_CUSTOM if custom else 0))
    if n == 0 or any(f["code"] in ("randomised-model", "batch-dependent-model") for f in look.findings):
        return 0, 0
    with torch.no_grad(), evaluation_mode(model):
        now = _checked(model, examples.first(n).x)  # not filled up: that would be more than n passes
    moved = (now - look.logits[:n]).abs().amax(1) > 1e-3 * float(look.logits.std()) + 1e-12
    return n, int((moved | now.isnan().any(1)).sum())


def inspect_rows(run: dict[str, Any], rows: list[dict[str, Any]]) -> list[Finding]:
    """Look at a complete run: what do the successes say about the failures?"""
    findings: list[Finding] = []
    data, stages = run["plan"]["data"], run["plan"]["attack"]["stages"]
    n = data["n"]
    clean = [row for row in rows if row["stage"] == -1]
    correct = sum(row["outcome"] == "correct" for row in clean)
    fewest = {row["example"]: math.inf if row["outcome"] == "correct" else 0 for row in clean}
    for row in rows:
        if row["outcome"] == "broken":
            fewest[row["example"]] = min(fewest[row["example"]], row["distance"])
    smallest = list(fewest.values())
    classes = max(2, len(data["class_names"] or ()), 1 + max((row["label"] for row in clean), default=1))
    if data.get("toward") is None and correct < n * min(1.5 / classes, 0.9 / classes + 0.1):
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
    white = [i for i, stage in enumerate(stages) if _knowledge(stage) == "white"]
    kinds = {row["example"]: set[str]() for row in broken}
    for row in broken:
        kinds[row["example"]].add(_knowledge(stages[row["stage"]]))
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
            level, meaning, advice = (
                (
                    "note",
                    "the search was still finding adversarials when it ended; whom it left was proved or broken, "
                    "so that the figures are exact all the same",
                    "nothing to do here",
                )
                if _is_settled(run, rows)
                else (
                    "warning",
                    "the search was still finding adversarials when it ended: robust accuracy is an over-estimate",
                    "double --steps or --queries until the figure stops moving",
                )
            )
            findings.append(
                _finding(
                    "search-not-converged",
                    level,
                    f"{stage['name']} broke {len(late)} examples in the second half of its {length} passes",
                    meaning,
                    advice,
                )
            )
    unconfirmed, outside, undefined, again, changed = (
        sum(session.get(what, 0) for session in run["sessions"])
        for what in ("unconfirmed", "outside", "undefined", "asked_again", "changed")
    )
    if changed:
        findings.append(
            _finding(
                "model-changed",
                "warning",
                f"{changed} of {again} clean inputs were answered otherwise after the search than before it",
                "the model changed on the way, by itself or by an attack: the figure is of no one model",
                "attack a model that answers the same however often it is asked; an attack may not change it",
            )
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
    findings += _contradictions(rows, stages)
    for stage in stages:
        idle = sum(
            session.get("stages", {}).get(stage["name"], {}).get("idle", 0) for session in run["sessions"]
        )
        if idle:
            findings.append(
                _finding(
                    "no-passes",
                    "warning",
                    f"{stage['name']} did not ask the model once in its searches of {idle} examples",
                    "there it is no search: what it left says nothing about the model",
                    "look at the attack; one that is tried on a copy of the model has to call the model it is given",
                )
            )
    widest = max(
        (interval(sum(s > k for s in smallest), n) for k in run["plan"]["threat"]["budgets"]),
        key=lambda ends: ends[1] - ends[0],
    )
    if widest[1] - widest[0] > _WIDE:
        findings.append(
            _finding(
                "few-examples",
                "note",
                f"{n} example{'' if n == 1 else 's'}: a 95 % interval reaches from {100 * widest[0]:.1f} to "
                f"{100 * widest[1]:.1f} %",
                "the figure of other examples of the same kind may lie anywhere in it",
                f"take {enough(_WIDE)} examples for an interval of {100 * _WIDE:.0f} points at most, "
                f"{enough(_WIDE / 2)} for one of {50 * _WIDE:.0f}",
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


def _contradictions(rows: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Examples that are proved and broken: an error of ours, unless the proof is about real numbers."""
    broken: dict[int, float] = {}
    for row in rows:
        if row["outcome"] == "broken":
            broken[row["example"]] = min(row["distance"], broken.get(row["example"], math.inf))
    clashes = [
        row for row in rows if row["outcome"] == "proved" and broken.get(row["example"], math.inf) <= row["k"]
    ]
    for row in clashes:
        if stages[row["stage"]]["options"].get("arithmetic") != "real":
            raise RuntimeError(
                f"example {row['example']} is proved to withstand {row['k']} changes by {row['attack']}, and broken by "
                f"{broken[row['example']]:g}: an error of zeronorm, please report it; the records keep both"
            )
    if not clashes:
        return []
    return [
        _finding(
            "broken-by-rounding",
            "note",
            f"{len({row['example'] for row in clashes})} examples that are proved for the real-valued network are "
            "broken in its own arithmetic",
            "they count as broken: the deployed network rounds, and its margin there is below what rounding moves",
            "nothing to do here; arithmetic=deployed proves of the pass as it is run",
        )
    ]


NO_GRADIENTS = {
    "code": "no-gradients",
    "level": "warning",
    "seen": "the model's output cannot be differentiated by its input; only black-box stages were run",
    "meaning": "a white-box adversary, who has the weights, may well do better",
    "advice": "evaluate the differentiable model if there is one; for a real black box use zeronorm.models.BlackBox",
}


@cache
def enough(width: float) -> int:
    """How many examples the 95 % interval of any share needs to be no wider than that."""
    n = int(3.6 / width**2)  # below it even where the normal law would do
    while (ends := interval(n // 2, n))[1] - ends[0] > width:
        n += 1
    return n


def _is_settled(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every example is proved to withstand each budget or broken within it."""
    fewest, proved = dict[int, float](), dict[int, int]()
    for row in rows:
        example = row["example"]
        if row["stage"] == -1:
            fewest[example] = math.inf if row["outcome"] == "correct" else 0
        elif row["outcome"] == "broken":
            fewest[example] = min(fewest[example], row["distance"])
        elif row["outcome"] == "proved":
            proved[example] = max(proved.get(example, 0), row["k"])
    threat = run["plan"]["threat"]
    budgets = range(1, threat["budgets"][-1] + 1) if threat["curve"] else threat["budgets"]
    return all(
        k >= least or k <= proved.get(example, 0) for example, least in fewest.items() for k in budgets
    )


def _length(stage: Mapping[str, Any]) -> int:
    """How many passes a stage searches for, at most; 0 where that is not known, or not spent on breaking."""
    options = stage["options"]
    # the one goes on after it has broken an example, for fewer changes; the other begins anew for each class
    if stage.get("kind") == "minimal" or "rivals" in options:
        return 0
    length = next((options[cost] for cost in ("steps", "queries") if cost in options), 0)
    return int(length * options.get("restarts", 1))


def _knowledge(stage: Mapping[str, Any]) -> str:
    if "custom" in stage or stage["attack"] not in catalogue:
        return stage.get("knowledge") or "other"
    return get(stage["attack"]).knowledge


def _finding(code: str, level: str, seen: str, meaning: str, advice: str) -> Finding:
    return {"code": code, "level": level, "seen": seen, "meaning": meaning, "advice": advice}
