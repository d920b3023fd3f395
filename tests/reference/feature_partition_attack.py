"""An attack that knows which pixels share a vote: in each group, the pixel and corner of the cube that cost most."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from zeronorm.models.feature_partition import FeaturePartition


@torch.inference_mode()
def by_groups(network: FeaturePartition, image: Tensor, answer: int, budgets: Sequence[int]) -> list[bool]:
    """Whether so many changed pixels of (c, height, width) can be found that move the answer of soft votes.

    Of one partition this is the best change of corners with one pixel for each group, for every rival: groups add up.
    Of several the pixels are chosen one after the other, by what they take from all of their groups as these are.
    """
    c, height, width = image.shape
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=c)), dtype=image.dtype)
    pixels = torch.arange(height * width)
    taken = torch.zeros(height * width, len(corners), network.classes, dtype=image.dtype)
    clean = [network.preferences(image[None], v)[0] for v in range(network.partitions)]
    # pixels of different groups are tried in one pass: as many passes as a group has pixels, for each corner
    for v in range(network.partitions):
        for place in network.members[v].T:
            tried = image.flatten(1).repeat(len(corners), 1, 1)
            some = place[place < height * width]
            tried[:, :, some] = corners[:, :, None]
            now = network.preferences(tried.view(-1, c, height, width), v)
            owner = network.owner[v, some]
            fall = clean[v][None, owner, answer] - now[:, owner, answer]  # (corners, some, rival)
            taken[some] += fall.movedim(0, 1)
    broken = [False] * len(budgets)
    for rival in range(network.classes):
        if rival == answer:
            continue
        most, corner = taken[..., rival].max(1)
        spent = torch.zeros_like(most, dtype=torch.bool)
        changed, now = [], image.flatten(1).clone()
        for _ in range(max(budgets)):
            changed.append(now.clone())
            if not bool(spent.all()):
                pixel = int(most.masked_fill(spent, -torch.inf).argmax())
                now[:, pixel] = corners[corner[pixel]]
                for v in range(network.partitions):
                    spent |= network.owner[v] == network.owner[v, pixel]
                spent |= pixels == pixel
        changed.append(now)
        tried = torch.stack([changed[k] for k in budgets]).view(-1, c, height, width)
        found = network(tried).argmax(1) != answer
        broken = [before or bool(now) for before, now in zip(broken, found, strict=True)]
    return broken
