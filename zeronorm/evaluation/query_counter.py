"""A model that counts what is asked of it, example by example."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zeronorm.attacks.batch_under_attack import TILE
from zeronorm.errors import blaming_model
from zeronorm.losses import finite_below


class QueryCounter(nn.Module):
    """Wraps a model for one call of one attack on a batch of n examples.

    An attack of this library says which examples a pass is for (`passes_for`) and who just broke (`broken`).
    Other attacks say nothing: a pass over n rows is then one for each example.

    Attributes:
        forwards, backwards: passes spent on each example, int64 (n,).
        exact: the model in full precision, where passes run in a lower one; else None.
        differentiable: whether the wrapped model offers gradients.
        unattributed: passes over one input of which the attack did not say whose they are.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        n: int,
        device: torch.device,
        *,
        precision: str = "float32",
        on_broken: Callable[[Tensor, Tensor], None] | None = None,
        on_pass: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.differentiable = bool(getattr(model, "differentiable", True))
        self.exact = model if precision != "float32" else None
        self.tile = getattr(model, "tile", TILE)
        self.unattributed = 0
        self.forwards = torch.zeros(n, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(n, dtype=torch.int64, device=device)
        self._total = torch.zeros((), dtype=torch.float64, device=device)  # of all logits
        self._all = torch.arange(n, device=device)
        self._scope = self._all  # the batch of a nested attack, as examples of this one
        self._rows: Tensor | None = None
        self._on_broken, self._on_pass = on_broken, on_pass

    @property
    def undefined(self) -> bool:
        """Whether the model answered NaN or infinity in any pass; minus infinity rules a class out."""
        return not bool(self._total < math.inf)

    def passes_for(self, rows: Tensor) -> None:
        """The next pass is for these rows of the batch (whatever fills it up is for nobody)."""
        self._rows = self._scope[rows]

    @contextmanager
    def about(self, rows: Tensor) -> Iterator[None]:
        """Within, a nested attack works on these rows of the batch, and numbers them anew."""
        outer, self._scope = self._scope, self._scope[rows]
        try:
            yield
        finally:
            self._scope = outer

    def broken(self, rows: Tensor, x_adv: Tensor) -> None:
        """These rows are broken, by these inputs, or so the attack says."""
        if self._on_broken is not None:
            self._on_broken(self._scope[rows], x_adv)

    def forward(self, inputs: Tensor) -> Any:
        rows, self._rows = self._rows, None
        if rows is None and len(inputs) == len(self._all):
            rows = self._all
        with blaming_model():
            if self.exact is None:
                z = self.model(inputs)
            else:
                with torch.autocast(inputs.device.type, torch.bfloat16):
                    z = self.model(inputs)
                z = z.float()
        if isinstance(z, Tensor) and z.is_floating_point():
            z = finite_below(z)
            self._total += z.detach().sum()  # which no pass waits for
        if rows is not None:
            each = torch.ones_like(rows)
            self.forwards.index_add_(0, rows, each)  # an example may have several inputs in one pass
            if isinstance(z, Tensor) and z.requires_grad:

                def count_backward(_: Tensor, rows: Tensor = rows, each: Tensor = each) -> None:
                    self.backwards.index_add_(0, rows, each)

                z.register_hook(count_backward)
        else:
            self.unattributed += len(inputs)
        if self._on_pass is not None:
            self._on_pass(len(inputs) if rows is None else len(rows))
        return z
