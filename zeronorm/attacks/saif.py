"""SAIF (Imtiaz et al. 2022): Frank-Wolfe steps of a magnitude and of a sparse mask at once."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model, attacking
from zeronorm.attacks.columns import on_columns
from zeronorm.projections import top_k
from zeronorm.threat_model import L0


@on_columns(gradients=True)
def saif(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 300,
    halvings: int = 3,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change at most k pixels so that the model errs: white box, fixed budget.

    Source: Imtiaz, Kohler, Miller, Wang, Sznaier, Camps & Dy, "SAIF: sparse adversarial and interpretable
    attack framework", 2022.  Used by Zhong, Huang & Liu 2024 with 300 steps, untargeted and aimed at nine classes.

    The perturbation is s ⊙ p: magnitudes p within the box, and a mask s with 0 <= s <= 1 and Σ s <= k.  From a
    random p and a random set of k pixels, both move by μ = 1 / (2^r sqrt(t)) towards where the linearised
    cross-entropy is largest: p to a corner of the box, s to the indicator of the k pixels that promise most (of
    those that promise anything).  A step that would lower the cross-entropy is not taken, and r grows.  s stays
    continuous; what is attempted is s cut down to its k largest pixels, at their full magnitude.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: budget, unit and box.
        steps: steps tried, taken or not; each is two forward passes, of x + s ⊙ p and of the attempt, and one
            backward pass.
        halvings: how often a run may refuse a step; then p and s are drawn anew.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean; those not broken as the attempt of highest loss.

    Deviations from the codes in circulation (the authors' own was not to be had): the mask is not made binary
    in the loop, which freezes it after four steps; the line search is the example's own, not the batch's, ends,
    and is followed by another start; the attempts of all steps are tested, not the last; p stays in the box by
    itself, and moves where s = 0 too, where every corner is as good to the linearised problem; s moves in
    pixels.
    """
    checks.integer("steps", steps, 0)
    checks.integer("halvings", halvings, 0)

    with attacking("saif", model, x, y, threat, targeted=targeted, seed=seed, ids=ids) as batch:
        # v = x + p: kept as the value itself, it stays in any box; the first step leads from the start to itself
        v, s = _drawn(batch, torch.arange(len(batch.rows), device=x.device), 0)
        v_goal, s_goal = v, s
        best = torch.full_like(v[:, 0, 0], -math.inf)
        r, t = torch.ones_like(best), torch.zeros_like(best)

        for step in range(steps + 1):
            if len(batch.rows) == 0:
                break
            μ = (t.clamp_min(1.0).rsqrt() * 0.5**r)[:, None]
            v_new, s_new = batch.clamp_(torch.lerp(v, v_goal, μ[:, None])), torch.lerp(s, s_goal, μ)
            support = top_k(
                s_new if batch.allowed is None else s_new.masked_fill(~batch.allowed, -1.0), batch.k
            )
            inside = s_new.gather(1, support)[:, None] > 0
            values = torch.where(inside, batch.at(v_new, support), batch.at(batch.x, support))
            keep = batch.record(*batch.score(batch.inputs(support, values)), support, values)
            if step == steps:
                break
            if keep is not None:
                state = (v, s, v_goal, s_goal, best, r, t, v_new, s_new, support)
                v, s, v_goal, s_goal, best, r, t, v_new, s_new, support = (q[keep] for q in state)
                if len(keep) == 0:
                    break

            iterate = batch.clamp_(torch.lerp(batch.x, v_new, s_new[:, None]))
            objective, reached, G = batch.score_and_gradient(iterate)
            # it is an attempt itself as long as it changes k pixels
            few = (s_new > 0).sum(1) <= batch.k
            loss = objective.masked_fill(~few, -math.inf)
            keep = batch.record(loss, reached & few, support, batch.at(iterate, support))
            if keep is not None:
                moved = (v, s, v_goal, s_goal, best, r, t, v_new, s_new, objective, G)
                v, s, v_goal, s_goal, best, r, t, v_new, s_new, objective, G = (q[keep] for q in moved)

            taken = objective >= best
            best = torch.where(taken, objective, best)
            v, s = torch.where(taken[:, None, None], v_new, v), torch.where(taken[:, None], s_new, s)
            v_best, s_best = _vertices(batch, G, v)
            v_goal = torch.where(taken[:, None, None], v_best, v_goal)
            s_goal = torch.where(taken[:, None], s_best, s_goal)
            t, r = t + taken, r + ~taken
            stuck = (r > 1 + halvings).nonzero().flatten()
            if len(stuck):
                v[stuck], s[stuck] = _drawn(batch, stuck, step + 1)
                v_goal[stuck], s_goal[stuck] = v[stuck], s[stuck]
                best[stuck], r[stuck], t[stuck] = -math.inf, 1.0, 0.0

        return batch.finished()


def _drawn(
    batch: BatchUnderAttack, of: Int[Tensor, "n"], draw: int
) -> tuple[Float[Tensor, "n g p"], Float[Tensor, "n p"]]:
    """Random values in the box, and a 0-1 mask of k random pixels, for these examples."""
    x, streams = batch.x[of], batch.streams.select(of)
    low, high = batch.box_of(of)
    u = streams.uniform(2 * draw, x[0].numel(), x.dtype) if len(of) else x
    order = streams.uniform(2 * draw + 1, x.shape[2], x.dtype)
    if batch.allowed is not None:
        order.masked_fill_(~batch.allowed, -1.0)
    s = torch.zeros_like(order).scatter_(1, top_k(order, batch.k), 1.0)
    return torch.lerp(low, high, u.view_as(x)), s


def _vertices(
    batch: BatchUnderAttack, G: Float[Tensor, "a g p"], v: Float[Tensor, "a g p"]
) -> tuple[Float[Tensor, "a g p"], Float[Tensor, "a p"]]:
    """The v in the box and the s in [0, 1], Σ s <= k, at which G · s ⊙ (v - x) is largest."""
    low, high = batch.box_of(torch.arange(len(v), device=v.device))
    slope = (v - batch.x).mul_(G).sum(1)
    if batch.allowed is not None:
        slope.masked_fill_(~batch.allowed, -math.inf)
    best = top_k(slope, batch.k)
    s = torch.zeros_like(slope).scatter_(1, best, (slope.gather(1, best) > 0).to(slope.dtype))
    return torch.where(G > 0, high, torch.where(G < 0, low, v)), s
