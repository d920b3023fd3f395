"""A classifier as operations that are known exactly, for whatever proves something about it.

network = read_network(model, x)      # or an ArgumentError that names what is not known
network.operations                    # Input, Conv2d, Relu, Add, ..., each with the numbers of those it takes
network(x)                            # logits, in float64

The model is run once on tensors that record every function applied to them, so that a module of one's own is read
like ours; a function that is not in the table here is refused by name.  So is whatever could make the model behave
otherwise than was seen: hooks, parametrizations, subclasses of torch's layers, a part in training mode.  At last
the operations are compared with the model on random inputs.

A layer that computes in a way of its own joins by `register`: it is then one operation, whose module is not
looked into.

b  examples       o, i  features out and in       c, h, w  channels, height, width
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from zeronorm import checks
from zeronorm.errors import ArgumentError, one_line

Shape = tuple[int, ...]
_MATRIX = 200_000  # coefficients of a convolution that are held as a matrix
_ROWS = 5  # of the batch that is run, so that a reshape that mixes examples shows


@dataclass(frozen=True, eq=False, kw_only=True)
class Operation:
    """One operation.  Shapes and tensors are of one example, in float64; `inputs` are numbers of operations.

    Affine operations have, beside `apply` (all of them): `linear` (without the constant), `absolute` (with the
    absolute values of the weights), `transpose` (coefficients of the result to coefficients of each input) and
    `magnitude`, which bounds the sum of the absolute values of everything that is added up, given bounds of the
    inputs' absolute values.
    `terms` bounds the number of roundings on the way to one entry of the result.
    """

    inputs: tuple[int, ...]
    shape: Shape
    terms: int = 1

    affine: ClassVar[bool] = True

    def apply(self, *values: Tensor) -> Tensor:
        """`(b, *shape of each input)` to `(b, *shape)`."""
        raise NotImplementedError

    def linear(self, *values: Tensor) -> Tensor:
        """As `apply`, without what is added: the constant of an affine operation is 0."""
        return self.apply(*values)

    def absolute(self, *values: Tensor) -> Tensor:
        """As `linear`, with the absolute values of the weights."""
        return self.linear(*values)

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """`(b, *shape)` to `(b, *shape of input)`, one for each input."""
        raise NotImplementedError

    def magnitude(self, *values: Tensor) -> Tensor:
        """Bound of the absolute values that are added up, `(b, *shape)`."""
        return self.absolute(*values)


@dataclass(frozen=True, eq=False, kw_only=True)
class Input(Operation):
    """What the classifier is given."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Operation):
    """`(i,)` to `(o,)`: weight (o, i), bias (o,)."""

    weight: Tensor
    bias: Tensor

    def apply(self, *values: Tensor) -> Tensor:
        return F.linear(values[0], self.weight, self.bias)

    def linear(self, *values: Tensor) -> Tensor:
        return F.linear(values[0], self.weight)

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        return (coefficients @ self.weight,)

    def absolute(self, *values: Tensor) -> Tensor:
        return F.linear(values[0], self.weight.abs())

    def magnitude(self, *values: Tensor) -> Tensor:
        return self.absolute(*values) + self.bias.abs()


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(Operation):
    """`(c, h, w)` to `(o, h', w')` with padding by zeros, the same on opposite sides; also average pooling."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    input_shape: Shape

    @property
    def _geometry(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups

    @cached_property
    def _matrix(self) -> Tensor | None:
        """Of a small convolution all its coefficients, (outputs, inputs): several times as fast in float64."""
        inputs = math.prod(self.input_shape)
        if inputs * math.prod(self.shape) > _MATRIX:
            return None
        unit = torch.eye(inputs, dtype=self.weight.dtype, device=self.weight.device)
        return self._convolved(unit.view(-1, *self.input_shape), self.weight).flatten(1).T.contiguous()

    @property
    def is_small(self) -> bool:
        """Whether products of matrices do what convolutions are slow at."""
        return self._matrix is not None

    def apply(self, *values: Tensor) -> Tensor:
        return F.conv2d(values[0], self.weight, self.bias, *self._geometry)

    def linear(self, *values: Tensor) -> Tensor:
        if self._matrix is not None:
            return (values[0].flatten(1) @ self._matrix.T).view(-1, *self.shape)
        return self._convolved(values[0], self.weight)

    def _convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, *self._geometry)

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        if self._matrix is not None:
            return ((coefficients.flatten(1) @ self._matrix).view(-1, *self.input_shape),)
        reached = [
            (out - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1
            for out, stride, pad, dilation, kernel in zip(
                self.shape[1:], self.stride, self.padding, self.dilation, self.weight.shape[2:], strict=True
            )
        ]
        extra = tuple(side - seen for side, seen in zip(self.input_shape[1:], reached, strict=True))
        return (
            F.conv_transpose2d(
                coefficients, self.weight, None, self.stride, self.padding, extra, self.groups, self.dilation
            ),
        )

    def absolute(self, *values: Tensor) -> Tensor:
        if self._matrix is not None:
            return (values[0].flatten(1) @ self._matrix.abs().T).view(-1, *self.shape)
        return self._convolved(values[0], self.weight.abs())

    def magnitude(self, *values: Tensor) -> Tensor:
        return self.absolute(*values) + self.bias.abs()[:, None, None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Operation):
    """`factor * x + shift`, entry by entry; both broadcast to one example.

    Normalisation, batch normalisation, constants.  `parts` bounds the absolute values that `shift` is the sum of.
    """

    factor: Tensor
    shift: Tensor
    parts: Tensor

    def apply(self, *values: Tensor) -> Tensor:
        return values[0] * self.factor + self.shift

    def linear(self, *values: Tensor) -> Tensor:
        return values[0] * self.factor

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        return (coefficients * self.factor,)

    def absolute(self, *values: Tensor) -> Tensor:
        return values[0] * self.factor.abs()

    def magnitude(self, *values: Tensor) -> Tensor:
        return self.absolute(*values) + self.parts


@dataclass(frozen=True, eq=False, kw_only=True)
class Pad(Operation):
    """`(c, h, w)` with zeros around: `sides` as of `torch.nn.functional.pad`, last dimension first."""

    sides: tuple[int, ...]

    def apply(self, *values: Tensor) -> Tensor:
        return F.pad(values[0], self.sides)

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        return (F.pad(coefficients, tuple(-side for side in self.sides)),)


@dataclass(frozen=True, eq=False, kw_only=True)
class Select(Operation):
    """A part of the entries, by one slice for each dimension."""

    slices: tuple[slice, ...]
    input_shape: Shape

    def apply(self, *values: Tensor) -> Tensor:
        return values[0][(slice(None), *self.slices)]

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        whole = coefficients.new_zeros((len(coefficients), *self.input_shape))
        whole[(slice(None), *self.slices)] = coefficients
        return (whole,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Operation):
    """The same entries in the same order."""

    input_shape: Shape

    def apply(self, *values: Tensor) -> Tensor:
        return values[0].reshape(-1, *self.shape)

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        return (coefficients.reshape(-1, *self.input_shape),)


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Operation):
    """The sum of two results of equal shape."""

    def apply(self, *values: Tensor) -> Tensor:
        return values[0] + values[1]

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        return coefficients, coefficients


@dataclass(frozen=True, eq=False, kw_only=True)
class Relu(Operation):
    """`max(x, 0)`, entry by entry."""

    affine: ClassVar[bool] = False

    def apply(self, *values: Tensor) -> Tensor:
        return values[0].relu()


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool2d(Operation):
    """The largest entry of each window; cells beyond the border never win."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    affine: ClassVar[bool] = False

    def apply(self, *values: Tensor) -> Tensor:
        return F.max_pool2d(values[0], self.kernel, self.stride, self.padding, self.dilation)


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer(Operation):
    """A registered module, as a whole, copied in float64 on the CPU; whoever certifies it knows its type."""

    module: nn.Module

    affine: ClassVar[bool] = False

    def apply(self, *values: Tensor) -> Tensor:
        with torch.no_grad():
            return self.module(values[0])


