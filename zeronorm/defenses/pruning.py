"""Magnitude pruning: a network's smallest weights set to zero, layer by layer, and how sparse it is by then.

Guo, Zhang, Zhang & Chen, "Sparse DNNs with improved adversarial robustness", NeurIPS 2018, section 4; the method
is that of Han, Pool, Tran & Dally, "Learning both weights and connections for efficient neural networks",
NeurIPS 2015.

A pruned network is the plain network with zeros in it: it is saved, loaded, attacked and trained like any other.
What keeps the zeros during training is a mask on the gradients (`zeronorm.training`).  `torch.nn.utils.prune`
would keep the weights under another name instead, with the mask as a buffer and a hook that multiplies the two:
such a checkpoint no longer fits its architecture, and momentum and weight decay go on moving what is masked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.errors import ArgumentError

FIRST, LAST = "first", "last"  # stand for the layers' own names
_ROUNDING = 1e-6  # a third of 783 is 261, whatever 1/3 is in binary


def prune(model: nn.Module, sparsity: float, *, keep_dense: Sequence[str] = ()) -> dict[str, Tensor]:
    """Set the smallest weights of every layer to zero, in place: a share `sparsity` of each layer's.

    Of n weights floor(sparsity · n) are zero then, those that were zero before among them; where that many are
    already, a layer stays as it is.  Of equal magnitudes the first goes first.  Biases and normalisation layers
    are never pruned.

    **Arguments:**

    - `model`: a network, or a `zeronorm.models.Classifier`.
    - `sparsity`: in [0, 1).
    - `keep_dense`: names of layers to leave dense, as `weights` lists them; "first" and "last" stand for these.

    **Returns:** the masks by name of the parameter: true where a weight is left.

    **Raises:** `ArgumentError` for a sparsity outside [0, 1), an unknown layer, and a layer with nothing left.
    """
    checks.real("sparsity", sparsity, 0.0, 1.0, open_high=True)
    layers = weights(model, keep_dense)
    return _zero_smallest(
        layers, {name: w.numel() - _floor(sparsity * w.numel()) for name, w in layers.items()}
    )


def prune_further(model: nn.Module, share: float, *, keep_dense: Sequence[str] = ()) -> dict[str, Tensor]:
    """Set a share of every layer's weights that are not zero yet to zero: one round of progressive pruning.

    Of n that are left floor(share · n) go, so that 16 rounds of a third leave 2 of 784 (99.74 %, as Guo et al.
    state it).  Otherwise as `prune`.
    """
    checks.real("share", share, 0.0, 1.0, open_high=True)
    layers = weights(model, keep_dense)
    left = {name: int(w.count_nonzero()) for name, w in layers.items()}
    return _zero_smallest(layers, {name: n - _floor(share * n) for name, n in left.items()})


def weights(model: nn.Module, keep_dense: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The weights that pruning is about, by name and in order: parameters of two dimensions or more.

    A layer is named like its parameter without ".weight", such as "1" or "layer1.0.conv1"; a classifier's without
    "network." too.
    """
    network = getattr(model, "network", model)
    found = {name: p for name, p in network.named_parameters() if p.dim() > 1}
    if not found:
        raise ArgumentError("model: expected weights to prune, found no layer with a matrix of them")
    layers = {name.removesuffix(".weight"): name for name in found}
    names = list(layers)
    kept = set()
    for layer in [keep_dense] if isinstance(keep_dense, str) else keep_dense:
        layer = {FIRST: names[0], LAST: names[-1]}.get(layer, layer)
        if layer not in layers:
            raise ArgumentError(
                f"keep_dense: expected layers of the model ({', '.join(names)}, {FIRST}, {LAST}), got {layer!r}"
            )
        kept.add(layers[layer])
    if kept == set(found):
        raise ArgumentError("keep_dense: expected a layer at least that may be pruned, got all of them")
    return {name: p for name, p in found.items() if name not in kept}


@torch.no_grad()
def _zero_smallest(layers: dict[str, nn.Parameter], left: dict[str, int]) -> dict[str, Tensor]:
    """Leave so many weights of each layer, the largest; nothing is touched unless every layer keeps some."""
    masks = {}
    for name, weight in layers.items():
        order = weight.abs().flatten().argsort(stable=True)
        mask = torch.ones_like(order, dtype=torch.bool)
        mask[order[: weight.numel() - left[name]]] = False
        mask &= weight.flatten() != 0
        if not mask.any():
            raise ArgumentError(
                f"sparsity: expected weights left in every layer, got none of {weight.numel():,} in "
                f"{name.removesuffix('.weight')}"
            )
        masks[name] = mask.view_as(weight)
    for name, weight in layers.items():
        weight.masked_fill_(~masks[name], 0.0)
    return masks


def _floor(count: float) -> int:
    return math.floor(count + _ROUNDING)


def sparsity(model: nn.Module, keep_dense: Sequence[str] = ()) -> float:
    """Share of the weights that are exactly zero; of layers in `keep_dense`, none count."""
    layers = weights(model, keep_dense).values()
    return 1 - sum(int(w.count_nonzero()) for w in layers) / sum(w.numel() for w in layers)


@torch.no_grad()
def activation_sparsity(model: nn.Module, x: Float[Tensor, "b ..."], layer: str = LAST) -> float:
    """Share of zeros among what feeds a layer, over the inputs `x`: by default the last one with weights.

    "Sparsity (a)" of Guo et al. 2018, Table 1.  `layer` is named as in `weights`.  The model's mode stays.
    """
    network = getattr(model, "network", model)
    names = [name.removesuffix(".weight") for name in weights(model)]
    name = {FIRST: names[0], LAST: names[-1]}.get(layer, layer)
    if name not in names:
        raise ArgumentError(f"layer: expected one of {', '.join(names)}, {FIRST}, {LAST}, got {layer!r}")
    counts = [0, 0]

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        counts[0] += int((inputs[0] == 0).sum())
        counts[1] += inputs[0].numel()

    with _hooked(network.get_submodule(name), count):
        for some in x.split(512):
            model(some)
    if not counts[1]:
        raise ArgumentError(f"layer: expected one that the model calls, got {layer!r}")
    return counts[0] / counts[1]


@contextmanager
def _hooked(module: nn.Module, hook: object) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def check_alive(model: nn.Module, x: Float[Tensor, "b ..."]) -> None:
    """Raise `ArgumentError` if the logits do not depend on the input, as those of a network pruned too far.

    Such a network withstands every attack on the one class that it always answers.
    """
    if len(x) < 2:
        raise ArgumentError(f"x: expected two inputs at least to compare, got {len(x)}")
    z = torch.cat([model(some) for some in x.split(512)])
    if bool((z == z[:1]).all()) or bool((z == z[:, :1]).all()):
        equal = "all classes" if bool((z == z[:, :1]).all()) else f"all of {len(x)} inputs"
        raise ArgumentError(
            f"model: expected logits that depend on the input, got the same for {equal}: a dead network"
        )
