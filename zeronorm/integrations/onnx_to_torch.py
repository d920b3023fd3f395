"""ONNX classifiers as torch modules, with gradients, where every operator is one that is known here.

model = to_torch("network.onnx", mean=[0.1307], std=[0.3081])

The layers are torch's own, so that whatever reads a network reads this one.  The module is compared with onnxruntime on
random inputs before it is returned.  A softmax, sigmoid or tanh at the end is left out: the largest logit stays the
largest, and `dropped` says which it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeronorm.errors import ArgumentError
from zeronorm.integrations.extras import require
from zeronorm.models.input_form import normalisation

_ROWS = 3  # of the batch that is compared
_DROPPED: dict[str, Callable[[Tensor], Tensor]] = {
    "Softmax": partial(torch.softmax, dim=1), "Sigmoid": torch.sigmoid, "Tanh": torch.tanh
}  # fmt: skip


class OnnxNetwork(nn.Module):
    """The graph of a file: layers by the name of their result, applied in order."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.steps: list[tuple[Callable[..., Tensor] | str, tuple[str, ...], str]] = []
        self.constants: dict[str, str] = {}  # a number of the graph to the buffer that keeps it
        self.dropped: str | None = None  # the last operator, where it is one of _DROPPED
        self.input = self.output = ""

    def forward(self, x: Tensor) -> Tensor:
        """Inputs of the file's shape, with a batch of any size in front, to logits."""
        values: dict[str, Tensor] = {self.input: x}
        for step, inputs, output in self.steps:
            given = [
                values[name] if name in values else getattr(self, self.constants[name]) for name in inputs
            ]
            values[output] = self.layers[step](*given) if isinstance(step, str) else step(*given)
        return values[self.output]


def to_torch(
    path: str | os.PathLike[str],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output: str | None = None,
) -> nn.Module:
    """The classifier of a file as a torch module in evaluation mode; `mean` and `std` come before it, by channel.

    `output` is the name of the scores among several outputs; None: the only one.

    **Raises:** `ArgumentError` for a file that is none, and for an operator or an attribute that is not known.
    """
    onnx = require("onnx", "onnx")
    path = Path(path)
    if not path.is_file():
        raise ArgumentError(f"model: expected an ONNX file, found no {path}")
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf's own kinds
        raise ArgumentError(f"model: cannot read {path}: {' '.join(str(error).split())[:200]}") from None
    network = _Reader(onnx, graph, path, output).network()
    _compare(network, graph, path)
    if mean is None and std is None:
        return network.eval()
    return nn.Sequential(normalisation(mean, std), network).eval()


