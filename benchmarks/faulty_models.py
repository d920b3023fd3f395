"""Models that fail in a worker, in each of the ways a worker can fail; in the process that made them they work."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn


class Faulty(nn.Module):
    """Fails where `fails` says so: once, at the first pass of a search that finds no file at `flag`, or ever."""

    def __init__(self, model: nn.Module, flag: Path, how: str, *, once: bool = True) -> None:
        super().__init__()
        self.model, self.flag, self.how, self.once = model, str(flag), how, once
        self.home = os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.home and len(x) > 1 and self._is_due():
            getattr(self, self.how)(x)
        logits: Tensor = self.model(x)
        return logits

    def _is_due(self) -> bool:
        if self.how == "fills_memory" or not self.once:
            return True
        try:
            os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def dies(self, x: Tensor) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(self, x: Tensor) -> None:
        time.sleep(600)

    def fills_memory(self, x: Tensor) -> None:
        if len(x) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a little")

    def raises(self, x: Tensor) -> None:
        raise RuntimeError("the model is of another opinion")
