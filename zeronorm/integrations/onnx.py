"""ONNX models: torch modules where every operator is known, else black boxes through onnxruntime.

model = load_onnx("classifier.onnx:mean=0.1307:std=0.3081")   # as on the command line: --model onnx:classifier.onnx
box = from_onnx("classifier.onnx")                            # always a black box
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zeronorm.errors import ArgumentError
from zeronorm.files import local_path
from zeronorm.integrations.extras import require
from zeronorm.integrations.onnx_to_torch import to_torch
from zeronorm.models import BlackBox, Normalize
from zeronorm.models.input_form import ChannelsLast, formed, input_form, normalisation, split_form

_LOG = logging.getLogger(__name__)


def load_onnx(called: str) -> Any:
    """`FILE`, or `FILE:key=value:...`, as a torch module with gradients, or else as a black box.

    Keys are those of `zeronorm.models.input_form`, which say how the network wants its images, and `output`, the name
    of the scores among several outputs.  Where an operator is not known as a layer of torch, the log says which, and
    the model can only be called.

    **Raises:** `ArgumentError` for a file that is none, and for other keys.
    """
    path, said = (called, {}) if os.path.exists(called) else split_form(called)
    output = said.pop("output", None)
    layers = input_form(said)
    if not Path(path).is_file():
        raise ArgumentError(f"model: expected an ONNX file, found no {path}")
    try:
        return formed(to_torch(path, output=output), layers)
    except ArgumentError as error:
        _LOG.warning("onnx:%s can only be called, without gradients or proofs: %s", path, error)
    return _called(path, layers, output=output)


def from_onnx(
    path: str | os.PathLike[str],
    *,
    scores: str | None = None,
    output: str | None = None,
    batch_size: int | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> BlackBox:
    """An ONNX classifier as a model that can only be called.

    **Arguments:**

    - `path`: the file; it has one input, the images.
    - `scores`: as of `BlackBox`; None: as the file's last operator says (where `onnx` is installed to read it), or
      probabilities if those of an input of zeros sum to 1.  Inputs whose last axis is as short as channels are
      (1, 3 or 4) have them there.
    - `output`: the name of the scores among several outputs; None: the only one of shape (batch, classes).
    - `batch_size`: as of `BlackBox`; a model of a fixed batch size is given so many at a time anyhow.
    - `providers`: where onnxruntime computes.
    - `mean`, `std`: of every channel, taken off and divided by before the model.
    """
    layers = [] if mean is None and std is None else [normalisation(mean, std)]
    return _called(path, layers, scores, output, batch_size, providers)


def _called(
    path: str | os.PathLike[str],
    layers: Sequence[nn.Module],
    scores: str | None = None,
    output: str | None = None,
    batch_size: int | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> BlackBox:
    """As `from_onnx`, behind layers of an input form."""
    run = _Session(local_path(path, "model"), output, tuple(providers))
    last = run.channels()
    if run.dtype == np.uint8 and not any(isinstance(layer, Normalize) for layer in layers):
        layers = [Normalize([0.0], [1 / 255]), *layers]  # the file says that its images are 0 to 255
    if layers:
        run.before = nn.Sequential(*layers)
        told = [(str(layer), [value.tolist() for value in layer.buffers()]) for layer in layers]
        run.digest = f"sha256:{hashlib.sha256(f'{run.digest} {told}'.encode()).hexdigest()}"
        last = None if isinstance(layers[-1], ChannelsLast) else last
    box = BlackBox(run, scores or run.kind_of_scores(), batch_size, f"onnx:{run.path.name}", last)
    box.digest = run.digest
    return box


_CHANNELS = (1, 3, 4)
_LAST = {"Softmax": "probabilities", "Sigmoid": "sigmoid", "Tanh": "tanh", "LogSoftmax": "logits"}


class _Session:
    """A session of onnxruntime, made again where it is unpickled."""

    def __init__(self, path: Path, output: str | None, providers: tuple[str, ...]) -> None:
        self.path, self.asked, self.providers = path, output, providers
        self.before: nn.Module | None = None  # what comes before the network
        if not path.is_file():
            raise ArgumentError(f"model: expected an ONNX file, found no {path}")
        sha = hashlib.sha256(path.read_bytes())
        weights = path.with_name(f"{path.name}.data")  # where torch's exporter puts large ones
        if weights.exists():
            sha.update(weights.read_bytes())
        self.digest = f"sha256:{sha.hexdigest()}"
        self._open()

    def __call__(self, x: Any) -> Any:
        """Scores (batch, classes) of an array."""
        if self.before is not None:
            x = self.before(torch.from_numpy(np.asarray(x))).numpy()
        return self.scores(x)

    def scores(self, x: Any) -> Any:
        """Scores of an array as the file wants it."""
        fits = zip(self.shape[1:], x.shape[1:], strict=False)
        if len(self.shape) != x.ndim or any(isinstance(own, int) and own != came for own, came in fits):
            expected = ", ".join(str(side) if isinstance(side, int) else "any" for side in self.shape[1:])
            raise ArgumentError(
                f"x: expected inputs of shape (batch, {expected}) for {self.path.name}, got {x.shape}"
            )
        x = np.ascontiguousarray(np.rint(x) if self.dtype == np.uint8 else x, dtype=self.dtype)
        at_once = self.shape[0]
        if not isinstance(at_once, int):
            return self._session.run([self.output], {self.input: x})[0]
        missing = -len(x) % at_once
        filled = np.concatenate([x, np.repeat(x[-1:], missing, 0)]) if missing else x
        parts = np.split(filled, max(1, len(filled) // at_once))
        return np.concatenate([self._session.run([self.output], {self.input: part})[0] for part in parts])[
            : len(x)
        ]

    def kind_of_scores(self) -> str:
        """What the last operator makes of logits, or else what the scores of an input of zeros look like."""
        if (kind := _LAST.get(self._last_operator())) is not None:
            return kind
        sides = self.shape[1:]
        if not all(isinstance(side, int) for side in sides):
            return "logits"
        scores = self.scores(np.zeros((1, *sides), dtype=self.dtype))
        return "probabilities" if (scores >= 0).all() and abs(scores.sum() - 1) < 1e-4 else "logits"

    def channels(self) -> str | None:
        """Where the channels of an input are, if its shape tells."""
        first, *sides, last = self.shape[1:] if len(self.shape) > 3 else (0, 0)
        longer = [side for side in (first, *sides) if not isinstance(side, int) or side > max(_CHANNELS)]
        return "last" if last in _CHANNELS and len(longer) == len(self.shape) - 2 else None

    def _last_operator(self) -> str:
        try:
            import onnx
        except ImportError:
            return ""
        graph = onnx.load(str(self.path), load_external_data=False).graph
        made_by = {name: node for node in graph.node for name in node.output}
        node, passed_on = made_by.get(self.output), ("Identity", "Cast", "Reshape", "Flatten", "Squeeze")
        while node is not None and node.op_type in passed_on:
            node = made_by.get(node.input[0])
        return node.op_type if node is not None else ""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        onnxruntime = require("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=list(self.providers)
            )
        except Exception as error:  # onnxruntime raises kinds of its own
            said = " ".join(str(error).split())[:300]
            raise ArgumentError(f"model: onnxruntime cannot open {self.path}: {said}") from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs)
            raise ArgumentError(f"model: expected one input, the images, in {self.path}, got {names}")
        self.input, self.shape = inputs[0].name, inputs[0].shape
        self.dtype = {
            "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8
        }.get(inputs[0].type, np.float32)  # fmt: skip
        found = [one.name for one in outputs if len(one.shape) == 2] if self.asked is None else [self.asked]
        if len(found) != 1 or found[0] not in [one.name for one in outputs]:
            told = ", ".join(f"{one.name} {one.shape}" for one in outputs)
            raise ArgumentError(
                f"output: expected the name of scores (batch, classes) among {told}, got {self.asked!r}"
            )
        self.output = found[0]
