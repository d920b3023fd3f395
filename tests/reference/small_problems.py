"""Small networks, inputs and threat models of every kind, for laws that hold on all of them."""

from __future__ import annotations

import torch
from torch import nn

from zeronorm import L0

# shape of one example, and what the budget counts
KINDS = {
    "grey": ((1, 4, 4), "pixel"),
    "colour": ((3, 4, 4), "pixel"),
    "colour-features": ((3, 4, 4), "feature"),
    "sequence": ((2, 6), "pixel"),
    "flat": ((12,), "feature"),
}
BOXES = ("unit", "wide", "decimal", "tensors", "cap", "mask", "everything")
CLASSES = 4


def threat_model(box: str, kind: str, k: int) -> L0:
    """A threat model of that kind of box."""
    shape, unit = KINDS[kind]
    generator = torch.Generator().manual_seed(7)
    low = -torch.rand(shape, generator=generator, dtype=torch.float64)
    high = low + 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    positions = L0(k, unit=unit).positions(torch.zeros(1, *shape))
    allowed = torch.arange(positions) % 3 != 1
    return {
        "unit": L0(k, unit=unit),
        "wide": L0(k, unit=unit, low=-2.0, high=3.0),
        "decimal": L0(k, unit=unit, low=-0.1, high=0.3),  # no float32 is 0.3
        "tensors": L0(k, unit=unit, low=low, high=high),
        "cap": L0(k, unit=unit, linf=0.1),
        "mask": L0(k, unit=unit, allowed=allowed),
        "everything": L0(k, unit=unit, low=low, high=2.0, linf=0.7, allowed=allowed),
    }[box]


def inputs(n: int, kind: str, threat: L0, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """Random inputs in the box, a third of their entries at its ends, as in real images."""
    shape, _ = KINDS[kind]
    generator = torch.Generator().manual_seed(seed)
    u = (torch.rand(n, *shape, generator=generator, dtype=torch.float64) * 1.5 - 0.25).clamp(0, 1)
    low, high = (torch.as_tensor(bound, dtype=dtype) for bound in (threat.low, threat.high))
    return (low + (high - low) * u.to(dtype)).clamp(low, high)


def network(architecture: str, kind: str, dtype=torch.float32, seed: int = 0) -> nn.Module:
    """A random network with large weights, so that a few pixels matter."""
    shape, _ = KINDS[kind]
    entries = torch.Size(shape).numel()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if architecture == "mlp" or len(shape) == 1:
            model = nn.Sequential(nn.Flatten(), nn.Linear(entries, 32), nn.ReLU(), nn.Linear(32, CLASSES))
        else:
            conv = (
                nn.Conv2d(shape[0], 8, 3, padding=1)
                if len(shape) == 3
                else nn.Conv1d(shape[0], 8, 3, padding=1)
            )
            layers: list[nn.Module] = [conv]
            if architecture == "batch-norm":
                norm = nn.BatchNorm2d(8) if len(shape) == 3 else nn.BatchNorm1d(8)
                nn.init.uniform_(norm.running_mean, -0.2, 0.2)
                nn.init.uniform_(norm.running_var, 0.5, 2.0)
                layers.append(norm)
            hidden = 8 * entries // shape[0]
            layers += [nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(hidden, CLASSES)]
            model = nn.Sequential(*layers)
        for parameter in model.parameters():
            parameter.data.mul_(3.0)
    return model.to(dtype)


def predictions(model, x: torch.Tensor) -> torch.Tensor:
    """What the model says in evaluation mode."""
    was_training = isinstance(model, nn.Module) and model.training
    if was_training:
        model.eval()
    with torch.no_grad():
        prediction = model(x).argmax(1)
    if was_training:
        model.train()
    return prediction


def problem(
    kind: str, box: str = "unit", k: int = 2, n: int = 8, architecture: str = "mlp", dtype=torch.float32
):
    """A network in evaluation mode, inputs, labels (the second one wrong) and a threat model."""
    threat = threat_model(box, kind, k)
    model = network(architecture, kind, dtype).eval()
    x = inputs(8 * n, kind, threat, dtype)
    with torch.no_grad():
        lead, y = model(x).topk(2, dim=1)
    # from the surest on, one in four: some hold, some break soon, some break late
    chosen = (lead[:, 0] - lead[:, 1]).argsort(descending=True)[: 4 * n : 4].clone()
    x, y = x[chosen], y[chosen, 0]
    if n > 1:
        y[1] = (y[1] + 1) % CLASSES
    return model, x, y, threat
