"""Momentum iterative FGSM (Dong et al. 2018)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model, searching
from zeronorm.attacks.signed_gradient import ascend
from zeronorm.threat_model import Linf


def momentum_fgsm(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: Linf,
    *,
    steps: int = 1_000,
    step_size: float | None = None,
    momentum: float = 1.0,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Iterative FGSM along a sum of past gradients: white box, fixed budget.

    Source: Dong, Liao, Pang, Su, Zhu, Hu & Li, "Boosting adversarial attacks with momentum", CVPR 2018,
    Algorithm 1.  Defaults as in Gopalakrishnan et al. 2020 (1000 steps of 0.01 at ε = 0.2).

    Each gradient counts by its direction, scaled to a mean size of 1; the paper scales to a sum of 1, which
    leaves all signs the same.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: ε and the box.
        steps: updates; each is one forward and one backward pass, and the last iterate is tested too.
        step_size: in input units; None: ε / 20.
        momentum: weight of the past, μ; 0 is `iterative_fgsm`.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: accepted as of every attack; this one draws no random numbers.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean.

    Deviation: whoever is broken on the way leaves, and of the others the best iterate counts, not the last.
    """
    checks.integer("steps", steps, 1)
    checks.real("momentum", momentum, 0.0)
    if step_size is not None:
        checks.real("step_size", step_size, 0.0, open_low=True)
    with searching(
        "momentum_fgsm", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, norm=Linf
    ) as search:
        size = threat.epsilon / 20 if step_size is None else step_size
        ascend(search, None, steps, size, momentum=momentum)
        return search.finished()
