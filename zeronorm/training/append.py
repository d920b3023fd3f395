"""Adversarial training by appending: attack the training set now and then, and learn from what broke the model.

Beliaev, Delgosha, Hassani & Pedarsani 2022, section V: every so many epochs the training images are attacked with
Sparse-RS, and the adversarials that the model gets wrong join the training data with their true labels, for
good.  Their code differs: it keeps only the newest, and drops one example per batch from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.attacks.catalogue import catalogue
from zeronorm.attacks.search import evaluation_mode
from zeronorm.data import Dataset
from zeronorm.seeding import Streams
from zeronorm.threat_model import L0


def adversarials(
    model: nn.Module,
    data: Dataset,
    threat: L0,
    attack: str = "sparse_rs",
    *,
    seed: int = 0,
    batch_size: int = 256,
    **options: Any,
) -> Dataset:
    """The examples that break the model within the threat model, with their true labels and their ids.

    Also those that it gets wrong without an attack, as they are.  `options` are the attack's own.
    """
    checks.choice("attack", attack, catalogue)
    x_adv, broken = [], []
    with evaluation_mode(model):
        for rows in torch.arange(len(data)).split(batch_size):
            x, y, ids = data.x[rows], data.y[rows], data.ids[rows]
            found = catalogue[attack].function(model, x, y, threat, seed=seed, ids=ids, **options)
            with torch.no_grad():
                wrong = model(found).argmax(1) != y
            x_adv.append(found[wrong])
            broken.append(rows[wrong])
    kept = torch.cat(broken)
    return replace(data, x=torch.cat(x_adv), y=data.y[kept], ids=data.ids[kept])


def train_appending(
    model: nn.Module,
    data: Dataset,
    threat: L0,
    *,
    rounds: int,
    epochs: int = 25,
    attack: str = "sparse_rs",
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 128,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train `model` in place: `epochs` on the clean examples, then `rounds` times attack, append, `epochs` more.

    Stochastic gradient descent, the learning rate falling to 0 along a cosine over each round.  What is
    appended stays: after each round the training set is the one before and the newest adversarials.

    With `limit` only so many examples, drawn anew, are attacked in a round.

    **Returns:** one row per round: examples learnt, how many the last attack appended, the last epoch's loss
    and accuracy.
    """
    rounds, epochs = checks.integer("rounds", rounds, 0), checks.integer("epochs", epochs, 1)
    x, y, ids = data.x, data.y, data.ids
    history: list[dict[str, Any]] = []
    for number in range(rounds + 1):
        appended = 0
        if number:
            some = data if limit is None else _drawn(data, limit, seed, number)
            found = adversarials(model, some, threat, attack, seed=seed + number, **options)
            appended = len(found)
            x, y = torch.cat([x, found.x]), torch.cat([y, found.y])
            # names of their own: the example and the round
            ids = torch.cat([ids, found.ids + (number << 40)])
        row: dict[str, Any] = {"round": number, "examples": len(x), "appended": appended}
        row |= _learn(model, x, y, ids, epochs, number, lr, momentum, weight_decay, batch_size, seed)
        history.append(row)
        progress(row)
    return history


def _drawn(data: Dataset, limit: int, seed: int, number: int) -> Dataset:
    order = Streams(seed, data.ids, "append, attacked").order(number)
    rows = order[: checks.integer("limit", limit, 1)]
    return replace(data, x=data.x[rows], y=data.y[rows], ids=data.ids[rows])


def _learn(
    model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, epochs: int, number: int,
    lr: float, momentum: float, weight_decay: float, batch_size: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay)
    steps = epochs * -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for epoch in range(epochs):
        loss_sum, right = 0.0, 0
        order = Streams(seed, ids, f"append {number}").order(epoch)
        for rows in order.split(batch_size):
            logits = model(x[rows])
            loss = F.cross_entropy(logits, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += float(loss.detach()) * len(rows)
            right += int((logits.argmax(1) == y[rows]).sum())
    model.eval()
    return {"loss": loss_sum / len(x), "accuracy": right / len(x)}
