"""Truncation (Beliaev, Delgosha, Hassani & Pedarsani, "Efficient and robust classification for sparse attacks",
2022): inner products that drop their extreme terms, which are where a sparse adversary acts.

⟨w, x⟩_k is the sum of the products w_i x_i without the k largest and the k smallest of them.  Whatever k
coordinates an adversary changes, and to whatever values, it moves by no more than the spread of the products
that were there (`zeronorm.certification.truncation_window` says by how much exactly).

Differences from the authors' code.  Its per-neuron layer adds the k smallest products a second time instead of
removing them, and its gradient is that of the dense layer; here value and gradient are exact.  Of equal
products the lower coordinate counts as the smaller.  The bias stands outside the sum, where it cannot be
dropped (as in their code; the paper appends a constant coordinate, which can).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.errors import ArgumentError
from zeronorm.kernels.truncated_patches import truncated_patches
from zeronorm.kernels.truncated_products import truncated_products

_PATCHES = 1 << 24  # numbers of unfolded patches held at a time


def truncated_inner_product(w: Tensor, x: Tensor, k: int) -> Tensor:
    """⟨w, x⟩_k = Σ_{i=k+1}^{d-k} s_i, where s sorts the products w_i x_i (paper, section III).

    Differentiable in both: the gradient to a kept coordinate is the other's entry, to a dropped one 0.

    **Arguments:**

    - `w`, `x`: finite floating point `(..., d)`, which broadcast; the result has their shape without d.
    - `k`: between 0, the ordinary inner product, and d/2, where all is dropped if d is even.

    **Raises:** `ArgumentError` for shapes that do not broadcast, a k out of range, and non-finite numbers.
    """
    for name, tensor in (("w", w), ("x", x)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.dim() == 0:
            raise ArgumentError(f"{name}: expected a floating point tensor (..., d), got {_kind(tensor)}")
        _check_finite(name, tensor)
    try:
        together = torch.broadcast_shapes(w.shape, x.shape)
    except RuntimeError:
        together = torch.Size()
    if w.shape[-1] != x.shape[-1] or not together:
        raise ArgumentError(
            f"w, x: expected shapes that broadcast with the same last dimension, "
            f"got {tuple(w.shape)} and {tuple(x.shape)}"
        )
    d = w.shape[-1]
    _check_k(k, d, "coordinates")
    products = w * x
    order = products.detach().argsort(dim=-1, stable=True)
    return products.gather(-1, order[..., k : d - k].sort(-1).values).sum(-1)


class TruncatedLinear(nn.Linear):
    """Each output is ⟨weight_o, x⟩_k + bias_o: every neuron drops 2k products of its own.

    `(..., in_features)` to `(..., out_features)`, with the parameters of `nn.Linear`, whose weights it can load.
    Forward and backward take about 2k small integers of memory per output.  The default is without bias, which
    is what the theory treats; with one, a certificate for the products holds for their sum with the bias too.

    **Raises:** `ArgumentError` for a k beyond `in_features / 2`, and inputs or weights that are not finite.
    """

    def __init__(
        self, in_features: int, out_features: int, k: int, bias: bool = False, **options: Any
    ) -> None:
        super().__init__(in_features, out_features, bias, **options)
        self.k = _check_k(k, in_features, "input features")
        _tell(self)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch o"]:
        if x.shape[-1] != self.in_features:
            raise ArgumentError(f"x: expected {self.in_features} features, got shape {tuple(x.shape)}")
        sums = _products(truncated_products, x.reshape(-1, self.in_features), self.weight, self.k)
        sums = sums.view(*x.shape[:-1], self.out_features)
        return sums if self.bias is None else sums + self.bias

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, k={self.k}"


class TruncatedConv2d(nn.Conv2d):
    """A convolution whose every output drops the k largest and the k smallest products of its patch.

    The arguments are those of `nn.Conv2d` with one group, and k, up to half of the entries of a patch.  Where
    padding is with zeros, their products take part and are 0.  Patches are unfolded some images at a time.

    **Raises:** `ArgumentError` for a k beyond half of the patch, several groups, and inputs or weights that are
    not finite.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        k: int,
        bias: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=bias, **options)
        if self.groups != 1:
            raise ArgumentError(f"groups: expected 1, got {self.groups}")
        self.k = _check_k(k, self.weight[0].numel(), "entries of a patch")
        _tell(self)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o y x"]:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=mode), (0, 0)
        else:
            padding = (self.padding[0], self.padding[1])
        shape = [
            (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for side, pad, dilation, kernel, stride in zip(
                x.shape[2:], padding, self.dilation, self.kernel_size, self.stride, strict=True
            )
        ]
        weight = self.weight.flatten(1)
        per_image = shape[0] * shape[1] * weight.shape[1]
        outputs = []
        for some in x.split(max(1, _PATCHES // max(1, per_image))):
            patches = F.unfold(some, self.kernel_size, self.dilation, padding, self.stride)
            outputs.append(_products(truncated_patches, patches, weight, self.k))
        sums = torch.cat(outputs).reshape(len(x), len(weight), *shape)
        return sums if self.bias is None else sums + self.bias[:, None, None]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, k={self.k}"


class TruncatedInput(nn.Module):
    """Sets the k largest and the k smallest values of each input to 0: the first layer of the paper's VGG-19.

    Any shape `(b, ...)` to the same.  With `per_channel` (the paper's VGG-19) each channel `(b, c, ...)` loses
    its own 2k values; without, all entries compete (called "clip" in the authors' code, though nothing is
    clipped).  With `window`, the shape of one input, the values are first multiplied by learnt weights, 1 at the
    start ("simple" in their code).  Of equal values the one that comes first counts as the smaller.

    On images in [0, 1] with a black background the k smallest are 0 already: then this removes the brightest.

    **Raises:** `ArgumentError` for inputs that are not finite or have fewer than 2k values to choose from.
    """

    window: nn.Parameter | None

    def __init__(self, k: int, *, per_channel: bool = True, window: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.k, self.per_channel = checks.integer("k", k, 0), per_channel
        self.window = None if window is None else nn.Parameter(torch.ones(window))
        _tell(self)

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        _check_finite("x", x)
        y = x if self.window is None else x * self.window
        values = y.flatten(2 if self.per_channel and x.dim() > 2 else 1)
        _check_k(self.k, values.shape[-1], "values")
        order = values.detach().argsort(dim=-1, stable=True)
        extreme = torch.cat([order[..., : self.k], order[..., values.shape[-1] - self.k :]], -1)
        return values.scatter(-1, extreme, 0.0).view_as(y)

    def extra_repr(self) -> str:
        return f"k={self.k}, per_channel={self.per_channel}"


def truncate_first_layer(network: nn.Module, k: int) -> nn.Module:
    """A copy of the network whose first linear or convolutional layer truncates, with the same weights.

    First is what `network.modules()` names first, as in a sequence of layers.

    **Raises:** `ArgumentError` for a network without such a layer, and a k beyond half of its inputs (of a
    convolution: of a patch).
    """
    network = copy.deepcopy(network)
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        truncated = _truncated(layer, k)
        if not name:
            return truncated
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, truncated)
        return network
    raise ArgumentError("model: expected a network with a linear or convolutional layer, got none")


def _tell(layer: TruncatedLinear | TruncatedConv2d | TruncatedInput) -> None:
    """Include k in the digest of a model, but not in its state_dict."""
    if layer.k:
        layer.register_buffer("truncation", torch.tensor(layer.k), persistent=False)


def _truncated(layer: nn.Linear | nn.Conv2d, k: int) -> nn.Module:
    made: nn.Module
    like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        made = TruncatedLinear(layer.in_features, layer.out_features, k, layer.bias is not None, **like)
    else:
        for name in ("stride", "padding", "dilation", "groups", "padding_mode"):
            like[name] = getattr(layer, name)
        kernel = layer.kernel_size
        made = TruncatedConv2d(
            layer.in_channels, layer.out_channels, (kernel[0], kernel[1]), k, layer.bias is not None, **like
        )
    made.load_state_dict(layer.state_dict())
    return made.train(layer.training)


def _products(
    of: Callable[[Tensor, Tensor, int, int], Tensor], x: Tensor, weight: Float[Tensor, "o d"], k: int
) -> Tensor:
    """Truncated products in float32 or better, whatever precision autocast or the model has."""
    _check_finite("x", x)
    _check_finite("weight", weight)
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    return of(x.to(dtype), weight.to(dtype), k, k).to(torch.promote_types(x.dtype, weight.dtype))


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise ArgumentError(f"{name}: expected finite values, got NaN or infinity")


def _check_k(k: Any, d: int, what: str) -> int:
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 0 <= k.__index__() <= d // 2:
        raise ArgumentError(
            f"k: expected an integer between 0 and {d // 2}, half of the {d} {what}, got {k!r}"
        )
    return int(k.__index__())


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
