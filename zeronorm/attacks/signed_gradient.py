"""Steps along the sign of the gradient, within an ℓ∞ ball: FGSM, its kin, and PGD.

    fgsm                one step of ε
    randomized_fgsm     one step, after a random one
    iterative_fgsm      small steps from the clean input
    momentum_fgsm       small steps along a sum of past gradients
    pgd                 small steps from random points of the ball

All are one ascent with other settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model, attacking
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
    with attacking("fgsm", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, norm=Linf) as batch:
        ascend(batch, None, 1, threat.epsilon)
        return batch.finished()


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

    Deviation from the paper: an example that the random step alone breaks keeps that step.
    """
    checks.real("random_fraction", random_fraction, 0.0, 1.0)
    with attacking(
        "randomized_fgsm", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, norm=Linf
    ) as batch:
        start = batch.clamp_(batch.x + random_fraction * threat.epsilon * _uniform(batch, 0).sign())
        ascend(batch, start, 1, (1 - random_fraction) * threat.epsilon)
        return batch.finished()


def iterative_fgsm(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: Linf,
    *,
    steps: int = 1_000,
    step_size: float | None = None,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """FGSM in small steps from the clean input: white box, fixed budget.

    Source: Kurakin, Goodfellow & Bengio, "Adversarial examples in the physical world", ICLR workshop 2017,
    section 2.2, also known as the basic iterative method.  Defaults as in Gopalakrishnan et al. 2020 (1000 steps
    of 0.01 at ε = 0.2).

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: ε and the box.
        steps: updates; each is one forward and one backward pass, and the last iterate is tested too.
        step_size: in input units; None: ε / 20.
        targeted: classes to reach instead of leaving y, or None.
        seed, ids: accepted as of every attack; this one draws no random numbers.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean.

    Deviation: an example broken on the way stops there, and of the others the best iterate counts, not the last.
    """
    _check_steps(steps, step_size)
    with attacking(
        "iterative_fgsm", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, norm=Linf
    ) as batch:
        ascend(batch, None, steps, step_size or threat.epsilon / 20)
        return batch.finished()


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

    Deviation: an example broken on the way stops there, and of the others the best iterate counts, not the last.
    """
    _check_steps(steps, step_size)
    checks.real("momentum", momentum, 0.0)
    with attacking(
        "momentum_fgsm", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, norm=Linf
    ) as batch:
        ascend(batch, None, steps, step_size or threat.epsilon / 20, momentum=momentum)
        return batch.finished()


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

    Deviation: an example broken on the way stops there, and of the others the best iterate counts, not the last.
    """
    _check_steps(steps, step_size)
    checks.integer("restarts", restarts, 1)
    with attacking("pgd", model, x, y, threat, targeted=targeted, seed=seed, ids=ids, norm=Linf) as batch:
        for restart in range(restarts):
            start = batch.clamp_(batch.x + threat.epsilon * _uniform(batch, restart))
            ascend(batch, start, steps, step_size or threat.epsilon / 4)
        return batch.finished()


def ascend(
    batch: BatchUnderAttack,
    start: Float[Tensor, "a g p"] | None,
    steps: int,
    step_size: float,
    *,
    momentum: float = 0.0,
    look: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None,
) -> None:
    """`steps` steps of `step_size` along the sign of the gradient, from `start`, or from the clean inputs.

    The gradient is that of the batch's objective, or what `look` returns in place of
    `BatchUnderAttack.score_and_gradient`.

    With momentum, the sign of g ← momentum · g + ∇ / mean |∇|.  An example that is broken leaves; of the others the
    best place is recorded (not the clean input, which is no attempt).  A step to where the logits are not numbers is
    taken back, and the next ones are half as long.
    """
    if len(batch.rows) == 0:
        return
    v = batch.x.clone() if start is None else start
    g, η = torch.zeros_like(v), torch.full_like(v[:, :1, :1], step_size)
    before, G = batch.x, g
    look = look or batch.score_and_gradient
    for step in range(steps + 1):
        if step == steps:
            _record(batch, *batch.score(v), v)
            return
        last = G
        objective, reached, G = look(v)
        lost = (objective == -math.inf)[:, None, None]
        if lost.any():
            η = torch.where(lost, η / 2, η)
            v, G = torch.where(lost, before, v), torch.where(lost, last, G)
        if step > 0 or start is not None:
            keep = _record(batch, objective, reached & ~lost[:, 0, 0], v)
            if keep is not None:
                if len(keep) == 0:
                    return
                v, g, G, η = (part[keep] for part in (v, g, G, η))
        before = v
        if momentum:
            g = momentum * g + G / G.abs().mean((1, 2), keepdim=True).clamp_min(1e-12)
        v = batch.clamp_(v + η * (g if momentum else G).sign())


def _record(
    batch: BatchUnderAttack,
    objective: Float[Tensor, "a"],
    reached: Bool[Tensor, "a"],
    v: Float[Tensor, "a g p"],
) -> Int[Tensor, "c"] | None:
    """As `BatchUnderAttack.record`, of inputs any of whose entries may have changed."""
    everywhere = torch.arange(v.shape[2], device=v.device).expand(len(v), -1)
    return batch.record(objective, reached, everywhere.contiguous(), v)


def _uniform(batch: BatchUnderAttack, step: int) -> Float[Tensor, "a g p"]:
    """Random numbers in [-1, 1] for every entry."""
    u = batch.streams.uniform(step, math.prod(batch.x.shape[1:]), batch.x.dtype)
    return 2 * u.view_as(batch.x) - 1


def _check_steps(steps: int, step_size: float | None) -> None:
    checks.integer("steps", steps, 1)
    if step_size is not None:
        checks.real("step_size", step_size, 0.0, open_low=True)
