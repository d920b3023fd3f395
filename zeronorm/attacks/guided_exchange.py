"""Guided exchange: a local search over sets of pixels, whose moves the gradient proposes and a pass decides."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model, attacking
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.sparse_pgd import ascend
from zeronorm.projections import top_k
from zeronorm.threat_model import L0


@on_columns(gradients=True)
def guided_exchange(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 10_000,
    temperature: float = 1.0,
    penalty: float = 1.0,
    warm_up: int = 0,
    targeted: Int[Tensor, "b"] | None = None,
    start: Float[Tensor, "b ..."] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change at most k pixels so that the model errs: white box, fixed budget, few passes.

    Source: this library.  It takes from Sparse-RS (Croce et al. 2022) the set of k pixels in corner colours,
    the exchange of one pixel for another and that only an improvement is kept; and lets the gradient say which
    exchange to try, as the first-order searches do.

    At the best iterate so far, with gradient G and values v, a pixel that goes to its best corner c promises
    the gain Σ_channels G (c - v), and one put back to its clean colour costs Σ_channels G (v - x).  Each step
    tries the pair of largest promise after Gumbel noise is added, so that a pair is drawn by its promise.  A
    pixel tried in vain promises less until something else is kept, as in a tabu search: gradients far from a
    corner mislead, and would name the same few pixels again and again.  After as many tries in vain as there
    are pairs the search starts anew from other pixels.  A step is one forward pass; only an iterate that is kept
    or started from has its gradient taken, by another forward and backward pass.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: budget, unit and box.
        steps: exchanges that are tried.
        temperature: weight of the noise against the promised gains, which are measured in the standard
            deviation of the 4k largest (the costs in their own); 0 is greedy.
        penalty: what a pixel's promise loses each time it is tried in vain, in the same unit.
        warm_up: steps of `sparse_pgd` before, each a forward and a backward pass; the search goes on from the
            best of their iterates.  Many pixels are found sooner together than one after the other.
        targeted: classes to reach instead of leaving y, or None.
        start: inputs to begin from, such as adversarials of a larger budget; default: the clean ones.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean; those not broken as the attempt of highest loss.
    """
    checks.integer("steps", steps, 0)
    checks.real("temperature", temperature, 0.0)
    checks.real("penalty", penalty, 0.0)
    checks.integer("warm_up", warm_up, 0)

    with attacking("guided_exchange", model, x, y, threat, targeted=targeted, seed=seed, ids=ids) as batch:
        if len(batch.rows) == 0:
            return batch.finished()
        k, pixels = batch.k, batch.x.shape[2]
        pairs = k * threat.available(x)
        # S holds k positions, at first such as change nothing; `colours` is what stands there
        if warm_up:
            ascend(batch, warm_up, start=start)
            if len(batch.rows) == 0:
                return batch.finished()
            S, colours = batch.attempt()
        else:
            preference = batch.streams.uniform(0, pixels, x.dtype)
            values = batch.x
            if (given := batch.start_from(start)) is not None:
                values, changed = given
                preference = preference + changed
            S = top_k(preference, k)
            colours = batch.at(values, S)
        v = batch.inputs(S, colours)
        best, reached, G = batch.score_and_gradient_iterate(S, colours)
        vain = batch.x.new_zeros(len(S), pixels)  # how often each pixel was tried since an exchange was kept
        keep = batch.record(best, reached, S, colours)
        if keep is not None:
            S, colours, v, best, G, vain = (s.index_select(0, keep) for s in (S, colours, v, best, G, vain))

        for step in range(1, steps + 1):
            if len(batch.rows) == 0:
                break
            draw = 2 * (warm_up + step)  # names not used by the steps before
            slot, entering, corner = _exchange(batch, draw, S, colours, v, G, temperature, penalty * vain)
            S_new = S.scatter(1, slot, entering)
            colours_new = colours.scatter(2, slot[:, None].expand_as(corner), corner)
            objective, reached = batch.score_iterate(S_new, colours_new)
            keep = batch.record(objective, reached, S_new, colours_new)

            vain.scatter_add_(1, entering, torch.ones_like(entering, dtype=vain.dtype))
            accepted = objective > best
            S = torch.where(accepted[:, None], S_new, S)
            colours = torch.where(accepted[:, None, None], colours_new, colours)
            stuck = ~accepted & (vain.sum(1) >= pairs)
            if keep is not None:
                S, colours, v, best, G, vain, accepted, stuck = (
                    s.index_select(0, keep) for s in (S, colours, v, best, G, vain, accepted, stuck)
                )
            if stuck.any():
                fresh = top_k(batch.streams.uniform(draw + 1, pixels, x.dtype), k)
                S = torch.where(stuck[:, None], fresh, S)
                colours = torch.where(stuck[:, None, None], batch.at(batch.x, fresh), colours)
            moved = (accepted | stuck).nonzero().flatten()
            if len(moved) and step < steps:
                there = batch.inputs(S[moved], colours[moved], moved)
                objective, _, gradient = batch.score_and_gradient(there, moved)
                v.index_copy_(0, moved, there)
                best.index_copy_(0, moved, objective)
                G = G.index_copy(0, moved, gradient)
                vain.index_fill_(0, moved, 0.0)
        return batch.finished()


def _exchange(
    batch: BatchUnderAttack,
    draw: int,
    S: Int[Tensor, "a k"],
    colours: Float[Tensor, "a g k"],
    v: Float[Tensor, "a g p"],
    G: Float[Tensor, "a g p"],
    temperature: float,
    demerits: Float[Tensor, "a p"],
) -> tuple[Int[Tensor, "a 1"], Int[Tensor, "a 1"], Float[Tensor, "a g 1"]]:
    """Choose the exchange to try: the slot of S, the pixel that enters it, and that pixel's corner.

    The pixel is one of S already, in its own slot, or another, for which one of S leaves.
    """
    k, pixels = S.shape[1], G.shape[2]
    gain = torch.maximum(G * (batch.high - v), G * (batch.low - v)).sum(1)
    if batch.allowed is not None:
        gain = gain.masked_fill(~batch.allowed, -math.inf)
    relief = (batch.at(G, S) * (batch.at(batch.x, S) - colours)).sum(1)  # minus the cost of putting back

    u = batch.streams.uniform(draw, pixels + k, gain.dtype)
    noise = u.clamp_(1e-7, 1 - 1e-7).log_().neg_().log_().neg_().mul_(temperature)  # Gumbel's distribution
    entering = (gain / _spread(gain.topk(min(4 * k, pixels), dim=1).values)).add_(noise[:, :pixels])
    entering = entering.sub_(demerits).argmax(1, keepdim=True)
    leaving = (relief / _spread(relief)).add_(noise[:, pixels:]).argmax(1, keepdim=True)
    inside = entering == S
    slot = torch.where(inside.any(1, keepdim=True), inside.long().argmax(1, keepdim=True), leaving)
    return slot, entering, batch.corners(batch.at(G, entering) > 0, entering)


def _spread(promises: Float[Tensor, "a n"]) -> Float[Tensor, "a 1"]:
    """Standard deviation of each row's finite scores, never 0."""
    finite = promises.isfinite()
    count = finite.sum(1, keepdim=True).clamp_min(1)
    kept = promises.masked_fill(~finite, 0.0)
    centred = (kept - kept.sum(1, keepdim=True) / count).masked_fill(~finite, 0.0)
    return (centred.square().sum(1, keepdim=True) / count).sqrt().clamp_min(1e-12)
