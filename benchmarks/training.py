"""What a step of robust training costs over the bare passes it makes.

    python -m benchmarks.training                          the small CNN, sAT and sTRADES; one thread

Bare passes: the attack's forward and input-gradient passes, on as many examples each as the attack had left, and the
training's own forward, backward and update, on inputs at hand, with nothing in between.  Steps and bare passes take
turns, each timed in seconds of the processor, and the medians are compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

# before torch starts its threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeronorm as zn
from zeronorm.training import TrainingPlan
from zeronorm.training.adversary import Adversary
from zeronorm.training.method import Method, Setting, TrainingBatch
from zeronorm.training.methods import METHODS


class Watched(nn.Module):
    """A model that notes its passes: the size of each, and what is differentiated ("", "input" or "weights")."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.passes: list[tuple[int, str]] = []

    def forward(self, x: Tensor) -> Tensor:
        kind = "" if not torch.is_grad_enabled() else "weights" if self.training else "input"
        self.passes.append((len(x), kind))
        return self.model(x)


def bare(
    model: nn.Module, passes: list[tuple[int, str]], x: Tensor, y: Tensor, update: Callable[[], None]
) -> None:
    """The same passes with nothing in between."""
    losses = []
    for size, kind in passes:
        some = x[:size] if size <= len(x) else torch.cat([x, x])[:size]
        if kind == "weights":
            losses.append(F.cross_entropy(model(some), y[:size]))
        elif kind == "input":
            leaf = some.clone().requires_grad_()
            logits = model(leaf)
            torch.autograd.grad(logits, leaf, torch.ones_like(logits))
        else:
            with torch.no_grad():
                model(some)
    torch.stack(losses).sum().backward()
    update()


def overhead(plan: TrainingPlan, data: zn.data.Dataset, rounds: int) -> tuple[float, float, float]:
    """Seconds of a step, seconds of its bare passes, and images per second."""
    _, channels, height, width = data.x.shape
    model = zn.models.build(
        plan.model, in_channels=channels, image_size=(height, width), classes=10, **plan.model_arguments
    )
    watched = Watched(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    method = METHODS[plan.method]
    assert isinstance(method, Method), "one of the loop over epochs"
    loss_of = method.batch_loss(Setting(plan, Adversary(plan, watched), data.y, 10, {}))

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    def step(number: int) -> None:
        rows = torch.arange(plan.batch_size) + number * plan.batch_size
        rows %= len(data)
        loss, _ = loss_of(watched, TrainingBatch(data.x[rows], data.y[rows], data.ids[rows], rows, 1, number))
        loss.backward()
        update()

    for number in range(40):  # compiled, and far enough that the attack has work
        step(number)
    steps, passes = [], []
    for number in range(rounds):
        watched.passes.clear()
        began = time.process_time()
        step(number)
        between = time.process_time()
        bare(model, list(watched.passes), data.x[: plan.batch_size], data.y, update)
        steps.append(between - began)
        passes.append(time.process_time() - between)
    return statistics.median(steps), statistics.median(passes), plan.batch_size / statistics.median(steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default="sat,strades,fast_ls")
    parser.add_argument("--model", default="small_cnn")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--data", default="mnist", help="mnist, or noise of its shape")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data == "noise":
        x = torch.rand(2048, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        data = zn.data.Dataset(x, torch.arange(2048) % 10, torch.arange(2048), "noise", "", ())
    else:
        data = zn.data.load(options.data, "train", 20_000)
    arguments = {"width": options.width} if options.model == "small_cnn" else {}
    print(f"{options.model} {arguments} on {data.name}, k = {options.k}, batches of {options.batch_size}")
    for method in options.methods.split(","):
        plan = TrainingPlan(
            out="unused", method=method, model=options.model, model_arguments=arguments, k=options.k,
            multi_k=4.0, batch_size=options.batch_size,
        )  # fmt: skip
        step, passes, rate = overhead(plan, data, options.rounds)
        print(
            f"{method:8} {1000 * step:7.1f} ms a step, {1000 * passes:7.1f} ms of bare passes: "
            f"{100 * (step / passes - 1):+.1f} %, {rate:,.0f} images/s"
        )


if __name__ == "__main__":
    main()
