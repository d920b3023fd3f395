"""What a sparse network is worth on disk and on the clock: ratios to the dense one, within one run.

    python -m benchmarks.pruning
    python -m benchmarks.pruning --device cuda

A pruned network is stored and run as a plain one: zeros take the room and the time of any number.  This measures
what a sparse form would save: torch's CSR matrices for the layers of LeNet-300-100, and zlib for the file.
"""

from __future__ import annotations

import argparse
import warnings
import zlib

import safetensors.torch
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import zeronorm as zn
from benchmarks.truncation import seconds

SPARSITIES = (0.0, 0.5, 0.9, 0.95, 0.98, 0.99, 0.998)


def layers(model: nn.Module) -> list[nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def as_csr(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(layer.weight.detach().to_sparse_csr(), layer.bias.detach()) for layer in layers(model)]


def run_sparse(chain: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """The network with its weights in CSR form, on inputs (feature, batch) and back."""
    a = x.flatten(1).T
    for place, (weight, bias) in enumerate(chain):
        a = weight @ a + bias[:, None]
        a = a.relu() if place + 1 < len(chain) else a
    return a.T


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", default="1,256")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="Sparse CSR")
    batches = [int(size) for size in options.batch.split(",")]

    table = Table(title=f"LeNet-300-100, sparse over dense, {options.threads} thread(s)")
    for column in ("zero", "file", "file, zlib", "CSR", *(f"time CSR, batch {size}" for size in batches)):
        table.add_column(column, justify="right")
    for sparsity in SPARSITIES:
        model = zn.models.build("lenet_300_100").eval()
        dense_file = len(safetensors.torch.save(model.network.state_dict()))
        zn.defenses.prune(model, sparsity)
        file = safetensors.torch.save(model.network.state_dict())
        model.to(options.device)
        chain = as_csr(model)
        # int32 places, as a file would have them; float32 values
        csr = sum(
            4 * (len(w.values()) + len(w.col_indices()) + len(w.crow_indices()) + len(b)) for w, b in chain
        )
        ratios = []
        for size in batches:
            x = torch.rand(size, 1, 28, 28, device=options.device)
            with torch.no_grad():
                difference = float((run_sparse(chain, x) - model(x)).abs().max())
                assert difference < 1e-4, difference
                slow = seconds(lambda x=x, chain=chain: run_sparse(chain, x), options.rounds, options.device)
                fast = seconds(lambda x=x, model=model: model(x), options.rounds, options.device)
            ratios.append(f"{slow / fast:.2f}")
        shares = (len(file), len(zlib.compress(file, 9)), csr)
        table.add_row(f"{sparsity:.1%}", *(f"{share / dense_file:.3f}" for share in shares), *ratios)
    Console().print(table)


if __name__ == "__main__":
    main()
