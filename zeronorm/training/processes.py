"""Several processes that train one model together, one device each, started by torchrun.

Each learns its share of every batch, and the loss is that of the whole batch: the mean over its examples, with batch
normalisation by the statistics of all of them.  So what is learnt does not depend on how many processes there are,
but for the order in which numbers are added.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zeronorm.errors import ArgumentError
from zeronorm.training.plan import TrainingPlan

T = TypeVar("T")


class ToldByTheFirst(ArgumentError):
    """Raised by all processes but the first, which prints the error, so that it is printed once."""


@dataclass(frozen=True)
class Processes:
    """This process and the others of its training; by default there are no others."""

    fabric: Any = None
    count: int = 1
    rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which writes files and reports progress."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of `rows`; the parts of all processes in order make up `rows`."""
        return rows.tensor_split(self.count)[self.rank]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes."""
        return tensor if self.count == 1 else self.fabric.all_reduce(tensor, reduce_op="sum")

    def joined(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, concatenated; they may differ in length."""
        if self.count == 1:
            return tensor
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, tensor.cpu())
        return torch.cat(found).to(tensor.device)

    def exchange(self, table: Tensor, rows: Tensor) -> None:
        """Send each process's share of the rows of a table to all processes, in place."""
        if self.count > 1:
            rows = rows.to(table.device)
            own = torch.zeros_like(table[rows])
            mine = self.share(torch.arange(len(rows), device=table.device))
            own[mine] = table[rows[mine]]
            table[rows] = self.total(own)

    def first(self, do: Callable[[], T]) -> T:
        """Call `do` in the first process only, and return its result or raise its `ArgumentError` in all."""
        if self.count == 1:
            return do()
        done: tuple[T | None, str | None] = None, None
        if self.leads:
            try:
                done = do(), None
            except ArgumentError as error:
                done = None, str(error)
        result: Any
        result, refused = self.fabric.broadcast(done)
        if refused is not None:
            raise self.error(refused)
        return result

    @contextmanager
    def alike(self) -> Iterator[None]:
        """If one process raises an `ArgumentError` here, all do."""
        refused = None
        try:
            yield
        except ArgumentError as error:
            if self.count == 1:
                raise
            refused = str(error)
        if self.count > 1:
            found: list[str | None] = [None] * self.count
            dist.all_gather_object(found, refused)
            for one in found:
                if one is not None:
                    raise self.error(one)

    def error(self, what: str) -> ArgumentError:
        """An error that all processes raise and one prints."""
        return ArgumentError(what) if self.leads else ToldByTheFirst(what)

    def agreed(self, number: int | None) -> int | None:
        """The largest number that any process has; None if none has one."""
        if self.count == 1:
            return number
        largest = torch.tensor(number or 0, device=self.fabric.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest) or None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turn a lost connection to another process into an `ArgumentError`."""
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, dist.DistError) or "by peer" in str(error)
            if self.count == 1 or not lost:
                raise
            raise self.error(
                "devices: another process of this training ended early; the same command with --resume continues "
                "from the last checkpoint"
            ) from None

    def normalise(self, model: nn.Module) -> None:
        """Replace batch normalisation by one over the examples of all processes."""
        if self.count > 1:
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.__class__ = BatchNormOfAll  # with its parameters, its buffers and its name


class BatchNormOfAll(_BatchNorm):
    """Batch normalisation over the batches of all processes, which may differ in size.

    torch's `SyncBatchNorm` does the same, on GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.momentum is not None and self.running_mean is not None and self.running_var is not None
        assert self.affine and self.num_batches_tracked is not None
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        values = x if x.dtype == torch.float64 else x.float()
        own = values.new_tensor([values.numel() // values.shape[1]])
        sums, n = _total(torch.cat([values.sum(dims), own])).split([len(self.weight), 1])
        mean = sums / n
        centred = values - mean.view(shape)
        variance = _total(centred.square().sum(dims)) / n
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None: ...


def _total(x: Tensor) -> Tensor:
    total: Tensor = _Total.apply(x)
    return total


class _Total(torch.autograd.Function):
    """Differentiable sum over the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)


def started() -> int:
    """How many processes torchrun started for this training; 1 without it."""
    launched = dist.is_available() and dist.is_torchelastic_launched()
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def device_of(plan: TrainingPlan) -> str:
    """The kind of device that a plan names: "auto" is a GPU if there is one.

    **Raises:** `ArgumentError` for a GPU where there is none.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise ArgumentError("device: expected a device of this machine, got cuda, of which torch finds none")
    return "cuda" if plan.device != "cpu" and torch.cuda.is_available() else "cpu"
