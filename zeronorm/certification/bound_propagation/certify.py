"""Proofs and counterexamples for ordinary networks: what the library's users call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.certification.bound_propagation.bounds import Options, Plan
from zeronorm.certification.bound_propagation.counterexamples import Attempt, local_search
from zeronorm.certification.bound_propagation.region import whole
from zeronorm.certification.bound_propagation.search import BROKEN, PROVED, Outcome, Searcher
from zeronorm.certification.certificate import ABSTAIN, UNBOUNDED, Arithmetic, Certificate
from zeronorm.certification.network_graph import read_network
from zeronorm.errors import ArgumentError
from zeronorm.layers.truncation import TruncatedConv2d, TruncatedLinear
from zeronorm.models.feature_partition import FeaturePartition
from zeronorm.models.l0_lipschitz import L0Lipschitz
from zeronorm.models.nearest_neighbour import NearestNeighbour
from zeronorm.threat_model import L0, Box

ARITHMETIC = ("real", "deployed")
_WEIGHTS = 50_000_000
_MADE_FOR: dict[type[nn.Module], str] = {
    L0Lipschitz: "l0_lipschitz",
    FeaturePartition: "feature_partition",
    NearestNeighbour: "nearest_neighbour",
    TruncatedLinear: "truncation_window",
    TruncatedConv2d: "truncation_window",
}


def prove_few_changes(
    model: Any,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: Box,
    *,
    seconds: int | float = 30.0,
    arithmetic: str = "real",
    passes: int = 500,
    seed: int = 0,
    ids: Any = None,
) -> list[Outcome]:
    """For each example: proved that the answer is `y` whatever the threat model allows, broken, or unknown.

    Branch and bound over the sets of changed units, with bounds of every neuron (`docs/how-exact.md`).  A proof is of
    the real-valued function of the weights, its own rounding accounted for; with `arithmetic="deployed"` also of
    the model's floating-point pass, in any order of summation, and `Outcome.deployed` says where that holds anyway.
    A counterexample is decided on the model itself, and its unchanged entries are those of `x`, bit for bit.

    **Arguments:**

    - `model`: a torch module in evaluation mode, of layers and functions that `read_network` knows: linear,
      convolutional, batch normalisation, ReLU, average and maximum pooling, padding, sums, reshapes.
    - `x`: inputs `(b, c, h, w)` or `(b, feature)`; `threat`: an `L0` with its budget, unit, box, cap and mask.
    - `seconds`: of processor time for each example, after which it is unknown.
    - `passes`: of the model, spent on looking for a counterexample before anything is proved.
    - `ids`: names of the examples, so that the search does not depend on the batch.

    **Raises:** `ArgumentError` for what cannot be bounded, before any work.
    """
    names = _check(x, y, threat, ids)
    assert isinstance(threat, L0)
    seconds = checks.real("seconds", seconds, 0.0)
    checks.choice("arithmetic", arithmetic, ARITHMETIC)
    passes, seed = checks.integer("passes", passes, 0), checks.integer("seed", seed, 0)
    if not len(x):
        return []
    searcher = _searcher(model, x, y, arithmetic)
    return [
        _one(searcher, model, x[i : i + 1], int(y[i]), threat, seconds, passes, seed, int(names[i]))
        for i in range(len(x))
    ]


def certify_bound_propagation(
    model: Any,
    x: Float[Tensor, "b ..."],
    threats: Sequence[Box],
    *,
    seconds: int | float = 30.0,
    arithmetic: str = "real",
    passes: int = 500,
    seed: int = 0,
    ids: Any = None,
) -> Certificate:
    """The largest budget among `threats` at which each answer is proved; see `prove_few_changes`.

    Budgets are tried upwards until one is not proved.  Radius 0 says that the smallest was broken or left unknown;
    `UNBOUNDED` that all positions may change; `ABSTAIN` that the model's own answer is not that of its weights in
    exact arithmetic.  `Certificate.passes` are the regions bounded.

    **Arguments:**

    - `threats`: of one kind with different budgets, such as `[zn.L0(1), zn.L0(2)]`.
    - others: as of `prove_few_changes`; `seconds` are for each example and budget.
    """
    budgets = [threat for threat in threats if isinstance(threat, L0)]
    if not budgets or len(budgets) < len(threats):
        raise ArgumentError(f"threats: expected threat models L0 with a budget, got {threats!r:.80}")
    if len({str(threat.with_k(0).describe()) for threat in budgets}) > 1:
        raise ArgumentError("threats: expected threat models that differ in their budget alone")
    checks.examples(x)
    answers = torch.zeros(len(x), dtype=torch.int64)
    for threat in budgets:
        names = _check(x, answers, threat, ids)
    seconds = checks.real("seconds", seconds, 0.0)
    checks.choice("arithmetic", arithmetic, ARITHMETIC)
    passes, seed = checks.integer("passes", passes, 0), checks.integer("seed", seed, 0)
    radius = torch.full((len(x),), ABSTAIN)
    nodes = torch.zeros(len(x), dtype=torch.int64)
    broken, counterexamples = radius.clone(), x.detach().clone()
    if not len(x):
        return Certificate(answers, radius)
    searcher = _searcher(model, x, answers, arithmetic)
    with torch.no_grad():
        answers = model(x).argmax(1).cpu()
    for i in range(len(x)):
        one, y = x[i : i + 1], int(answers[i])
        for threat in sorted([budgets[0].with_k(0), *budgets], key=lambda threat: threat.k or 0):
            outcome = _one(searcher, model, one, y, threat, seconds, passes, seed, int(names[i]))
            nodes[i] += outcome.nodes
            if outcome.verdict != PROVED:
                if outcome.counterexample is not None and threat.k:
                    counterexamples[i] = outcome.counterexample.reshape(one.shape[1:]).to(x)
                    broken[i] = threat.distance(one, counterexamples[i : i + 1])[0]
                break
            assert threat.k is not None
            radius[i] = UNBOUNDED if threat.k == threat.positions(one) else threat.k
    return Certificate(
        torch.where(radius == ABSTAIN, ABSTAIN, answers),
        radius,
        passes=nodes,
        arithmetic=cast(Arithmetic, arithmetic),
        broken=broken,
        counterexamples=counterexamples,
    )


def check_bound_propagation(model: Any, x: Tensor) -> None:
    """`ArgumentError` with the reason where the model cannot be bounded on such inputs."""
    if x.dim() not in (2, 4):
        raise ArgumentError(f"x: expected images or rows of features, got shape {tuple(x.shape)}")
    _searcher(model, x, torch.zeros(len(x), dtype=torch.int64), "real")


def _check(x: Any, y: Any, threat: Any, ids: Any) -> Int[Tensor, "b"]:
    """The names of the examples, once all the arguments are as they should be."""
    checks.examples(x)
    checks.labels(y, x)
    if not isinstance(threat, L0):
        raise ArgumentError(f"threat: expected an L0 of few changes, got {type(threat).__name__}")
    if threat.k is None:
        raise ArgumentError("k: expected a budget to prove, got None")
    if x.dim() not in (2, 4):
        raise ArgumentError(
            f"x: expected shape (batch, feature) or (batch, channel, height, width), got {tuple(x.shape)}"
        )
    if len(x):
        threat.check_inputs(x)
        whole(x[:1].cpu(), threat)  # complains of pixels of too many channels
    return checks.identifiers(ids, x)


def _searcher(model: Any, x: Tensor, y: Tensor, arithmetic: str) -> Searcher:
    size = sum(weight.numel() for weight in model.parameters()) if isinstance(model, nn.Module) else 0
    if size > _WEIGHTS:
        raise ArgumentError(
            f"model: expected at most {_WEIGHTS:,} weights for bound propagation, which holds a row of each layer for "
            f"every neuron it bounds, got {size:,}"
        )
    for part in model.modules() if isinstance(model, nn.Module) else ():
        if type(part) in _MADE_FOR:
            raise ArgumentError(
                f"model: expected layers that are linear or ReLU, got {type(part).__name__}, which has a certificate "
                f"of its own, {_MADE_FOR[type(part)]}"
            )
    network = read_network(model, x)
    if len(network.operations[-1].shape) != 1 or network.classes < 2:
        raise ArgumentError(f"model: expected at least 2 logits, got shape {network.operations[-1].shape}")
    if len(y) and int(y.max()) >= network.classes:
        raise ArgumentError(
            f"y: expected labels below {network.classes}, the model's classes, got {int(y.max())}"
        )
    return Searcher(Plan(network), Options(), deployed=arithmetic == "deployed")


def _one(
    searcher: Searcher,
    model: Any,
    x: Tensor,
    y: int,
    threat: L0,
    seconds: float,
    passes: int,
    seed: int,
    identifier: int,
) -> Outcome:
    attempt = Attempt(model, x, y, threat)
    if bool(attempt.answered_wrong(x)[0]):
        return Outcome(BROKEN, x[0])
    return searcher.run(
        whole(x.cpu(), threat),
        y,
        attempt,
        seconds,
        lambda: local_search(attempt, passes, seed, identifier),
    )
