"""The smallest change that flips a linear classifier, exactly: every attack is examined by it.

b       examples
j, t    classes, the target class
g, p    the grid of an input: channels that change together, positions that are counted
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from zeronorm import checks
from zeronorm.errors import ArgumentError
from zeronorm.projections import onto_half_space_in_box
from zeronorm.threat_model import L0

UNBREAKABLE = torch.iinfo(torch.int64).max  # the count of an example that no allowed change can flip


def minimal_changes(
    weight: Float[Tensor, "j ..."],
    bias: Float[Tensor, "j"],
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    targeted: Int[Tensor, "b"] | None = None,
) -> tuple[Int[Tensor, "b"], Float[Tensor, "b ..."]]:
    """The smallest number of positions to change so that argmax_j z_j leaves y, for z = weight x + bias.

    Proof of the closed form.  The prediction (first largest logit) is not y exactly if some rival j leads: z_j
    > z_y, or z_j = z_y and j < y.  The lead z_j - z_y is linear, so each changed position adds its own gain,
    whatever the others do; a linear gain is largest at a corner of the position's box, where every channel
    takes its better end.  So n positions raise the lead by at most the sum of the n largest gains, and this is
    attained: the least n for a rival is where the cumulated gains, sorted, first close the gap, and the answer
    is the least over rivals.

    To reach a target all rivals must be overtaken by the same change: gains no longer separate, and a corner
    need not be best.  Then a mixed-integer program finds the change of n positions with the largest smallest
    lead, and bisection the least n (more positions never hurt).

    Args:
        weight, bias: the classifier, `weight` in the shape of one example behind its classes.
        x: inputs, inside the threat model's box.
        y: the class to leave.
        threat: unit, box, cap and allowed positions; its budget bounds the count, k = None means all positions.
        targeted: classes to reach instead of leaving y, or None.

    Returns:
        The count, 0 for those at the goal already and `UNBREAKABLE` where no change within the threat model
        leads there; and inputs that attain it, clean where the count is 0 or `UNBREAKABLE`.

    Sums are in float64: exact for float32 models and inputs up to a tie within 1e-15 of the logits' scale, and
    exact ties are decided where the numbers are short, such as small integers.  A target that can be reached
    only by a lead below about 1e-6 counts as out of reach.
    """
    checks.examples(x)
    if weight.shape[1:] != x.shape[1:] or bias.shape != weight.shape[:1]:
        raise ArgumentError(
            f"weight, bias: expected shapes (classes, {', '.join(map(str, x.shape[1:]))}) and (classes,), "
            f"got {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    y = checks.labels(y, x)
    targets = None if targeted is None else checks.labels(targeted, x, "targeted")
    for name, classes in (("y", y), ("targeted", targets)):
        if classes is not None and len(classes) and int(classes.max()) >= len(weight):
            raise ArgumentError(f"{name}: expected labels below {len(weight)}, got {int(classes.max())}")
    threat.check_inputs(x)
    limit = threat.positions(x) if threat.k is None else threat.k

    W, c = threat.grid(weight).double(), bias.double()
    clean, low, high = (threat.grid(v).double() for v in (x, *threat.bounds(x)))
    if (allowed := threat.allowed_positions(x)) is not None:
        low, high = (torch.where(allowed, bound, clean) for bound in (low, high))

    if targets is None:
        count, changed = _leaving(y, W, c, clean, low, high, limit)
    else:
        count, changed = torch.zeros_like(targets), clean.clone()
        for i, t in enumerate(targets.tolist()):
            box = clean[i].cpu(), low[i].cpu(), high[i].cpu()
            count[i], changed[i] = _towards(t, W.cpu(), c.cpu(), *box, limit, x.dtype)
    return count, changed.to(x.dtype).view_as(x)


def minimal_epsilon(
    weight: Float[Tensor, "j ..."],
    bias: Float[Tensor, "j"],
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Tensor, "b"]:
    """The smallest ε such that a change of every entry by at most ε within the box makes argmax_j z_j leave y.

    A rival's lead grows most where each entry moves along its own slope d_i as far as it may: by Σ |d_i| min(ε,
    r_i), with r_i the room to the end of the box.  This is a rising sequence of lines in ε, with corners at the
    r_i; ε is where the first rival's reaches its gap.  Exactly there the two tie.

    **Returns:** ε in float64, 0 for those at the goal already, infinity where the box ends first.
    """
    y = checks.labels(y, checks.examples(x))
    W, c, v = weight.flatten(1).double(), bias.double(), x.flatten(1).double()
    z = v @ W.T + c
    d = W - W[y][:, None]
    room = torch.where(d > 0, high - v[:, None], v[:, None] - low)
    room, order = room.sort(dim=2)
    slope = d.abs().gather(2, order)
    ahead = slope.sum(2, keepdim=True) - slope.cumsum(2) + slope  # of the line that ends at each corner
    reached = (slope * room).cumsum(2) - slope * room + ahead * room
    gap = (z.gather(1, y[:, None]) - z)[:, :, None]
    enough = reached >= gap
    first = enough.int().argmax(2, keepdim=True)
    past = reached.gather(2, first) - gap
    epsilon = (room.gather(2, first) - past / ahead.gather(2, first)).squeeze(2)
    epsilon = torch.where(enough.any(2), epsilon, torch.inf).scatter(1, y[:, None], torch.inf)
    return torch.where(z.argmax(1) == y, epsilon.amin(1), 0.0)


def minimal_length(
    weight: Float[Tensor, "j ..."],
    bias: Float[Tensor, "j"],
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Tensor, "b"]:
    """The ℓ2 length of the shortest change within the box that makes another logit reach that of y.

    For each rival the set where it does is a half-space, whose closest point in the box is clip(x + λ d) with the
    difference d of the weights (`projections.onto_half_space_in_box`).  Without a box it is |dᵀx + e| / ‖d‖₂.

    **Returns:** the length in float64, 0 for those that are not classified as y, infinity where the box ends first.
    """
    y = checks.labels(y, checks.examples(x))
    W, c, v = weight.flatten(1).double(), bias.double(), x.flatten(1).double()
    z = v @ W.T + c
    shortest = torch.full_like(z[:, 0], torch.inf)
    for rival in range(len(W)):
        d, gap = W[rival] - W[y], z.gather(1, y[:, None]).squeeze(1) - z[:, rival]
        there = onto_half_space_in_box(v, d, gap, torch.full_like(v, low), torch.full_like(v, high))
        reached = ((there - v) * d).sum(1) >= gap - 1e-9 * gap.abs()
        length = (there - v).norm(dim=1).where(reached & (y != rival), torch.inf)
        shortest = torch.minimum(shortest, length)
    return shortest.where(z.argmax(1) == y, 0.0)


def _leaving(
    y: Tensor, W: Tensor, c: Tensor, clean: Tensor, low: Tensor, high: Tensor, limit: int
) -> tuple[Int[Tensor, "b"], Float[Tensor, "b g p"]]:
    """Closed form: the least number of positions to change so that argmax_j leaves y, and their new values."""
    z = torch.einsum("bgp,jgp->bj", clean, W) + c
    direction = W - W[y][:, None]  # (b, j, g, p): where each lead z_j - z_y grows
    corner = torch.where(direction > 0, high[:, None], low[:, None])
    gain = direction * (corner - clean[:, None])
    largest, order = gain.sum(2).sort(dim=2, descending=True, stable=True)
    reached, gap = largest.cumsum(2), (z.gather(1, y[:, None]) - z)[:, :, None]
    tie_wins = (torch.arange(len(W), device=y.device) < y[:, None])[:, :, None]
    leads = (reached > gap) | ((reached == gap) & tie_wins)
    count, rival = torch.where(leads.any(2), leads.int().argmax(2) + 1, UNBREAKABLE).min(1)
    count[z.argmax(1) != y] = 0  # argmax is the first largest
    count[count > limit] = UNBREAKABLE

    # write the first `count` positions of that rival's order, and of those the channels that gain
    rows = torch.arange(len(y), device=y.device)
    place = order[rows, rival].argsort(1)[:, None]
    chosen = (place < count.where(count < UNBREAKABLE, 0)[:, None, None]) & (gain[rows, rival] > 0)
    return count, torch.where(chosen, corner[rows, rival], clean)


def _towards(
    t: int, W: Tensor, c: Tensor, clean: Tensor, low: Tensor, high: Tensor, limit: int, dtype: torch.dtype
) -> tuple[int, Float[Tensor, "g p"]]:
    """For one example (g, p), the fewest positions to change so that argmax_j W_j · v + c_j is t, and v."""
    channels, positions = clean.shape
    entries = channels * positions
    others = [j for j in range(len(W)) if j != t]
    lead = (W[t] - W[others]).flatten(1).numpy()
    lead_now = (lead @ clean.flatten().numpy()) + (c[t] - c[others]).numpy()
    down, up = ((bound - clean).flatten().numpy() for bound in (low, high))
    share = np.tile(np.eye(positions), (channels, 1))  # which position an entry belongs to

    # unknowns: the change of each entry, whether each position changes (0 or 1), and the smallest lead
    none, column = np.zeros((entries, 1)), np.ones((len(others), 1))
    constraints = [
        LinearConstraint(np.hstack([np.eye(entries), -up[:, None] * share, none]), ub=0.0),
        LinearConstraint(np.hstack([np.eye(entries), -down[:, None] * share, none]), lb=0.0),
        LinearConstraint(np.hstack([lead, np.zeros((len(others), positions)), -column]), lb=-lead_now),
    ]
    objective = np.concatenate([np.zeros(entries + positions), [-1.0]])
    integral = np.concatenate([np.zeros(entries), np.ones(positions), [0.0]])
    bounds = Bounds(
        np.concatenate([down, np.zeros(positions), [-np.inf]]),
        np.concatenate([up, np.ones(positions), [np.inf]]),
    )

    def best(n: int) -> Tensor:
        budget = LinearConstraint(np.concatenate([np.zeros(entries), np.ones(positions), [0.0]]), ub=n)
        solution = milp(objective, integrality=integral, bounds=bounds, constraints=[*constraints, budget]).x
        used = torch.from_numpy(solution[entries:-1] > 0.5)
        delta = torch.from_numpy(solution[:entries]).view_as(clean)
        # rounded to the type that is handed back before it is judged
        v = (clean + delta).clamp(low, high).to(dtype).to(clean.dtype)
        return torch.where(used, v, clean)

    def reached(n: int) -> bool:
        return bool((torch.einsum("gp,jgp->j", best(n), W) + c).argmax() == t)

    n = bisect_left(range(limit + 1), True, key=reached)
    return (n, best(n)) if n <= limit else (UNBREAKABLE, clean)
