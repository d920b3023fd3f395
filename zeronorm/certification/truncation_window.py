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
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.certification.certificate import Certificate
from zeronorm.errors import ArgumentError
from zeronorm.kernels.truncated_patches import truncated_patches
from zeronorm.kernels.truncated_products import truncated_products
from zeronorm.layers.truncation import TruncatedConv2d, TruncatedLinear
from zeronorm.models.classifier import Classifier
from zeronorm.models.normalize import Normalize

_CHUNK = 1 << 24  # products held at a time


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


def certify_truncated(
    model: nn.Module,
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
    Computed in float64 on a copy of the model, so that rounding is far below any margin that matters.

    **Arguments:**

    - `model`: layers in a sequence, possibly behind a normalisation (a model of `zeronorm.models.build`):
      flatten, `TruncatedLinear` or `TruncatedConv2d`, then linear, convolution, ReLU, maximum pooling, batch
      normalisation, dropout, the last of them linear.
    - `low`, `high`: the range of inputs, if the adversary must stay within; None: any value.
    - `unit`: "pixel", where all channels of a position change together, or "feature".

    **Raises:** `ArgumentError` for a model with other layers, or one whose first layer does not truncate.
    """
    checks.model(model)
    checks.examples(x)
    checks.choice("unit", unit, ("pixel", "feature"))
    model = copy.deepcopy(model).double().eval()
    per_position = x.shape[1] if unit == "pixel" and x.dim() > 2 else 1
    _, first, _ = _layers(model)
    most = first.k // per_position
    predictions, radii, passes = [], [], []
    with torch.no_grad():
        for some in x.double().split(batch_size):
            prediction = model(some).argmax(1)
            radius, spent = torch.zeros_like(prediction), torch.ones_like(prediction)
            left = torch.arange(len(some), device=x.device)
            for budget in range(1, most + 1):
                spent[left] += 2  # one for each end of the intervals
                leads = worst_case_logits(
                    model, some[left], prediction[left], budget * per_position, low=low, high=high
                )
                rivals = leads.scatter(1, prediction[left, None], -torch.inf)
                left = left[rivals.max(1).values < 0]
                if not len(left):
                    break
                radius[left] = budget
            predictions.append(prediction)
            radii.append(radius)
            passes.append(spent)
    if not predictions:
        empty = torch.zeros(0, dtype=torch.int64, device=x.device)
        return Certificate(empty, empty)
    return Certificate(torch.cat(predictions), torch.cat(radii), passes=torch.cat(passes))


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

    All rivals below 0 is a certificate; as logits of a cross-entropy they train the model for one (with
    `budget` raised slowly from 0).  Arguments as of `certify_truncated`, `budget` counted in coordinates.
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
    if budget > first.k:
        raise ArgumentError(
            f"budget: expected at most k = {first.k} changes, beyond which a truncated product is unbounded, "
            f"got {budget}"
        )
    # a patch sees all changes at worst
    shape = first(h[:1]).shape[1:]
    padded = F.pad(
        h,
        first._reversed_padding_repeated_twice,
        mode="constant" if first.padding_mode == "zeros" else first.padding_mode,
    )
    patches = F.unfold(padded, first.kernel_size, first.dilation, 0, first.stride)
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
