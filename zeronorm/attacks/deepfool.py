"""DeepFool (Moosavi-Dezfooli et al. 2016): step to the nearest boundary of the classifier made linear, again and again.

m       examples that a pass is about
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
from zeronorm.projections import onto_half_space_in_box
from zeronorm.threat_model import L2

_BEYOND = 1e-4  # a step goes that much beyond the boundary, as a share of the gap


def deepfool(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L2,
    *,
    steps: int = 50,
    classes: int = 10,
    overshoot: float = 0.02,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change the input as little as possible in ℓ2 so that the model errs: white box, minimal.

    Source: Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool: a simple and accurate method to fool deep neural
    networks", CVPR 2016, Algorithm 2.

    Around the iterate each logit is taken as linear; the iterate moves to the closest point where a rival's
    overtakes the label's, until the model errs.  The change is then exaggerated a little, to be across.

    Args:
        model: from inputs to logits (batch, class), differentiable.  Not to probabilities: where these saturate,
            the linear model of them is worth nothing.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: the box; its budget bounds the result, None does not.
        steps: at most; each is one forward pass, and a backward pass for each rival class.
        classes: how many classes are looked at, those with the largest logits: the label's and its rivals.
        overshoot: share of the change by which it is exaggerated.
        seed, ids: taken like those of every attack; nothing here is random.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already come back
        clean, and so do those for which nothing was found.

    Deviations from the paper: the closest point is the closest one in the box, not of the whole space; labels are
    the true ones, not the predicted; a step to where the model's answer is no number is halved.
    """
    checks.integer("steps", steps, 0)
    checks.integer("classes", classes, 2)
    checks.real("overshoot", overshoot, 0.0)

    with searching_shortest("deepfool", model, x, y, threat, targeted=None, seed=seed, ids=ids) as minimal:
        batch = minimal.batch
        v, before = batch.x.clone(), batch.x.clone()
        for step in range(steps + 1):
            if len(batch.rows) == 0:
                break
            low, high = batch.box_of(torch.arange(len(v), device=v.device))
            tried = torch.clamp(batch.x + (1 + overshoot) * (v - batch.x), low, high)
            if step == steps:  # the last is only tried
                minimal.note(batch.at_goal(batch.logits(tried)), tried)
                break
            z, pullback = batch.logits_and_pullback(tried)
            reached = batch.at_goal(z)
            minimal.note(reached, tried)
            lost = ~z.isfinite().all(1)
            goal = batch.goal[:, None]
            lead = (z - z.gather(1, goal)).scatter(1, goal, -torch.inf).masked_fill(lost[:, None], -1.0)
            rivals = lead.topk(min(classes, z.shape[1]) - 1, dim=1).indices
            nearest, after = torch.full_like(z[:, 0], torch.inf), v
            for rival in rivals.split(1, dim=1):
                w = pullback(torch.zeros_like(z).scatter_(1, rival, 1.0).scatter_(1, goal, -1.0))
                gap = -lead.gather(1, rival).squeeze(1) * (1 + _BEYOND)
                there = onto_half_space_in_box(v, w, gap, low.expand_as(v), high.expand_as(v))
                # how far, and without end where the box does not let it cross
                length = (there - v).flatten(1).norm(dim=1)
                crosses = (w * (there - v)).sum((1, 2)) >= gap * (1 - _BEYOND)
                away = torch.where(crosses & (length > 0), length, torch.inf)
                # of those that cross nowhere the first is followed, to the corner
                closer = (away < nearest) | ((nearest == torch.inf) & (after == v).flatten(1).all(1))
                after = torch.where(closer[:, None, None], there, after)
                nearest = torch.where(closer, away, nearest)
            after = torch.where(lost[:, None, None], (v + before) / 2, after)
            stuck = (after == v).flatten(1).all(1)
            before = torch.where(lost[:, None, None], before, v)
            v = after
            if (keep := minimal.leave(reached | stuck)) is not None:
                v, before = v[keep], before[keep]
        return minimal.finished()
