"""What truncated layers cost over dense ones: forward and backward, as a ratio within one run.

    python -m benchmarks.truncation
    python -m benchmarks.truncation --device cuda --threads 8

The floor is torch's dense layer, or convolution, of the same shape.  "sorted" is the plain form in torch (the twin
of the kernels in the tests).  Inputs: normal; "background": four of five coordinates 0; "blank": all 0.
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
from zeronorm.kernels import truncated_products as products

SHAPES = ((128, 784, 256), (512, 3072, 512))
CONVOLUTIONS = (  # images, channels, side, kernel, padding, filters
    (64, 1, 28, 5, 0, 16),
    (64, 1, 28, 5, 0, 32),
    (64, 3, 32, 3, 1, 64),
    (16, 16, 16, 5, 2, 32),
)


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
    parser.add_argument("--k", default="1,2,5,10,50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sorted", action="store_true", help="also the plain form (slow)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ks = [int(k) for k in options.k.split(",")]

    def cost(layer: Callable[[], Tensor], x: Tensor, weight: Tensor, g: Tensor) -> float:
        return seconds(lambda: torch.autograd.grad(layer(), (x, weight), g), options.rounds, options.device)

    table = Table(title=f"truncated over dense, forward and backward, {options.threads} thread(s)")
    for column in ("batch x inputs -> outputs", "inputs", *(f"k={k}" for k in ks), "dense ms"):
        table.add_column(column, justify="right")
    for rows, d, outputs in SHAPES:
        for kind in ("normal", "background", "blank"):
            x = inputs(kind, rows, d).to(options.device).requires_grad_()
            weight = torch.randn(outputs, d, device=options.device).div(d**0.5).requires_grad_()
            g = torch.randn(rows, outputs, device=options.device)
            dense = cost(lambda x=x, w=weight: F.linear(x, w), x, weight, g)
            ratios = [
                f"{cost(lambda x=x, w=weight, k=k: products.truncated_products(x, w, k, k), x, weight, g) / dense:.1f}"
                for k in ks
            ]
            name = f"{rows} x {d} -> {outputs}"
            table.add_row(name, kind, *ratios, f"{1000 * dense:.1f}")
            if options.sorted and kind == "normal" and rows * d * outputs < 1 << 26:
                plain = [_plain(x.detach(), weight.detach(), g, k, options) / dense for k in ks]
                table.add_row(name, "sorted", *(f"{ratio:.0f}" for ratio in plain), "")
    for batch, channels, side, kernel, padding, maps in CONVOLUTIONS:
        for kind in ("normal", "background", "blank"):
            x = inputs(kind, batch, channels, side, side).to(options.device).requires_grad_()
            weight = torch.randn(maps, channels, kernel, kernel, device=options.device).requires_grad_()
            g = torch.randn_like(F.conv2d(x, weight, padding=padding))
            dense = cost(lambda x=x, w=weight, p=padding: F.conv2d(x, w, padding=p), x, weight, g)
            ratios = []
            for k in ks:
                if 2 * k > weight[0].numel():
                    ratios.append("")
                    continue
                conv = TruncatedConv2d(channels, maps, kernel, k, padding=padding).to(options.device)
                ratios.append(f"{cost(lambda x=x, c=conv: c(x), x, conv.weight, g) / dense:.1f}")
            name = f"{batch} x {channels} x {side}², {kernel}x{kernel} -> {maps}"
            table.add_row(name, kind, *ratios, f"{1000 * dense:.1f}")
    Console().print(table)


def _plain(x: Tensor, weight: Tensor, g: Tensor, k: int, options: argparse.Namespace) -> float:
    def work() -> None:
        _, dropped = products._Sorted.sums(x, weight, k, k)
        products._Sorted.rows(g, weight, x, dropped)
        products._Sorted.rows(g.t(), x, weight, dropped.transpose(0, 1))

    return seconds(work, 1, options.device)


if __name__ == "__main__":
    main()
