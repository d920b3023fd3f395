"""Attacks that know the inside of what they attack: what a certificate's radius has to withstand.

Each takes `(model, image (c, h, w), answer, k)` and returns an image with up to k changed pixels: one that is answered
otherwise, if it finds any.
"""

from __future__ import annotations

import torch
from feature_partition_attack import by_groups as by_groups
from l0_lipschitz_attack import greedy_image
from torch import Tensor

import zeronorm as zn
from zeronorm.models import Classifier, NearestNeighbour

FAR = 1e6


def by_gradients(model: torch.nn.Module, image: Tensor, answer: int, k: int) -> Tensor:
    """Of any network, in its box: the pixels that gradients name, exchanged as they do."""
    y = torch.tensor([answer])
    return zn.attacks.guided_exchange(model, image[None], y, zn.L0(k), steps=5)[0]


def by_tables(model: Classifier, image: Tensor, answer: int, k: int) -> Tensor:
    """Of an ℓ0-Lipschitz network, which is read table by table."""
    return greedy_image(model.network, image, answer, k)


def away_from_the_nearest(model: NearestNeighbour, image: Tensor, answer: int, k: int) -> Tensor:
    """Towards the nearest example of each other class, by pixels in which it differs from the nearest of its own."""
    code = model.code(image[None])
    distance = (model.codes.long() != code).sum(1)
    own = model.classes_of == answer
    mine = model.codes[own][distance[own].argmin()].long()
    values = torch.tensor([float(model.levels[0]) - 1, *(model.levels + 1e-3).tolist()]).to(image)
    for rival in set(model.classes_of.tolist()) - {answer}:
        theirs = model.classes_of == rival
        for other in model.codes[theirs][distance[theirs].argsort()[:5]].long():
            # nearer to the other and further from its own; then what is one of the two
            gain = (code[0] != other).int() + (code[0] == mine).int() - 2 * (mine == other).int()
            where = gain.argsort(descending=True)[:k]
            changed = image.flatten(1).clone()
            changed[0, where] = values[other[where]]
            if int(model(changed.view(1, *image.shape)).argmax()) != answer:
                return changed.view_as(image)
    return image


@torch.no_grad()
def by_windows(model: torch.nn.Module, image: Tensor, answer: int, k: int) -> Tensor:
    """Of a truncated network: pixels are sent so far, up or down, that their products leave every window.

    For the two nearest rivals the pixel and sign that help most, one after the other; then some choices again, with the
    others as they are.
    """
    pixels = image[0].numel()
    ends = torch.eye(pixels).view(pixels, *image.shape[1:])
    candidates = torch.cat([ends, -ends]) * FAR

    def tried(now: Tensor) -> Tensor:
        moved = torch.where((candidates != 0)[:, None].expand(-1, *image.shape), candidates[:, None], now)
        return model(moved)

    nearest = model(image[None])[0].argsort(descending=True).tolist()
    for rival in [j for j in nearest if j != answer][:2]:
        chosen: list[int] = []
        now = image.clone()
        for step in range(k + 2):
            if step >= k:  # exchange the oldest
                chosen.pop(0)
                now = image.clone()
                for place in chosen:
                    now[:, candidates[place] != 0] = candidates[place][candidates[place] != 0]
            z = tried(now)
            z[torch.tensor([p % pixels for p in chosen], dtype=torch.int64)] = -torch.inf
            z[torch.tensor([p % pixels + pixels for p in chosen], dtype=torch.int64)] = -torch.inf
            lead = (z[:, rival] - z[:, answer]).nan_to_num(nan=-torch.inf)
            best = int(lead.argmax())
            chosen.append(best)
            now[:, candidates[best] != 0] = candidates[best][candidates[best] != 0]
            if len(chosen) <= k and int(model(now[None]).argmax()) != answer:
                return now
    return image
