"""Fast minimum-norm attack in l0 (Pintor et al. 2021): a budget that shrinks with success and grows without."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.minimal_search import searching_minimal
from zeronorm.projections import clipped_gains, top_each, unit
from zeronorm.threat_model import L0

_LAST = 0.001  # γ at the end of the search; α ends at a hundredth


@on_columns(gradients=True)
def fmn_l0(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 1_000,
    step_size: float = 30.0,
    budget_step_size: float = 0.05,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change as few pixels as possible so that the model errs: white box, minimal.

    Source: Pintor, Roli, Brendel & Biggio, "Fast minimum-norm adversarial attacks through adaptive norm
    constraints", NeurIPS 2021, Algorithm 1 for p = 0.

    Every example has a budget ε of its own, 1 at the start: after a success it falls to (1 - γ) ε, by at least
    1 and to no more than the fewest changes found; otherwise it rises to (1 + γ) ε, by at least 1.  The change
    δ then moves by α along the gradient of l2 length 1, and from there to the nearest point that changes ε features
    within the box.  α and γ fall on cosines.

    Pixels (`unit="pixel"`; the paper has features only): the nearest point that changes ε pixels.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: unit and box; its budget is the largest ε, k = None bounds nothing.
        steps: updates; each is one forward and one backward pass, and the last iterate is tested too.
        step_size: α at the start, l2 length of a step in widths of the box (of `threat.linf` where that is
            set).  The published default is 1; on the MNIST and CIFAR-10 networks tried, 10 to 100 found fewer
            changes.
        budget_step_size: γ at the start.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: accepted as of every attack; this one draws no random numbers.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean, and so do those for which nothing was found.

    Deviations from the authors' code: the box and the budget are projected onto together (theirs keeps the ε
    largest before it clips, and so spends budget on features that the box then leaves little of), and no more
    than ε positions are kept (theirs keeps all that tie with the last); the margin's largest other logit is
    their log-sum-exp; the last iterate is tested; who is broken by one pixel leaves; where the logits are not
    numbers, the step is taken back and the example's steps are halved from there on.
    """
    checks.integer("steps", steps, 0)
    checks.real("step_size", step_size, 0.0, open_low=True)
    checks.real("budget_step_size", budget_step_size, _LAST, 1.0)

    with searching_minimal("fmn_l0", model, x, y, threat, targeted=targeted, seed=seed, ids=ids) as minimal:
        batch = minimal.batch
        v, ε = batch.x.clone(), torch.ones_like(batch.rows)
        pace = torch.ones_like(v[:, :1, :1])
        before = [v, torch.zeros_like(v)]  # the iterate and its direction, to step back to

        for step in range(steps + 1):
            if len(batch.rows) == 0:
                break
            if step == steps:
                minimal.note(batch.score(v)[1], v)
                break
            cosine = (1 + math.cos(math.pi * step / steps)) / 2
            α = step_size * (0.01 + 0.99 * cosine)
            γ = _LAST + (budget_step_size - _LAST) * cosine
            objective, reached, G = batch.score_and_gradient(v)
            minimal.note(reached, v)
            keep = minimal.leave(minimal.fewest == 1)
            if keep is not None:
                state = (v, ε, pace, objective, reached, G, *before)
                v, ε, pace, objective, reached, G, *before = (s[keep] for s in state)
                if len(keep) == 0:
                    break

            fewer = torch.minimum(torch.minimum(ε - 1, (ε * (1 - γ)).long()), minimal.fewest)
            more = torch.maximum(ε + 1, (ε * (1 + γ)).long())
            lost = objective == -math.inf
            ε = torch.where(lost, ε, torch.where(reached, fewer, more)).clamp_(0, batch.k)

            G = G * batch.width
            if batch.allowed is not None:
                G.mul_(batch.allowed)
            unit(G, 2.0)
            if lost.any():
                lost = lost[:, None, None]
                pace = torch.where(lost, pace / 2, pace)
                v, G = torch.where(lost, before[0], v), torch.where(lost, before[1], G)
            before = [v, G]

            moved = torch.addcmul(v, G, pace * (α * batch.width))
            clipped, gains = clipped_gains(moved, batch.x, batch.low, batch.high)
            v = torch.where(top_each(gains, ε)[:, None], clipped, batch.x)
        return minimal.finished()