@dataclass(frozen=True, eq=False)
class Network:
    """Operations in an order in which each comes after its inputs; the first is the input, the last the logits."""

    operations: tuple[Operation, ...]
    dtype: torch.dtype  # of the model's weights: what it computes in where it is deployed

    @property
    def input_shape(self) -> Shape:
        return self.operations[0].shape

    @property
    def classes(self) -> int:
        return self.operations[-1].shape[0]

    def __call__(self, x: Tensor) -> Tensor:
        """Logits `(b, classes)` of `(b, *input_shape)`, in float64."""
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """The result of every operation, in float64."""
        values: list[Tensor] = []
        for operation in self.operations:
            given = [values[number] for number in operation.inputs]
            values.append(operation.apply(*given) if given else x.double())
        return values


Plain = Callable[[nn.Module], nn.Module | None]
_REGISTERED: dict[type[nn.Module], Plain] = {}


def register(layer: type[nn.Module], plain: Plain = lambda module: None) -> None:
    """Read modules of exactly this class as one `Layer`: a function `(b, ...)` to `(b, ...)` of one tensor.

    Where `plain` returns a module of torch that computes the same, that one is read instead.
    """
    _REGISTERED[layer] = plain


def read_network(model: Any, x: Tensor, *, seed: int = 0) -> Network:
    """The operations of `model` for inputs of the shape of `x`, `(b, ...)`.

    **Raises:** `ArgumentError` for what is no torch module, for modules and functions whose result is not known
    exactly, for weights that are not finite, and where the operations do not give what the model gives.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model: expected a torch module, whose weights can be read, got {type(model).__name__}"
        )
    checks.examples(x)
    _check_modules(model)
    dtypes = {tensor.dtype for tensor in model.parameters()} or {torch.float32}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise ArgumentError(
            "model: expected weights in float32 or all in float64, got " + ", ".join(sorted(map(str, dtypes)))
        )
    dtype = dtypes.pop()
    _check_inputs(model, x, dtype)
    device = next(itertools.chain(model.parameters(), model.buffers(), [x])).device
    generator = torch.Generator().manual_seed(seed)
    sample = torch.rand((_ROWS, *x.shape[1:]), generator=generator).to(device, dtype)
    recorder = _Recorder()
    with torch.no_grad(), torch.autocast(device.type, enabled=False), _layers_whole(recorder):
        result = model(recorder.start(sample))
    if not isinstance(result, _Traced) or result.dim() != 2:
        raise ArgumentError(
            "model: expected logits (batch, classes) that follow from the input by known operations, got "
            + (
                f"a tensor of shape {tuple(result.shape)}"
                if isinstance(result, Tensor)
                else type(result).__name__
            )
        )
    network = Network(_reachable(recorder.operations, result._number), dtype)
    _compare(network, model, sample, generator)
    return network


# ---- what could behave otherwise than was seen ----

_TORCH = (
    nn.Linear,
    nn.Conv2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.MaxPool2d,
    nn.ZeroPad2d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
)
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


def _check_inputs(model: nn.Module, x: Tensor, dtype: torch.dtype) -> None:
    """`ArgumentError` for inputs of another type than the weights, unless the model takes them all the same."""
    if x.dtype == dtype or not len(x):
        return
    try:
        with torch.no_grad():
            model(x[:1])
    except RuntimeError as error:
        raise ArgumentError(
            f"x: expected inputs in {dtype}, as the model's weights are, got {x.dtype}: {one_line(error)}"
        ) from None


def _check_modules(model: nn.Module) -> None:
    for hooks in _GLOBAL_HOOKS:
        if getattr(nn.modules.module, hooks):
            raise ArgumentError("model: expected no hooks, got some registered for all of torch's modules")
    for name, module in model.named_modules():
        where = f"{name or 'model'} ({type(module).__name__})"
        if module.training:
            raise ArgumentError(
                f"model: expected a model in evaluation mode, got {where} in training mode; call model.eval()"
            )
        if any(getattr(module, hooks, None) for hooks in _HOOKS):
            raise ArgumentError(f"model: expected modules without hooks, got one of {where}")
        if is_parametrized(module):
            raise ArgumentError(f"model: expected plain weights, got a parametrization of {where}")
        kind = type(module)
        if "forward" in vars(module) or kind.__call__ is not nn.Module.__call__:
            raise ArgumentError(f"model: expected modules that call their class's forward, got {where}")
        if kind in _REGISTERED:
            continue
        if kind.__module__.partition(".")[0] == "torch":
            if kind not in _TORCH:
                raise ArgumentError(f"model: expected layers that can be bounded, got {where}")
        elif layers := [
            k for k in kind.__mro__ if k.__module__.startswith("torch.") and k not in _CONTAINERS
        ]:
            raise ArgumentError(
                f"model: expected torch's own layers, got {where}, a subclass of {layers[0].__name__}"
            )
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ArgumentError(f"model: expected finite weights, got NaN or infinity in {name}")


def _compare(network: Network, model: nn.Module, sample: Tensor, generator: torch.Generator) -> None:
    """The model's own numbers, on inputs within the unit box and beyond, in one batch and another."""
    beyond = torch.randn((_ROWS + 2, *sample.shape[1:]), generator=generator) * 2
    corners = torch.rand((_ROWS - 2, *sample.shape[1:]), generator=generator).round()
    in_float64 = _in_float64(model)
    for inputs in (sample, beyond.to(sample), corners.to(sample)):
        with torch.no_grad(), torch.autocast(sample.device.type, enabled=False):
            own, exact = model(inputs), in_float64(inputs.double())
        ours = network(inputs.cpu())
        if not bool(ours.isfinite().all()):
            raise ArgumentError(
                "model: expected finite logits of inputs around the unit box, got NaN or infinity"
            )
        scale = 1 + float(ours.abs().max())
        for theirs in (own, exact):
            tolerance = scale * (1e-3 if theirs.dtype == torch.float32 else 1e-9)
            if theirs.shape != ours.shape or not bool(
                (theirs.double().cpu() - ours).abs().max() <= tolerance
            ):
                raise ArgumentError(
                    "model: expected what its layers compute, got other logits when the model was called again; "
                    "is part of it random, or does it depend on the batch or on earlier calls?"
                )


