"""Sparse-RS (Croce et al. 2022): random search over which pixels to change, and to which corner colours."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model, attacking
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.sparse_rs_proposal import coins, outside, propose
from zeronorm.projections import top_k
from zeronorm.threat_model import L0

# Up to which iteration of 10,000 the exchanged share is `initial_fraction` over which divisor (authors' code).
_SCHEDULE = ((0, 1), (50, 2), (200, 4), (500, 5), (1000, 6), (2000, 8), (4000, 10), (6000, 12), (8000, 15))


@on_columns(gradients=False)
def sparse_rs(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    queries: int = 10_000,
    initial_fraction: float = 0.8,
    loss: Literal["cross_entropy", "margin"] = "cross_entropy",
    restarts: int = 1,
    targeted: Int[Tensor, "b"] | None = None,
    start: Float[Tensor, "b ..."] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change k pixels so that the model errs, by asking it for scores only: black box, fixed budget.

    Source: Croce, Andriushchenko, Singh, Flammarion & Hein, "Sparse-RS: a versatile framework for
    query-efficient sparse black-box adversarial attacks", AAAI 2022, Algorithm 1 with the l0 sampling of
    section 3.  Used by Zhong et al. 2024 in sparse-AutoAttack with the defaults below.

    A set of k pixels carries colours from the corners of the box.  Each query takes some pixels out of the
    set and puts others in with fresh colours, and keeps the exchange if the loss improves; how many shrinks
    on a schedule.

    Args:
        model: any callable from inputs to logits (batch, class); no gradients are asked for.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: budget, unit and box.
        queries: forward passes per example and restart, apart from one on the clean input.
        initial_fraction: α_init, share of the set exchanged at the start of the schedule.
        loss: "cross_entropy", or "margin": the largest other logit minus the label's.
        restarts: independent searches; each begins with those not broken before.
        targeted: classes to reach instead of leaving y, or None.
        start: inputs to begin from, such as adversarials of a larger budget: the first set prefers the pixels
            they change, with their colours.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean; those not broken as the attempt of highest loss.

    Deviations from the authors' code, each a defect there: which pixels are exchanged is drawn for every
    example (theirs shares one draw in the batch), from streams of its own (theirs reseeds the global
    generator); success is a changed prediction (theirs stops at a tie); logits are not written to; k may equal
    the number of pixels, in which case colours are drawn anew in place.
    """
    checks.integer("queries", queries, 1)
    checks.real("initial_fraction", initial_fraction, 0.0, 1.0, open_low=True)
    checks.choice("loss", loss, ("cross_entropy", "margin"))
    checks.integer("restarts", restarts, 1)

    with attacking(
        "sparse_rs", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, objective=loss
    ) as batch:
        for restart in range(restarts):
            if len(batch.rows):
                # draws are named by their step; a restart continues the numbering
                _search(batch, queries, initial_fraction, restart * queries, start)
                start = None
        return batch.finished()


def exchanged(query: int, queries: int, k: int, initial_fraction: float) -> int:
    """How many of the k pixels this query exchanges, by the schedule of the authors' code."""
    iteration = int(query / queries * 10_000)
    divisor = next((d for last, d in _SCHEDULE if iteration <= last), 20)
    return max(int(initial_fraction / divisor * k), 1)


def _search(
    batch: BatchUnderAttack, queries: int, initial_fraction: float, first_step: int, start: Tensor | None
) -> None:
    """One random search over the set M (a, k) of pixels and their colours (a, g, k)."""
    k, (_, channels, pixels) = batch.k, batch.x.shape
    table = torch.arange(pixels, device=batch.x.device)
    if batch.allowed is not None:
        table = table[batch.allowed]
    n = len(table)  # M holds indices into the n pixels that may change

    words = batch.streams.bits(first_step, k * (1 + -(-channels // 32)))
    M = outside(words[:, :k], batch.rows[:, None][:, :0], n)
    colours = batch.corners(coins(words[:, k:], channels, k), table[M])
    if (given := batch.start_from(start)) is not None:
        values, changed = given
        # the pixels that the start changes, filled up with those drawn
        preference = (
            changed[:, table]
            .to(values.dtype)
            .mul_(2.0)
            .scatter_add_(1, M, torch.ones_like(M, dtype=values.dtype))
        )
        M = top_k(preference, k)
        kept = changed.gather(1, table[M])[:, None]
        colours = torch.where(kept, batch.at(values, table[M]), colours)
    positions = table[M]
    best, reached = batch.score_iterate(positions, colours)
    keep = batch.record(best, reached, positions, colours)
    if keep is not None:
        M, colours, best = (s.index_select(0, keep) for s in (M, colours, best))

    for query in range(1, queries):
        if len(batch.rows) == 0:
            return
        moved = exchanged(query, queries, k, initial_fraction)
        if n > k:
            moved = min(moved, n - k)
        M_new, colours_new = propose(batch, first_step + query, M, colours, table, moved)
        positions = M_new if n == pixels else table[M_new]
        objective, reached = batch.score_iterate(positions, colours_new)
        keep = batch.record(objective, reached, positions, colours_new)

        accepted = (objective > best)[:, None]
        best = torch.maximum(best, objective)
        M = torch.where(accepted, M_new, M)
        colours = torch.where(accepted[:, None], colours_new, colours)
        if keep is not None:
            M, colours, best = (s.index_select(0, keep) for s in (M, colours, best))
