"""What a sparsifying front end costs over the network behind it: processor time, as a ratio within one run.

    python -m benchmarks.front_end
    python -m benchmarks.front_end --device cuda

Forward, and forward with the gradient of the input, of the network alone and behind its front end.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table

import zeronorm as zn
from benchmarks.truncation import seconds
from zeronorm.defenses import SparsifyingFrontEnd
from zeronorm.layers.sparsifying_front_end import Gradient

GRADIENTS: tuple[Gradient, ...] = ("bpda", "projection", "true", "iterated")
CASES = (
    ("resnet20", "sym9", [0.035, 0.01, 0.01]),
    ("resnet20", "sym9", [0.5, 0.25, 0.25]),
    ("four_layer_cnn", "coif1", 0.035),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title=f"added by the front end, in % of the network's own, {options.images} images")
    for column in ("network", "kept", "forward", *(f"with gradient, {name}" for name in GRADIENTS)):
        table.add_column(column, justify="right")
    for name, wavelet, kept in CASES:
        network = zn.models.build(name).eval().to(options.device)
        side, channels = network.arguments["image_size"], network.arguments["in_channels"]
        x = torch.rand(options.images, channels, side, side, device=options.device)

        def forward(model: torch.nn.Module, x: torch.Tensor = x) -> None:
            with torch.no_grad():
                model(x)

        def both(model: torch.nn.Module, x: torch.Tensor = x) -> None:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(model(leaf).sum(), leaf)

        cells = []
        for work, gradients in ((forward, GRADIENTS[:1]), (both, GRADIENTS)):
            alone = seconds(lambda w=work, m=network: w(m), options.rounds, options.device)
            for gradient in gradients:
                front_end = SparsifyingFrontEnd(wavelet, kept, gradient).to(options.device)
                # the front end by itself: a difference of two large times would be noise
                added = seconds(lambda w=work, f=front_end: w(f), options.rounds, options.device)
                cells.append(f"{100 * added / alone:.1f}")
        table.add_row(name, str(kept), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
