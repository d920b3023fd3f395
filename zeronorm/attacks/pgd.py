"""Projected gradient descent within an ℓ∞ ball (Madry et al. 2018)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model, searching
from zeronorm.attacks.signed_gradient import ascend
from zeronorm.threat_model import Linf


def pgd(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: Linf,
    *,
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Signed gradient steps from random points of the ball: white box, fixed budget.

    Source: Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards deep learning models resistant to adversarial
    attacks", ICLR 2018, section 2.1.  Defaults as in Gopalakrishnan et al. 2020 (100 steps of 0.05 at ε = 0.2;
    they restart 100 times).

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: ε and the box.
        steps: updates of each run; each is one forward and one backward pass, and the last iterate is tested too.
        step_size: in input units; None: ε / 4.
        restarts: runs; each on those that the last one did not break, so that an example is broken if any run
            breaks it.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean.

    Deviation: whoever is broken on the way leaves, and of the others the best iterate counts, not the last.
    """
    checks.integer("steps", steps, 1)
    checks.integer("restarts", restarts, 1)
    if step_size is not None:
        checks.real("step_size", step_size, 0.0, open_low=True)
    with searching("pgd", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, norm=Linf) as search:
        for restart in range(restarts):
            if len(search.rows) == 0:
                break
            u = search.streams.uniform(restart, search.x[0].numel(), search.x.dtype).view_as(search.x)
            start = search.clamp_(search.x + threat.epsilon * (2 * u - 1))
            ascend(search, start, steps, threat.epsilon / 4 if step_size is None else step_size)
        return search.finished()
