"""A slow, obvious twin of Sparse-RS, as its authors wrote it: one example, one query at a time."""

from __future__ import annotations

import random

import torch
from torch.nn.functional import cross_entropy

SCHEDULE = [(0, 1), (50, 2), (200, 4), (500, 5), (1000, 6), (2000, 8), (4000, 10), (6000, 12), (8000, 15)]


def exchanged(i, queries, k, α_init):
    """How many pixels the i-th query exchanges."""
    rescaled = int(i / queries * 10_000)
    divisor = 20
    for last, share in reversed(SCHEDULE):
        if rescaled <= last:
            divisor = share
    return max(int(α_init / divisor * k), 1)


def published_sparse_rs(model, x, y, k, queries, seed, *, α_init=0.8, margin=False):
    """Whether it breaks the example x (c, n); `model` maps (batch, c, n) to logits."""
    numbers = random.Random(seed)
    channels, pixels = x.shape

    def colour():
        return torch.tensor([float(numbers.getrandbits(1)) for _ in range(channels)], dtype=x.dtype)

    def ask(colours):
        v = x.clone()
        for pixel, c in colours.items():
            v[:, pixel] = c
        z = model(v[None])[0]
        others = torch.cat([z[:y], z[y + 1 :]])
        lead = (z[y] - others.max()).item()
        return lead if margin else -cross_entropy(z[None], torch.tensor([y])).item(), z.argmax().item() != y

    colours = {pixel: colour() for pixel in numbers.sample(range(pixels), k)}
    best, errs = ask(colours)
    for i in range(1, queries):
        if errs:
            return True
        k_i = exchanged(i, queries, k, α_init)
        out = set(numbers.sample(sorted(colours), k_i))
        entering = numbers.sample([pixel for pixel in range(pixels) if pixel not in colours], k_i)
        candidate = {pixel: c for pixel, c in colours.items() if pixel not in out}
        for pixel in entering:
            candidate[pixel] = colour()
            while k_i == 1 and torch.equal(candidate[pixel], x[:, pixel]):
                candidate[pixel] = colour()
        loss, errs = ask(candidate)
        if loss < best or errs:
            best, colours = loss, candidate
    return errs
