"""What pruning has done to a model: accuracy, average robustness, robust accuracy in ℓ0, and what is proved.

One call for one model of a sweep over sparsity; Guo et al. 2018, section 4, and beyond it the ℓ0 adversary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zeronorm import distances
from zeronorm.attacks.catalogue import get
from zeronorm.data import Dataset
from zeronorm.defenses.pruning import activation_sparsity, check_alive, sparsity
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.examples import on_device
from zeronorm.evaluation.fresh_pass import predict
from zeronorm.evaluation.runner import evaluate
from zeronorm.metrics.average_robustness import r_2, r_inf
from zeronorm.models.classifier import Classifier
from zeronorm.models.normalize import Normalize
from zeronorm.theory.lipschitz import certified_radius, lipschitz_bound
from zeronorm.threat_model import L0, L2, Linf


def measure(
    model: Classifier,
    dataset: Dataset,
    out: Path,
    *,
    epsilon: float = 0.1,
    linf: Sequence[str] = ("fgsm",),
    l2: Sequence[str] = ("deepfool",),
    budgets: Sequence[int] = (),
    steps: int = 100,
    queries: int = 200,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> dict[str, Any]:
    """One row of a sweep.

    **Arguments:**

    - `model`: in evaluation mode.
    - `dataset`: examples; `limit` of them, the first, for what is not clean accuracy.
    - `out`: folder of the run of `zeronorm.evaluate`, for the budgets.
    - `epsilon`, `linf`: radius and attacks of r_∞.
    - `l2`: attacks of r_2.
    - `budgets`, `steps`, `queries`: of sparse_autoattack; no budgets, no run.

    **Returns:** plain values.  Of a dead network, whose logits do not depend on the input, `dead` says so and all that
    would be scored is None.  An attack of r_2 that finds no adversarial for some of the right examples gives the
    share of those, and they count with the largest distance found.
    """
    some = on_device(dataset, next(model.parameters()).device).first(len(dataset))
    right = _predicted(model, some.x, batch_size).argmax(1) == some.y
    row: dict[str, Any] = {
        "sparsity": sparsity(model),
        "clean": float(right.double().mean()),
        "n": len(some),
        "activation_sparsity": activation_sparsity(model, some.x),
        "dead": None,
    }
    some = some.at(list(range(min(len(some), limit or len(some)))))
    row["n_attacked"] = len(some)
    try:
        check_alive(model, some.x)
    except ArgumentError as error:
        return row | {"dead": str(error), "r_inf": None, "r_2": None, "robust": None, "proved": None}
    row["r_inf"] = {}
    for name in linf:
        x_adv = _attacked(model, some, name, Linf(epsilon), seed, batch_size)
        still = _predicted(model, x_adv, batch_size).argmax(1) == some.y
        row["r_inf"][name] = r_inf(still.cpu().numpy())
    row["r_2"], row["unfooled"] = {}, {}
    for name in l2:
        x_adv = _attacked(model, some, name, L2(None), seed, batch_size)
        wrong = _predicted(model, x_adv, batch_size).argmax(1) != some.y
        length = distances.l2(some.x.double(), x_adv.double())
        was_right = right[: len(some)]
        found = torch.where(wrong, length, math.inf)
        fooled = was_right & wrong
        farthest = float(length[fooled].max()) if fooled.any() else 0.0
        row["r_2"][name] = r_2(was_right.cpu().numpy(), found.cpu().numpy(), unfooled=farthest)
        row["unfooled"][name] = float((was_right & ~wrong).double().mean())
    row["robust"] = None
    if budgets:
        data = Dataset(some.x, some.y, some.ids, dataset.name, dataset.split, dataset.class_names)
        run = evaluate(
            model, data, [L0(k) for k in budgets], "sparse_autoattack", out, steps=steps, queries=queries,
            seed=seed, batch_size=batch_size,
        )  # fmt: skip
        row["robust"] = {str(k): float(share) for k, share in run.robust_accuracy.items()}
    row["proved"] = proved(model, some.x, some.y)
    return row


def proved(model: Classifier, x: Tensor, y: Tensor) -> dict[str, float] | None:
    """Mean radius over all examples, wrong ones 0, within which Proposition 3.1 proves the prediction.

    With the global Lipschitz constants of Lemma 3.1; None for a network that is not a chain of linear layers and
    ReLUs.
    """
    chain = _chain(model)
    if chain is None:
        return None
    z = _predicted(model, x, 256)
    label = z.argmax(1)
    return {
        norm: float(
            torch.where(
                label == y,
                certified_radius(z.double(), lipschitz_bound(chain[:-1], chain[-1], label, q)),
                0.0,
            ).mean()
        )
        for norm, q in (("l2", 2), ("linf", 1))
    }


def _chain(model: Classifier) -> list[Tensor] | None:
    """The weights of each layer in input units, if there is nothing but linear layers and ReLUs."""
    layers = [layer for layer in model.network.children() if not isinstance(layer, nn.Flatten | nn.ReLU)]
    if not layers or not all(type(layer) is nn.Linear for layer in layers):
        return None
    chain = [layer.weight.detach() for layer in layers if isinstance(layer, nn.Linear)]
    if not isinstance(model.normalize, Normalize | nn.Identity):
        return None
    if isinstance(model.normalize, Normalize):
        # a change of the input is divided by a channel's deviation before the first layer
        pixels = chain[0].shape[1] // len(model.normalize.std.flatten())
        chain[0] = chain[0] / model.normalize.std.flatten().repeat_interleave(pixels)
    return chain


def _predicted(model: Classifier, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([predict(model, part) for part in x.split(batch_size)])


def _attacked(
    model: Classifier, some: Dataset, name: str, threat: Linf | L2, seed: int, batch_size: int
) -> Tensor:
    attack = get(name).function
    parts = [
        attack(model, x, y, threat, seed=seed, ids=ids)
        for x, y, ids in zip(*(t.split(batch_size) for t in (some.x, some.y, some.ids)), strict=True)
    ]
    return torch.cat(parts)
