"""The locally linear attack (Gopalakrishnan et al. 2020): one pair of classes at a time."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import BatchUnderAttack, Model, attacking
from zeronorm.attacks.signed_gradient import ascend
from zeronorm.threat_model import Linf


def locally_linear(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: Linf,
    *,
    steps: int = 100,
    step_size: float | None = None,
    rivals: int | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Raise each other class over the label in turn, and keep the best attempt: white box, fixed budget.

    Source: Gopalakrishnan, Marzi, Cekic, Madhow & Pedarsani, "Robust adversarial learning via sparsifying front
    ends", 2020, sections V-D and V-E.

    A network of ReLUs is linear around its input: the lead of class i over the label t has slope w_i - w_t
    there, and e = ε sgn(w_i - w_t) raises it most.  One step is that attack; several, of `step_size` each,
    take the slope anew at every place.  Unlike FGSM it does not mix the classes.

    An adversary who knows the network but not a front end before it (semi-white box) attacks the network alone;
    through `zeronorm.defenses.SparsifyingFrontEnd` the slope is that of its `gradient`: "projection" gives the
    white-box attack, "iterated" the one with refined projections.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: ε and the box.
        steps: updates for each rival; each is one forward and one backward pass, and the last iterate is tested.
        step_size: in input units; None: ε for one step, ε / 4 for several (0.05 at ε = 0.2 in the paper).
        rivals: other classes to try, the likeliest on the clean input first; None: all.
        seed, ids: accepted as of every attack; this one draws no random numbers.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already come back
        clean; who holds, with the largest lead of another class that was seen.

    Deviations from the authors' code: the label's slope is that of the current place (theirs stays at the clean
    image), a step is one step (theirs moves twice), and no example of the last batch is left out; whoever is
    broken on the way leaves.
    """
    checks.integer("steps", steps, 1)
    if rivals is not None:
        checks.integer("rivals", rivals, 1)
    if step_size is not None:
        checks.real("step_size", step_size, 0.0, open_low=True)
    with attacking(
        "locally_linear",
        model,
        x,
        y,
        threat,
        targeted=None,
        seed=seed,
        ids=ids,
        objective="margin",
        norm=Linf,
    ) as batch:
        if len(batch.rows) == 0:
            return batch.finished()
        if step_size is None:
            step_size = threat.epsilon if steps == 1 else threat.epsilon / 4
        z = batch.logits(batch.x)
        tried = z.shape[1] - 1 if rivals is None else min(rivals, z.shape[1] - 1)
        # of every example, whoever else leaves: the other classes, the likeliest first
        order = torch.zeros(len(x), tried, dtype=torch.int64, device=x.device)
        z = z.scatter(1, batch.goal[:, None], -torch.inf)
        order[batch.rows] = z.argsort(dim=1, descending=True, stable=True)[:, :tried]
        for rival in order.T:
            ascend(batch, None, steps, step_size, look=partial(_look, batch, rival))
        return batch.finished()


def _look(
    batch: BatchUnderAttack, rival: Int[Tensor, "b"], v: Float[Tensor, "a g p"]
) -> tuple[Float[Tensor, "a"], Bool[Tensor, "a"], Float[Tensor, "a g p"]]:
    """The largest lead of another class, whether it is above 0, and the slope of the rival's lead."""
    z, pullback = batch.logits_and_pullback(v)
    lead = torch.zeros_like(z).scatter_(1, rival[batch.rows, None], 1.0)
    return *batch.judged(z), pullback(lead.scatter_(1, batch.goal[:, None], -1.0))
