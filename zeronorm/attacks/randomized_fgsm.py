"""FGSM after a random step (Tramèr et al. 2018)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model, searching
from zeronorm.attacks.signed_gradient import ascend
from zeronorm.threat_model import Linf


def randomized_fgsm(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: Linf,
    *,
    random_fraction: float = 0.5,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """A random sign step of some of ε, then FGSM with the rest: white box, fixed budget.

    Source: Tramèr, Kurakin, Papernot, Goodfellow, Boneh & McDaniel, "Ensemble adversarial training: attacks and
    defenses", ICLR 2018, section 3.3 (R+FGSM).

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: ε and the box.
        random_fraction: share of ε that the random step takes.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean.

    Deviation from the paper: whoever is broken by the random step alone keeps it.
    """
    checks.real("random_fraction", random_fraction, 0.0, 1.0)
    with searching(
        "randomized_fgsm", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, norm=Linf
    ) as search:
        u = search.streams.uniform(0, search.x[0].numel() if len(search.x) else 0, search.x.dtype)
        noise = (u.view_as(search.x) - 0.5).sign()
        start = search.clamp_(search.x + random_fraction * threat.epsilon * noise)
        ascend(search, start, 1, (1 - random_fraction) * threat.epsilon)
        return search.finished()
