"""SparseFool (Modas et al. 2019): approximate the boundary by a plane, and cross it in few positions.

a, m    examples still under attack, and those of them that a pass is about
g, p    the grid of an input: channels that change together, positions that are counted
j       classes
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.minimal_search import searching_minimal
from zeronorm.threat_model import L0

_LEAST = 1e-4  # DeepFool moves at least that far, as a share of the box's width
_BEYOND = 1e-3  # the solver crosses the plane by that much of it


@on_columns(gradients=True)
def sparse_fool(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 50,
    inner_steps: int = 50,
    classes: int = 10,
    distance: float = 3.0,
    overshoot: float = 0.02,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change as few pixels as possible so that the model errs: white box, minimal.

    Source: Modas, Moosavi-Dezfooli & Frossard, "SparseFool: a few pixels make a big difference", CVPR 2019,
    Algorithms 1 and 2.

    From the iterate, DeepFool finds a point x + r just beyond the nearest boundary, and the normal n of the
    boundary there.  The iterate is then moved across the plane through x + λ r with normal n, one position
    after the other to the end of its box, and the last as far as needed; until the model errs.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: unit and box; its budget bounds the result, k = None does not.
        steps: planes that are crossed, at most.  Each takes the passes of DeepFool, and one forward pass.
        inner_steps: of DeepFool, at most; each is one forward pass, and a backward pass for each rival class.
        classes: how many classes DeepFool looks at, those with the largest logits: the label's and its rivals.
        distance: λ, how far the plane is, in distances to the boundary; 1 is at the boundary itself.
        overshoot: of DeepFool's last step and of the result, as a share of the change.
        seed, ids: taken like those of every attack; nothing here is random.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already come back
        clean, and so do those for which nothing was found.

    In features (flat inputs are), positions are taken in the order of |n|, as published; in pixels, in the
    order of what all channels of a pixel can gain together within the box.

    Deviations from the authors' code: what is returned is the shortest run of the changes, in the order in
    which they were made, that still fools the model, found by bisection; where more than k are changed, the
    first k are tried (the plane lies λ times too far, so that more is changed than needed; users of the attack
    project onto a budget by a rule they leave open).  Corrected: labels are the true ones, not the predicted;
    where DeepFool reaches no other class, the normal is that towards the best rival (theirs is 0/0); any
    number of classes; an example without gradient ends its search; a step to where the model's answer is no
    number is taken back, and its position left alone.
    """
    checks.integer("steps", steps, 0)
    checks.integer("inner_steps", inner_steps, 1)
    checks.integer("classes", classes, 2)
    checks.real("distance", distance, 0.0, open_low=True)
    checks.real("overshoot", overshoot, 0.0)

    with searching_minimal("sparse_fool", model, x, y, threat, targeted=None, seed=seed, ids=ids) as minimal:
        batch, in_pixels = minimal.batch, threat.unit == "pixel" and x.dim() > 2
        v, result = batch.x.clone(), batch.x.clone()
        beyond = _BEYOND * float(torch.as_tensor(batch.width).mean())
        free = torch.ones_like(v[:, 0], dtype=torch.bool)
        free &= True if batch.allowed is None else batch.allowed
        never = torch.iinfo(torch.int64).max
        turn = torch.full_like(v[:, 0], never, dtype=torch.int64)  # when each position was first changed
        done, fooling = (torch.zeros_like(batch.rows, dtype=torch.bool) for _ in range(2))
        for step in range(steps):
            of = (~done).nonzero().flatten()
            if len(of) == 0:
                break
            clean, before, (low, high) = batch.x[of], v[of], batch.box_of(of)
            r, normal = _deep_fool(batch, before, of, free[of], inner_steps, classes, overshoot)
            after, place = cross(before, normal, before + distance * r, low, high, beyond, by_gain=in_pixels)
            stretched = torch.clamp(clean + (1 + overshoot) * (after - clean), low, high)
            z = batch.logits(stretched, of)
            first = (after != clean).any(1) & (turn[of] == never)
            turn[of] = torch.where(first, step * place.shape[1] + place, turn[of])
            v[of], result[of] = after, stretched
            fooling[of] = batch.at_goal(z, of)
            done[of] = fooling[of] | (after == before).flatten(1).all(1)

            lost = ~z.isfinite().all(1)
            if lost.any():
                # no numbers there: the step is taken back, and not made again with the position that led there
                some = of[lost]
                runs = _Runs(batch, result, turn, some)
                last = runs.shortest(runs.length, lambda z, _: ~z.isfinite().all(1))
                free[some] &= runs.place != last[:, None] - 1
                turn[some] = turn[some].masked_fill_(turn[some] >= step * turn.shape[1], never)
                v[some], done[some] = before[lost], False

        # of each success the shortest run of its changes, within the budget, that still fools the model
        of = fooling.nonzero().flatten()
        runs = _Runs(batch, result, turn, of)
        count = runs.length.clamp_max(batch.k)
        cut = (count < runs.length).nonzero().flatten()
        if len(cut):
            fools = batch.at_goal(batch.logits(runs.first(count, cut), of[cut]), of[cut])
            count[cut[~fools]] = 0
        count = runs.shortest(count, batch.at_goal)
        shortest, reached = batch.x.clone(), torch.zeros_like(done)
        rows = count.nonzero().flatten()
        shortest[of[rows]], reached[of[rows]] = runs.first(count, rows), True
        minimal.note(reached, shortest)
        return minimal.finished()


