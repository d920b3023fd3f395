"""Voting folded Gaussian attack (Césaire et al. 2020): each step changes one more position, by a random amount."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.minimal_search import searching_minimal
from zeronorm.threat_model import L0


@on_columns(gradients=True)
def vfga(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 1_000,
    samples: int = 10,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change as few pixels as possible so that the model errs: white box, minimal, greedy.

    Source: Césaire, Hajri, Lamprier & Gallinari, "Stochastic sparse adversarial attacks", arXiv 2011.12423,
    2020: VFGA.

    A step looks at two features not yet changed: that which promises most by rising, ∂ (high - x), and that
    which promises most by falling, ∂ (low - x), with ∂ the slope of the objective.  Each is tried at `samples`
    random amounts, |N(0, θ²)| with θ its way to the end of the box, cut there.  Of all 2 `samples` attempts the
    one of largest cross-entropy is kept.  The first success is the result: a feature once changed stays so.

    Pixels (`unit="pixel"`; the paper has features only): a pixel promises the sum over its channels, each
    towards the end of the box that its slope points to, and all move by the same share of their way.  It counts
    as rising if rising channels promise half of that or more.  For one channel this is the published form.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: unit and box; its budget ends the search, k = None lets it change all positions.
        steps: positions changed at most; each costs one forward and backward pass, and 2 `samples` forward
            passes.
        samples: random amounts by which each of the two positions is moved.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean, and so do those for which nothing was found.

    Deviations from the authors' code: the slope is that of the log-odds, not of the probability, which vanishes
    where the model is sure; who errs leaves with the first sample that does, as all of a step change equally
    many; where no position is left that rises (or falls), one that falls (or rises) takes its place, and where
    all samples are worth nothing, as their logits are not numbers, both positions are left alone from there on.
    """
    checks.integer("steps", steps, 0)
    checks.integer("samples", samples, 1)

    with searching_minimal("vfga", model, x, y, threat, targeted=targeted, seed=seed, ids=ids) as minimal:
        batch = minimal.batch
        v = batch.x.clone()
        free = torch.ones_like(v[:, 0], dtype=torch.bool)
        if batch.allowed is not None:
            free &= batch.allowed

        for step in range(min(steps, batch.k)):
            if len(batch.rows) == 0:
                break
            _, _, G = batch.score_and_gradient(v)
            votes, ways = _votes(batch, v, G, free)
            shares = batch.streams.normal(step, 2 * samples, v.dtype).abs_().clamp_max_(1.0)
            best = torch.full_like(shares[:, 0], -math.inf)
            v_best, voted = v, torch.full_like(batch.rows, -1)  # -1: for neither

            for sample in range(2 * samples):
                one = sample % 2
                position = votes[:, None, one : one + 1].expand(-1, v.shape[1], -1)
                moves = ways[:, :, one : one + 1] * shares[:, None, sample : sample + 1]
                attempt = batch.clamp_(v.scatter_add(2, position, moves))
                objective, reached = batch.score(attempt)
                found = minimal.note(reached, attempt)
                better = objective > best
                best = torch.where(better, objective, best)
                v_best = torch.where(better[:, None, None], attempt, v_best)
                voted = torch.where(better, votes[:, one], voted)
                keep = minimal.leave(found)
                if keep is not None:
                    state = (v, free, votes, ways, shares, best, v_best, voted)
                    v, free, votes, ways, shares, best, v_best, voted = (s[keep] for s in state)
                    if len(keep) == 0:
                        break

            v = v_best
            free.scatter_(1, torch.where(voted[:, None] < 0, votes, voted[:, None]), False)
        return minimal.finished()


def _votes(
    batch: BatchUnderAttack, v: Float[Tensor, "a g p"], G: Float[Tensor, "a g p"], free: Bool[Tensor, "a p"]
) -> tuple[Int[Tensor, "a 2"], Float[Tensor, "a g 2"]]:
    """The most promising free position to raise and the one to lower, and how far each may move.

    Where no position is free, the way is 0.
    """
    low, high = batch.box_of(torch.arange(len(v), device=v.device))
    way = torch.where(G > 0, high, low).sub(v).mul_(free[:, None])
    promise = way * G
    total = promise.sum(1)
    rises = promise.masked_fill_(G <= 0, 0.0).sum(1) * 2 >= total
    last_resort = -1 / (1 + total)  # below 0, where all promises are, and in their order
    votes = torch.stack(
        [
            torch.where(kind, total, last_resort).masked_fill_(~free, -math.inf).argmax(1)
            for kind in (rises, ~rises)
        ],
        dim=1,
    )
    return votes, batch.at(way, votes)
