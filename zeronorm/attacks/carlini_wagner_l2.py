"""Carlini & Wagner's l2 attack (2017): gradient descent on distance and margin, with a search for their balance.

a       examples still under attack
g, p    the grid of an input
j       classes
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.minimal_search import searching_shortest
from zeronorm.threat_model import L2

_INSIDE = 0.99  # the search begins so close to the ends of the box: there tanh is flat
_ADAM = 0.9, 0.999
_LARGEST = 1e10
_FACTOR = 10.0  # between the constants until one fails and one succeeds
_ROUNDING = 64  # units in the last place of the logits


def carlini_wagner_l2(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L2,
    *,
    steps: int = 1000,
    rounds: int = 9,
    step_size: float = 0.05,
    constant: float = 1.0,
    confidence: float = 0.0,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change the input as little as possible in ℓ2 so that the model errs, by descent: white box, minimal.

    Source: Carlini & Wagner, "Towards evaluating the robustness of neural networks", S&P 2017, sections V and VI.A.

    Adam minimises |δ|² + c max(f, -κ) with f = z_y - max_{j≠y} z_j, negative once the model errs; values are
    middle + half tanh(w), so that they stay in the box.  A search over c, of `rounds` rounds that each begin anew,
    takes ten times more until the model errs, ten times less while it does, and in between bisects the logarithm;
    the shortest success of all is kept.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: the box; its budget bounds the result, None does not.
        steps: updates in all, shared equally among the rounds; each is one forward and one backward pass.  The
            authors' code takes 9 rounds of up to 10,000.
        rounds: values of c that are tried, at most; with less than 50 updates for each there are fewer.
        step_size: of Adam, in w.
        constant: c at the start.
        confidence: κ, by how much the model shall err; 0 for the shortest change.
        targeted: classes to reach instead of leaving y, or None; f is then max_{j≠t} z_j - z_t.
        seed, ids: taken like those of every attack; nothing here is random.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean, and so do those for which nothing was found.

    Deviations from the authors' code: c and Adam's state are the example's own; c begins at 1, not at 0.001, and is
    bisected on a logarithmic scale; a round is not ended early; a lead that rounding could undo is no success.
    """
    checks.integer("steps", steps, 0)
    checks.integer("rounds", rounds, 1)
    checks.real("step_size", step_size, 0.0, open_low=True)
    checks.real("constant", constant, 0.0, open_low=True)
    checks.real("confidence", confidence, 0.0)
    β1, β2 = _ADAM
    rounds = max(1, min(rounds, steps // 50))

    with searching_shortest(
        "carlini_wagner_l2", model, x, y, threat, targeted=targeted, seed=seed, ids=ids
    ) as minimal:
        batch = minimal.batch
        everyone = torch.arange(len(batch.rows), device=batch.x.device)
        low, high = (bound.expand_as(batch.x) for bound in batch.box_of(everyone))
        middle, half = (low + high) / 2, (high - low) / 2
        free = half > 0
        # in float64: near its ends the last bit of atanh hangs on the place in memory
        start = (
            ((batch.x - middle) / half.where(free, 1.0)).double().clamp(-_INSIDE, _INSIDE).atanh().to(batch.x)
        )
        c = torch.full_like(start[:, 0, 0], constant)
        least, most = torch.zeros_like(c), torch.full_like(c, torch.inf)  # failed, and succeeded
        goal = batch.goal[:, None]
        for number in range(rounds if len(everyone) else 0):
            w, m, s = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
            succeeded = torch.zeros_like(everyone, dtype=torch.bool)
            for step in range(steps * number // rounds, steps * (number + 1) // rounds):
                since = step - steps * number // rounds + 1
                tanh = w.tanh()
                v = torch.clamp(middle + half * tanh, low, high).where(free, batch.x)
                z, pullback = batch.logits_and_pullback(v)
                best = z.scatter(1, goal, -torch.inf).argmax(1, keepdim=True)
                f_by_z = torch.zeros_like(z).scatter_(1, best, -1.0).scatter_(1, goal, 1.0)
                if batch.targeted:
                    f_by_z = -f_by_z
                f = (z * f_by_z).sum(1).nan_to_num(torch.inf, torch.inf, torch.inf)
                sure = confidence + _ROUNDING * torch.finfo(z.dtype).eps * z.abs().amax(1)
                reached = batch.at_goal(z) & (f <= -sure)
                succeeded |= reached
                minimal.note(reached, v)
                weight = torch.where(f > -sure, c, 0.0)[:, None, None]
                gradient = (weight * pullback(f_by_z) + 2 * (v - batch.x)) * half * (1 - tanh * tanh)
                m = β1 * m + (1 - β1) * gradient
                s = β2 * s + (1 - β2) * gradient * gradient
                scale = (s / (1 - β2**since)).sqrt_().add_(1e-8)
                w = w - step_size / (1 - β1**since) * m / scale
            most = torch.where(succeeded, torch.minimum(most, c), most)
            least = torch.where(succeeded, least, torch.maximum(least, c))
            between = torch.where(least > 0, (least * most).sqrt(), c / _FACTOR)
            c = torch.where(most < torch.inf, between, c * _FACTOR).clamp_(max=_LARGEST)
        return minimal.finished()
