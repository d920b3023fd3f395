"""What a model says of an input on a fresh pass, and an adversarial made again from its row.

Whatever counts is measured here: by the run when it writes a row, by `verify` when it checks one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zeronorm import checks, distances, losses
from zeronorm.attacks.batch_under_attack import Model, filled_up
from zeronorm.errors import ArgumentError, blaming_model
from zeronorm.modules import device_of as device_of
from zeronorm.modules import evaluation_mode
from zeronorm.threat_model import L0


class Verdict(NamedTuple):
    """What logits say of each example.

    `margin` is the label's logit minus the largest other, below 0 where `wrong`.
    """

    prediction: list[int]
    wrong: list[bool]
    margin: list[float]


def verdict(z: Tensor, y: Tensor) -> Verdict:
    """The verdict of logits (batch, class) on labels (batch,)."""
    wrong, margin = losses.is_wrong(z, y), -losses.margin(z, y)
    return Verdict(z.argmax(1).tolist(), wrong.tolist(), margin.tolist())


def predict(model: Model, x: Tensor) -> Tensor:
    """Logits on a fresh pass, in full precision, the batch filled up so that they do not depend on it."""
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model), blaming_model():
        z = model(filled_up(model, x.clone()))  # a copy: the model may write into its input
    if isinstance(z, nn.Module):
        raise ArgumentError(
            f"model: expected logits, got another model ({type(z).__name__}): a function with an argument is "
            "taken for the model itself; one that makes the model takes none"
        )
    if not isinstance(z, Tensor):
        checks.logits(z, len(x))  # which says so
    return z[: len(x)]


def changes(x: Tensor, x_adv: Tensor, threat: L0) -> dict[str, Any]:
    """What an adversarial (1, ...) changes, as a row holds it; a missing value is None."""
    after = threat.grid(x_adv)[0]
    at = distances.differs(threat.grid(x)[0], after).any(0).nonzero()[:, 0]
    values = after[:, at].T.flatten().tolist()
    return {"positions": at.tolist(), "values": [None if value != value else value for value in values]}


def rebuild(x: Tensor, row: Mapping[str, Any], threat: L0) -> Tensor:
    """The adversarial of a row: the clean input (1, ...) with the stored values written into it."""
    x_adv = x.clone().contiguous()
    grid = threat.grid(x_adv)
    at = torch.tensor(row["positions"], dtype=torch.int64, device=x.device)
    known = [math.nan if value is None else value for value in row["values"]]
    values = torch.tensor(known, dtype=x.dtype, device=x.device)
    grid[0, :, at] = values.view(len(at), grid.shape[1]).T
    return x_adv
