"""Carlini & Wagner's l0 attack (2017): change everything, then let go of what contributes least.

a       examples still under attack
g, p    the grid of an input: channels that change together, positions that are counted
j       classes
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.minimal_search import searching_minimal
from zeronorm.threat_model import L0

_INSIDE = 0.9  # the search begins at 90 % of the way from the middle of the box: at its ends tanh is flat
_ADAM = 0.9, 0.999
_LARGEST = 1e10


@on_columns(gradients=True)
def carlini_wagner_l0(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 1000,
    inner_steps: int = 20,
    step_size: float = 0.1,
    constant: float = 1.0,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change as few pixels as possible so that the model errs, by elimination: white box, minimal.

    Source: Carlini & Wagner, "Towards evaluating the robustness of neural networks", S&P 2017, sections V, VI.A
    and VI.B.

    On a set S of positions, at first all, Adam minimises |δ|² + c max(f, 0): f = z_y - max_{j≠y} z_j is negative
    once the model errs, δ is measured in widths of the box, and values are middle + half tanh(w), so that they
    stay in the box.  As soon as the model errs, the positions with the smallest contribution |∇f · δ| leave S,
    and the search goes on from where it is.  Without success c grows.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: unit and box; its budget bounds the result, k = None does not.
        steps: updates in all; each is one forward and one backward pass.
        inner_steps: without success; c has been doubled four times by then, and a set from which positions were
            taken gets them back.
        step_size: of Adam, in w.
        constant: c at the start.
        targeted: classes to reach instead of leaving y, or None; f is then max_{j≠t} z_j - z_t.
        seed, ids: taken like those of every attack; nothing here is random.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean, and so do those for which nothing was found.

    Deviations from the authors' code: the contribution of a pixel is that of all its channels, as the threat
    model counts; constants, sets and Adam's state are the example's own; positions that cannot be missed come
    back, and are not tried again, where theirs ends with the first set that fails; c is doubled within a
    search, not between searches; up to half of S leaves at once where the linear model of f allows it, and else
    0.3 sqrt|S| positions, their rule, or one.
    """
    checks.integer("steps", steps, 0)
    checks.integer("inner_steps", inner_steps, 1)
    checks.real("step_size", step_size, 0.0, open_low=True)
    checks.real("constant", constant, 0.0, open_low=True)
    (β1, β2), doubling = _ADAM, max(inner_steps // 4, 1)

    with searching_minimal(
        "carlini_wagner_l0", model, x, y, threat, targeted=targeted, seed=seed, ids=ids
    ) as minimal:
        batch = minimal.batch
        everyone = torch.arange(len(batch.rows), device=batch.x.device)
        low, high = (bound.expand_as(batch.x) for bound in batch.box_of(everyone))
        middle, half = (low + high) / 2, (high - low) / 2
        w = ((batch.x - middle) / half).clamp(-1, 1).mul_(_INSIDE).atanh_()
        m, s = torch.zeros_like(w), torch.zeros_like(w)  # Adam's moments
        S = torch.ones_like(w[:, 0], dtype=torch.bool)
        if batch.allowed is not None:
            S &= batch.allowed
        # in S for good, and out of it since the last success
        needed, taken = (torch.zeros_like(S) for _ in range(2))
        c = torch.full_like(w[:, 0, 0], constant)
        waited = torch.zeros_like(batch.rows)  # steps since the last success
        succeeded, careful = (torch.zeros_like(waited, dtype=torch.bool) for _ in range(2))

        for step in range(steps):
            if len(batch.rows) == 0:
                break
            tanh = w.tanh()
            v = torch.where(S[:, None], torch.clamp(middle + half * tanh, low, high), batch.x)
            z, pullback = batch.logits_and_pullback(v)
            reached = batch.at_goal(z)
            minimal.note(reached, v)

            goal = batch.goal[:, None]
            best = z.scatter(1, goal, -torch.inf).argmax(1, keepdim=True)
            f_by_z = torch.zeros_like(z).scatter_(1, best, -1.0).scatter_(1, goal, 1.0)
            if batch.targeted:
                f_by_z = -f_by_z
            f, G = (z * f_by_z).sum(1), pullback(f_by_z)

            # after a success the least contributions leave, otherwise c grows, and those that left come back
            done = minimal.fewest == 1
            if reached.any():
                leaves = _least(G, v - batch.x, S & ~needed, -f, careful) & reached[:, None]
                taken = torch.where(reached[:, None], leaves, taken)
                S = S & ~leaves
                done |= reached & ~leaves.any(1)
            succeeded |= reached
            waited = torch.where(reached, 0, waited + 1)
            c = torch.where(waited % doubling == 0, 2 * c, c).clamp_(max=_LARGEST).where(~reached, c)
            missed = succeeded & (waited == inner_steps)
            if missed.any():
                S = S | (taken & missed[:, None])
                # several that left together are tried again, one by one
                needed |= taken & (missed & (taken.sum(1) == 1))[:, None]
                careful |= missed
                done |= missed & ~(S & ~needed).any(1)
            waited[waited == inner_steps] = 0

            gradient = torch.where(f > 0, c, 0.0)[:, None, None] * G * 2 * half + (v - batch.x) / half
            gradient = gradient * (1 - tanh * tanh) * S[:, None]
            m = β1 * m + (1 - β1) * gradient
            s = β2 * s + (1 - β2) * gradient * gradient
            scale = (s / (1 - β2 ** (step + 1))).sqrt_().add_(1e-8)
            w = w - step_size / (1 - β1 ** (step + 1)) * m / scale

            if (keep := minimal.leave(done)) is not None:
                state = (low, high, middle, half, w, m, s, S, needed, taken, c, waited, succeeded, careful)
                low, high, middle, half, w, m, s, S, needed, taken, c, waited, succeeded, careful = (
                    part[keep] for part in state
                )
        return minimal.finished()


def _least(
    G: Float[Tensor, "a g p"],
    δ: Float[Tensor, "a g p"],
    S: Bool[Tensor, "a p"],
    slack: Float[Tensor, "a"],
    careful: Bool[Tensor, "a"],
) -> Bool[Tensor, "a p"]:
    """The positions of S to give up: by the authors' rule, or as many as the slack of f allows."""
    contribution = (G * δ).abs().sum(1).masked_fill(~S, torch.inf)
    ascending, order = contribution.sort(dim=1, stable=True)
    size = S.sum(1)
    allowed = torch.minimum((ascending.cumsum(1) <= slack[:, None]).sum(1), size // 2)
    count = torch.maximum((0.3 * size.sqrt()).long().clamp_min_(1), allowed)
    count = torch.minimum(torch.where(careful, 1, count), size)
    chosen = torch.arange(S.shape[1], device=S.device) < count[:, None]
    return torch.zeros_like(S).scatter_(1, order, chosen)
