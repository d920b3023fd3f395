"""Training ℓ0-Lipschitz networks: cross-entropy on the logits after the worst changes.

s, p    patches, and the pixels of each
u       templates: pairs of classes (y, c) times units times templates, as in `models.l0_lipschitz`
l       codes of a pixel
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.models import Classifier
from zeronorm.models.l0_lipschitz import STEP, L0Lipschitz
from zeronorm.training.plan import TrainingPlan

_WARM_UP = 0.3  # share of the steps over which the learning rate and the budget rise
_SEEDED = 3000  # examples of each class from which its templates start


def train_l0_lipschitz(
    model: Classifier,
    data: Dataset,
    plan: TrainingPlan,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Classifier:
    """Train a model of `build("l0_lipschitz")` on a data set, in place, on the CPU; returns it.

    Of the plan, the options of the method "l0_lipschitz" are read; its defaults suit MNIST, a minute and a half on one
    core.  `progress` is called after every step with its number, that of all steps, and the loss.

    Templates start as centres of the class's patches (k-means) less the rival's mean.  The loss of an example of
    class y is the cross-entropy of the logits 0 for y and 2b - g_yc for every c: what b changes may turn them into.
    b rises from 0 over the first steps; tables are clamped to half a pixel either way after each (Adam, one-cycle
    rate).  At the end they are rounded to whole numbers.  The same plan and threads give the same tables.

    **Raises:** `ArgumentError` for another kind of model, or data that do not fit it.
    """
    network = model.network
    if not isinstance(network, L0Lipschitz):
        raise ArgumentError(f"model: expected an l0_lipschitz network, got {model.architecture}")
    model(data.x[:1])
    if int(data.y.max()) >= network.classes or len(data.y.unique()) < network.classes:
        raise ArgumentError(
            f"data: expected examples of {network.classes} classes, got {len(data.y.unique())}"
        )
    generator = torch.Generator().manual_seed(plan.seed)
    encoded = torch.cat([network.encode(part).bool() for part in data.x.split(1000)], dim=1)
    smooth = _Smooth(network, plan, encoded, data.y, generator)
    steps_per_epoch = max(1, len(data) // plan.batch_size)
    steps = plan.epochs * steps_per_epoch
    for epoch in range(plan.epochs):
        order = torch.randperm(len(data), generator=generator)
        for step, rows in enumerate(order.tensor_split(steps_per_epoch), start=epoch * steps_per_epoch):
            loss = smooth.learn(encoded[:, rows].float(), data.y[rows], step / steps)
            progress(step + 1, steps, loss)
    smooth.round_into(network)
    return model


class _Smooth:
    """The network during training, with real-valued tables and smooth maxima."""

    def __init__(
        self,
        network: L0Lipschitz,
        plan: TrainingPlan,
        encoded: Bool[Tensor, "s n pq"],
        y: Int[Tensor, "n"],
        generator: torch.Generator,
    ) -> None:
        self.plan, self.classes, self.opposite = plan, network.classes, network.opposite
        self.shape = network.units, network.templates
        self.tables = _first_tables(network, encoded, y, generator).requires_grad_()
        self.offsets = torch.zeros(self.tables.shape[:2], requires_grad=True)
        self.optimizer = torch.optim.Adam([self.tables, self.offsets], lr=plan.lr)
        c = torch.arange(self.classes - 1)
        # the rivals of each class, in the order of its pairs
        self.rivals = torch.stack([c + (c >= y) for y in range(self.classes)])

    def learn(self, encoded: Float[Tensor, "s b pq"], y: Int[Tensor, "b"], share: float) -> float:
        """Take one step and return its loss; `share` is the part of the training that is done."""
        plan = self.plan
        rising, falling = (
            share / _WARM_UP,
            0.5 * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))),
        )
        self.optimizer.param_groups[0]["lr"] = plan.lr * (rising if share < _WARM_UP else falling) + 1e-5
        b = plan.budget * min(1.0, rising)
        margins = self.margins(encoded).view(len(y), self.classes, -1)
        own = margins[torch.arange(len(y)), y]
        worst = torch.zeros(len(y), self.classes).scatter(1, self.rivals[y], 2 * b - own)
        loss = F.cross_entropy(worst / plan.temperature, y) * plan.temperature
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.tables.clamp_(-0.5, 0.5)
        return float(loss.detach())

    def margins(self, encoded: Float[Tensor, "s b pq"]) -> Float[Tensor, "b h"]:
        """Margins as the network computes them, in pixels."""
        above = (self.tables[..., 1:] - self.tables[..., :1]).flatten(2)
        offsets = self.offsets + self.tables[..., 0].sum(2)
        z = torch.baddbmm(offsets[:, None], encoded, above.transpose(1, 2)).unflatten(2, (-1, *self.shape))
        case = _smooth_maximum(_smooth_maximum(z, self.plan.patch_softness).sum(0), self.plan.softness)
        return case - case[:, self.opposite]

    def round_into(self, network: L0Lipschitz) -> None:
        """Write the tables into the network, rounded to whole numbers; every span stays within STEP."""
        whole = (self.tables.detach() * STEP).round().int()
        network.tables.copy_((whole[..., 1:] - whole[..., :1]).flatten(2))
        network.offsets.copy_((self.offsets.detach() * STEP).round().int() + whole[..., 0].sum(2))


def _smooth_maximum(z: Tensor, softness: float) -> Tensor:
    """Smooth maximum over the last axis: never below the true one, and 1-Lipschitz as well."""
    return z.squeeze(-1) if z.shape[-1] == 1 else softness * torch.logsumexp(z / softness, -1)


def _first_tables(
    network: L0Lipschitz, encoded: Bool[Tensor, "s n pq"], y: Int[Tensor, "n"], generator: torch.Generator
) -> Float[Tensor, "s u p l"]:
    """Initial tables: centres of the class's patches, minus the mean of the rival's."""
    each = network.units * network.templates
    means = torch.stack([encoded[:, y == c].float().mean(1) for c in range(network.classes)])
    centres = [
        _centres(encoded[:, y == c][:, :_SEEDED].float(), each, generator) for c in range(network.classes)
    ]
    cases = [
        centres[c] - means[rival][:, None]
        for c in range(network.classes)
        for rival in range(network.classes)
        if c != rival
    ]
    above = 0.5 * torch.cat(cases, dim=1).unflatten(2, (-1, network.codes - 1))
    tables = torch.cat([-above.sum(3, keepdim=True), above], dim=3)
    return (tables + 0.001 * torch.randn(tables.shape, generator=generator)).clamp_(-0.5, 0.5)


def _centres(
    points: Float[Tensor, "s n d"], count: int, generator: torch.Generator
) -> Float[Tensor, "s j d"]:
    """A few rounds of k-means in every patch, started from the same examples."""
    some = torch.randint(points.shape[1], (count,), generator=generator)
    centres = points[:, some].clone()
    for _ in range(4):
        nearest = F.one_hot(torch.cdist(points, centres).argmin(2), count).float()
        centres = nearest.transpose(1, 2) @ points / nearest.sum(1).clamp_min(1)[..., None]
    return centres