def _in_float64(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).double()
    except Exception as error:
        raise ArgumentError(f"model: expected a model that can be copied, got {error}") from None


def _reachable(operations: Sequence[Operation], last: int) -> tuple[Operation, ...]:
    """Those that the result depends on, numbered anew; the input always is one."""
    needed = {0, last}
    for number in range(last, -1, -1):
        if number in needed:
            needed.update(operations[number].inputs)
    order = sorted(needed)
    place = {number: i for i, number in enumerate(order)}
    kept = []
    for number in order:
        made = copy.copy(operations[number])
        object.__setattr__(made, "inputs", tuple(place[i] for i in made.inputs))
        kept.append(made)
    return tuple(kept)


# ---- recording ----


class _Traced(Tensor):
    """A tensor that knows which operation it is the result of."""

    _recorder: _Recorder
    _number: int

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in itertools.chain(args, (kwargs or {}).values()):
            parts = value if isinstance(value, tuple | list) else (value,)
            for part in parts:
                if isinstance(part, _Traced):
                    return part._recorder.record(func, args, kwargs or {})
        raise ArgumentError(f"model: expected functions that can be bounded, got {_name(func)}")


def _name(func: Any) -> str:
    owner = getattr(func, "__self__", None)
    if getattr(func, "__name__", "") in ("__get__", "__set__") and owner is not None:
        return f"Tensor.{getattr(owner, '__name__', owner)}"
    name = getattr(func, "__qualname__", None) or getattr(func, "__name__", func)
    return str(name).replace("TensorBase", "Tensor")


