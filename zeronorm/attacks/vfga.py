"""Voting folded Gaussian attack (Hajri et al. 2020): one more position a step, moved by the best of random amounts."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.minimal_search import searching_minimal
from zeronorm.attacks.search import Model
from zeronorm.threat_model import L0


def vfga(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 1_000,
    samples: int = 10,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    checks.integer("steps", steps, 0)
    checks.integer("samples", samples, 1)
    with searching_minimal("vfga", model, x, y, threat, targeted=targeted, seed=seed, ids=ids) as minimal:
        search = minimal.search
        v = search.x.clone()
        free = torch.ones_like(v[:, 0], dtype=torch.bool)
        if search.allowed is not None:
            free &= search.allowed
        for step in range(min(steps, search.k)):
            if len(search.rows) == 0:
                break
            _, _, G = search.score_and_gradient(v)
            low, high = (torch.as_tensor(b).to(v) for b in (search.low, search.high))
            end = torch.where(G > 0, high, low)
            gain = (end - v).mul_(G)
            total = gain.sum(1)
            rises = gain.masked_fill_(G <= 0, 0.0).sum(1) * 2 >= total
            worst = -1 / (1 + total)
            votes = torch.stack(
                [
                    torch.where(kind, total, worst).masked_fill_(~free, -math.inf).argmax(1)
                    for kind in (rises, ~rises)
                ],
                dim=1,
            )  # (a, 2)
            now, end = search.at(v, votes), search.at(end, votes)
            share = search.streams.normal(step, 2 * samples, v.dtype).abs_()
            best = v.new_full((len(v),), -math.inf)
            chosen, values = torch.full_like(search.rows, -1), now[:, :, 0]
            for i in range(2 * samples):
                j = i // samples
                f = share[:, i, None]
                value = torch.where(f < 1, now[:, :, j] + f * (end[:, :, j] - now[:, :, j]), end[:, :, j])
                candidate = v.scatter(2, votes[:, None, j : j + 1].expand(-1, v.shape[1], 1), value[:, :, None])
                candidate = search.clamp_(candidate)
                objective, reached = search.score(candidate)
                minimal.note(reached, candidate)
                better = objective > best
                best = torch.where(better, objective, best)
                chosen = torch.where(better, votes[:, j], chosen)
                values = torch.where(better[:, None], value, values)
                keep = minimal.leave(minimal.fewest <= search.k)
                if keep is not None:
                    state = (v, free, votes, now, end, share, best, chosen, values)
                    v, free, votes, now, end, share, best, chosen, values = (s[keep] for s in state)
                    if len(keep) == 0:
                        break
            at = chosen.clamp_min(0)
            v = torch.where((chosen >= 0)[:, None, None], search.clamp_(v.scatter(2, at[:, None, None].expand(-1, v.shape[1], 1), values[:, :, None])), v)
            free.scatter_(1, torch.where(chosen[:, None] >= 0, at[:, None].expand(-1, 2), votes), False)
        return minimal.finished()
