"""Runs small enough to be made by the dozen: a little network, a few inputs, short searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

import zeronorm as zn
from zeronorm.attacks.catalogue import Attack, catalogue
from zeronorm.attacks.minimal_search import searching_minimal
from zeronorm.data import Dataset
from zeronorm.records.folders import RunFolder

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
    """What the run noticed about itself, beside that it is small."""
    return [finding["code"] for finding in evaluation.diagnosis if finding["code"] != "few-examples"]


class Fragile(nn.Module):
    """A model that raises at its n-th pass."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.left, self.error = inner, float("inf"), None
        self.eval()

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.inner(x)


def greedy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: zn.L0,
    *,
    steps: int = 12,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Tensor:
    """A minimal attack: pixel by pixel, at random among those that promise anything, to an end of the box.

    From an adversarial it takes random pixels back, so that the first is not the last.
    """
    with searching_minimal("greedy", model, x, y, threat, targeted=None, seed=seed, ids=ids) as minimal:
        batch = minimal.batch
        v = batch.x.clone()
        for step in range(steps):
            if len(batch.rows) == 0:
                break
            _, reached, gradient = batch.score_and_gradient(v)
            minimal.note(reached, v)
            keep = minimal.leave(minimal.fewest == 1)
            if keep is not None:
                v, reached, gradient = v[keep], reached[keep], gradient[keep]
            changed = (v != batch.x).any(1)
            end = torch.where(gradient > 0, 1.0, 0.0)
            promising = ((gradient * (end - v)).sum(1) > 0) & ~changed
            chance = batch.streams.uniform(step, changed.shape[1], v.dtype)
            one = (chance * promising).argmax(1, keepdim=True)
            another = torch.zeros_like(changed).scatter_(1, one, True) & promising & ~reached[:, None]
            back = changed & reached[:, None] & (chance < 0.3)
            v = torch.where(another[:, None], end, torch.where(back[:, None], batch.x, v))
        return minimal.finished()


@contextmanager
def registered(name: str, function: Callable[..., Tensor], knowledge: str = "white") -> Iterator[None]:
    """Within, the catalogue has this minimal attack."""
    catalogue[name] = Attack(name, function, ("L0",), "minimal", knowledge, False, ("steps",), 9.0, "tests")
    try:
        yield
    finally:
        del catalogue[name]
