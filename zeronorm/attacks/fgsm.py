"""Fast gradient sign method (Goodfellow, Shlens & Szegedy 2015)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.attacks.batch_under_attack import Model, searching
from zeronorm.attacks.signed_gradient import ascend
from zeronorm.threat_model import Linf


def fgsm(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: Linf,
    *,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change every entry by ε along the sign of the loss's gradient: white box, fixed budget, one step.

    Source: Goodfellow, Shlens & Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, section 4.

    For two classes this is the locally linear attack of one step; for more it follows a mixture of classes.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: ε and the box.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: accepted as of every attack; this one draws no random numbers.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean.
    """
    with searching("fgsm", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, norm=Linf) as search:
        ascend(search, None, 1, threat.epsilon)
        return search.finished()
