"""Training networks that vote by disjoint groups of pixels, by the lead that is left in the worst case.

b       examples
t       groups
j, c    classes
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.models import Classifier
from zeronorm.models.feature_partition import FeaturePartition
from zeronorm.training.plan import TrainingPlan


def train_feature_partition(
    model: Classifier,
    data: Dataset,
    plan: TrainingPlan,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Classifier:
    """Train a model of `build("feature_partition")` on a data set, in place, on the device it is on; returns it.

    Of the plan, the options of the method "feature_partition" are read; its defaults suit soft votes of 128 groups on
    CIFAR-10, ten minutes on one core.  `progress` is called after every step with its number, that of all steps, and
    the loss.

    Hard votes: cross-entropy of each group's own answer (Hammoudeh & Lowd 2024).  Soft votes: of an example of class
    y the cross-entropy of the logits 0 for y and 2b - g_yc for every c, about what b changed pixels may turn them
    into, where g_yc is estimated from the groups of the step; b rises from 0 over the first steps; in the end the last
    layer is multiplied by `sharpness`.  AdamW, one-cycle rate.  Images are shifted by up to `crop` pixels and mirrored.
    Everything random is named by the seed.

    **Raises:** `ArgumentError` for another kind of model, data that do not fit it, a loss that is not finite.
    """
    network = model.network
    if not isinstance(network, FeaturePartition):
        raise ArgumentError(f"model: expected a feature_partition network, got {model.architecture}")
    device = network.place.device
    model(data.x[:1].to(device))
    if int(data.y.max()) >= network.classes:
        raise ArgumentError(f"data: expected labels below {network.classes}, got {int(data.y.max())}")
    low = plan.precision == "bfloat16"
    x = model.normalize(data.x.to(device)).to(torch.bfloat16 if low else torch.float32)
    y = data.y.to(device)
    generator = torch.Generator().manual_seed(plan.seed)
    matrices = [p for name, p in network.named_parameters() if name.endswith("weight")]
    vectors = [p for name, p in network.named_parameters() if not name.endswith("weight")]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=plan.lr,
        betas=(0.9, 0.99),
        fused=True,
    )
    per_epoch = max(1, len(data) // plan.batch_size)
    steps = plan.epochs * per_epoch
    model.train()
    for epoch in range(plan.epochs):
        order = torch.randperm(len(data), generator=generator).to(device)
        for step, rows in enumerate(order.tensor_split(per_epoch), start=epoch * per_epoch):
            share = step / steps
            for group in optimizer.param_groups:
                group["lr"] = plan.lr * _one_cycle(share, plan.warm_up)
            batch = _augmented(x[rows], plan, generator)
            chosen = [
                torch.randperm(network.groups, generator=generator)[: plan.groups].to(device)
                for _ in range(network.partitions)
            ]
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                u = torch.cat([network.scores(batch, v, t) for v, t in enumerate(chosen)], dim=1)
            if network.hard:
                loss = F.cross_entropy(u.float().flatten(0, 1), y[rows].repeat_interleave(u.shape[1]))
            else:
                rising = share < plan.warm_up
                budget = plan.budget * (share / plan.warm_up if rising else 1.0)
                loss = _worst_case_loss(u.float(), y[rows], network.groups, budget, plan.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not math.isfinite(value := float(loss.detach())):
                raise ArgumentError(
                    f"lr: expected a finite loss, got {value} at step {step + 1} with lr {plan.lr:g}"
                )
            progress(step + 1, steps, value)
    if not network.hard:
        with torch.no_grad():
            for parameter in network.rest[-1].parameters():
                parameter.mul_(plan.sharpness)
    return model.eval()


def _worst_case_loss(
    u: Float[Tensor, "b t j"], y: Int[Tensor, "b"], groups: int, budget: float, temperature: float
) -> Tensor:
    own = u.gather(2, y[:, None, None].expand(-1, u.shape[1], 1))
    lead = groups * (own - u).clamp(-1, 1).mean(1)
    worst = (2 * budget - lead).scatter(1, y[:, None], 0.0)
    return F.cross_entropy(worst / temperature, y) * temperature


def _augmented(
    x: Float[Tensor, "b c h w"], plan: TrainingPlan, generator: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """Mirror images at random, and shift them; each tenth of the batch shifts together."""
    if plan.flip:
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)
    if plan.crop:
        height, width = x.shape[2:]
        parts = []
        for part in F.pad(x, (plan.crop,) * 4).chunk(10):
            top, left = torch.randint(2 * plan.crop + 1, (2,), generator=generator).tolist()
            parts.append(part[:, :, top : top + height, left : left + width])
        x = torch.cat(parts)
    return x


def _one_cycle(share: float, warm_up: float) -> float:
    """Factor of the learning rate: rises from 1/25 to 1 along a cosine, then falls to 0."""
    if share < warm_up:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * share / warm_up))
    return 0.5 * (1 + math.cos(math.pi * (share - warm_up) / (1 - warm_up)))
