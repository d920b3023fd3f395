"""Adversarial training by appending: attack the training set from time to time, and keep what broke the model.

Beliaev, Delgosha, Hassani & Pedarsani 2022, section V: every so many epochs the training images are attacked with
Sparse-RS, and the adversarials that the model gets wrong join the training data with their true labels, for
good.  Their code differs: it keeps only the newest, and drops one example per batch from them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.seeding import Streams
from zeronorm.training.method import Setting, TrainingExamples

_BATCH = 256  # examples attacked together
_ROUND = 1 << 40  # times the round, added to the id of an example: gives each adversarial its own id


def grow(
    setting: Setting, examples: TrainingExamples, rows: Int[Tensor, "n"], epoch: int
) -> tuple[TrainingExamples, Int[Tensor, "m"]]:
    """The training data of an epoch: every `append_every` epochs, the adversarials that break the model are added.

    Examples that the model gets wrong without an attack count as adversarials too.  Adversarials are kept by the pixels
    that differ, in the checkpoint too.
    """
    plan, memory = setting.plan, setting.memory
    number = (epoch - 1) // plan.append_every
    if number and int(memory.get("rounds", torch.zeros(()))) < number:
        order = Streams(plan.seed, examples.ids[rows], "append").order(number)[: plan.append_limit]
        some = rows[order.sort().values.to(rows.device)]
        parts = []
        for part in setting.processes.share(some).split(_BATCH):
            batch = examples[part]
            x_adv, broken = setting.adversary.broken(batch.x, batch.y, batch.ids, epoch)
            pixels, values = _changes(batch.x[broken], x_adv[broken], setting.adversary.k)
            parts.append({
                "rows": part.to(broken.device)[broken], "pixels": pixels, "values": values,
                "round": torch.full_like(batch.ids[broken], number),
            })  # fmt: skip
        for name in parts[0]:
            new = setting.processes.joined(torch.cat([part[name] for part in parts]))
            memory[name] = torch.cat([memory[name], new]) if name in memory else new
        memory["rounds"] = torch.tensor(number)
    if "rows" not in memory:
        return examples, rows
    origin = memory["rows"]
    base = examples[origin]
    grown = type(examples)(
        torch.cat([examples.x, _changed(base.x, memory["pixels"], memory["values"])]),
        torch.cat([examples.y, base.y]),
        torch.cat([examples.ids, base.ids + memory["round"] * _ROUND]),
    )
    return grown, torch.cat([rows, len(examples.x) + torch.arange(len(origin), device=rows.device)])


def _changes(
    x: Float[Tensor, "b c h w"], x_adv: Float[Tensor, "b c h w"], k: int
) -> tuple[Int[Tensor, "b k"], Float[Tensor, "b c k"]]:
    """k pixels of each image, which include all that differ, and their colours."""
    differ = (x != x_adv).any(1).flatten(1)
    pixels = differ.byte().topk(min(k, differ.shape[1]), dim=1).indices
    return pixels, x_adv.flatten(2).gather(2, pixels[:, None].expand(-1, x.shape[1], -1))


def _changed(
    x: Float[Tensor, "b c h w"], pixels: Int[Tensor, "b k"], values: Float[Tensor, "b c k"]
) -> Float[Tensor, "b c h w"]:
    where = pixels[:, None].expand_as(values)
    return x.flatten(2).scatter(2, where, values).view_as(x)
