"""CLEVER of a model: gradients sampled around each example, and what the extreme-value fit makes of their norms.

b, s    examples, samples of a batch
j       classes
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.errors import ArgumentError
from zeronorm.metrics.clever import clever_score
from zeronorm.modules import evaluation_mode
from zeronorm.seeding import Streams
from zeronorm.threat_model import L2, Box, Linf


def clever(
    model: Model,
    x: Float[Tensor, "b ..."],
    threat: Linf | L2,
    *,
    batches: int = 50,
    samples: int = 64,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """CLEVER scores: how far, by estimate, an untargeted adversary must go to move each prediction.

    Weng et al., ICLR 2018, Algorithm 2; no lower bound, for the reasons that `zeronorm.metrics.clever` states.

    **Arguments:**

    - `model`: from inputs to logits (batch, class), differentiable.
    - `x`: inputs in the box.
    - `threat`: `Linf` or `L2`; its radius is that of the ball sampled, and the largest score.  Samples are uniform
      in the ball, then clipped to the box.
    - `batches`, `samples`: maxima that are fitted, and gradients that each is over; the authors take 500 and 1024.  All
      `samples` of all examples go through the model together, `batches` times, with a backward pass for each
      class but one.
    - `seed`, `ids`: name the samples of each example.

    **Returns:** the scores, and for each the share of its classes whose fit was believed.

    **Raises:** `ArgumentError` for a network whose gradients are all 0.
    """
    checks.model(model)
    checks.examples(x)
    if not isinstance(threat, Linf | L2):
        raise ArgumentError(f"threat: expected an Linf or L2 threat model, got {type(threat).__name__}")
    radius = checks.real(
        "epsilon", math.nan if threat.epsilon is None else threat.epsilon, 0.0, open_low=True
    )
    checks.integer("batches", batches, 1)
    checks.integer("samples", samples, 1)
    threat.check_inputs(x)
    streams = Streams(seed, checks.identifiers(ids, x), "clever")
    low, high = (bound[:, None] for bound in Box.bounds(threat, x))
    maxima = []
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model):
        z = checks.logits(model(x.clone()), len(x))
        label = z.argmax(1)
        for batch in range(batches):
            v = torch.clamp(x[:, None] + _in_ball(streams, batch, samples, x, threat, radius), low, high)
            maxima.append(_longest(model, v, label, 1 if isinstance(threat, Linf) else 2))
    rivals = [[k for k in range(z.shape[1]) if k != c] for c in label.tolist()]
    norms = torch.stack(maxima, 2).double().cpu().numpy()
    gaps = (z.gather(1, label[:, None]) - z).double().cpu().numpy()
    found = [clever_score(gaps[i, others], norms[i, others], radius) for i, others in enumerate(rivals)]
    believed = [np.mean([end.fitted for end in ends]) for _, ends in found]
    return torch.tensor([score for score, _ in found], dtype=x.dtype), torch.tensor(believed, dtype=x.dtype)


def _in_ball(
    streams: Streams, batch: int, samples: int, x: Tensor, threat: Linf | L2, radius: float
) -> Float[Tensor, "b s ..."]:
    """Uniform points of the ball around 0."""
    shape, d = (len(x), samples, *x.shape[1:]), math.prod(x.shape[1:])
    if isinstance(threat, Linf):
        return (2 * streams.uniform(batch, samples * d, x.dtype) - 1).view(shape) * radius
    direction = streams.normal(2 * batch, samples * d, x.dtype).view(len(x), samples, d)
    direction = direction / direction.norm(dim=2, keepdim=True).clamp_min(1e-30)
    length = radius * streams.uniform(2 * batch + 1, samples, x.dtype) ** (1 / d)
    return (direction * length[:, :, None]).view(shape)


def _longest(
    model: Model, v: Float[Tensor, "b s ..."], label: Int[Tensor, "b"], q: int
) -> Float[Tensor, "b j"]:
    """The largest q-norm, over an example's samples, of the gradient of g_label - g_k; 0 for the label itself."""
    own = label.repeat_interleave(v.shape[1])[:, None]
    with torch.enable_grad():
        leaf = v.flatten(0, 1).detach().requires_grad_()
        z = model(leaf)
        lead = z.gather(1, own) - z
        longest = []
        for k in range(z.shape[1]):
            (gradient,) = torch.autograd.grad(lead[:, k].sum(), leaf, retain_graph=True)
            norm = torch.linalg.vector_norm(gradient.flatten(1), ord=q, dim=1)
            longest.append(norm.view(v.shape[:2]).amax(1))
    return torch.stack(longest, 1)
