"""Adversarial training within an ℓ∞ ball (Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards deep learning models
resistant to adversarial attacks", ICLR 2018): cross-entropy where projected gradient descent ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.attacks.search import evaluation_mode
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.seeding import Streams
from zeronorm.threat_model import Linf


def perturbed(
    model: nn.Module,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: Linf,
    *,
    steps: int,
    step_size: float,
    start: Float[Tensor, "b ..."],
) -> Float[Tensor, "b ..."]:
    """Where `steps` signed gradient steps from `start` end, whether they break the model or not.

    An attack stops at the first success; to train on, the largest loss is wanted.
    """
    low, high = threat.bounds(x)
    v = start.clamp(low, high)
    with evaluation_mode(model):
        for _ in range(steps):
            leaf = v.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
            v = (v + step_size * gradient.sign()).clamp(low, high)
    return v.detach()


def train_within_linf(
    model: nn.Module,
    data: Dataset,
    threat: Linf,
    *,
    steps: int = 40,
    step_size: float | None = None,
    epochs: int = 20,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 128,
    seed: int = 0,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Train `model` in place on the worst inputs that PGD finds within the threat model.

    Each batch is attacked from random points of the ball, with `steps` steps of `step_size` (None: ε / 4), the
    model in evaluation mode.  Stochastic gradient descent, the learning rate falling to 0 along a cosine.  A
    front end trains along: its `gradient` says how the attack sees through it.

    **Returns:** one row per epoch: mean loss and accuracy on the perturbed inputs as they were learnt.
    """
    if not isinstance(threat, Linf):
        raise ArgumentError(f"threat: expected an Linf threat model, got {type(threat).__name__}")
    checks.integer("steps", steps, 1)
    checks.integer("epochs", epochs, 1)
    step_size = threat.epsilon / 4 if step_size is None else checks.real("step_size", step_size, 0.0)
    threat.check_inputs(data.x)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(data) // batch_size))
    history: list[dict[str, Any]] = []
    model.train()
    for epoch in range(1, epochs + 1):
        total, right = 0.0, 0
        for rows in Streams(seed, data.ids, "shuffle").order(epoch).split(batch_size):
            x, y = data.x[rows], data.y[rows]
            u = Streams(seed, data.ids[rows], "linf adversarial").uniform(epoch, x[0].numel(), x.dtype)
            start = x + threat.epsilon * (2 * u.view_as(x) - 1)
            v = perturbed(model, x, y, threat, steps=steps, step_size=step_size, start=start)
            logits = model(v)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
            right += int((logits.argmax(1) == y).sum())
        history.append({"epoch": epoch, "loss": total / len(data), "accuracy": right / len(data)})
        progress(history[-1])
    model.eval()
    return history