def cross(
    v: Float[Tensor, "m g p"],
    normal: Float[Tensor, "m g p"],
    boundary: Float[Tensor, "m g p"],
    low: Float[Tensor, "#m #g #p"],
    high: Float[Tensor, "#m #g #p"],
    beyond: float,
    *,
    by_gain: bool,
) -> tuple[Float[Tensor, "m g p"], Int[Tensor, "m p"]]:
    """Move v across the plane through `boundary`, changing few positions; as far as the box allows.

    One position after the other moves to the end of its box at which normal · v is larger, the last only as far
    as needed to be `beyond` the plane: first those with the largest |normal|, or with `by_gain` those with the
    largest gain.  Returns where v has come to, and the place of each position in the order.
    """
    end = torch.where(normal > 0, high, torch.where(normal < 0, low, v))
    gain = (normal * (end - v)).sum(1)
    gap = (normal * (boundary - v)).sum((1, 2)) + beyond
    order = (gain if by_gain else normal.abs().sum(1)).argsort(dim=1, descending=True, stable=True)
    gains = gain.gather(1, order)
    missing = gap[:, None] - gains.cumsum(1) + gains  # when each position's turn comes
    place = _places(order)
    share = (missing / gains.clamp_min(1e-30)).clamp_(0, 1).gather(1, place)[:, None]
    return torch.where(share < 1, torch.clamp(v + share * (end - v), low, high), end), place


