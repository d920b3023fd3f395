"""sparse-PGD (Zhong, Huang & Liu 2024): projected gradient descent on a magnitude and a mask."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model, attacking
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.sparse_pgd_step import choose, move
from zeronorm.projections import top_k
from zeronorm.seeding import Streams
from zeronorm.threat_model import L0


@on_columns(gradients=True)
def sparse_pgd(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 10_000,
    gradient: Literal["unprojected", "projected"] = "unprojected",
    tolerance: int = 3,
    step_size: float = 0.25,
    mask_step_size: float | None = None,
    targeted: Int[Tensor, "b"] | None = None,
    start: Float[Tensor, "b ..."] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change at most k pixels so that the model errs: white box, fixed budget.

    Source: Zhong, Huang & Liu, "Towards efficient training and evaluation of robust models against l0
    bounded adversarial perturbations", ICML 2024, section 4.1 and Algorithm 1.

    The perturbation is p ⊙ m: magnitudes p for every entry, and m the indicator of the k largest of a
    continuous mask m̃.  Both follow the gradient G of the cross-entropy: p by its sign, m̃ by the normalised
    (Σ_channels G p) σ'(m̃).  When the k largest have not changed for `tolerance` steps in a row, the search is
    stuck and m̃ is drawn anew.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: budget, unit and box.
        steps: updates; each is one forward and one backward pass, and the last iterate is tested too.
        gradient: "unprojected" moves p everywhere, so that a pixel entering the mask arrives with a good
            value; "projected" moves it inside the mask only.  Neither is always the stronger.
        tolerance: evaluated steps without a change of the mask before it is drawn anew.
        step_size: of p, as a share of the box's width (of `threat.linf` where that is set).
        mask_step_size: length of the step of m̃; default sqrt(positions) / 4.
        targeted: classes to reach instead of leaving y, or None.
        start: inputs to begin from, such as adversarials of a larger budget; the first mask prefers the
            pixels they change.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean; those not broken as the attempt of highest loss.

    Deviations from the authors' code, each a defect there: the stuck-counter is the example's own (theirs is
    reset only when no other in the batch is stuck); one stable top-k on m̃ decides both the mask and whether
    it changed (theirs ranks a saturated sigmoid, where ties are arbitrary); a drawn mask is evaluated before
    it is moved; the loss is cross-entropy up to a positive factor that keeps it from vanishing; the first
    iterate is tested; random numbers are the example's own.
    """
    checks.integer("steps", steps, 0)
    checks.choice("gradient", gradient, ("unprojected", "projected"))
    checks.integer("tolerance", tolerance, 1)
    checks.real("step_size", step_size, 0.0, open_low=True)
    if mask_step_size is not None:
        checks.real("mask_step_size", mask_step_size, 0.0, open_low=True)

    with attacking("sparse_pgd", model, x, y, threat, targeted=targeted, seed=seed, ids=ids) as batch:
        ascend(
            batch,
            steps,
            gradient=gradient,
            tolerance=tolerance,
            step_size=step_size,
            mask_step_size=mask_step_size,
            start=start,
        )
        return batch.finished()


def ascend(
    batch: BatchUnderAttack,
    steps: int,
    *,
    gradient: Literal["unprojected", "projected"] = "unprojected",
    tolerance: int = 3,
    step_size: float = 0.25,
    mask_step_size: float | None = None,
    start: Float[Tensor, "b ..."] | None = None,
) -> None:
    """The steps of `sparse_pgd`: examples that they break leave the batch, the others stay in it."""
    _, channels, pixels = batch.x.shape
    dtype = batch.x.dtype
    α = step_size * batch.width  # a number, or one for every entry
    β = math.sqrt(pixels) / 4 if mask_step_size is None else mask_step_size

    # v = x + p: kept as the value itself, it stays in any box exactly; a drawn mask is named by its step
    u = batch.streams.uniform(0, channels * pixels, dtype).view_as(batch.x)
    v = batch.clamp_(batch.x + batch.width * (2 * u - 1))
    mask = _draw(batch.streams, 1, batch.allowed, pixels, dtype)
    if (given := batch.start_from(start)) is not None:
        values, changed = given
        v = batch.clamp_(torch.where(changed[:, None], values, v))
        mask = torch.where(changed, mask.abs() + 4.0, mask)  # above nearly every other
    support = top_k(mask, batch.k).sort(1).values
    stuck = torch.zeros_like(batch.rows)  # choices in a row with the same outcome

    for step in range(steps + 1):
        if len(batch.rows) == 0:
            break
        values = batch.at(v, support)
        if step == steps:
            batch.record(*batch.score_iterate(support, values), support, values)
            break
        objective, reached, G = batch.score_and_gradient_iterate(support, values)
        keep = batch.record(objective, reached, support, values)
        if keep is not None:
            v, mask, support, values, stuck, G = (
                s.index_select(0, keep) for s in (v, mask, support, values, stuck, G)
            )

        move(batch, v, mask, support, G, α, β, projected=gradient == "projected")
        redraw = (stuck >= tolerance).nonzero().flatten()
        if len(redraw):
            mask[redraw] = _draw(batch.streams.select(redraw), step + 2, batch.allowed, pixels, dtype)
            stuck[redraw] = -1  # the drawn mask starts a count of its own
        support, stuck = choose(mask, support, stuck)


def _draw(
    streams: Streams, step: int, allowed: Bool[Tensor, "p"] | None, pixels: int, dtype: torch.dtype
) -> Float[Tensor, "a p"]:
    """Draw a fresh mask: standard normal, -infinity where the adversary may not touch a pixel."""
    mask = streams.normal(step, pixels, dtype)
    return mask if allowed is None else mask.masked_fill(~allowed, -math.inf)
