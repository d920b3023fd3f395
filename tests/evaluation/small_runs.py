"""Runs small enough to be made by the dozen: a little network, a few inputs, short searches."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import zeronorm as zn
from zeronorm.data import Dataset
from zeronorm.evaluation.records import RunFolder

CLASSES = 4
# enough to break some and not all within one or two pixels, some of them late
SHORT = {"steps": 12, "queries": 16}


def network(side: int = 5, channels: int = 1, seed: int = 0, scale: float = 2.0) -> nn.Module:
    """A network in evaluation mode whose answers a few pixels change."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        entries = channels * side * side
        model = nn.Sequential(nn.Flatten(), nn.Linear(entries, 24), nn.ReLU(), nn.Linear(24, CLASSES))
    for parameter in model.parameters():
        parameter.data.mul_(scale)
    return model.eval()


def images(n: int = 20, side: int = 5, channels: int = 1, seed: int = 0) -> Tensor:
    """Random images in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, side, side, generator=generator)


def dataset(model: nn.Module, n: int = 20, **shape: int) -> Dataset:
    """Images with the model's own answers as labels, but for every seventh; ids that are not positions."""
    x = images(n, **shape)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[6::7] = (y[6::7] + 1) % CLASSES
    return Dataset(x, y, 3 * torch.arange(n) + 5, "random", "test", tuple("abcd"))


def rows(run: object) -> list[dict]:
    """The rows of an evaluation or of a folder."""
    folder = RunFolder(run.run if isinstance(run, zn.Evaluation) else Path(str(run)))
    return folder.read_rows().to_pylist()


def codes(evaluation: zn.Evaluation) -> list[str]:
    """What the run noticed about itself."""
    return [finding["code"] for finding in evaluation.diagnosis]
