"""What each attack costs over the bare passes of the model it makes, and what it finds with them.

    python -m benchmarks                                   LeNet-300-100, small CNN, ResNet-20; one thread
    python -m benchmarks --device cuda --models preact_resnet18 --data cifar10 --images 512 --k 20

The limit is measured in the same run: the same passes, forward and backward to the input, at the same batch
sizes, in the same order, with nothing between them.  Of several rounds the fastest counts, of each.
MNIST and CIFAR-10 are looked for in $ZERONORM_DATA; without it the models see scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path
from typing import Any

# before torch starts its threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import zeronorm as zn
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.training import TrainingPlan, train

ATTACKS: dict[str, dict[str, Any]] = {
    "sparse_pgd (unprojected)": {"attack": "sparse_pgd", "gradient": "unprojected"},
    "sparse_pgd (projected)": {"attack": "sparse_pgd", "gradient": "projected"},
} | {
    name: {"attack": name}
    for name in zn.attacks.catalogue
    if name not in ("sparse_pgd", "sparse_autoattack")  # has two ways to go; is made of others
}


class Passes(nn.Module):
    """Notes the batch size of each pass, whether it was differentiable, and the backward passes that followed."""

    def __init__(self, model: nn.Module, precision: str, device: torch.device) -> None:
        super().__init__()
        self.model, self.calls = model, list[tuple[int, bool, list[None]]]()
        self.inner = QueryCounter(model, 1, device, precision=precision)
        self.exact = self.inner.exact

    def forward(self, x: Tensor) -> Tensor:
        backward: list[None] = []
        self.calls.append((len(x), x.requires_grad, backward))
        z = self.inner(x)
        if x.requires_grad:
            z.register_hook(lambda _: backward.append(None))
        return z

    def rows(self) -> int:
        """Passes so far, of one example each."""
        return sum(size * (1 + len(backward)) for size, _, backward in self.calls)


def bare_seconds(model: Passes, x: Tensor) -> float:
    """Time of the noted passes alone."""
    calls = list(model.calls)
    largest = max(size for size, *_ in calls)
    pool = x.repeat(-(-largest // len(x)), *[1] * (x.dim() - 1))
    started = _now(x.device)
    for size, differentiable, backward in calls:
        if differentiable:
            leaf = pool[:size].detach().requires_grad_()
            z = model.inner(leaf)
            for _ in backward:
                torch.autograd.grad(z, leaf, torch.ones_like(z), retain_graph=len(backward) > 1)
        else:
            with torch.no_grad():
                model.inner(pool[:size])
    return _now(x.device) - started


def trained(architecture: str, data: str, device: torch.device) -> nn.Module:
    """A plainly trained model, made once: the cost of a search depends on how long examples survive it."""
    out = Path(".bench") / f"{architecture}-{data}"
    if not (out / "model.json").exists():
        print(f"training {architecture} on {data} (once, kept in {out})")
        limit = {"mnist": 12_000, "cifar10": 10_000}.get(data)
        epochs = {"mnist": 3, "cifar10": 5}.get(data, 30)
        train(TrainingPlan(data=data, model=architecture, out=out, limit=limit, epochs=epochs))
    return zn.models.load(out).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="lenet_300_100,small_cnn,resnet20")
    parser.add_argument("--data", help="default: mnist, cifar10 for ResNets, digits without $ZERONORM_DATA")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100, help="updates, and half as many queries as passes")
    parser.add_argument("--attacks", default=",".join(dict.fromkeys(v["attack"] for v in ATTACKS.values())))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    )
    table = Table(title=f"{options.images} images, k={options.k}, {options.precision}"
                  f"{', compiled' if options.compile else ''}, {options.threads} thread(s), {name}")  # fmt: skip
    for column in (
        "model",
        "attack",
        "passes/image",
        "passes/s",
        "bare s",
        "attack s",
        "over bare",
        "robust",
    ):
        table.add_column(column, justify="left" if column in ("model", "attack") else "right")

    for architecture in options.models.split(","):
        data = options.data or _default_data(architecture)
        dataset = zn.data.load(data, "test", options.images)
        x, y = dataset.x.to(device), dataset.y.to(device)
        network = trained(architecture, data, device)
        if options.compile:
            network = torch.compile(network, dynamic=True)  # type: ignore[assignment]
        model = Passes(network, options.precision, device).eval()
        chosen = [(t, s) for t, s in ATTACKS.items() if s["attack"] in options.attacks.split(",")]
        for title, settings in chosen:
            attack = getattr(zn.attacks, settings["attack"])
            extra = {n: v for n, v in settings.items() if n != "attack"}
            costs = {"steps": options.steps, "queries": 2 * options.steps}
            length = {cost: costs[cost] for cost in zn.attacks.catalogue[settings["attack"]].cost}
            bare, total, robust = float("inf"), float("inf"), 0.0
            for _ in range(options.rounds + 1):  # the first round warms up
                model.calls.clear()
                started = _now(device)
                x_adv = attack(model, x, y, zn.L0(options.k), **length, **extra)
                total = min(total, _now(device) - started)
                bare = min(bare, bare_seconds(model, x))
                with torch.no_grad():
                    robust = float((network(x_adv).argmax(1) == y).float().mean())
            rows = model.rows()
            table.add_row(architecture, title, f"{rows / len(x):.0f}", f"{rows / total:,.0f}", f"{bare:.3f}",
                          f"{total:.3f}", f"{total / bare - 1:+.0%}", f"{robust:.1%}")  # fmt: skip
    Console().print(table)
    print("robust: share still classified right after the search, clean errors counted as not.")


def _default_data(architecture: str) -> str:
    if not os.environ.get("ZERONORM_DATA"):
        return "digits"
    return "cifar10" if "resnet" in architecture else "mnist"


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()  # other processes on the machine do not count
    return time.perf_counter()


if __name__ == "__main__":
    main()
