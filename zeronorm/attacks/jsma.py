"""Jacobian-based saliency map attack (Papernot et al. 2016): one position a step, the most salient for a target.

a       examples still under attack
g, p    the grid of an input: channels that change together, positions that are counted
j       classes
r       runs: an example on its way to one target
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.minimal_search import searching_minimal
from zeronorm.threat_model import L0


@on_columns(gradients=True)
def jsma(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    classes: int = 10,
    pass_size: int = 1024,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change as few pixels as possible so that the model errs, greedily: white box, minimal.

    Source: Papernot, McDaniel, Jha, Fredrikson, Celik & Swami, "The limitations of deep learning in
    adversarial settings", EuroS&P 2016, Algorithm 2 and equations 8 and 9, for single features.

    With class probabilities F and a target t, the saliency of a feature is |∂F_t| |Σ_{j≠t} ∂F_j| if raising it
    (eq. 8) or lowering it (eq. 9) favours the target over the others.  Each step moves the most salient
    position to that end of its box, where it stays.  As probabilities sum to 1, saliency is (∂F_t)².

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: unit and box; its budget bounds the number of steps, k = None does not.  Each step is one
            forward and one backward pass for each target.
        classes: without `targeted`, the classes with so many largest clean logits are the targets, the label
            apart, all tried side by side; the first that leaves y, to whatever class, ends the search.
        pass_size: inputs of one pass, at most: what bounds the memory.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: taken like those of every attack; nothing here is random.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean, and so do those for which nothing was found.

    In features (flat inputs are), saliency is as published; in pixels, derivatives are summed over the channels
    of a pixel, each times what it moves: the change of F_t that the pixel promises.

    Deviations from the paper: positions are chosen one by one (its Algorithm 3 goes through all pairs, whose
    table grows with the square of the features); both ends of the box are open to every position (the paper
    either raises all or lowers all); F_t's derivative is taken up to the factor F_t, which vanishes where the
    model is very sure; a step to where the model's answer is no number is taken back.
    """
    checks.integer("classes", classes, 2)
    checks.integer("pass_size", pass_size, 1)

    with searching_minimal("jsma", model, x, y, threat, targeted=targeted, seed=seed, ids=ids) as minimal:
        batch, in_pixels = minimal.batch, threat.unit == "pixel" and x.dim() > 2
        of, target = torch.arange(len(batch.rows), device=batch.rows.device), batch.goal
        if targeted is None and len(of):
            z = batch.logits(batch.x)
            others = z.scatter(1, target[:, None], -torch.inf)
            targets = others.topk(min(classes, z.shape[1]) - 1, dim=1).indices
            of, target = of.repeat_interleave(targets.shape[1]), targets.flatten()
        v = before = batch.x[of]
        changes, free = torch.zeros_like(of), torch.ones_like(v[:, 0], dtype=torch.bool)
        if batch.allowed is not None:
            free &= batch.allowed
        retreated = torch.zeros_like(of, dtype=torch.bool)

        while len(of):
            reached, lost, d = _look(batch, v, of, target, pass_size)
            if reached.any():
                # the first run of each example that got there: all have made as many steps
                run = torch.arange(len(of), device=of.device).masked_fill_(~reached, len(of))
                run = torch.full_like(batch.goal, len(of)).scatter_reduce_(0, of, run, "amin")
                done, sparse = run < len(of), batch.x.clone()
                sparse[done] = v[run[done]]
                done = minimal.note(done, sparse)
                left = (~done[of]).nonzero().flatten()
                of = (~done).cumsum(0)[of] - 1
                minimal.leave(done)
                state = (of, target, v, before, changes, free, retreated, lost, d)
                of, target, v, before, changes, free, retreated, lost, d = (s[left] for s in state)

            low, high = batch.box_of(of)
            end = torch.where(d > 0, high, torch.where(d < 0, low, v))
            move = end - v if in_pixels else (end - v).sign()
            saliency, at = (d * move).sum(1).masked_fill(~free, 0.0).max(1)
            moves = ~lost & (saliency > 0) & (changes < batch.k)
            everywhere = at[:, None, None].expand(-1, v.shape[1], 1)
            after = v.scatter(2, everywhere, end.gather(2, everywhere))
            before, v = v, torch.where(moves[:, None, None], after, before)
            free.scatter_(1, at[:, None], free.gather(1, at[:, None]) & ~moves[:, None])
            changes = changes + moves.long() - lost.long()

            goes_on = (moves | (lost & ~retreated)).nonzero().flatten()
            of, target, v, before, changes, free, retreated = (
                s[goes_on] for s in (of, target, v, before, changes, free, lost)
            )
        return minimal.finished()


def _look(
    batch: BatchUnderAttack,
    v: Float[Tensor, "r g p"],
    of: Int[Tensor, "r"],
    target: Int[Tensor, "r"],
    pass_size: int,
) -> tuple[Bool[Tensor, "r"], Bool[Tensor, "r"], Float[Tensor, "r g p"]]:
    """Which examples reached the goal, which logits are not numbers, and ∂ log F_t = ∂z_t - Σ_j F_j ∂z_j."""
    seen = []
    for some in torch.arange(len(of), device=of.device).split(pass_size):
        z, pullback = batch.logits_and_pullback(v[some], of[some])
        aim = torch.zeros_like(z).scatter_(1, target[some, None], 1.0)
        lost = ~z.isfinite().all(1)
        seen.append((batch.at_goal(z, of[some]), lost, pullback((aim - z.softmax(1)).nan_to_num(0.0))))
    reached, lost, d = (torch.cat(part) for part in zip(*seen, strict=True))
    return reached, lost & ~reached, d
