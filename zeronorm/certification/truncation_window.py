"""What an adversary can do to truncated inner products: the retained window moves, and no further.

With products s_1 >= ... >= s_d, ⟨w, x⟩_k sums the window s_{k+1} ... s_{d-k}.  Changing b coordinates moves
every order statistic by at most b places, so that the sum stays between those of the window moved b places down
and up:

    Σ_{i=k+b+1}^{d-k+b} s_i  <=  ⟨w, x'⟩_k  <=  Σ_{i=k-b+1}^{d-k-b} s_i      for b <= k

Both ends are attained where all w_i != 0: by sending the b largest products below all others, or the b smallest
above.  For b > k a single product can be carried anywhere.  This extends the case b = k of Beliaev et al. 2022
to all budgets; the certificates below are this library's own.

b       examples
o       outputs of a layer
d       coordinates
j       classes
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.certification.certificate import ABSTAIN, Certificate
from zeronorm.certification.network_graph import (
    _TORCH,
    Input,
    Layer,
    Linear,
    MaxPool2d,
    Network,
    Operation,
    Pad,
    Relu,
    Reshape,
    Scale,
    Select,
    read_network,
    register,
)
from zeronorm.certification.rounding import Rounding
from zeronorm.errors import ArgumentError
from zeronorm.kernels.truncated_patches import truncated_patches
from zeronorm.kernels.truncated_products import truncated_products
from zeronorm.layers.truncation import TruncatedConv2d, TruncatedLinear
from zeronorm.models.classifier import Classifier
from zeronorm.models.normalize import Normalize

_CHUNK = 1 << 24  # products held at a time
_PRODUCTS = 1 << 22  # as many, sorted twice and summed up four times
_SCALING = 12  # roundings of a batch normalisation, its constants included


def truncated_range(
    w: Float[Tensor, "o d"],
    x: Float[Tensor, "b d"],
    k: int,
    budget: int,
    *,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
) -> tuple[Float[Tensor, "b o"], Float[Tensor, "b o"]]:
    """The least and the greatest value of ⟨w_o, x'⟩_k over all x' that differ from x in `budget` coordinates.

    Exact without bounds on x', if no w is 0 (otherwise sound: a product with w_i = 0 cannot be moved).  With
    `low` and `high`, numbers or tensors that broadcast to x, also sound for x' between them and often nearer:
    each product's own range limits what changing it can do, ⟨·⟩_k being monotone and 1-Lipschitz in each.
    Differentiable in w and x.

    **Raises:** `ArgumentError` for a budget above k without bounds, where the value is unbounded; a k beyond
    d/2; numbers that are not finite.
    """
    d = _check(w, x)
    k, budget = checks.integer("k", k, 0, d // 2), checks.integer("budget", budget, 0)
    if (low is None) != (high is None):
        raise ArgumentError("low, high: expected both or neither")
    if budget > k and low is None:
        raise ArgumentError(
            f"budget: expected at most k = {k} changes, beyond which a truncated product is unbounded, got {budget}"
        )
    least = greatest = None
    if budget <= k:
        least = truncated_products(x, w, k - budget, k + budget)
        greatest = truncated_products(x, w, k + budget, k - budget)
    if low is None or high is None or budget == 0:
        assert least is not None and greatest is not None
        return least, greatest
    value = truncated_products(x, w, k, k)
    falls, rises = _largest_changes(w, x, min(budget, d), _like(low, x), _like(high, x))
    nearer_least, nearer_greatest = value - falls, value + rises
    if least is None or greatest is None:
        return nearer_least, nearer_greatest
    return torch.maximum(least, nearer_least), torch.minimum(greatest, nearer_greatest)


def certify_truncated_linear(
    w: Float[Tensor, "d"], x: Float[Tensor, "b d"], k: int, bias: float = 0.0
) -> Certificate:
    """The exact radius of the classifier that answers 1 where ⟨w, x⟩_k + bias > 0, and 0 elsewhere.

    The radius is the largest number of coordinates that can change to any values without changing the answer,
    at most k; exact if no w is 0, otherwise a lower bound.
    """
    d = _check(w[None], x)
    checks.integer("k", k, 0, d // 2)
    checks.real("bias", bias, -float("inf"))
    s = (x * w).double().sort(dim=1, descending=True).values
    # window[n] = s_{n+1} + ... + s_{n + d - 2k}, for n = 0 ... 2k; empty where all is dropped
    kept = d - 2 * k
    window = s.unfold(1, kept, 1).sum(2) + bias if kept else s.new_full((len(x), 2 * k + 1), bias)
    positive = window[:, k] > 0
    # by moves of 0 ... k places, down for those above 0 and up for the others
    moved = torch.where(positive[:, None], window[:, k:], window[:, : k + 1].flip(1))
    holds = (moved > 0) == positive[:, None]
    return Certificate(positive.long(), holds.long().cumprod(1).sum(1) - 1)


def check_truncated(model: Any, x: Tensor) -> Network:
    """The operations of a network with a truncated first layer; `ArgumentError` for any other."""
    return _split(read_network(_as_evaluated(model), x))[0]


@torch.inference_mode()
def certify_truncated(
    model: Any,
    x: Float[Tensor, "b ..."],
    *,
    low: float | None = None,
    high: float | None = None,
    unit: str = "pixel",
    batch_size: int = 64,
) -> Certificate:
    """For a network with a truncated first layer: how many positions may change without changing its answer.

    The windows of the first layer's outputs are carried as intervals through the layers behind it, the last of
    which is elided: for each rival class the greatest lead z_j - z_y over the box of the hidden layer before
    it.  Sound, in one pass for each budget tried, but not tight: every unit is granted its own worst changes.

    Intervals hold whatever the model's own pass may give, in its own precision, in any batch and in any order of its
    sums (`Rounding`); of an input so near to the boundary that this pass may answer either way nothing is proved.

    **Arguments:**

    - `model`: in float32 or float64, of operations that `network_graph` knows: normalisation, `TruncatedLinear` or
      `TruncatedConv2d`, then linear layers, convolutions, ReLU, pooling, batch normalisation, the last of them linear.
    - `low`, `high`: the range of inputs, if the adversary must stay within; None: any finite value.
    - `unit`: "pixel", where all channels of a position change together, or "feature".

    **Raises:** `ArgumentError` for a model with other layers, or one whose first layer does not truncate.
    """
    checks.model(model)
    checks.examples(x)
    checks.choice("unit", unit, ("pixel", "feature"))
    if (low is None) != (high is None):
        raise ArgumentError("low, high: expected both or neither")
    network, first = _split(read_network(_as_evaluated(model), x))
    bounds = _Bounds(network, first, low, high)
    channels = x.shape[1] if unit == "pixel" and x.dim() > 2 else 1
    per_position = channels * bounds.multiplicity
    most = bounds.layer.k // per_position
    predictions, radii, passes = [], [], []
    together = max(1, min(checks.integer("batch_size", batch_size, 1), _PRODUCTS // bounds.products))
    for some in x.cpu().split(together) if len(x) else [x.cpu()]:
        prediction, windows = bounds.start(some)
        radius, spent = torch.full_like(prediction, ABSTAIN), torch.ones_like(prediction)
        left = torch.arange(len(some))
        for budget in range(most + 1):
            if budget:
                spent[left] += 2  # one for each end of the intervals
            rivals = bounds.leads(windows, left, prediction[left], budget * per_position)
            left = left[rivals < 0]  # which NaN is not
            if not len(left):
                break
            radius[left] = budget
        predictions.append(torch.where(radius == ABSTAIN, ABSTAIN, prediction))
        radii.append(radius)
        passes.append(spent)
    found = (torch.cat(column).to(x.device) for column in (predictions, radii, passes))
    prediction, radius, spent = found
    return Certificate(prediction, radius, passes=spent)


_ALIKE_IN_TRAINING = (
    *(nn.Sequential, nn.Flatten, nn.Identity, nn.Linear, nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d),
    *(TruncatedLinear, TruncatedConv2d, Normalize, Classifier),
)


def _as_evaluated(model: Any) -> Any:
    """The model; where parts are in training mode that compute the same in evaluation mode, a copy with these in that.

    **Raises:** `ArgumentError` for a layer of torch that cannot stand behind a truncated one.
    """
    if not isinstance(model, nn.Module):
        return model
    for part in model.modules():
        if type(part).__module__.startswith("torch.") and type(part) not in _TORCH:
            raise ArgumentError(
                "model: expected linear layers, convolutions, ReLU, pooling, dropout or batch normalisation behind the "
                f"truncated layer, got {type(part).__name__}"
            )
    if not any(part.training and type(part) in _ALIKE_IN_TRAINING for part in model.modules()):
        return model
    model = copy.deepcopy(model)
    for part in model.modules():
        if type(part) in _ALIKE_IN_TRAINING:
            part.training = False
    return model


class _Scaled(nn.Module):
    """A normalisation as `network_graph` reads it: where it saturates, inputs have changed beyond anything else."""

    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.mean, self.std = normalize.mean, normalize.std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


register(Normalize, _Scaled)  # type: ignore[arg-type]
register(TruncatedLinear)
register(TruncatedConv2d)


def _split(network: Network) -> tuple[Network, int]:
    """The network, and which of its operations is the truncated first layer."""
    chain = network.operations
    truncated = [
        n
        for n, one in enumerate(chain)
        if isinstance(one, Layer) and isinstance(one.module, TruncatedLinear | TruncatedConv2d)
    ]
    before = chain[: truncated[0]] if truncated else chain
    for operation in before:
        # these move no change to another coordinate, and keep the order of values
        scales = isinstance(operation, Scale) and bool((operation.factor > 0).all())
        if not (scales or isinstance(operation, Input | Reshape)):
            raise ArgumentError(
                "model: expected a truncated first layer (zeronorm.defenses.truncate makes one), got "
                f"{type(operation).__name__}"
            )
    if not truncated:
        raise ArgumentError(
            "model: expected a truncated first layer (zeronorm.defenses.truncate makes one), got none"
        )
    n = truncated[0]
    if any(operation.inputs != (i,) for i, operation in enumerate(chain[1:])):
        raise ArgumentError("model: expected one layer after the other, got branches")
    for operation in chain[n + 1 :]:
        if isinstance(operation, Layer):
            raise ArgumentError(
                f"model: expected one truncated layer, got {type(operation.module).__name__} behind it"
            )
    if n + 1 == len(chain):
        raise ArgumentError("model: expected layers behind the truncated one, got none")
    if not isinstance(chain[-1], Linear):
        found = type(chain[-1]).__name__.replace("Relu", "ReLU")
        raise ArgumentError(f"model: expected a linear last layer, got {found}")
    return network, n


class _Windows(NamedTuple):
    """Of every output of the truncated layer, sums of the first 0, 1, ..., d of its products, from the largest on.

    `least` and `greatest` are of products no larger, and no smaller, than those of the pass; `falls` and `rises` of
    what each product can lose and gain in the box, if there is one.
    """

    least: Float[Tensor, "b places o sums"]
    greatest: Float[Tensor, "b places o sums"]
    least_sizes: Float[Tensor, "b places o sums"]  # of absolute values
    greatest_sizes: Float[Tensor, "b places o sums"]
    falls: Float[Tensor, "b places o sums"] | None
    rises: Float[Tensor, "b places o sums"] | None

    def at(self, rows: Int[Tensor, "r"]) -> _Windows:
        """Those of some examples."""
        return _Windows(*(None if part is None else part[rows] for part in self))  # type: ignore[arg-type]


class _Bounds:
    """Intervals, in float64, of everything that a network's own pass may give."""

    def __init__(self, network: Network, first: int, low: float | None, high: float | None) -> None:
        self.network, self.first, self.low, self.high = network, first, low, high
        self.rounding = Rounding(network.dtype)
        operation = network.operations[first]
        assert isinstance(operation, Layer)
        assert isinstance(operation.module, TruncatedLinear | TruncatedConv2d)
        self.layer = operation.module
        self.multiplicity = _multiplicity(self.layer, network.operations[operation.inputs[0]].shape)
        places = math.prod(operation.shape) // len(self.layer.weight)
        self.products = places * self.layer.weight.numel()

    def start(self, x: Tensor) -> tuple[Int[Tensor, "b"], _Windows]:
        """Answers, and what budgets are tried on."""
        return self.network(x).argmax(1), self._windows(x)

    def _windows(self, x: Tensor) -> _Windows:
        h = x.to(self.network.dtype).double()
        error = torch.zeros_like(h)
        ends = None
        if self.low is not None and self.high is not None:
            ends = (torch.full_like(h, self.low), torch.full_like(h, self.high))
        for operation in self.network.operations[1 : self.first]:
            h, error, ends = self._before(operation, h, error, ends)
        rows, error = self._rows(h), self._rows(error)
        weight = self.layer.weight.flatten(1)
        s = rows[:, :, None] * weight  # (b, places, o, d)
        # products as rounded; below, and above, their order statistics lie between those of these two
        off = error[:, :, None] * weight.abs()
        off = off + self.rounding.error(0, s.abs() + off)
        falls = rises = None
        if ends is not None:
            low, high = (self._rows(end)[:, :, None] * weight for end in ends)
            slack = 2 * self.rounding.error(0, torch.maximum(low.abs(), high.abs()))
            falls = _from_largest(s + off - torch.minimum(low, high) + slack)
            rises = _from_largest(torch.maximum(low, high) + slack - s + off)
        least, greatest = ((s + side * off).sort(3, descending=True).values for side in (-1, 1))
        ends_of = (_sums(least), _sums(greatest), _sums(least.abs()), _sums(greatest.abs()))
        return _Windows(*ends_of, falls, rises)

    def _before(
        self, operation: Operation, h: Tensor, error: Tensor, ends: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Values, errors of the pass, and ends of the box behind an operation on single values."""
        if isinstance(operation, Reshape):
            return (
                operation.apply(h),
                operation.apply(error),
                None if ends is None else (operation.apply(ends[0]), operation.apply(ends[1])),
            )
        own = self._error(operation, h.abs() + error)
        spread = operation.linear(error).abs()
        if ends is not None:
            low, high = (operation.apply(end) for end in ends)
            by = self._error(operation, torch.maximum(ends[0].abs(), ends[1].abs()))
            ends = low - by, high + by
        return operation.apply(h), spread + own, ends

    def _rows(self, h: Tensor) -> Float[Tensor, "b places d"]:
        """What the layer's weights are multiplied with: the input, or its patches."""
        return (
            h[:, None] if isinstance(self.layer, TruncatedLinear) else _patches(self.layer, h).transpose(1, 2)
        )

    def _first(self, windows: _Windows, moved: int) -> tuple[Tensor, Tensor]:
        """The range of the truncated layer's outputs after so many coordinates of each row have changed."""
        k, d = self.layer.k, windows.least.shape[3] - 1
        down, up = (k + moved, d - k + moved), (k - moved, d - k - moved)
        least, greatest = _between(windows.least, down), _between(windows.greatest, up)
        size = _between(windows.least_sizes, down) + _between(windows.greatest_sizes, up)
        # differences of sums from the largest on
        own = 4 * (d + 4) * 2.0**-53 * (windows.least_sizes[..., -1] + windows.greatest_sizes[..., -1])
        if windows.falls is not None and windows.rises is not None:
            middle = (k, d - k)
            nearer = _between(windows.least, middle) - windows.falls[..., min(moved, d)]
            least = torch.maximum(least, nearer)
            nearer = _between(windows.greatest, middle) + windows.rises[..., min(moved, d)]
            greatest = torch.minimum(greatest, nearer)
            own = own + 4 * (d + 4) * 2.0**-53 * (windows.falls[..., -1].abs() + windows.rises[..., -1].abs())
        bias = least.new_zeros(()) if self.layer.bias is None else self.layer.bias
        error = own + self.rounding.error(d + 2, size + bias.abs())
        ends = (least + bias - error).transpose(1, 2), (greatest + bias + error).transpose(1, 2)
        shape = self.network.operations[self.first].shape
        return ends[0].reshape(-1, *shape), ends[1].reshape(-1, *shape)

    def leads(
        self, windows: _Windows, rows: Int[Tensor, "r"], y: Int[Tensor, "r"], moved: int
    ) -> Float[Tensor, "r"]:
        """The greatest lead of a rival of y over it, in the model's own pass, after so many changes."""
        least, greatest = self._first(windows.at(rows), moved)
        *between, last = self.network.operations[self.first + 1 :]
        for operation in between:
            least, greatest = self._behind(operation, least, greatest)
        assert isinstance(last, Linear)
        lead = last.weight - last.weight[y][:, None]  # (r, j, hidden)
        reached = torch.einsum("rjh,rh->rj", lead.clamp_min(0), greatest)
        reached = reached + torch.einsum("rjh,rh->rj", lead.clamp_max(0), least)
        reached = reached + last.bias - last.bias[y][:, None]
        error = self._error(last, torch.maximum(least.abs(), greatest.abs()))
        reached = reached + error + error.gather(1, y[:, None])
        return reached.scatter(1, y[:, None], -torch.inf).amax(1)

    def _behind(self, operation: Operation, least: Tensor, greatest: Tensor) -> tuple[Tensor, Tensor]:
        """The range of an operation's results over a box of its inputs."""
        if isinstance(operation, Relu | MaxPool2d | Reshape | Pad | Select):  # monotone, and exact
            return operation.apply(least), operation.apply(greatest)
        if not operation.affine:
            raise ArgumentError(
                "model: expected linear layers, convolutions, ReLU, pooling or batch normalisation behind the "
                f"truncated layer, got {type(operation).__name__}"
            )
        middle, reach = operation.apply((least + greatest) / 2), (greatest - least) / 2
        reach = operation.magnitude(reach) - operation.magnitude(torch.zeros_like(reach))
        reach = reach + self._error(operation, torch.maximum(least.abs(), greatest.abs()))
        return middle - reach, middle + reach

    def _error(self, operation: Operation, values: Tensor) -> Tensor:
        """By how much the pass may miss an affine operation of values no larger than these."""
        # the factors of a batch normalisation are themselves computed: a root, a quotient, two products
        terms = max(operation.terms, _SCALING) if isinstance(operation, Scale) else operation.terms
        return self.rounding.error(terms, operation.magnitude(values))


def _sums(v: Float[Tensor, "b places o d"]) -> Float[Tensor, "b places o more"]:
    """Sums of the first 0, 1, ..., d."""
    return F.pad(v.cumsum(3), (1, 0))


def _from_largest(v: Tensor) -> Tensor:
    return _sums(v.sort(3, descending=True).values)


def _between(sums: Tensor, ends: tuple[int, int]) -> Tensor:
    return sums[..., ends[1]] - sums[..., ends[0]]


def _patches(layer: TruncatedConv2d, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d places"]:
    padded = F.pad(
        h,
        layer._reversed_padding_repeated_twice,
        mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode,
    )
    return F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)


def _multiplicity(layer: TruncatedLinear | TruncatedConv2d, shape: Sequence[int]) -> int:
    """How often one position can stand in a patch: more than once where padding repeats it."""
    if isinstance(layer, TruncatedLinear):
        return 1
    height, width = shape[-2:]
    names = torch.arange(1.0, height * width + 1, dtype=torch.float64).view(1, 1, height, width)
    seen = _patches(layer, names)[0].long()
    return max(int(torch.bincount(patch[patch > 0]).max()) for patch in seen.T if bool((patch > 0).any()))


def worst_case_logits(
    model: nn.Module,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    budget: int,
    *,
    low: float | None = None,
    high: float | None = None,
) -> Float[Tensor, "b j"]:
    """Upper bounds of z_j - z_y after any `budget` coordinates have changed; 0 for j = y.

    As logits of a cross-entropy they train the model for a certificate, with `budget` raised slowly from 0; they are
    computed in the model's own precision, and are none themselves.  Arguments as of `certify_truncated`, of a
    sequence of layers, `budget` counted in coordinates.
    """
    before, first, behind = _layers(model)
    h = x
    box = None if low is None or high is None else (torch.full_like(x, low), torch.full_like(x, high))
    for layer in before:
        h = layer(h)
        box = None if box is None else (layer(box[0]), layer(box[1]))
    least, greatest = _first_range(first, h, budget, box)
    for layer in behind[:-1]:
        least, greatest = _through(layer, least, greatest)
    last = behind[-1]
    if not isinstance(last, nn.Linear) or isinstance(last, TruncatedLinear):
        raise ArgumentError(f"model: expected a linear last layer, got {type(last).__name__}")
    lead = last.weight - last.weight[y][:, None]  # (b, j, hidden)
    reached = torch.einsum("bjh,bh->bj", lead.clamp_min(0), greatest)
    reached = reached + torch.einsum("bjh,bh->bj", lead.clamp_max(0), least)
    return reached if last.bias is None else reached + last.bias - last.bias[y][:, None]


def _first_range(
    first: TruncatedLinear | TruncatedConv2d, h: Tensor, budget: int, box: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    low, high = (None, None) if box is None else box
    if isinstance(first, TruncatedLinear):
        least, greatest = truncated_range(first.weight, h, first.k, budget, low=low, high=high)
        shift: Any = 0 if first.bias is None else first.bias
        return least + shift, greatest + shift
    if (repeated := _multiplicity(first, h.shape)) * budget > first.k:
        raise ArgumentError(
            f"budget: expected at most {first.k // repeated} changes, beyond which a truncated product is unbounded, "
            f"got {budget}"
        )
    budget *= repeated
    # a patch sees all changes at worst
    shape = first(h[:1]).shape[1:]
    patches = _patches(first, h)
    weight, k = first.weight.flatten(1), first.k
    ends = [
        truncated_patches(patches, weight, k + moved, k - moved).reshape(len(h), *shape)
        for moved in (-budget, budget)
    ]
    bias = 0 if first.bias is None else first.bias[:, None, None]
    return ends[0] + bias, ends[1] + bias


def _through(layer: nn.Module, least: Tensor, greatest: Tensor) -> tuple[Tensor, Tensor]:
    """The range of a layer's outputs over a box of its inputs."""
    if isinstance(layer, nn.ReLU | nn.MaxPool2d | nn.Flatten | nn.Identity | nn.Dropout):
        return layer(least), layer(greatest)  # monotone
    if isinstance(layer, nn.Linear | nn.Conv2d) and not isinstance(layer, TruncatedLinear | TruncatedConv2d):
        middle, reach = (least + greatest) / 2, (greatest - least) / 2
        middle = layer(middle)
        weight = layer.weight.abs()
        if isinstance(layer, nn.Linear):
            reach = F.linear(reach, weight)
        elif layer.padding_mode == "zeros":
            reach = F.conv2d(reach, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        else:
            raise ArgumentError(f"model: expected padding with zeros, got {layer.padding_mode}")
        return middle - reach, middle + reach
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and not layer.training:
        a, b = layer(least), layer(greatest)
        return torch.minimum(a, b), torch.maximum(a, b)
    raise ArgumentError(
        f"model: expected linear, convolution, ReLU, pooling, dropout or batch normalisation (in evaluation mode) "
        f"behind the truncated layer, got {type(layer).__name__}"
    )


def _layers(
    model: nn.Module,
) -> tuple[list[nn.Module], TruncatedLinear | TruncatedConv2d, list[nn.Module]]:
    """What comes before the truncated layer, that layer, and what comes behind."""
    flat = list(_sequence(model))
    for n, layer in enumerate(flat):
        if isinstance(layer, TruncatedLinear | TruncatedConv2d):
            if n + 1 == len(flat):
                raise ArgumentError("model: expected layers behind the truncated one, got none")
            return flat[:n], layer, flat[n + 1 :]
        # these move no change to another coordinate, and keep the order of values
        if not isinstance(layer, Normalize | nn.Flatten | nn.Identity):
            break
    found = type(flat[n]).__name__ if flat else "none"
    raise ArgumentError(
        f"model: expected a truncated first layer (zeronorm.defenses.truncate makes one), got {found}"
    )


def _sequence(model: nn.Module) -> list[nn.Module]:
    if isinstance(model, Classifier):
        return [*_sequence(model.normalize), *_sequence(model.network)]
    if isinstance(model, nn.Sequential):
        return [inner for layer in model for inner in _sequence(layer)]
    return [model]


def _largest_changes(w: Tensor, x: Tensor, budget: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the `budget` products that can fall (rise) furthest within the box do so together."""
    falls, rises = [], []
    for some, a, b in zip(*(v.split(max(1, _CHUNK // w.numel())) for v in (x, low, high)), strict=True):
        down, up = (some - a)[:, None] * w, (some - b)[:, None] * w
        falls.append(torch.maximum(down, up).topk(budget, 2).values.sum(2))
        rises.append((-torch.minimum(down, up)).topk(budget, 2).values.sum(2))
    return torch.cat(falls), torch.cat(rises)


def _like(bound: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(bound, dtype=x.dtype, device=x.device).expand(x.shape)


def _check(w: Tensor, x: Tensor) -> int:
    for name, tensor in (("w", w), ("x", x)):
        if not bool(torch.isfinite(tensor).all()):
            raise ArgumentError(f"{name}: expected finite values, got NaN or infinity")
    if w.shape[-1] != x.shape[-1]:
        raise ArgumentError(f"w, x: expected as many coordinates, got {w.shape[-1]} and {x.shape[-1]}")
    return w.shape[-1]