@dataclass
class _Recorder:
    operations: list[Operation] = field(default_factory=list)
    # results that share memory with another: changing them in place would change that too
    shared: set[int] = field(default_factory=set)

    def start(self, sample: Tensor) -> Tensor:
        self.operations.append(Input(inputs=(), shape=tuple(sample.shape[1:])))
        self.shared.add(0)
        return self.wrap(sample.clone(), 0)

    def wrap(self, value: Tensor, number: int) -> Tensor:
        traced = value if type(value) is _Traced else value.as_subclass(_Traced)
        traced._recorder, traced._number = self, number
        return traced

    def add(self, kind: type[Operation], *inputs: int, **values: Any) -> int:
        self.operations.append(kind(inputs=inputs, **values))
        return len(self.operations) - 1

    def shape(self, number: int) -> Shape:
        return self.operations[number].shape

    def record(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _FACTS:
                return func(*args, **kwargs)
            handler = _FUNCTIONS.get(func)
            if handler is None:
                raise ArgumentError(f"model: expected functions that can be bounded, got {_name(func)}")
            before = [a for a in itertools.chain(args, kwargs.values()) if isinstance(a, _Traced)]
            in_place = func in _IN_PLACE or bool(kwargs.get("inplace"))
            if in_place and any(one._number in self.shared for one in before):
                raise ArgumentError(
                    f"model: expected no change in place of a tensor that is used elsewhere, got {_name(func)}"
                )
            try:
                number = handler(_Arguments(self, func), *args, **kwargs)
            except TypeError as error:
                raise ArgumentError(
                    f"model: expected {_name(func)} as it is commonly called, got ({error})"
                ) from None
            result = func(*args, **kwargs)
            if tuple(result.shape) != (_ROWS, *self.shape(number)):
                raise ArgumentError(
                    f"model: expected {_name(func)} to keep examples apart, got a result of shape "
                    f"{tuple(result.shape)} for {_ROWS} examples"
                )
            storages = {one.untyped_storage().data_ptr() for one in before}
            if not in_place and result.untyped_storage().data_ptr() in storages:
                self.shared.add(number)
                self.shared.update(one._number for one in before)
            return self.wrap(result, number)


@dataclass
class _Arguments:
    """What the handlers use to say what came."""

    recorder: _Recorder
    func: Any

    def refuse(self, what: str) -> ArgumentError:
        return ArgumentError(f"model: expected functions that can be bounded, got {_name(self.func)} {what}")

    def number(self, value: Any) -> int:
        if not isinstance(value, _Traced):
            raise self.refuse("of something that does not follow from the input")
        return value._number

    def shape(self, value: Any) -> Shape:
        return self.recorder.shape(self.number(value))

    def constant(self, value: Any, shape: Shape | None = None) -> Tensor:
        """A weight in float64 on the CPU; one that comes from the input is refused."""
        if isinstance(value, _Traced):
            raise self.refuse("with weights that depend on the input")
        tensor = torch.as_tensor(value).detach().to("cpu", torch.float64).clone()
        if not bool(tensor.isfinite().all()):
            raise self.refuse("with a constant that is not finite")
        if shape is not None and tensor.shape != shape:
            raise self.refuse(f"with weights of shape {tuple(tensor.shape)}")
        return tensor

    def image(self, value: Any) -> Shape:
        shape = self.shape(value)
        if len(shape) != 3:
            raise self.refuse(f"of examples of shape {shape} rather than (channel, height, width)")
        return shape

    def of_example(self, value: Any, shape: Shape) -> Tensor:
        """A constant that broadcasts to one example without a dimension for the batch."""
        tensor = self.constant(value)
        if tensor.dim() == len(shape) + 1 and len(tensor) == 1:
            tensor = tensor[0]
        if tensor.dim() > len(shape) or torch.broadcast_shapes(tensor.shape, shape) != torch.Size(shape):
            raise self.refuse(f"of examples {shape} with a constant of shape {tuple(tensor.shape)}")
        return tensor

    def scale(self, value: Any, factor: Any = 1.0, shift: Any = 0.0, parts: Tensor | None = None) -> int:
        shape = self.shape(value)
        shift = self.of_example(shift, shape)
        return self.recorder.add(
            Scale,
            self.number(value),
            shape=shape,
            terms=6,
            factor=self.of_example(factor, shape),
            shift=shift,
            parts=shift.abs() if parts is None else parts,
        )


def _pair(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    values = values * 2 if len(values) == 1 else values
    first, second = values
    return int(first), int(second)


def _sides(
    shape: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Shape:
    return tuple(
        (side + 2 * pad - step * (width - 1) - 1) // jump + 1
        for side, width, jump, pad, step in zip(shape[1:], kernel, stride, padding, dilation, strict=True)
    )


def _linear(a: _Arguments, input: Any, weight: Any, bias: Any = None) -> int:
    shape, w = a.shape(input), a.constant(weight)
    if len(shape) != 1:
        raise a.refuse(f"of examples of shape {shape} rather than flat ones")
    b = w.new_zeros(len(w)) if bias is None else a.constant(bias, (len(w),))
    return a.recorder.add(Linear, a.number(input), shape=(len(w),), terms=w.shape[1] + 1, weight=w, bias=b)


def _conv2d(
    a: _Arguments,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> int:
    shape, w = a.image(input), a.constant(weight)
    jump, step = _pair(stride), _pair(dilation)
    if padding == "valid":
        padding = 0
    if isinstance(padding, str):  # "same", whose sides may differ
        total = [step[d] * (w.shape[2 + d] - 1) for d in (0, 1)]
        if any(t % 2 for t in total):
            raise a.refuse("with padding that differs between opposite sides")
        padding = [t // 2 for t in total]
    pad = _pair(padding)
    b = w.new_zeros(len(w)) if bias is None else a.constant(bias, (len(w),))
    return a.recorder.add(
        Conv2d,
        a.number(input),
        shape=(len(w), *_sides(shape, w.shape[2:], jump, pad, step)),
        terms=math.prod(w.shape[1:]) + 1,
        weight=w,
        bias=b,
        stride=jump,
        padding=pad,
        dilation=step,
        groups=groups,
        input_shape=shape,
    )


def _batch_norm(
    a: _Arguments,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> int:
    if training or running_mean is None or running_var is None:
        raise a.refuse("that takes its statistics from the batch")
    mean, variance = a.constant(running_mean), a.constant(running_var)
    if bool((variance < 0).any()):
        raise a.refuse("with a negative variance")
    gain = torch.ones_like(mean) if weight is None else a.constant(weight)
    offset = torch.zeros_like(mean) if bias is None else a.constant(bias)
    factor = gain / (variance + eps).sqrt()
    shift, parts = offset - mean * factor, offset.abs() + (mean * factor).abs()
    spread = (-1,) + (1,) * (len(a.shape(input)) - 1)
    return a.scale(input, factor.view(spread), shift.view(spread), parts.view(spread))


def _relu(a: _Arguments, input: Any, inplace: bool = False) -> int:
    return a.recorder.add(Relu, a.number(input), shape=a.shape(input), terms=0)


def _same(a: _Arguments, input: Any, *_: Any, **__: Any) -> int:
    return a.recorder.add(Reshape, a.number(input), shape=a.shape(input), terms=0, input_shape=a.shape(input))


def _dropout(a: _Arguments, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> int:
    if training:
        raise a.refuse("in training mode")
    return _same(a, input)


def _flatten(a: _Arguments, input: Any, start_dim: int = 0, end_dim: int = -1) -> int:
    with torch._C.DisableTorchFunctionSubclass():
        return _reshaped(a, input, torch.flatten(input.as_subclass(Tensor), start_dim, end_dim).shape)


def _unflatten(a: _Arguments, input: Any, dim: int, sizes: Any) -> int:
    return _reshaped(a, input, input.as_subclass(Tensor).unflatten(dim, sizes).shape)


def _reshape(a: _Arguments, input: Any, *sizes: Any, **named: Any) -> int:
    sizes = sizes or tuple(named.values())
    if any(isinstance(size, torch.dtype) for size in sizes):
        raise a.refuse("as another type")
    return _reshaped(a, input, input.as_subclass(Tensor).reshape(*sizes).shape)


def _reshaped(a: _Arguments, input: Any, shape: Sequence[int]) -> int:
    if shape[0] != _ROWS:
        raise a.refuse(f"that mixes examples: shape {tuple(shape)} of {_ROWS} examples")
    return a.recorder.add(
        Reshape, a.number(input), shape=tuple(shape[1:]), terms=0, input_shape=a.shape(input)
    )


def _squeeze(a: _Arguments, input: Any, *dim: Any) -> int:
    return _reshaped(a, input, input.as_subclass(Tensor).squeeze(*dim).shape)


def _avg_pool2d(
    a: _Arguments,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> int:
    shape, kernel = a.image(input), _pair(kernel_size)
    jump = kernel if stride is None or stride == [] else _pair(stride)
    pad = _pair(padding)
    _check_ceil(a, shape, kernel, jump, pad, (1, 1), ceil_mode)
    count = math.prod(kernel) if divisor_override is None else int(divisor_override)
    pooled = _depthwise(a, input, kernel, jump, pad, 1 / count)
    if not any(pad) or count_include_pad or divisor_override is not None:
        return pooled
    ones = torch.ones(1, 1, *shape[1:], dtype=torch.float64)
    inside = F.conv2d(ones, torch.ones(1, 1, *kernel, dtype=torch.float64), None, jump, pad)[0]
    return a.recorder.add(
        Scale,
        pooled,
        shape=a.recorder.shape(pooled),
        terms=6,
        factor=count / inside,
        shift=torch.zeros_like(inside),
        parts=torch.zeros_like(inside),
    )


def _depthwise(a: _Arguments, input: Any, kernel: Any, jump: Any, pad: Any, weight: float) -> int:
    shape = a.image(input)
    return a.recorder.add(
        Conv2d,
        a.number(input),
        shape=(shape[0], *_sides(shape, kernel, jump, pad, (1, 1))),
        terms=math.prod(kernel) + 2,
        weight=torch.full((shape[0], 1, *kernel), weight, dtype=torch.float64),
        bias=torch.zeros(shape[0], dtype=torch.float64),
        stride=jump,
        padding=pad,
        dilation=(1, 1),
        groups=shape[0],
        input_shape=shape,
    )


def _check_ceil(
    a: _Arguments, shape: Shape, kernel: Any, jump: Any, pad: Any, step: Any, ceil_mode: bool
) -> None:
    if not ceil_mode:
        return
    for side, width, by, border, apart in zip(shape[1:], kernel, jump, pad, step, strict=True):
        if (side + 2 * border - apart * (width - 1) - 1) % by:
            raise a.refuse("with ceil_mode where a window crosses the border")


def _adaptive_avg_pool2d(a: _Arguments, input: Any, output_size: Any) -> int:
    shape = a.image(input)
    wanted = tuple(output_size) if isinstance(output_size, tuple | list) else (output_size, output_size)
    sides = [side if want is None else int(want) for side, want in zip(shape[1:], wanted, strict=True)]
    if any(side % want for side, want in zip(shape[1:], sides, strict=True)):
        raise a.refuse(f"from {shape[1:]} to {tuple(sides)}, which does not divide it")
    kernel = shape[1] // sides[0], shape[2] // sides[1]
    return _depthwise(a, input, kernel, kernel, (0, 0), 1 / math.prod(kernel))


def _mean(a: _Arguments, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> int:
    shape = a.image(input)
    dims = [dim] if isinstance(dim, int) else list(dim or [])
    if dtype is not None or sorted(d % 4 for d in dims) != [2, 3]:
        raise a.refuse("over other dimensions than height and width")
    kernel = shape[1], shape[2]
    pooled = _depthwise(a, input, kernel, (1, 1), (0, 0), 1 / math.prod(kernel))
    if keepdim:
        return pooled
    return a.recorder.add(Reshape, pooled, shape=shape[:1], terms=0, input_shape=a.recorder.shape(pooled))


def _max_pool2d(
    a: _Arguments,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> int:
    shape, kernel = a.image(input), _pair(kernel_size)
    jump = kernel if stride is None or stride == [] else _pair(stride)
    pad, step = _pair(padding), _pair(dilation)
    _check_ceil(a, shape, kernel, jump, pad, step, ceil_mode)
    return a.recorder.add(
        MaxPool2d,
        a.number(input),
        shape=(shape[0], *_sides(shape, kernel, jump, pad, step)),
        terms=0,
        kernel=kernel,
        stride=jump,
        padding=pad,
        dilation=step,
    )


def _pad(a: _Arguments, input: Any, pad: Sequence[int], mode: str = "constant", value: Any = None) -> int:
    shape = a.shape(input)
    sides = tuple(int(side) for side in pad)
    if mode != "constant" or value not in (None, 0):
        raise a.refuse(f"with mode {mode!r}" if mode != "constant" else f"with {value}")
    if len(sides) > 2 * len(shape) or any(side < 0 for side in sides):
        raise a.refuse(f"by {sides}")
    grown = list(shape)
    for place, (low, high) in enumerate(zip(sides[::2], sides[1::2], strict=True)):
        grown[-1 - place] += low + high
    return a.recorder.add(Pad, a.number(input), shape=tuple(grown), terms=0, sides=sides)


def _getitem(a: _Arguments, input: Any, index: Any) -> int:
    shape = a.shape(input)
    given = list(index) if isinstance(index, tuple) else [index]
    if any(one is Ellipsis for one in given):
        raise a.refuse("with an ellipsis")
    if not all(isinstance(one, slice) for one in given) or given[0] != slice(None):
        raise a.refuse("with other than slices of each example")
    slices = tuple(given[1:]) + (slice(None),) * (len(shape) + 1 - len(given))
    if any((one.step or 1) < 1 for one in slices):
        raise a.refuse("with steps below 1")
    sides = tuple(len(range(*one.indices(side))) for one, side in zip(slices, shape, strict=True))
    return a.recorder.add(Select, a.number(input), shape=sides, terms=0, slices=slices, input_shape=shape)


def _add(a: _Arguments, one: Any, other: Any, *, alpha: float = 1) -> int:
    if alpha != 1:
        raise a.refuse("with alpha")
    if not isinstance(other, _Traced):
        return a.scale(one, 1.0, other)
    if not isinstance(one, _Traced):
        return a.scale(other, 1.0, one)
    if a.shape(one) != a.shape(other):
        raise a.refuse(f"of shapes {a.shape(one)} and {a.shape(other)}")
    return a.recorder.add(Add, a.number(one), a.number(other), shape=a.shape(one), terms=1)


def _sub(a: _Arguments, one: Any, other: Any, *, alpha: float = 1) -> int:
    if alpha != 1:
        raise a.refuse("with alpha")
    if not isinstance(other, _Traced):
        return a.scale(one, 1.0, -a.constant(other))
    minus = a.scale(other, -1.0, 0.0 if isinstance(one, _Traced) else one)
    if not isinstance(one, _Traced):
        return minus
    if a.shape(one) != a.shape(other):
        raise a.refuse(f"of shapes {a.shape(one)} and {a.shape(other)}")
    return a.recorder.add(Add, a.number(one), minus, shape=a.shape(one), terms=1)


def _rsub(a: _Arguments, one: Any, other: Any, *, alpha: float = 1) -> int:
    return _sub(a, other, one, alpha=alpha)


def _mul(a: _Arguments, one: Any, other: Any) -> int:
    if isinstance(one, _Traced) and isinstance(other, _Traced):
        raise a.refuse("of two results")
    return a.scale(one, other) if isinstance(one, _Traced) else a.scale(other, one)


def _div(a: _Arguments, one: Any, other: Any, *, rounding_mode: Any = None) -> int:
    if isinstance(other, _Traced) or rounding_mode is not None:
        raise a.refuse("by something that depends on the input")
    divisor = a.constant(other)
    if bool((divisor == 0).any()):
        raise a.refuse("by 0")
    return a.scale(one, 1 / divisor)


def _neg(a: _Arguments, one: Any) -> int:
    return a.scale(one, -1.0)


_IN_PLACE = {
    torch.relu_,
    Tensor.relu_,
    Tensor.add_,
    Tensor.sub_,
    Tensor.mul_,
    Tensor.div_,
    Tensor.__iadd__,
    Tensor.__isub__,
    Tensor.__imul__,
    Tensor.__itruediv__,
}
_FUNCTIONS: dict[Any, Callable[..., int]] = {
    F.linear: _linear,
    torch.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.dropout: _dropout,
    F.dropout1d: _dropout,
    F.dropout2d: _dropout,
    F.avg_pool2d: _avg_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.pad: _pad,
    torch.mean: _mean,
    Tensor.mean: _mean,
    Tensor.unflatten: _unflatten,
    torch.squeeze: _squeeze,
    Tensor.squeeze: _squeeze,
    Tensor.contiguous: _same,
    Tensor.__getitem__: _getitem,
    Tensor.__rsub__: _rsub,
    torch.neg: _neg,
    Tensor.neg: _neg,
    Tensor.__neg__: _neg,
}
_SEVERAL: dict[Callable[..., int], tuple[Any, ...]] = {
    _relu: (F.relu, torch.relu, torch.relu_, F.relu_, Tensor.relu, Tensor.relu_),
    _flatten: (torch.flatten, Tensor.flatten),
    _reshape: (torch.reshape, Tensor.reshape, Tensor.view),
    _add: (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__),
    _sub: (torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__, Tensor.__isub__),
    _mul: (torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__),
    _div: (torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__),
}
_FUNCTIONS |= {name: handler for handler, names in _SEVERAL.items() for name in names}

# what may be asked of a tensor without its values
_FACTS = {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.__len__,
    Tensor.is_floating_point,
    torch.is_floating_point,
    Tensor.is_contiguous,
    Tensor.stride,
} | {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "layout")
}


@contextmanager
def _layers_whole(recorder: _Recorder) -> Iterator[None]:
    """While a model is read: registered layers are called on plain tensors, and are one operation."""
    entered: list[tuple[nn.Module, int]] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
        if type(module) not in _REGISTERED or not args or not isinstance(args[0], _Traced):
            return None
        entered.append((module, args[0]._number))
        return (args[0].as_subclass(Tensor), *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        if not entered or entered[-1][0] is not module:
            return None
        number = entered.pop()[1]
        if (plain := _REGISTERED[type(module)](module)) is not None:
            return plain(recorder.wrap(args[0].clone(), number))
        if not isinstance(result, Tensor) or len(result) != _ROWS:
            raise ArgumentError(f"model: expected a tensor from {type(module).__name__}, got {type(result)}")
        alone = _in_float64(module).cpu()
        made = recorder.add(Layer, number, shape=tuple(result.shape[1:]), module=alone)
        return recorder.wrap(result, made)

    handles = [
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
