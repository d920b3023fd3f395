"""All supports and all corners of the box: the judge on inputs of a few positions."""

from __future__ import annotations

from itertools import combinations, product

import torch


def fewest_changes(model, x, y, threat, at_most, goal=None) -> int | None:
    """Least n <= at_most positions of one example `x` (...) that, moved to some corner, make the model err.

    None if there are none.  `goal` is what the prediction must satisfy, by default that it is not `y`.
    """
    goal = goal or (lambda prediction: prediction != y)
    batch = x[None]
    low, high = (threat.grid(bound)[0] for bound in threat.bounds(batch))
    clean = threat.grid(batch)[0]
    channels, positions = clean.shape
    allowed = threat.allowed_positions(batch)
    free = range(positions) if allowed is None else allowed.nonzero().flatten().tolist()
    for n in range(at_most + 1):
        candidates = []
        corners = torch.tensor(list(product([False, True], repeat=channels * n)), dtype=torch.bool)
        corners = corners.view(len(corners), channels, n)
        for support in combinations(free, n):
            at = list(support)
            grid = clean.repeat(len(corners), 1, 1)
            grid[:, :, at] = torch.where(corners, high[:, at], low[:, at])
            candidates.append(grid)
        if candidates:
            inputs = torch.cat(candidates).view(-1, *x.shape)
            if goal(model(inputs).argmax(1)).any():
                return n
    return None
