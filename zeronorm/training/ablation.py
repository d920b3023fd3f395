"""Training the base classifier of randomized ablation: on images of which only a few random pixels are shown.

Levine & Feizi, "Robustness certificates for sparse adversarial attacks by randomized ablation" (AAAI 2020), with their
trick: one subset of pixels for each mini-batch, shared by all of its images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.data import Dataset
from zeronorm.defenses.randomized_ablation import NULLS, ablate, random_subsets
from zeronorm.errors import ArgumentError
from zeronorm.models import Classifier
from zeronorm.seeding import Streams
from zeronorm.training.augment import crop_and_flip


@dataclass(frozen=True, kw_only=True)
class AblationTraining:
    """How to train.  The defaults suit MNIST and the small CNN.

    The paper trains for 400 epochs at a learning rate of 0.01, from the middle on 0.001, with batches of 128 and
    momentum 0.9 (with weight decay 5e-4, `crop` 4 and `flip` on CIFAR-10); here the rate falls as a cosine.
    """

    retained: int = 45
    null: str = "multichannel"
    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 0.0
    crop: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        checks.choice("null", self.null, NULLS)
        for name in ("retained", "epochs", "batch_size"):
            checks.integer(name, getattr(self, name), 1)
        checks.integer("crop", self.crop, 0)
        checks.integer("seed", self.seed, 0, 2**63 - 1)
        checks.real("lr", self.lr, 0.0, open_low=True)
        checks.real("momentum", self.momentum, 0.0, 1.0)
        checks.real("weight_decay", self.weight_decay, 0.0)

    def record(self) -> dict[str, Any]:
        """As a sidecar keeps it."""
        return asdict(self)

    def encoding(self, data: Dataset) -> dict[str, Any]:
        """What `RandomizedAblation` is to be given, and a sidecar keeps under "ablation"."""
        mean = data.x.mean((0, 2, 3)).tolist() if self.null == "mean" else None
        mean = None if mean is None else [round(m, 4) for m in mean]
        return {"retained": self.retained, "null": self.null, "mean": mean}


def train_ablation(
    model: Classifier,
    data: Dataset,
    plan: AblationTraining | None = None,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Classifier:
    """Train a base classifier on a data set, in place, where its weights are; returns it, with `facts["ablation"]`.

    `model` takes ablated images: of the multichannel encoding twice the channels of the data.  Cross-entropy,
    stochastic gradient descent.  Images are augmented first and ablated then.  Everything random is named by the seed.

    **Raises:** `ArgumentError` for data that do not fit the model, retained > pixels, a loss that is not finite.
    """
    plan = plan or AblationTraining()
    encoding = plan.encoding(data)
    pixels = data.x.shape[2] * data.x.shape[3]
    checks.integer("retained", plan.retained, 1, pixels)
    device = next(model.parameters()).device
    x, y, ids = (t.to(device) for t in (data.x, data.y, data.ids))
    ablated = _ablated(x[:1], 0, plan, encoding)
    if ablated.shape[1] != model.arguments["in_channels"]:
        raise ArgumentError(
            f"model: expected {ablated.shape[1]} channels, which the {plan.null} encoding of {x.shape[1]} needs, got "
            f"{model.arguments['in_channels']}"
        )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay
    )
    per_epoch = -(-len(x) // plan.batch_size)
    steps = plan.epochs * per_epoch
    model.train()
    for epoch in range(plan.epochs):
        order = Streams(plan.seed, ids, "shuffle").order(epoch)
        for step, rows in enumerate(order.tensor_split(per_epoch), start=epoch * per_epoch):
            optimizer.param_groups[0]["lr"] = plan.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            batch = crop_and_flip(
                x[rows], ids[rows], crop=plan.crop, flip=plan.flip, seed=plan.seed, epoch=epoch
            )
            loss = F.cross_entropy(model(_ablated(batch, step, plan, encoding)), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not math.isfinite(value := float(loss.detach())):
                raise ArgumentError(
                    f"lr: expected a finite loss, got {value} at step {step + 1} with lr {plan.lr:g}"
                )
            progress(step + 1, steps, value)
    model.facts["ablation"] = encoding
    return model.eval()


@torch.inference_mode()
def accuracy_on_ablated(
    model: nn.Module, data: Dataset, plan: AblationTraining, mean: list[float] | None
) -> int:
    """How many images the base classifier gets right, each shown through a random subset of its own."""
    device = next(model.parameters()).device
    encoding = {"mean": mean}
    right = 0
    for start in range(0, len(data), 500):
        x, ids = data.x[start : start + 500].to(device), data.ids[start : start + 500].to(device)
        words = Streams(plan.seed, ids, "ablated_accuracy").bits(0, plan.retained)
        ablated = ablate(x, random_subsets(words, x.shape[2] * x.shape[3]), plan.null, **encoding)
        right += int((model(ablated).argmax(1).cpu() == data.y[start : start + 500]).sum())
    return right


def _ablated(
    x: Float[Tensor, "b c h w"], step: int, plan: AblationTraining, encoding: dict[str, Any]
) -> Float[Tensor, "b e h w"]:
    """The images of a mini-batch, all through the step's subset."""
    name: Int[Tensor, "1"] = torch.zeros(1, dtype=torch.int64, device=x.device)
    words = Streams(plan.seed, name, "ablation_training").bits(step, plan.retained)
    subset = random_subsets(words, x.shape[2] * x.shape[3])
    return ablate(x, subset.expand(len(x), -1), plan.null, encoding["mean"])
