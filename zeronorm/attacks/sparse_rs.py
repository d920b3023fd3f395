"""Sparse-RS (Croce et al. 2022): random search over which pixels to change, and to which corner colours."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.search import Model, Search, searching
from zeronorm.projections import top_k
from zeronorm.seeding import below
from zeronorm.threat_model import L0

# Up to which iteration of 10,000 the exchanged share is `initial_fraction` over which divisor (authors' code).
_SCHEDULE = ((0, 1), (50, 2), (200, 4), (500, 5), (1000, 6), (2000, 8), (4000, 10), (6000, 12), (8000, 15))


def sparse_rs(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    queries: int = 10_000,
    initial_fraction: float = 0.8,
    loss: Literal["cross_entropy", "margin"] = "cross_entropy",
    restarts: int = 1,
    targeted: Int[Tensor, "b"] | None = None,
    start: Float[Tensor, "b ..."] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change k pixels so that the model errs, by asking it for scores only: black box, fixed budget.

    Source: Croce, Andriushchenko, Singh, Flammarion & Hein, "Sparse-RS: a versatile framework for
    query-efficient sparse black-box adversarial attacks", AAAI 2022, Algorithm 1 with the l0 sampling of
    section 3.  Used by Zhong et al. 2024 in sparse-AutoAttack with the defaults below.

    A set of k pixels carries colours from the corners of the box.  Each query takes some pixels out of the
    set and puts others in with fresh colours, and keeps the exchange if the loss improves; how many shrinks
    on a schedule.

    Args:
        model: any callable from inputs to logits (batch, class); no gradients are asked for.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: budget, unit and box.
        queries: forward passes per example and restart, apart from one on the clean input.
        initial_fraction: α_init, share of the set exchanged at the start of the schedule.
        loss: "cross_entropy", or "margin": the largest other logit minus the label's.
        restarts: independent searches; each begins with those not broken before.
        targeted: classes to reach instead of leaving y, or None.
        start: inputs to begin from, such as adversarials of a larger budget: the first set prefers the pixels
            they change, with their colours.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean; those not broken as the attempt of highest loss.

    Deviations from the authors' code, each a defect there: which pixels are exchanged is drawn for every
    example (theirs shares one draw in the batch), from streams of its own (theirs reseeds the global
    generator); success is a changed prediction (theirs stops at a tie); logits are not written to; k may equal
    the number of pixels, in which case colours are drawn anew in place.
    """
    checks.integer("queries", queries, 1)
    checks.real("initial_fraction", initial_fraction, 0.0, 1.0, open_low=True)
    checks.choice("loss", loss, ("cross_entropy", "margin"))
    checks.integer("restarts", restarts, 1)

    with searching(
        "sparse_rs", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, objective=loss
    ) as search:
        for restart in range(restarts):
            if len(search.rows):
                # draws are named by their step; a restart continues the numbering
                _search(search, queries, initial_fraction, restart * queries, start)
                start = None
        return search.finished()


def exchanged(query: int, queries: int, k: int, initial_fraction: float) -> int:
    """How many of the k pixels the query-th of `queries` exchanges (the schedule of the authors' code)."""
    iteration = int(query / queries * 10_000)
    divisor = next((d for last, d in _SCHEDULE if iteration <= last), 20)
    return max(int(initial_fraction / divisor * k), 1)


