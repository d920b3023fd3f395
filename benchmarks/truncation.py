"""What truncated layers cost over dense ones: forward and backward, as a ratio within one run.

    python -m benchmarks.truncation
    python -m benchmarks.truncation --device cuda --threads 8

The floor is torch's dense layer of the same shape.  "sorted" is the plain form in torch (the twin of the kernels
in the tests).  Inputs: normal; "background": four of five coordinates 0; "blank": all 0.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from zeronorm.defenses import TruncatedConv2d
from zeronorm.defenses import truncated_products as products

SHAPES = ((128, 784, 256), (512, 3072, 512))


def seconds(work: Callable[[], object], rounds: int, device: str) -> float:
    """Processor time of the fastest round (on a GPU: wall time)."""
    clock = time.perf_counter if device != "cpu" else time.process_time

    def once() -> float:
        began = clock()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        return clock() - began

    once()
    return min(once() for _ in range(rounds))


def inputs(kind: str, *shape: int) -> Tensor:
    if kind == "normal":
        return torch.randn(shape)
    return torch.rand(shape) * (torch.rand(shape) < (0.2 if kind == "background" else 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--k", default="1,10,50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sorted", action="store_true", help="also the plain form (slow)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ks = [int(k) for k in options.k.split(",")]

    table = Table(title=f"truncated over dense, forward and backward, {options.threads} thread(s)")
    for column in ("batch x inputs -> outputs", "inputs", *(f"k={k}" for k in ks), "dense ms"):
        table.add_column(column, justify="right")
    for rows, d, outputs in SHAPES:
        for kind in ("normal", "background", "blank"):
            x = inputs(kind, rows, d).to(options.device).requires_grad_()
            weight = torch.randn(outputs, d, device=options.device).div(d**0.5).requires_grad_()
            g = torch.randn(rows, outputs, device=options.device)

            def cost(
                layer: Callable[[], Tensor], x: Tensor = x, weight: Tensor = weight, g: Tensor = g
            ) -> float:
                work = lambda: torch.autograd.grad(layer(), (x, weight), g)  # noqa: E731
                return seconds(work, options.rounds, options.device)

            dense = cost(lambda x=x, weight=weight: F.linear(x, weight))
            ratios = [
                cost(lambda x=x, weight=weight, k=k: products.truncated_products(x, weight, k, k)) / dense
                for k in ks
            ]
            name = f"{rows} x {d} -> {outputs}"
            table.add_row(name, kind, *(f"{ratio:.1f}" for ratio in ratios), f"{1000 * dense:.1f}")
            if options.sorted and kind == "normal" and rows * d * outputs < 1 << 26:
                plain = [_plain(x.detach(), weight.detach(), g, k, options) / dense for k in ks]
                table.add_row(name, "sorted", *(f"{ratio:.0f}" for ratio in plain), "")
    for channels, maps, side, kernel, k in ((3, 64, 32, 3, 5), (16, 32, 16, 5, 10)):
        conv = TruncatedConv2d(channels, maps, kernel, k, padding=kernel // 2).to(options.device)
        x = torch.randn(16, channels, side, side, device=options.device, requires_grad=True)
        dense = seconds(
            lambda x=x, w=conv.weight, p=kernel // 2: F.conv2d(x, w, padding=p).sum().backward(),
            options.rounds, options.device,
        )  # fmt: skip
        slow = seconds(lambda x=x, c=conv: c(x).sum().backward(), options.rounds, options.device)
        print(
            f"convolution {channels} -> {maps}, {kernel}x{kernel}, {side}x{side}, k={k}: "
            f"{slow / dense:.1f} times {1000 * dense:.1f} ms"
        )
    Console().print(table)


def _plain(x: Tensor, weight: Tensor, g: Tensor, k: int, options: argparse.Namespace) -> float:
    def work() -> None:
        _, dropped = products._Sorted.sums(x, weight, k, k)
        products._Sorted.rows(g, weight, x, dropped)
        products._Sorted.rows(g.t(), x, weight, dropped.transpose(0, 1))

    return seconds(work, 1, options.device)


if __name__ == "__main__":
    main()