class _Reader:
    def __init__(self, onnx: Any, graph: Any, path: Path, output: str | None) -> None:
        self.onnx, self.graph, self.path, self.asked = onnx, graph, path, output
        self.made = OnnxNetwork()
        self.known: dict[str, Tensor] = {
            one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer
        }

    def network(self) -> OnnxNetwork:
        inputs = [one.name for one in self.graph.input if one.name not in self.known]
        outputs = [one.name for one in self.graph.output if self.asked in (None, one.name)]
        if len(inputs) != 1 or len(outputs) != 1:
            raise ArgumentError(
                f"model: expected one input and one output in {self.path}, got {', '.join(inputs)} and "
                f"{', '.join(one.name for one in self.graph.output)}; output=NAME chooses one"
            )
        self.made.input, self.made.output = inputs[0], outputs[0]
        nodes = self._needed(outputs[0])
        for place, node in enumerate(nodes):
            attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant" and set(attributes) == {"value"}:
                array = self.onnx.numpy_helper.to_array(attributes["value"])
                self.known[node.output[0]] = torch.from_numpy(np.array(array))
                continue
            if node.op_type in _DROPPED and place == len(nodes) - 1:
                if attributes.get("axis", 1) not in (1, -1):
                    raise self._refuse(node, f"over axis {attributes['axis']}")
                self.made.dropped, self.made.output = node.op_type, node.input[0]
                continue
            read = getattr(self, f"_{node.op_type.lower()}", None)
            if read is None or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
                raise self._refuse(node)
            read(node, attributes)
        return self.made

    def _needed(self, output: str) -> list[Any]:
        """The operators that the output depends on, in their order."""
        wanted, kept = {output}, []
        for node in reversed(self.graph.node):
            if wanted & set(node.output):
                wanted |= set(node.input)
                kept.append(node)
        return kept[::-1]

    def _refuse(self, node: Any, what: str = "") -> ArgumentError:
        return ArgumentError(
            f"model: expected operators that are known here, got {node.op_type}{what and ' '}{what} in {self.path}"
        )

    def _only(self, node: Any, attributes: dict[str, Any], **usual: Any) -> None:
        """Attributes that must have their usual values."""
        for name, value in attributes.items():
            allowed = usual.get(name)
            if name not in usual or (allowed is not None and value not in allowed):
                raise self._refuse(node, f"with {name} = {value}")

    def _number(self, node: Any, place: int) -> Tensor:
        if place >= len(node.input) or node.input[place] not in self.known:
            raise self._refuse(node, "with weights that are computed")
        return self.known[node.input[place]]

    def _layer(self, node: Any, layer: nn.Module, before: nn.Module | None = None) -> None:
        name, source = str(len(self.made.layers)), node.input[0]
        if before is not None:
            self.made.layers[f"pad{name}"] = before
            self.made.steps.append((f"pad{name}", (source,), f"{node.output[0]} padded"))
            source = f"{node.output[0]} padded"
        self.made.layers[name] = layer
        self.made.steps.append((name, (source,), node.output[0]))

    def _function(self, node: Any, function: Callable[..., Tensor]) -> None:
        for name in node.input:
            if name in self.known and name not in self.made.constants:
                self.made.constants[name] = buffer = f"constant{len(self.made.constants)}"
                self.made.register_buffer(buffer, self.known[name])
        self.made.steps.append((function, tuple(node.input), node.output[0]))

    # ---- operators ----

    def _conv(self, node: Any, attributes: dict[str, Any]) -> None:
        self._only(
            node,
            attributes,
            auto_pad=(b"NOTSET",),
            kernel_shape=None,
            pads=None,
            strides=None,
            dilations=None,
            group=None,
        )
        weight = self._number(node, 1)
        bias = self._number(node, 2) if len(node.input) > 2 and node.input[2] else None
        if weight.dim() != 4:
            raise self._refuse(node, f"of {weight.dim() - 2} dimensions")
        pads = list(attributes.get("pads", [0] * 4))
        padding, before = ((pads[0], pads[1]), None) if pads[:2] == pads[2:] else ((0, 0), _zeros(pads))
        groups = int(attributes.get("group", 1))
        layer = nn.Conv2d(
            weight.shape[1] * groups,
            len(weight),
            tuple(weight.shape[2:]),  # type: ignore[arg-type]
            stride=tuple(attributes.get("strides", (1, 1))),
            padding=padding,
            dilation=tuple(attributes.get("dilations", (1, 1))),
            groups=groups,
            bias=bias is not None,
        )
        _fill(layer, weight, bias)
        self._layer(node, layer, before)

    def _gemm(self, node: Any, attributes: dict[str, Any]) -> None:
        self._only(node, attributes, alpha=(1.0,), beta=(1.0,), transA=(0,), transB=(0, 1))
        weight = self._number(node, 1)
        weight = weight if attributes.get("transB", 0) else weight.T
        bias = self._number(node, 2) if len(node.input) > 2 and node.input[2] else None
        layer = nn.Linear(weight.shape[1], len(weight), bias=bias is not None)
        _fill(layer, weight, None if bias is None else bias.expand(len(weight)))
        self._layer(node, layer)

    def _matmul(self, node: Any, attributes: dict[str, Any]) -> None:
        weight = self._number(node, 1)
        if weight.dim() != 2:
            raise self._refuse(node, f"by a matrix of {weight.dim()} dimensions")
        layer = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
        _fill(layer, weight.T, None)
        self._layer(node, layer)

    def _relu(self, node: Any, attributes: dict[str, Any]) -> None:
        self._layer(node, nn.ReLU())

    def _identity(self, node: Any, attributes: dict[str, Any]) -> None:
        self._layer(node, nn.Identity())

    _dropout = _identity

    def _flatten(self, node: Any, attributes: dict[str, Any]) -> None:
        self._only(node, attributes, axis=(1,))
        self._layer(node, nn.Flatten())

    def _reshape(self, node: Any, attributes: dict[str, Any]) -> None:
        self._only(node, attributes, allowzero=(0,))
        first, *rest = [int(side) for side in self._number(node, 1)]
        if first not in (-1, 0, 1) or not rest or 0 in rest:
            raise self._refuse(node, f"to {[first, *rest]}")
        flat = nn.Flatten()
        self._layer(node, flat if len(rest) == 1 else nn.Sequential(flat, nn.Unflatten(1, rest)))

    def _maxpool(self, node: Any, attributes: dict[str, Any]) -> None:
        kernel, stride, padding = self._pool(node, attributes, dilations=None, storage_order=(0,))
        dilation = tuple(attributes.get("dilations", (1, 1)))
        self._layer(node, nn.MaxPool2d(kernel, stride, padding, dilation))

    def _averagepool(self, node: Any, attributes: dict[str, Any]) -> None:
        kernel, stride, padding = self._pool(node, attributes, count_include_pad=(0, 1))
        counted = bool(attributes.get("count_include_pad", 0))
        self._layer(node, nn.AvgPool2d(kernel, stride, padding, count_include_pad=counted))

    def _pool(
        self, node: Any, attributes: dict[str, Any], **more: Any
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        self._only(
            node,
            attributes,
            auto_pad=(b"NOTSET",),
            ceil_mode=(0,),
            kernel_shape=None,
            pads=None,
            strides=None,
            **more,
        )
        pads, kernel = list(attributes.get("pads", [0] * 4)), attributes["kernel_shape"]
        if len(kernel) != 2 or pads[:2] != pads[2:]:
            raise self._refuse(node, f"with pads = {pads}")
        stride = attributes.get("strides", (1, 1))
        return (kernel[0], kernel[1]), (stride[0], stride[1]), (pads[0], pads[1])

    def _globalaveragepool(self, node: Any, attributes: dict[str, Any]) -> None:
        self._layer(node, nn.AdaptiveAvgPool2d(1))

    def _batchnormalization(self, node: Any, attributes: dict[str, Any]) -> None:
        self._only(node, attributes, epsilon=None, momentum=None, training_mode=(0,), spatial=(1,))
        scale, bias, mean, variance = (self._number(node, place) for place in (1, 2, 3, 4))
        layer = nn.BatchNorm2d(len(scale), eps=float(attributes.get("epsilon", 1e-5)))
        _fill(layer, scale, bias)
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        self._layer(node, layer)

    def _add(self, node: Any, attributes: dict[str, Any]) -> None:
        self._function(node, torch.add)

    def _sub(self, node: Any, attributes: dict[str, Any]) -> None:
        self._function(node, torch.sub)

    def _mul(self, node: Any, attributes: dict[str, Any]) -> None:
        self._function(node, torch.mul)

    def _div(self, node: Any, attributes: dict[str, Any]) -> None:
        self._function(node, torch.div)

    def _transpose(self, node: Any, attributes: dict[str, Any]) -> None:
        order = list(attributes.get("perm", []))
        if not order or order[0] != 0:
            raise self._refuse(node, f"to {order or 'reversed axes'}")
        self._of_first(node, partial(torch.permute, dims=tuple(order)))

    def _clip(self, node: Any, attributes: dict[str, Any]) -> None:
        low, high = attributes.get("min"), attributes.get("max")  # of files before version 11
        given = [
            float(self._number(node, i)) if i < len(node.input) and node.input[i] else None for i in (1, 2)
        ]
        low, high = (new if new is not None else old for new, old in zip(given, (low, high), strict=True))
        if low is None and high is None:
            self._identity(node, attributes)
        else:
            self._of_first(node, partial(torch.clamp, min=low, max=high))

    def _leakyrelu(self, node: Any, attributes: dict[str, Any]) -> None:
        self._of_first(node, partial(F.leaky_relu, negative_slope=float(attributes.get("alpha", 0.01))))

    def _elu(self, node: Any, attributes: dict[str, Any]) -> None:
        self._of_first(node, partial(F.elu, alpha=float(attributes.get("alpha", 1.0))))

    def _sigmoid(self, node: Any, attributes: dict[str, Any]) -> None:
        self._of_first(node, torch.sigmoid)

    def _tanh(self, node: Any, attributes: dict[str, Any]) -> None:
        self._of_first(node, torch.tanh)

    def _erf(self, node: Any, attributes: dict[str, Any]) -> None:
        self._of_first(node, torch.erf)

    def _softplus(self, node: Any, attributes: dict[str, Any]) -> None:
        self._of_first(node, F.softplus)

    def _hardswish(self, node: Any, attributes: dict[str, Any]) -> None:
        self._of_first(node, F.hardswish)

    def _hardsigmoid(self, node: Any, attributes: dict[str, Any]) -> None:
        slope, offset = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
        self._of_first(node, partial(_hard_sigmoid, slope=slope, offset=offset))

    def _gelu(self, node: Any, attributes: dict[str, Any]) -> None:
        self._of_first(node, partial(F.gelu, approximate=attributes.get("approximate", b"none").decode()))

    def _softmax(self, node: Any, attributes: dict[str, Any]) -> None:
        self._of_first(node, partial(torch.softmax, dim=int(attributes.get("axis", -1))))

    def _logsoftmax(self, node: Any, attributes: dict[str, Any]) -> None:
        self._of_first(node, partial(torch.log_softmax, dim=int(attributes.get("axis", -1))))

    def _concat(self, node: Any, attributes: dict[str, Any]) -> None:
        if (axis := int(attributes["axis"])) == 0:
            raise self._refuse(node, "along the batch")
        self._function(node, partial(_concatenated, dim=axis))

    def _reducemean(self, node: Any, attributes: dict[str, Any]) -> None:
        axes = tuple(self._axes(node, attributes))
        if not axes or 0 in axes:
            raise self._refuse(node, f"over axes {list(axes)}")
        self._of_first(node, partial(torch.mean, dim=axes, keepdim=bool(attributes.get("keepdims", 1))))

    def _squeeze(self, node: Any, attributes: dict[str, Any]) -> None:
        axes = tuple(self._axes(node, attributes))
        if not axes or 0 in axes:
            raise self._refuse(node, f"of axes {list(axes)}")
        self._of_first(node, partial(torch.squeeze, dim=axes))

    def _unsqueeze(self, node: Any, attributes: dict[str, Any]) -> None:
        axes = self._axes(node, attributes)
        if len(axes) != 1 or axes[0] == 0:
            raise self._refuse(node, f"of axes {axes}")
        self._of_first(node, partial(torch.unsqueeze, dim=axes[0]))

    def _axes(self, node: Any, attributes: dict[str, Any]) -> list[int]:
        """Axes, which newer files have as an input."""
        if "axes" in attributes:
            return [int(axis) for axis in attributes["axes"]]
        return [int(axis) for axis in self._number(node, 1)] if len(node.input) > 1 else []

    def _pad(self, node: Any, attributes: dict[str, Any]) -> None:
        self._only(node, attributes, mode=(b"constant",), pads=None, value=(0.0,))
        pads = list(attributes["pads"]) if "pads" in attributes else self._number(node, 1).tolist()
        filled = float(self._number(node, 2)) if len(node.input) > 2 and node.input[2] else 0.0
        if len(pads) != 8 or any(pads[i] for i in (0, 1, 4, 5)) or filled != 0.0:
            raise self._refuse(node, f"by {pads} with {filled:g}")
        self._layer(node, _zeros([pads[2], pads[3], pads[6], pads[7]]))

    def _cast(self, node: Any, attributes: dict[str, Any]) -> None:
        if int(attributes["to"]) != self.onnx.TensorProto.FLOAT:
            raise self._refuse(node, "to a type other than float32")
        self._identity(node, attributes)

    def _of_first(self, node: Any, function: Callable[..., Tensor]) -> None:
        """A function of the first input alone."""
        self.made.steps.append((function, (node.input[0],), node.output[0]))


def _hard_sigmoid(x: Tensor, slope: float, offset: float) -> Tensor:
    return (slope * x + offset).clamp(0, 1)


def _concatenated(*parts: Tensor, dim: int) -> Tensor:
    return torch.cat(parts, dim)


def _fill(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)  # type: ignore[operator]
        if bias is not None:
            layer.bias.copy_(bias)  # type: ignore[operator]


def _zeros(pads: Sequence[int]) -> nn.ZeroPad2d:
    top, left, bottom, right = pads
    return nn.ZeroPad2d((left, right, top, bottom))


def _compare(network: nn.Module, graph: Any, path: Path) -> None:
    """The file's own answers, by onnxruntime, on random inputs in and around the unit box."""
    onnxruntime = require("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    sides = given.shape[1:]
    if not all(isinstance(side, int) for side in sides):
        raise ArgumentError(f"model: expected an input of known sides in {path}, got {given.shape}")
    x = np.random.default_rng(0).uniform(-0.5, 1.5, (_ROWS, *sides)).astype(np.float32)
    batches = [x[i : i + 1] for i in range(_ROWS)] if given.shape[0] == 1 else [x]
    theirs = np.concatenate([session.run(None, {given.name: batch})[0] for batch in batches])
    with torch.no_grad():
        try:
            ours = network.eval()(torch.from_numpy(x))
        except RuntimeError as error:
            raise ArgumentError(f"model: {path} does not fit torch's layers: {error}") from None
    if (dropped := getattr(network, "dropped", None)) is not None:
        ours = _DROPPED[dropped](ours)
    scale = 1 + float(np.abs(theirs).max())
    if tuple(ours.shape) != theirs.shape or not float(np.abs(ours.numpy() - theirs).max()) <= 1e-4 * scale:
        raise ArgumentError(f"model: the operators of {path} do not give what onnxruntime gives")
