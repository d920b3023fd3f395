"""An attack that knows which pixels share a vote: in each group, the pixel and corner of the cube that cost most."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from zeronorm.models import Classifier
from zeronorm.models.feature_partition import FeaturePartition


@torch.inference_mode()
def by_groups(model: Classifier, image: Tensor, answer: int, k: int) -> Tensor:
    """The image (c, height, width) with up to k changed pixels that move the answer of soft votes, if any are found.

    Of one partition this is the best change of corners with one pixel for each group, for every rival: groups add up.
    Of several the pixels are chosen one after the other, by what they take from all of their groups as these are.
    """
    network = model.network
    assert isinstance(network, FeaturePartition) and not network.hard
    c, height, width = image.shape
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=c)), dtype=image.dtype)
    pixels = torch.arange(height * width)
    taken = torch.zeros(height * width, len(corners), network.classes, dtype=image.dtype)
    clean = [network.preferences(model.normalize(image[None]), v)[0] for v in range(network.partitions)]
    # pixels of different groups are tried in one pass: as many passes as a group has pixels, for each corner
    for v in range(network.partitions):
        for place in network.members[v].T:
            tried = image.flatten(1).repeat(len(corners), 1, 1)
            some = place[place < height * width]
            tried[:, :, some] = corners[:, :, None]
            now = network.preferences(model.normalize(tried.view(-1, c, height, width)), v)
            owner = network.owner[v, some]
            fall = clean[v][None, owner, answer] - now[:, owner, answer]  # (corners, some, rival)
            taken[some] += fall.movedim(0, 1)
    found = image
    for rival in range(network.classes):
        if rival == answer:
            continue
        most, corner = taken[..., rival].max(1)
        spent = torch.zeros_like(most, dtype=torch.bool)
        changed = image.flatten(1).clone()
        for _ in range(k):
            if bool(spent.all()):
                break
            pixel = int(most.masked_fill(spent, -torch.inf).argmax())
            changed[:, pixel] = corners[corner[pixel]]
            for v in range(network.partitions):
                spent |= network.owner[v] == network.owner[v, pixel]
            spent |= pixels == pixel
        found = changed.view_as(image)
        if int(model(found[None]).argmax()) != answer:
            break
    return found
