"""Whole models in torch's own files: TorchScript, exported and pickled ones, for who trusts the file."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zeronorm.errors import ArgumentError, one_line

ENDINGS = (".pt", ".pth", ".pt2")
SCRIPT, EXPORTED, PICKLED = "a TorchScript program", "an exported program", "a pickled model"
_LARGEST_PICKLE = 1 << 24  # bytes that say what a file of torch holds
_PLAIN = ("torch ", "torch._utils ", "torch.serialization ", "collections ")  # what weights are pickled with


class Exported(nn.Module):
    """An exported program, which has the one mode that it was exported in, whatever it is asked for."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        self.training = False

    def forward(self, x: Tensor) -> Any:
        return self.program(x)

    def train(self, mode: bool = True) -> Exported:
        """Nothing: its parts refuse to be asked."""
        return self


def program_kind(path: Path) -> tuple[str, str] | None:
    """What a file of torch is if it holds a model rather than its weights, and what more is known; read, not run."""
    if path.suffix not in ENDINGS or not zipfile.is_zipfile(path):
        return None
    try:
        return _kind(path)
    except zipfile.BadZipFile:  # damaged: whoever reads it says so
        return None


def _kind(path: Path) -> tuple[str, str] | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        inside = {name.partition("/")[2] for name in names}
        if any(name.startswith("code/") for name in inside):
            return SCRIPT, "torch.jit.load"
        if inside & {"archive_format", "models/model.json", "serialized_exported_program.json"}:
            return EXPORTED, "torch.export.load"
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if not pickles or archive.getinfo(pickles[0]).file_size > _LARGEST_PICKLE:
            return None
        asked = [text for _, text, _ in pickletools.genops(archive.read(pickles[0])) if isinstance(text, str)]
    whole = [text for text in asked if re.fullmatch(r"[\w.]+ [\w.]+", text) and not text.startswith(_PLAIN)]
    return (PICKLED, f"of {whole[0].replace(' ', '.')}") if whole else None


def load_program(path: Path) -> nn.Module:
    """The model of such a file, in evaluation mode, on the CPU.  Reading it runs code of whoever wrote it.

    **Raises:** `ArgumentError` for a file that holds no model, and with torch's own words for one that cannot be read.
    """
    kind = program_kind(path)
    if kind is None:
        raise ArgumentError(f"model: expected a model in {path}, got weights or another file")
    read: dict[str, Callable[[], Any]] = {
        SCRIPT: lambda: torch.jit.load(str(path), map_location="cpu"),
        EXPORTED: lambda: Exported(torch.export.load(str(path)).module()),
        PICKLED: lambda: torch.load(path, map_location="cpu", weights_only=False),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of kinds of files that are about
            model = read[kind[0]]()
    except Exception as error:  # torch and whatever code is in it raise what they like
        raise ArgumentError(f"model: cannot read {path}, {kind[0]}: {one_line(error)[:200]}") from None
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model: expected a torch module in {path}, got {type(model).__name__}")
    return model.eval()
