"""Models whose steps under attack can be written out by hand, and that note what they are shown."""

from __future__ import annotations

import torch

G = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)  # the slope of `Linear`; l1 length 6.5
CLEAN = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)  # an input for it


class Linear:
    """Two classes, of which the other trails far behind: the log-odds are G x - lead.  Notes what it sees."""

    def __init__(self, lead=1000.0):
        self.lead, self.seen = lead, []

    def __call__(self, x):
        self.seen.append(x[0].detach().flatten().tolist())
        z = x.flatten(1) @ G - self.lead
        return torch.stack([torch.zeros_like(z), z], dim=1)


def watched(model, seen):
    def called(x):
        seen.append(x[0].detach().flatten().clone())
        return model(x)

    return called


def net(entries, seed=0, sure=4.0):
    """Two classes, so that the log-odds are the margin; the first leads at the start."""
    generator = torch.Generator().manual_seed(seed)
    hidden = 1.5 * torch.randn(entries, 12, generator=generator, dtype=torch.float64)
    out = torch.randn(12, generator=generator, dtype=torch.float64)

    def model(x):
        z = ((x.flatten(1) - 0.5) @ hidden).tanh() @ out - sure
        return torch.stack([torch.zeros_like(z), z], dim=1)

    return model
