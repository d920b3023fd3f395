"""Slow, obvious twins of sparse-PGD: one example, plain loops, a perturbation p ⊙ m as the paper writes it.

x is one example (c, n): channels, pixels.  `model` maps (batch, c, n) to logits.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import cross_entropy


def top(scores: list[float], k: int) -> set[int]:
    """The k largest, ties to the lower index."""
    return set(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k])


def loss_and_gradient(model, x, y, δ):
    """Cross-entropy at x + δ, its gradient by δ, and whether the model errs there."""
    δ = δ.clone().requires_grad_()
    z = model((x + δ)[None])
    loss = cross_entropy(z, torch.tensor([y]))
    (G,) = torch.autograd.grad(loss, δ)
    return loss.item(), G, z.argmax(1).item() != y


def masked(p, chosen):
    """p ⊙ m."""
    m = torch.zeros(p.shape[1], dtype=p.dtype)
    m[list(chosen)] = 1
    return p * m


def moved_magnitudes(p, G, m̃, chosen, *, α, projected, x, low, high):
    g_p = masked(G, chosen) if projected else G * torch.sigmoid(m̃)
    return torch.clamp(p + α * torch.sign(g_p), low - x, high - x)


def moved_mask(m̃, G, p, *, β, γ):
    σ = torch.sigmoid(m̃)
    g = torch.zeros_like(m̃)
    for channel in range(p.shape[0]):
        g += G[channel] * p[channel] * σ * (1 - σ)
    norm = math.sqrt(sum(v * v for v in g.tolist()))
    return m̃ if norm < γ else m̃ + β * g / norm


def sparse_pgd(model, x, y, k, steps, p, draw, *, projected=False, tolerance=3, low=0.0, high=1.0):
    """The algorithm as this library means it: returns the first adversarial, or else the attempt of most loss.

    `p` are the first magnitudes, already in the box; `draw(t)` draws the mask anew before the t-th iterate.
    """
    α, β, γ = 0.25 * (high - low), 0.25 * math.sqrt(x.shape[1]), 2e-10
    m̃ = draw(0)
    chosen = top(m̃.tolist(), k)
    unchanged = 0
    most, attempt = -math.inf, x
    for t in range(steps + 1):
        δ = masked(p, chosen)
        loss, G, errs = loss_and_gradient(model, x, y, δ)
        if errs:
            return x + δ
        if loss > most:
            most, attempt = loss, x + δ
        redrawn = unchanged >= tolerance
        m̃_new = draw(t + 1) if redrawn else moved_mask(m̃, G, p, β=β, γ=γ)
        p = moved_magnitudes(p, G, m̃, chosen, α=α, projected=projected, x=x, low=low, high=high)
        m̃ = m̃_new
        before, chosen = chosen, top(m̃.tolist(), k)
        unchanged = 0 if redrawn or chosen != before else unchanged + 1
    return attempt


def published_sparse_pgd(model, x, y, k, steps, generator, *, projected=False, tolerance=3):
    """The algorithm as the authors published it, apart from its batch: whether it breaks the example.

    The first iterate is not tested; after a mask is drawn anew, the gradient at the old mask moves it first; the
    mask is ranked by its sigmoid, which saturates.
    """
    α, β, γ = 0.25, 0.25 * math.sqrt(x.shape[1]), 2e-10
    p = torch.clamp(2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1, -x, 1 - x)
    m̃ = torch.randn(x.shape[1], generator=generator, dtype=x.dtype)
    chosen = top(torch.sigmoid(m̃).tolist(), k)
    _, G, _ = loss_and_gradient(model, x, y, masked(p, chosen))
    unchanged = 0
    for _ in range(steps):
        p_new = moved_magnitudes(p, G, m̃, chosen, α=α, projected=projected, x=x, low=0.0, high=1.0)
        m̃ = moved_mask(m̃, G, p, β=β, γ=γ)
        p = p_new
        before, chosen = chosen, top(torch.sigmoid(m̃).tolist(), k)
        _, G, errs = loss_and_gradient(model, x, y, masked(p, chosen))
        if errs:
            return True
        unchanged = unchanged + 1 if chosen == before else 0
        if unchanged >= tolerance:
            m̃ = torch.randn(x.shape[1], generator=generator, dtype=x.dtype)
            unchanged = 0
    return False
