"""PGD₀ (Croce & Hein 2019): gradient ascent, projected exactly onto k pixels and the box."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model, attacking
from zeronorm.attacks.columns import on_columns
from zeronorm.projections import onto_l0_box, unit
from zeronorm.threat_model import L0


@on_columns(gradients=True)
def pgd0(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 300,
    step_size: float = 120_000 / 255,
    restarts: int = 5,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change at most k pixels so that the model errs: white box, fixed budget.

    Source: Croce & Hein, "Sparse and imperceivable adversarial attacks", ICCV 2019, section 4, without bounds
    on the size of a change.  Settings as in the evaluation of Zhong, Huang & Liu 2024, who also aim at the nine
    most likely wrong classes: see `targeted`.

    From a random point of the box, the cross-entropy is ascended along its gradient of l1 length 1.  After each
    step the iterate is projected onto the nearest point that changes at most k pixels within the box
    (`projections.onto_l0_box`).  The published step is so long that most entries it moves end at the box.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: budget, unit and box.
        steps: updates of each run; each is one forward and one backward pass, and the last iterate is tested too.
        step_size: l1 length of a step, in widths of the box (of `threat.linf` where that is set).
        restarts: runs from random points; each is for those not broken before.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean; those not broken as the attempt of highest loss.

    Deviations from the authors' code, each a defect there: every projected iterate is tested, the first and the
    last too; the loss is not averaged over the batch, which with a constant in the norm made steps shorter in
    larger batches; it is cross-entropy up to a positive factor that keeps it from vanishing; pixels tied for
    the last place are broken by index (theirs keeps more than k, against which noise was added); who is not
    broken comes back as the best attempt (theirs: black); who is broken leaves.  Where the logits are not
    numbers, the step is taken back and tried at half its length.
    """
    checks.integer("steps", steps, 0)
    checks.real("step_size", step_size, 0.0, open_low=True)
    checks.integer("restarts", restarts, 1)

    with attacking("pgd0", model, x, y, threat, targeted=targeted, seed=seed, ids=ids) as batch:
        for restart in range(restarts):
            if len(batch.rows):
                _ascend(batch, steps, step_size, restart)
        return batch.finished()


def _ascend(batch: BatchUnderAttack, steps: int, step_size: float, restart: int) -> None:
    """One run of gradient ascent from a random point of the box."""
    u = batch.streams.uniform(restart, batch.x[0].numel(), batch.x.dtype).view_as(batch.x)
    v = batch.low + (batch.high - batch.low) * u
    η = torch.full_like(batch.x[:, :1, :1], step_size)
    before = None

    for step in range(steps + 1):
        positions, values = onto_l0_box(v, batch.x, batch.low, batch.high, batch.k, batch.allowed)
        iterate = batch.inputs(positions, values)
        if step == steps:
            batch.record(*batch.score(iterate), positions, values)
            return
        objective, reached, G = batch.score_and_gradient(iterate)
        keep = batch.record(objective, reached, positions, values)
        if keep is not None:
            if len(keep) == 0:
                return
            iterate, objective, G, η = (s[keep] for s in (iterate, objective, G, η))
            before = None if before is None else (before[0][keep], before[1][keep])

        G = unit(G * batch.width, 1.0)
        lost = (objective == -math.inf)[:, None, None]
        if before is not None and lost.any():
            η = torch.where(lost, η / 2, η)
            iterate, G = torch.where(lost, before[0], iterate), torch.where(lost, before[1], G)
        before = iterate, G
        v = iterate + G * (η * batch.width)
