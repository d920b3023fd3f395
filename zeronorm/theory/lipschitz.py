"""Sparse weights and robustness: what Guo et al. prove of linear classifiers and of ReLU networks.

Guo, Zhang, Zhang & Chen, "Sparse DNNs with improved adversarial robustness", NeurIPS 2018, section 3.

n, d    examples, features
j, k    classes; y the label, p the class predicted
W_l     weights of layer l as `nn.Linear` holds them, (outputs, inputs): the transpose of the paper's W_j
q       the norm of the gradients, 1 / p + 1 / q = 1: 1 against ℓ∞ attacks, 2 against ℓ2 attacks
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.errors import ArgumentError

NORMS = (1, 2)  # of the gradients


class Robustness(NamedTuple):
    """r_2 or an upper bound of it, and an upper bound of r_∞, which says nothing above 1."""

    r_2: float
    r_inf: float


def binary_robustness(
    w: Float[Tensor, "d"],
    positive_mean: Float[Tensor, "d"],
    negative_mean: Float[Tensor, "d"],
    accuracy: float,
    epsilon: float,
) -> Robustness:
    """Theorem 3.1: r_2 exactly, and Markov's bound of r_∞, of the classifier sgn(wᵀx).

    Two classes of equal chance, answered right with equal chance `accuracy`; the means are those of the examples
    answered right.  A bias is one more feature that is 1 (and that no adversary changes).
    """
    _check_epsilon(accuracy, epsilon)
    lead = float(w.double() @ (positive_mean.double() - negative_mean.double()))
    length, total = _norms(w.double()[None])
    return Robustness(accuracy / 2 * lead / float(length), accuracy / 2 * lead / (epsilon * float(total)))


def multiclass_robustness(
    weight: Float[Tensor, "j d"], means: Float[Tensor, "j d"], accuracy: float, epsilon: float
) -> Robustness:
    """Theorem 3.2: upper bounds of r_2 and of r_∞, of the classifier argmax_k w_kᵀx.

    c classes of equal chance, answered right with equal chance `accuracy`; `means` are those of each class's
    examples answered right.  The bound of r_∞ assumes besides that FGS lowers each class's accuracy at least as
    much as -ε sgn(w_y - w̄) does, and that it corrects no error.
    """
    _check_epsilon(accuracy, epsilon)
    if means.shape != weight.shape:
        raise ArgumentError(f"means: expected shape {tuple(weight.shape)}, got {tuple(means.shape)}")
    centred = weight.double() - weight.double().mean(0)
    lead, (length, total) = (centred * means.double()).sum(1), _norms(centred)
    return Robustness(
        accuracy * float((lead / length).mean()), accuracy * float((lead / (epsilon * total)).mean())
    )


def lipschitz_bound(
    hidden: Sequence[Tensor],
    last: Float[Tensor, "j h"],
    y: Int[Tensor, "n"],
    q: int,
    dead: Sequence[Bool[Tensor, "n units"]] | None = None,
) -> Float[Tensor, "n j"]:
    """Lemma 3.1: Lipschitz constants in ℓp of g_y - g_k for a ReLU network.

    ‖w_y - w_k‖_q times the product of the layers' induced norms ‖D_l‖_p ‖W_lᵀ‖_p.  The gradient is W_1ᵀ D_1 ...
    W_{d-1}ᵀ D_{d-1} (w_y - w_k), so what counts is the norm that it is mapped with: for q = 2 the largest
    singular value, for q = 1 the largest sum Σ_u |W_l[i, u]| of the weights that enter one unit i: a column sum of
    the paper's W_j in R^{n_{j-1} x n_j}.  A row sum of it, as its "‖W_j‖_∞" may be read, is no bound.

    **Arguments:**

    - `hidden`: W_1 .. W_{d-1}, each (outputs, inputs).
    - `last`: W_d, of the logits.
    - `y`: classes to be defended, such as the predicted.
    - `q`: 1 or 2.
    - `dead`: for each layer, which units are certainly off all over the ball (of an example's own).  Such a unit has
      D_l = 0 there, and its row of W_l and its column of W_{l+1} drop out: sharper than the lemma, whose D_l
      counts only if all units are off.  None: none is known to be.

    **Returns:** the bounds, 0 at k = y.
    """
    checks.choice("q", q, NORMS)
    layers = [w.double() for w in hidden]
    sizes = [*(tuple(w.shape) for w in layers), tuple(last.shape)]
    if any(len(size) != 2 for size in sizes) or any(a[0] != b[1] for a, b in pairwise(sizes)):
        raise ArgumentError(f"hidden: expected matrices (outputs, inputs) of a chain, got {sizes}")
    n = len(y)
    alive = [torch.ones(n, len(w), dtype=torch.bool) for w in layers]
    if dead is not None:
        alive = [~off.cpu() for off in dead]
    difference = last.double()[y][:, None] - last.double()
    if layers:
        difference = difference * alive[-1][:, None]
    bound = torch.linalg.vector_norm(difference, ord=q, dim=2)
    before: Tensor | None = None
    for w, on in zip(layers, alive, strict=True):
        bound = bound * _induced(w, on, before, q, dead is not None)[:, None]
        before = on
    return bound


def certified_radius(
    z: Float[Tensor, "n j"], lipschitz: Float[Tensor, "n j"], radius: float = math.inf
) -> Float[Tensor, "n"]:
    """Proposition 3.1: within γ = min(min_{k≠p} (g_p - g_k) / L_k, R) in ℓp no change moves the prediction.

    From Weng et al. 2018.  `lipschitz` holds L_k of g_p - g_k over the ball of radius R = `radius`; a constant of
    0 means that class k never catches up.  Exactly at γ the two may tie.
    """
    if lipschitz.shape != z.shape:
        raise ArgumentError(f"lipschitz: expected shape {tuple(z.shape)}, got {tuple(lipschitz.shape)}")
    lead = z.amax(1, keepdim=True) - z
    gamma = torch.where(lipschitz > 0, lead / lipschitz, torch.where(lead > 0, math.inf, 0.0))
    gamma = gamma.scatter(1, z.argmax(1, keepdim=True), math.inf)
    return gamma.amin(1).clamp_max(radius)


def _induced(w: Tensor, on: Tensor, before: Tensor | None, q: int, own: bool) -> Float[Tensor, "n"]:
    """The operator norm of W_lᵀ restricted to the active units of both layers, for each example."""
    if not own:
        norm = w.abs().sum(1).max() if q == 1 else torch.linalg.matrix_norm(w, 2)
        return norm.expand(len(on))
    left = w * on[:, :, None]
    if before is not None:
        left = left * before[:, None]
    return left.abs().sum(2).amax(1) if q == 1 else torch.linalg.matrix_norm(left, 2)


def _norms(rows: Float[Tensor, "j d"]) -> tuple[Tensor, Tensor]:
    """Each row's Euclidean length and absolute sum."""
    length, total = rows.norm(dim=1), rows.abs().sum(1)
    if not bool((length > 0).all()):
        raise ArgumentError(
            "weight: expected a class that differs from the mean in some weight, got all equal: a dead classifier"
        )
    return length, total


def _check_epsilon(accuracy: float, epsilon: float) -> None:
    checks.real("accuracy", accuracy, 0.0, 1.0)
    checks.real("epsilon", epsilon, 0.0, open_low=True)
