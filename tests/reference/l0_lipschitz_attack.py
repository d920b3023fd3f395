"""A greedy attack that reads the tables of an ℓ0-Lipschitz network: the strongest one could wish for by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from zeronorm.models.l0_lipschitz import L0Lipschitz


def greedy(network: L0Lipschitz, image: Tensor, answer: int, k: int) -> bool:
    """Whether k changed pixels of (c, height, width) can be found that move the answer."""
    return greedy_image(network, image, answer, k) is not image


def greedy_image(network: L0Lipschitz, image: Tensor, answer: int, k: int) -> Tensor:
    """The image of (1, height, width) with k changed pixels that move the answer, or itself if none are found.

    For every rival: pixel by pixel, the code that lowers g_yc most as the templates now chosen have it, the k best at
    once; then again from there, as the maxima have moved, with pixels chosen anew.
    """
    net = network
    classes, side, (height, width) = net.classes, net.patches, net.patch
    pairs = [(y, c) for y in range(classes) for c in range(classes) if y != c]
    clean = net.encode(image[None])[:, 0].view(side**2, height * width, -1)
    zero = torch.zeros_like(clean[..., :1])
    tables = torch.cat([torch.zeros_like(net.tables.unflatten(2, (height * width, -1))[..., :1]),
                        net.tables.unflatten(2, (height * width, -1))], dim=3).float()  # fmt: skip
    full = torch.cat([1 - clean.sum(2, keepdim=True) + zero, clean], dim=2)  # one-hot with code 0
    for rival in range(classes):
        if rival == answer:
            continue
        now = full
        for _ in range(4):
            moves = torch.zeros(side**2, height * width, tables.shape[3])
            for pair, sign in (((answer, rival), 1.0), ((rival, answer), -1.0)):
                moves += sign * _chosen(net, tables, now, pairs.index(pair))
            own = (moves * full).sum(2, keepdim=True)
            gain, code = (own - moves).max(2)  # against the clean pixel
            best = gain.flatten().topk(k).indices
            now = full.clone().view(-1, full.shape[2])
            now[best] = torch.nn.functional.one_hot(code.flatten()[best], full.shape[2]).float()
            now = now.view_as(full)
            margins = net.margins_of(now[..., 1:].reshape(side**2, 1, -1))[0]
            if int(margins[pairs.index((answer, rival))]) < 0:
                return _decoded(net, now, image)
    return image


def _decoded(net: L0Lipschitz, now: Tensor, image: Tensor) -> Tensor:
    """An image of these codes, (s, p, code), of one channel: as it was where the code is the same."""
    height, width = net.patch
    side = net.patches
    code = now.argmax(2).view(side, side, height, width).permute(0, 2, 1, 3).reshape(image.shape[1:])
    value = torch.cat([net.thresholds[:1] - 1, net.thresholds + 1e-3])[code].to(image)
    return torch.where(code == net.code(image[None])[0], image[0], value)[None]


def _chosen(net: L0Lipschitz, tables: Tensor, now: Tensor, pair: int) -> Tensor:
    """The tables (s, p, code) of the templates that a pair's case now consists of."""
    each = net.units * net.templates
    mine = tables[:, pair * each : (pair + 1) * each]
    z = (mine * now[:, None]).sum((2, 3)) + net.offsets[:, pair * each : (pair + 1) * each]
    z = z.view(len(z), net.units, net.templates)
    best, template = z.max(2)
    unit = int(best.sum(0).argmax())
    rows = unit * net.templates + template[:, unit]
    return mine[torch.arange(len(mine)), rows]
