"""Attacks of other libraries as ours: functions `(model, x, y, threat, *, seed, ids) -> x_adv`.

The runner measures their results again, as it does ours.  Two laws are beyond an adapter: their draws come from
global generators, so that an example's result depends on its batch, and there is no resuming within a batch.
"""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.custom import source_digest
from zeronorm.errors import ArgumentError
from zeronorm.modules import evaluation_mode
from zeronorm.projections import onto_l0_box
from zeronorm.threat_model import L0, L2, Linf

Threat = L0 | Linf | L2


class ForeignAttack:
    """An attack of another library: a class of theirs, `made_of`, and the arguments to make one with.

    Its result is brought into the threat model: where it changed too much, the changes that matter most in
    squared distance stay.  Its class and options are its name in the record of a run.
    """

    library: str
    before = 0  # arguments that it is made with before those

    def __init__(self, made_of: type, **options: Any) -> None:
        if not isinstance(made_of, type):
            raise ArgumentError(
                f"attack: expected a class of attacks, with its arguments beside it, got {made_of!r:.80}"
            )
        try:
            inspect.signature(made_of).bind(*[None] * self.before, **options)
        except TypeError as error:
            raise ArgumentError(f"attack: {made_of.__name__} cannot be made so: {error}") from None
        except ValueError:  # it does not say what it takes
            pass
        self.made_of, self.options = made_of, options
        said = ", ".join(f"{name}={value!r}" for name, value in self.told().items())
        self.__name__ = f"{self.library} {made_of.__name__}({said})"

    def told(self) -> dict[str, Any]:
        """What tells it from others of its class."""
        return self.options

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from another of its name: where it is from, its source and options."""
        try:
            version = metadata.version(
                metadata.packages_distributions()[self.made_of.__module__.partition(".")[0]][0]
            )
        except (KeyError, metadata.PackageNotFoundError):
            version = ""
        return {
            "library": f"{self.library} {version}".strip(),
            "module": self.made_of.__module__,
            "function": self.made_of.__qualname__,
            "source": source_digest(self.made_of, self.options),
        }

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """What the other library finds."""
        raise NotImplementedError

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        seed: int = 0,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Inputs of the shape and dtype of `x`, inside the threat model."""
        checks.labels(y, checks.examples(x))
        threat.check_inputs(x)
        if not len(x):
            return x.clone()
        module = model if isinstance(model, nn.Module) else Called(model)
        drawn = drawing(seed, checks.identifiers(ids, x))
        with drawn, torch.inference_mode(False), torch.enable_grad(), evaluation_mode(module):
            found = self.attempt(module, x.clone(), y, threat)
        return into(threat, x, found.detach().to(x))

    def __repr__(self) -> str:
        return self.__name__


class Called(nn.Module):
    """A callable as the module that other libraries insist on."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.differentiable = getattr(model, "differentiable", True)
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def box(threat: Threat) -> tuple[float, float]:
    """The smallest and the largest value that any entry may take."""
    return float(torch.as_tensor(threat.low).min()), float(torch.as_tensor(threat.high).max())


def into(threat: Threat, x: Tensor, found: Tensor) -> Tensor:
    """The result, or the closest input to it inside the threat model."""
    found = torch.where(found.isfinite(), found, x)
    low, high = threat.bounds(x)
    inside = found.clamp(low, high)
    if isinstance(threat, L2) or threat.contains(x, inside).all():
        return inside
    assert isinstance(threat, L0)
    grid = threat.grid(x.contiguous().clone()).contiguous()
    k = threat.available(x) if threat.k is None else threat.k
    positions, values = onto_l0_box(
        threat.grid(inside), grid, threat.grid(low), threat.grid(high), k, threat.allowed_positions(x)
    )
    return threat.ungrid(
        grid.scatter(2, positions[:, None].expand_as(values), values), x.shape[1:]
    ).contiguous()


@contextmanager
def drawing(seed: int, ids: Tensor) -> Iterator[None]:
    """Within, the global generators start from the seed and the batch; afterwards they are as before."""
    name = f"{seed}/".encode() + ids.cpu().contiguous().numpy().tobytes()
    start = int.from_bytes(hashlib.blake2b(name, digest_size=4).digest())
    python, arrays = random.getstate(), np.random.get_state()
    devices = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(start)
        random.seed(start)
        np.random.seed(start)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
