"""σ-zero (Cinà et al. 2025): descend a smooth count of the changes, and take back the small ones."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.minimal_search import searching_minimal
from zeronorm.projections import unit
from zeronorm.threat_model import L0

_BETA = 0.9, 0.999  # Adam's


@on_columns(gradients=True)
def sigma_zero(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 1_000,
    step_size: float = 1.0,
    sigma: float = 1e-3,
    threshold: float = 0.3,
    threshold_step_size: float = 0.01,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change as few pixels as possible so that the model errs: white box, minimal.

    Source: Cinà, Villani, Pintor, Schönherr, Biggio & Pelillo, "σ-zero: gradient-based optimization of
    l0-norm adversarial examples", ICLR 2025, Algorithm 1.

    With δ the change in widths of the box, the loss is how far the label leads, as long as it does, plus the
    smooth share of changed features Σ δ² / (δ² + σ) / d.  Adam descends its gradient, scaled to largest entry
    1, at a step size that falls on a cosine to a tenth.  Then features changed by less than τ are put back; τ
    rises after a success and falls otherwise, by t times the step size.  The sparsest success is kept.

    Pixels (`unit="pixel"`; the paper has features only): the share is that of pixels, with Σ_channels δ² in
    place of δ², and a pixel is put back as a whole where the root mean square of its δ is below τ.  For one
    channel both are the published ones.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: unit and box; adversarials above its budget are not returned, k = None returns them all.
        steps: updates; each is one forward and one backward pass, and the last iterate is tested too.
        step_size: η₀ of Adam, in widths of the box (of `threat.linf` where that is set).
        sigma: σ, of the smooth count: the smaller, the sharper.
        threshold: τ at the start, in widths of the box.
        threshold_step_size: t, the change of τ in a step, as a share of the step size.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: accepted as of every attack; this one draws no random numbers.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean, and so do those for which nothing was found.

    Deviations from the authors' code: it is for features and untargeted only, and for the box [0, 1]; the lead
    is over the log-sum-exp of the other logits, as everywhere here, instead of their largest (on the networks
    tried, neither is always the stronger); the last iterate is tested; who is broken by one pixel leaves.
    """
    checks.integer("steps", steps, 0)
    checks.real("step_size", step_size, 0.0, open_low=True)
    checks.real("sigma", sigma, 0.0, open_low=True)
    checks.real("threshold", threshold, 0.0, 1.0)
    checks.real("threshold_step_size", threshold_step_size, 0.0)

    with searching_minimal(
        "sigma_zero", model, x, y, threat, targeted=targeted, seed=seed, ids=ids
    ) as minimal:
        batch = minimal.batch
        _, channels, pixels = batch.x.shape
        v, η = batch.x.clone(), step_size
        δ, mean, variance = (torch.zeros_like(v) for _ in range(3))
        size = torch.zeros_like(v[:, :1])  # the mean of δ² over the channels of a pixel
        τ = torch.full_like(v[:, :1, :1], threshold)

        for step in range(1, steps + 2):
            if len(batch.rows) == 0:
                break
            if step > steps:
                minimal.note(batch.score(v)[1], v)
                break
            _, reached, G = batch.score_and_gradient(v)
            minimal.note(reached, v)
            keep = minimal.leave(minimal.fewest == 1)
            if keep is not None:
                state = (v, δ, mean, variance, size, τ, reached, G)
                v, δ, mean, variance, size, τ, reached, G = (s[keep] for s in state)
                if len(keep) == 0:
                    break
            reached = reached[:, None, None]

            slope = δ.mul_(2 * sigma / pixels).div_(size.mul_(channels).add_(sigma).square_())
            slope.sub_((G * batch.width).masked_fill_(reached, 0.0))
            if batch.allowed is not None:
                slope.mul_(batch.allowed)
            unit(slope, math.inf)
            mean.lerp_(slope, 1 - _BETA[0])
            variance.mul_(_BETA[1]).addcmul_(slope, slope, value=1 - _BETA[1])
            deviation = variance.sqrt().div_(math.sqrt(1 - _BETA[1] ** step)).add_(1e-8)
            batch.move_(v, mean / deviation, -η / (1 - _BETA[0] ** step) * batch.width)

            η = step_size * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
            τ.add_(torch.where(reached, η, -η), alpha=threshold_step_size).clamp_(0.0, 1.0)
            δ = (v - batch.x).div_(batch.width)
            size = δ.square() if channels == 1 else δ.square().mean(1, keepdim=True)
            small = size < τ.square()
            v = torch.where(small, batch.x, v)
            δ.masked_fill_(small, 0.0)
            size.masked_fill_(small, 0.0)
        return minimal.finished()
