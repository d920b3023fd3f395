"""Inputs that break the model, decided on the model itself: unchanged entries are those of x, bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zeronorm.seeding import Streams
from zeronorm.threat_model import L0

_AT_ONCE = 32  # candidates in one pass of the local search


class Attempt:
    """One example at one budget: tries inputs, and keeps to the threat model whatever it is given."""

    def __init__(self, model: Any, x: Float[Tensor, "1 ..."], y: int, threat: L0) -> None:
        self.model, self.x, self.y, self.threat = model, x.contiguous(), y, threat
        self.low, self.high = threat.bounds(x)

    def __call__(self, candidates: Float[Tensor, "n c p"]) -> Tensor | None:
        """The first of the inputs, in float64, that is answered wrongly once it is one of the model's; or None."""
        if not len(candidates):
            return None
        before = self.x.double().reshape(1, *candidates.shape[1:]).cpu()
        given = candidates.to(self.x).reshape(-1, *self.x.shape[1:])
        made = torch.maximum(torch.minimum(given, self.high), self.low)
        changed = (candidates != before).to(self.x.device).reshape(made.shape)
        made = torch.where(changed, made, self.x)
        wrong = self.margin(made) < 0
        # a tie is decided as the model's user would
        for one in made[wrong | self.answered_wrong(made)]:
            if self.answered_wrong(one[None])[0] and bool(self.threat.contains(self.x, one[None])[0]):
                return one
        return None

    def answered_wrong(self, made: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(made).argmax(1) != self.y

    def margin(self, made: Tensor) -> Tensor:
        """How far the answer y is ahead."""
        with torch.no_grad():
            return _ahead(self.model(made), self.y)


def local_search(attempt: Attempt, passes: int, seed: int, identifier: int) -> Tensor | None:
    """The best exchange of units for units at the corners of the box, step by step; None after so many passes.

    The gradient says which units to try; where no exchange helps, it starts again from a random set.
    """
    x, threat = attempt.x, attempt.threat
    assert threat.k is not None
    grid_low, grid_high = threat.grid(attempt.low)[0], threat.grid(attempt.high)[0]
    channels, places = grid_low.shape
    allowed = threat.allowed_positions(x)
    stream = Streams(seed, torch.tensor([identifier]), "bound_propagation")
    spent, start, current = 0, 0, x.clone()
    best = float(attempt.margin(x)[0])
    while spent < passes:
        wanted = current.detach().requires_grad_()
        with torch.enable_grad():
            ahead = _ahead(attempt.model(wanted), attempt.y).sum()
            (gradient,) = torch.autograd.grad(ahead, wanted)
        spent += 2
        now, slope = threat.grid(current)[0], threat.grid(gradient)[0]
        ends = torch.where(slope > 0, grid_low, grid_high)
        gain = (slope * (now - ends)).sum(0)
        changed = (threat.grid(current)[0] != threat.grid(x)[0]).any(0)
        if allowed is not None:
            gain = gain.masked_fill(~allowed, -torch.inf)
        # more of the changed units' entries, or other units in their place
        order = gain.masked_fill(changed, -torch.inf).argsort(descending=True)[:_AT_ONCE]
        taken = changed.nonzero()[:, 0].tolist()
        moves: list[tuple[int | None, int]] = [(None, p) for p in taken]
        if len(taken) < threat.k:
            moves += [(None, int(p)) for p in order]
        else:
            moves += [(q, int(p)) for p in order[: max(1, _AT_ONCE // max(1, len(taken)))] for q in taken]
        tried = current.repeat(len(moves), *[1] * (x.dim() - 1))
        view, home = threat.grid(tried), threat.grid(x)[0]
        for i, (out, into) in enumerate(moves):
            if out is not None:
                view[i, :, out] = home[:, out]
            view[i, :, into] = ends[:, into]
        margins = attempt.margin(tried)
        spent += len(moves)
        i = int(margins.argmin())
        if float(margins[i]) < best:
            best, current = float(margins[i]), tried[i : i + 1]
            if best <= 0:
                found = attempt(current.double().reshape(1, *_flat(x)).cpu())
                if found is not None:
                    return found
            continue
        choice = stream.uniform(2 * start, places)[0].argsort()
        if allowed is not None:
            choice = choice[allowed.cpu()[choice]]
        up = stream.uniform(2 * start + 1, channels * places)[0].view(channels, places) < 0.5
        start += 1
        current = x.clone()
        view, some = threat.grid(current), choice[: threat.k]
        view[0][:, some] = torch.where(up.to(x.device), grid_high, grid_low)[:, some]
        best = float(attempt.margin(current)[0])
        spent += 1
    return None


def _flat(x: Tensor) -> tuple[int, int]:
    channels = x.shape[1] if x.dim() == 4 else 1
    return channels, x[0].numel() // channels


def _ahead(logits: Tensor, y: int) -> Float[Tensor, "n"]:
    others = torch.arange(logits.shape[1], device=logits.device) != y
    return logits[:, y] - logits[:, others].amax(1)
