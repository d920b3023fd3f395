"""CornerSearch (Croce & Hein 2019): combine the one-pixel changes that scored best alone.

a, m    examples still under attack, and those of them that a pass is about
c       candidates of one example that are judged together
e       one-pixel changes, "corners": the number of an entry is position * 2^g + colour
g, p    the grid of an input: channels that change together, positions that are counted
j       classes, and orderings: there is one for each class
n       changes that one candidate combines
r       ranks in an ordering
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks, losses
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.minimal_search import MinimalSearch, searching_minimal
from zeronorm.errors import ArgumentError
from zeronorm.seeding import below
from zeronorm.threat_model import L0

_CHANNELS = 8  # a pixel has 256 corners then
_BLOCK = 128  # candidates of one example that are judged together: results depend on it, not on `pass_size`


@on_columns(gradients=False)
def corner_search(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    queries: int | None = None,
    samples: int = 1000,
    candidates: int = 100,
    pass_size: int = 1024,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change as few pixels as possible so that the model errs, by asking it for scores only: black box, minimal.

    Source: Croce & Hein, "Sparse and imperceivable adversarial attacks", ICCV 2019, section 3, without bounds
    on the size of a change.

    Every pixel is moved alone to every corner of its box: whether one pixel suffices is known exactly.  For
    every class j these changes are ordered by how much they favour it, z_j - z_y (for j = y: the largest other
    logit minus z_y).  Then, from n = 2 pixels on, candidates combine n changes drawn with replacement from the
    best N of an ordering, the one of rank r with probability (2 (N - r) - 1) / N².

    Args:
        model: any callable from inputs to logits (batch, class); no gradients are asked for.
        x: clean inputs, inside the threat model's box; at most 8 channels, as a pixel has 2^channels corners.
        y: true labels.
        threat: unit and box; its budget bounds the search, and so does `candidates`.
        queries: forward passes per example at most, apart from one on the clean input; None for as the
            search needs.  If there are fewer than corners, three in four try some corners, at random; what is
            left after the corners is shared among the numbers of pixels.
        samples: N_iter, candidates for each number of pixels and ordering.
        candidates: N, the best changes of an ordering.
        pass_size: inputs of one pass, at most (never fewer than 128): what bounds the memory.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already come back
        clean, and so do those for which nothing was found.

    Deviations from the authors' code: before any draw, the n best changes of an ordering are tried together,
    for n = 2, 3, ...; that is optimal on linear models, and no more pixels need be drawn for than suffice
    here.  Of up to 128 candidates judged together the sparsest success is kept (theirs: the first).  Orderings
    are searched from the one with the best corner on.  Corrected: any number of classes, images of any shape;
    the label's own logit is masked by -infinity; random numbers are the example's own.
    """
    if queries is not None:
        checks.integer("queries", queries, 1)
    checks.integer("samples", samples, 1)
    checks.integer("candidates", candidates, 1, 40_000)
    checks.integer("pass_size", pass_size, 1)

    with searching_minimal(
        "corner_search", model, x, y, threat, targeted=None, seed=seed, ids=ids
    ) as minimal:
        batch = minimal.batch
        corners = _Corners(minimal, pass_size)
        if len(batch.rows) == 0:
            return minimal.finished()
        tried = corners.count if queries is None or queries >= corners.count else -(-3 * queries // 4)
        best = _one_pixel(corners, tried, candidates)
        left = None if queries is None else torch.full_like(batch.rows, queries - tried)
        if len(batch.rows) == 0:
            return minimal.finished()
        orderings, most = best.shape[1], min(batch.k, best.shape[2])

        # the best n changes of each ordering together
        suffices = torch.full_like(batch.rows, most + 1)
        distinct = _distinct(best, corners.colours)
        for n in range(2, most + 1):
            todo = suffices > n
            if left is not None:
                todo &= left >= orderings
                left -= orderings * todo
            of = todo.nonzero().flatten()
            if len(of) == 0:
                break
            _, found = corners.judge(of, distinct[of, :, :n])
            suffices[of[found]] = n

        # random combinations, of fewer pixels than that
        share = torch.full_like(batch.rows, samples)
        if left is not None:
            share = torch.minimum(share, left // ((suffices - 2).clamp_min_(1) * orderings))
        blocks = -(-samples // _BLOCK)
        for n in range(2, most + 1):
            if (keep := minimal.leave(suffices <= n)) is not None:
                best, suffices, share = best[keep], suffices[keep], share[keep]
            for ordering in range(orderings):
                for block in range(blocks):
                    size = (share - block * _BLOCK).clamp_(0, _BLOCK).masked_fill_(suffices <= n, 0)
                    of = size.nonzero().flatten()
                    if len(of) == 0:
                        break
                    step = 1 + (n * orderings + ordering) * blocks + block
                    bits = batch.streams.select(of).bits(step, _BLOCK * n)
                    entries = best[of, ordering].gather(1, ranks(bits, best.shape[2]))
                    _, found = corners.judge(of, entries.unflatten(1, (_BLOCK, n)), size[of])
                    suffices[of[found]] = n
        return minimal.finished()


def ranks(bits: Int[Tensor, "m r"], candidates: int) -> Int[Tensor, "m r"]:
    """Random ranks 0 .. N-1 from 64-bit words: rank r with probability (2 (N - r) - 1) / N², the paper's."""
    u = below(bits, candidates**2)
    return candidates - 1 - u.double().sqrt_().long()


def _one_pixel(corners: _Corners, tried: int, candidates: int) -> Int[Tensor, "a j r"]:
    """Try every pixel alone in every corner; examples that break leave.  Returns the best corners of each ordering."""
    minimal, batch = corners.minimal, corners.minimal.batch
    if tried < corners.count:
        visit = batch.streams.bits(0, corners.count).argsort(dim=1)[:, :tried]
    else:
        visit = torch.arange(tried, device=batch.x.device).expand(len(batch.rows), -1)
    score, best = batch.x.new_zeros(len(batch.rows), 0, 0), visit[:, None, :0]
    for offset in range(0, tried, _BLOCK):
        if len(batch.rows) == 0:
            break
        entries = visit[:, offset : offset + _BLOCK]
        z, _ = corners.judge(torch.arange(len(batch.rows), device=visit.device), entries[:, :, None])
        y = batch.goal[:, None, None]
        untargeted = losses.margin(z.flatten(0, 1), batch.goal.repeat_interleave(z.shape[1]))
        favoured = z - z.gather(2, y.expand(-1, z.shape[1], 1))
        favoured.scatter_(2, y.expand(-1, z.shape[1], 1), untargeted.view_as(entries)[:, :, None])
        favoured = favoured.nan_to_num_(-torch.inf, -torch.inf, -torch.inf).transpose(1, 2)
        if offset == 0:
            score, best = favoured[:, :, :0], entries[:, None, :0].expand(-1, z.shape[2], -1)
        score, order = torch.cat([score, favoured], 2).sort(dim=2, descending=True, stable=True)
        best = torch.cat([best, entries[:, None].expand_as(favoured)], 2).gather(2, order)
        score, best = score[:, :, :candidates], best[:, :, :candidates]
        if (keep := minimal.leave(minimal.fewest == 1)) is not None:
            visit, score, best = visit[keep], score[keep], best[keep]
    # the orderings with the best corner come first
    order = score[:, :, :1].argsort(dim=1, descending=True, stable=True)
    return best.gather(1, order.expand_as(best))


def _distinct(best: Int[Tensor, "a j r"], colours: int) -> Int[Tensor, "a j r"]:
    """Keep, in each ordering, the first change of every pixel; fill up the end with the first change again."""
    position, order = (best // colours).sort(dim=2, stable=True)
    again = torch.zeros_like(best, dtype=torch.bool)
    again[:, :, 1:] = position[:, :, 1:] == position[:, :, :-1]
    again = torch.zeros_like(again).scatter_(2, order, again)
    return best.where(~again, best[:, :, :1]).gather(2, again.int().argsort(dim=2, stable=True))


class _Corners:
    """The changes of single pixels to corners of their box, and passes over inputs that combine them."""

    def __init__(self, minimal: MinimalSearch, pass_size: int) -> None:
        self.minimal, self.pass_size = minimal, pass_size
        batch = minimal.batch
        channels, pixels = batch.x.shape[1:]
        if channels > _CHANNELS:
            raise ArgumentError(
                f"x: corner_search tries all 2^channels corners of a pixel, expected at most {_CHANNELS} "
                f'channels, got {channels}; with unit="feature" they count one by one'
            )
        device = batch.x.device
        positions = torch.arange(pixels, device=device)
        self._positions = positions if batch.allowed is None else positions[batch.allowed]
        self.colours = 1 << channels
        self.count = len(self._positions) * self.colours
        codes, channel = torch.arange(self.colours, device=device), torch.arange(channels, device=device)
        self._bits = ((codes[:, None] >> channel) & 1).bool()  # (colour, channel)

    def judge(
        self, of: Int[Tensor, "m"], entries: Int[Tensor, "m c n"], size: Int[Tensor, "m"] | None = None
    ) -> tuple[Float[Tensor, "m c j"], Bool[Tensor, "m"]]:
        """The logits of candidates for the examples `of`, and which examples one of them broke; the sparsest is noted.

        With `size`, only so many candidates of each example are asked about; the logits of others are NaN.
        """
        batch = self.minimal.batch
        c = entries.shape[1]
        logits = []
        # an example's candidates share a pass, so that its passes can be counted
        for some in torch.arange(len(of), device=of.device).split(max(self.pass_size // c, 1)):
            inputs, owner = self._inputs(of[some], entries[some]), of[some].repeat_interleave(c)
            if size is None:
                logits.append(batch.logits(inputs, owner).unflatten(0, (-1, c)))
                continue
            asked = (torch.arange(c, device=of.device) < size[some][:, None]).flatten()
            z = batch.logits(inputs[asked], owner[asked])
            logits.append(z.new_full((len(inputs), z.shape[1]), torch.nan).unflatten(0, (-1, c)))
            logits[-1].view(-1, z.shape[1])[asked] = z
        z = torch.cat(logits)
        reached = batch.at_goal(z.flatten(0, 1), of.repeat_interleave(c)).view(-1, c)
        return z, self._note(of, entries, reached)

    def _note(
        self, of: Int[Tensor, "m"], entries: Int[Tensor, "m c n"], reached: Bool[Tensor, "m c"]
    ) -> Bool[Tensor, "m"]:
        """Keep the sparsest success of each example (the first of several); returns which examples have one."""
        found = reached.any(1)
        if not found.any():
            return found
        batch, some = self.minimal.batch, found.nonzero().flatten()
        inputs = self._inputs(of[some], entries[some]).unflatten(0, (len(some), -1))
        changes = (inputs != batch.x[of[some], None]).any(2).sum(2)
        at = changes.masked_fill_(~reached[some] | (changes == 0), inputs.shape[3] + 1).argsort(
            dim=1, stable=True
        )
        everyone = batch.x.clone()
        everyone[of[some]] = inputs[torch.arange(len(some), device=at.device), at[:, 0]]
        reached = torch.zeros_like(batch.goal, dtype=torch.bool).index_fill_(0, of[some], True)
        return self.minimal.note(reached & (everyone != batch.x).flatten(1).any(1), everyone)[of]

    def _inputs(self, of: Int[Tensor, "m"], entries: Int[Tensor, "m c n"]) -> Float[Tensor, "mc g p"]:
        """The clean inputs with the changes written in turn: of several at one pixel, the last counts."""
        batch, (m, c, n) = self.minimal.batch, entries.shape
        channels, pixels = batch.x.shape[1:]
        position = self._positions[entries // self.colours].view(m * c, n)
        if n > 1:
            slots = torch.arange(n, dtype=torch.int32, device=of.device).expand_as(position)
            last = (
                slots.new_zeros(m * c, pixels).scatter_reduce_(1, position, slots, "amax").gather(1, position)
            )
            entries = entries.reshape(m * c, n).gather(1, last.long()).view(m, c, n)
        bits = self._bits[entries % self.colours].permute(0, 3, 1, 2).reshape(m, channels, c * n)
        at = position.view(m, 1, c * n).expand(-1, channels, -1)
        low, high = (v.expand(m, channels, pixels).gather(2, at) for v in batch.box_of(of))
        values = torch.where(bits, high, low).unflatten(2, (c, n))
        inputs = batch.x[of].repeat_interleave(c, 0)
        return inputs.scatter_(
            2, position[:, None].expand(-1, channels, -1), values.transpose(1, 2).reshape(m * c, channels, n)
        )