def _deep_fool(
    batch: BatchUnderAttack,
    v: Float[Tensor, "m g p"],
    of: Int[Tensor, "m"],
    free: Bool[Tensor, "m p"],
    steps: int,
    classes: int,
    overshoot: float,
) -> tuple[Float[Tensor, "m g p"], Float[Tensor, "m g p"]]:
    """The change r to just before the nearest boundary, and the unit normal of the boundary there."""
    r, before = torch.zeros_like(v), torch.zeros_like(v)
    rival = torch.zeros_like(of)
    width = torch.as_tensor(batch.width).to(v)
    todo = torch.arange(len(of), device=of.device)
    for step in range(steps):
        if step:  # who has crossed needs no gradients
            lead = _lead(batch.logits(v[todo] + (1 + overshoot) * r[todo], of[todo]), batch.goal[of[todo]])
            lost = lead.isnan().any(1)
            r[todo[lost]] = before[todo[lost]]
            rival[todo[~lost]] = lead[~lost].argmax(1)
            todo = todo[(lead < 0).all(1)]
        if len(todo) == 0:
            break
        z, pullback = batch.logits_and_pullback(v[todo] + (1 + overshoot) * r[todo], of[todo])
        lead, label = _lead(z, batch.goal[of[todo]]), batch.goal[of[todo], None]
        rivals = lead.topk(min(classes, z.shape[1]) - 1, dim=1).indices
        rival[todo] = rivals[:, 0]
        nearest, toward = torch.full_like(z[:, 0], torch.inf), torch.zeros_like(v[todo])
        for one in rivals.split(1, dim=1):
            w, length = _unit(
                pullback(torch.zeros_like(z).scatter_(1, one, 1.0).scatter_(1, label, -1.0)), free[todo]
            )
            away = (-lead.gather(1, one).squeeze(1) / length).nan_to_num_(torch.inf, torch.inf)
            toward = torch.where((away < nearest)[:, None, None], w, toward)
            nearest = torch.minimum(nearest, away)
        goes_on = nearest.isfinite()
        before[todo] = r[todo]
        move = toward * torch.maximum(nearest[:, None, None], _LEAST * width)
        r[todo[goes_on]] += move[goes_on]
        todo = todo[goes_on]
    z, pullback = batch.logits_and_pullback(v + r, of)
    aim = torch.zeros_like(z).scatter_(1, rival[:, None], 1.0).scatter_(1, batch.goal[of, None], -1.0)
    return r, _unit(pullback(aim), free)[0]


def _lead(z: Float[Tensor, "m j"], y: Int[Tensor, "m"]) -> Float[Tensor, "m j"]:
    """How far each class leads the label; -infinity for the label itself, NaN where a logit is NaN or infinite."""
    lead = (z - z.gather(1, y[:, None])).scatter_(1, y[:, None], -torch.inf)
    return lead.masked_fill_(~z.isfinite().all(1, keepdim=True), torch.nan)


def _unit(
    w: Float[Tensor, "m g p"], free: Bool[Tensor, "m p"]
) -> tuple[Float[Tensor, "m g p"], Float[Tensor, "m"]]:
    """Direction and Euclidean length of gradients, over the positions that may change."""
    w = w * free[:, None]
    largest = w.abs().amax((1, 2), keepdim=True)  # taken out first, so that no square overflows
    w = w / largest.clamp_min(1e-30)
    length = torch.linalg.vector_norm(w.flatten(1), dim=1)[:, None, None]
    return w / length.clamp_min(1e-30), (largest * length).flatten()


def _places(order: Int[Tensor, "m p"]) -> Int[Tensor, "m p"]:
    """The rank of each position in an order: the inverse permutation."""
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


class _Runs:
    """The changes from the clean inputs to v, in the order in which they were made."""

    def __init__(
        self,
        batch: BatchUnderAttack,
        v: Float[Tensor, "a g p"],
        turn: Int[Tensor, "a p"],
        of: Int[Tensor, "m"],
    ) -> None:
        self.batch, self.of, self.v = batch, of, v[of]
        self.place = _places(turn[of].argsort(dim=1, stable=True))
        self.length = (self.v != batch.x[of]).any(1).sum(1)

    def first(self, n: Int[Tensor, "m"], rows: Int[Tensor, "r"]) -> Float[Tensor, "r g p"]:
        """The clean inputs with the first n changes."""
        changed = (self.place[rows] < n[rows, None])[:, None]
        return torch.where(changed, self.v[rows], self.batch.x[self.of[rows]])

    def shortest(self, n: Int[Tensor, "m"], test: Callable[[Tensor, Tensor], Tensor]) -> Int[Tensor, "m"]:
        """Bisect for a number of changes, at most n, that passes the test where one change less does not."""
        n, fails = n.clone(), torch.zeros_like(n)
        while len(rows := (n - fails > 1).nonzero().flatten()):
            middle = (n + fails) // 2
            passes = test(self.batch.logits(self.first(middle, rows), self.of[rows]), self.of[rows])
            n[rows[passes]] = middle[rows[passes]]
            fails[rows[~passes]] = middle[rows[~passes]]
        return n