def _search(
    search: Search, queries: int, initial_fraction: float, first_step: int, start: Tensor | None
) -> None:
    """One random search.  M (a, k) is the set of pixels that carry `colours` (a, g, k)."""
    k, pixels = search.k, search.x.shape[2]
    table = None if search.allowed is None else search.allowed.nonzero().flatten()
    positions = torch.arange(pixels, device=search.x.device) if table is None else table
    n = len(positions)  # M holds indices into the n pixels that may change

    def written(M: Int[Tensor, "a m"]) -> Int[Tensor, "a m"]:
        return M if table is None else table[M]

    draw = _Draw(search, first_step, slots=0, moved=k)
    M = draw.outside(search.rows[:, None][:, :0], n)
    colours = search.corners(draw.coins(), written(M))
    if (given := search.start_from(start)) is not None:
        values, changed = given
        # the pixels that the start changes, filled up with those drawn
        preference = (
            changed[:, positions]
            .to(values.dtype)
            .mul_(2.0)
            .scatter_add_(1, M, torch.ones_like(M, dtype=values.dtype))
        )
        M = top_k(preference, k)
        kept = changed.gather(1, written(M))[:, None]
        colours = torch.where(kept, search.at(values, written(M)), colours)
    best, reached = search.score(search.inputs(written(M), colours))
    keep = search.record(best, reached, written(M), colours)
    if keep is not None:
        M, colours, best = M[keep], colours[keep], best[keep]

    for query in range(1, queries):
        if len(search.rows) == 0:
            return
        moved = exchanged(query, queries, k, initial_fraction)
        if n > k:
            moved = min(moved, n - k)
        draw = _Draw(search, first_step + query, slots=k, moved=moved)
        out = draw.slots()
        entering = draw.outside(M, n) if n > k else M.gather(1, out)
        coins = draw.coins() if moved > 1 else draw.coins_unlike_clean(written(entering))
        fresh = search.corners(coins, written(entering))

        M_new = M.scatter(1, out, entering)
        colours_new = colours.scatter(2, out[:, None].expand_as(fresh), fresh)
        objective, reached = search.score(search.inputs(written(M_new), colours_new))
        keep = search.record(objective, reached, written(M_new), colours_new)

        accepted = (objective > best)[:, None]
        best = torch.maximum(best, objective)
        M = torch.where(accepted, M_new, M)
        colours = torch.where(accepted[:, None], colours_new, colours)
        if keep is not None:
            M, colours, best = M[keep], colours[keep], best[keep]


class _Draw:
    """The random numbers of one query, from one call: words for slots, for pixels and for their colours."""

    def __init__(self, search: Search, step: int, *, slots: int, moved: int) -> None:
        self.search, self.moved, self._k = search, moved, slots
        slots = min(slots, 1) if moved == 1 else slots
        words = search.streams.bits(step, slots + moved * (1 + -(-search.x.shape[1] // 32)))
        self._slots, self._pixels = words[:, :slots], words[:, slots : slots + moved]
        self._colours = words[:, slots + moved :]

    def slots(self) -> Int[Tensor, "a m"]:
        """`moved` distinct entries of M, to leave it."""
        if self.moved == 1:
            return below(self._slots, self._k)
        return self._slots.topk(self.moved, dim=1).indices

    def outside(self, taken: Int[Tensor, "a t"], n: int) -> Int[Tensor, "a m"]:
        """`moved` distinct numbers of 0..n-1 outside `taken`, uniformly."""
        chosen: list[Tensor] = []
        for j in range(self.moved):
            # The r-th number not in a sorted set is r plus how many of the set come before it.
            taken = torch.cat([taken, *chosen[-1:]], dim=1).sort(1).values
            before = taken - torch.arange(taken.shape[1], device=taken.device)
            r = below(self._pixels[:, j : j + 1], n - taken.shape[1])
            chosen.append(r + (before <= r).sum(1, keepdim=True))
        return torch.cat(chosen, dim=1)

    def coins(self) -> Bool[Tensor, "a g m"]:
        """A fair bit for every channel of every moved pixel."""
        channels = self.search.x.shape[1]
        if channels == 1:
            return (self._colours & 1).bool()[:, None]
        words = self._colours.unflatten(1, (-1, self.moved))
        shifts = torch.arange(channels, device=words.device)
        return ((words[:, shifts // 32] >> (shifts % 32)[:, None]) & 1).bool()

    def coins_unlike_clean(self, positions: Int[Tensor, "a 1"]) -> Bool[Tensor, "a g 1"]:
        """Bits of a colour that differs from the clean one: a single exchange must not waste its query."""
        search, bits = self.search, self.coins()
        channels = bits.shape[1]
        if channels > 30:
            return bits  # equal with probability below 1e-9
        clean = search.at(search.x, positions)
        low, high = search.box_at(positions)
        is_high = clean == high
        is_corner = is_high | (clean == low)
        if channels == 1:
            return torch.where(is_corner, ~is_high, bits)
        # uniform over the other corners: flip the clean corner's bits by a non-zero pattern
        pattern = 1 + below(self._colours[:, :1], (1 << channels) - 1)
        flips = ((pattern >> torch.arange(channels, device=bits.device)) & 1).bool()
        return torch.where(is_corner.all(1, keepdim=True), is_high ^ flips[:, :, None], bits)
