"""ImageNet-sized inputs: the memory of an evaluation, and what attacks cost beside the passes of a ResNet-50.

    python -m benchmarks.large_inputs                 peak memory against the number of images, streamed and loaded
    python -m benchmarks.large_inputs --attacks       time of attacks at 3x224x224, against k

Memory is measured in a process of its own, as the growth of its peak over what it held before the data were opened.
The model is a mean, so that it hides nothing; the images are JPEG files of smooth noise about ten levels of brightness.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from torch import nn

import zeronorm as zn
from zeronorm.attacks.catalogue import get

SIDE, CLASSES = 224, 10


LEVELS = torch.linspace(0.4, 0.6, CLASSES)  # brightness of each class


class Brightness(nn.Module):
    """As little as a classifier of images can be: which level is nearest, of every eighth pixel of every eighth row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x[:, :, ::8, ::8].mean((1, 2, 3))
        return 100 * (2 * mean[:, None] * LEVELS - LEVELS**2)


def write_images(folder: Path, n: int) -> None:
    """JPEG files of many sizes, in ten classes."""
    rng = np.random.default_rng(0)
    for i in range(n):
        file = folder / f"class{i % CLASSES}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        light = 255 * float(LEVELS[i % CLASSES])
        coarse = Image.fromarray((light + rng.integers(-99, 100, (20, 24, 3))).astype(np.uint8))
        coarse.resize((300 + i % 40, 250 + i % 30)).save(file, quality=85)


def peak() -> int:
    """The most memory this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def evaluated(name: str, limit: int, stream: bool, k: int, steps: int) -> dict[str, float]:
    """Growth of the peak, over what is held without data, of one evaluation; the time it takes."""
    model, x = Brightness().eval(), torch.rand(4, 3, SIDE, SIDE)
    options = {"attack": "sparse_pgd", "steps": steps, "batch_size": 32}
    zn.evaluate(model, (x, torch.zeros(4, dtype=torch.int64)), zn.L0(k), **options)  # imports, compiles
    before, began = peak(), time.perf_counter()
    data = zn.data.load(name, "test", limit, stream=stream)
    opened = peak()
    evaluation = zn.evaluate(model, data, zn.L0(k), **options)
    broken = sum(outcome == "broken" for outcome in evaluation.records["outcome"].to_pylist())
    return {
        "n": len(data), "opened": opened - before, "grown": peak() - before,
        "seconds": time.perf_counter() - began, "broken": broken,
    }  # fmt: skip


def memory(images: int, k: int, steps: int) -> None:
    """The table of peaks."""
    with tempfile.TemporaryDirectory() as place:
        write_images(Path(place), images)
        name = f"folder:{place}:resize=256:crop={SIDE}"
        decoded = images * 3 * SIDE * SIDE * 4
        print(f"{images} images of 3x{SIDE}x{SIDE}, {decoded / 2**20:.0f} MiB decoded; k={k}, batches of 32")
        print(f"{'':10}{'images':>8}{'data opened':>14}{'whole run':>12}{'broken':>8}{'seconds':>9}")
        for how, n in (("streamed", images // 4), ("streamed", images), ("loaded", images)):
            row = child("evaluated", name, n, how == "streamed", k, steps)
            opened, grown = row["opened"] / 2**20, row["grown"] / 2**20
            print(
                f"{how:10}{n:8}{opened:10.0f} MiB{grown:8.0f} MiB{row['broken']:8}{row['seconds']:9.0f}",
                flush=True,
            )


class Sure(nn.Module):
    """Never broken: every step of every example is made."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([mean + 100, mean * 0.5], 1)


def searched(name: str, k: int, steps: int, n: int) -> dict[str, float]:
    """Seconds of a step for one example, with a model that costs next to nothing."""
    x = torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    model, y = Sure().eval(), torch.zeros(n, dtype=torch.int64)
    cost, attack = get(name).cost[0], get(name).function
    attack(model, x[:2], y[:2], zn.L0(k), **{cost: 3})  # compiles
    began = time.process_time()
    attack(model, x, y, zn.L0(k), **{cost: steps})
    return {"seconds": (time.process_time() - began) / (n * steps)}


def attacks(budgets: list[int], n: int, steps: int) -> None:
    """An attack's own work for a pass over one example."""
    resnet = zn.models.build("resnet50", classes=CLASSES).eval()
    x, passes = torch.rand(2, 3, SIDE, SIDE), {}
    for name, traced in (("sparse_rs", False), ("sparse_pgd", True)):
        leaf = x.clone().requires_grad_(traced)
        began = time.process_time()
        with torch.set_grad_enabled(traced):
            z = resnet(leaf)
            if traced:
                z.sum().backward()
        passes[name] = (time.process_time() - began) / 2
    print(
        f"ResNet-50 on one image: forward {1000 * passes['sparse_rs']:.0f} ms, "
        f"with backward {1000 * passes['sparse_pgd']:.0f} ms"
    )
    print(f"{'':14}{'k':>6}{'ms a step':>12}{'of its passes':>15}")
    for name in ("sparse_pgd", "sparse_rs"):
        for k in budgets:
            row = child("searched", name, k, steps, n)
            share = 100 * row["seconds"] / passes[name]
            print(
                f"{name:14}{k:6}{1000 * row['seconds']:12.2f}{share:13.1f} %",
                flush=True,
            )


def child(function: str, *arguments: object) -> dict[str, float]:
    """What a function of this file says in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.large_inputs", "--child", json.dumps([function, *arguments])]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--k", default="200", help="with --attacks several: 10,100,500,1000")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--attacks", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.child:
        function, *arguments = json.loads(given.child)
        print(json.dumps({"evaluated": evaluated, "searched": searched}[function](*arguments)))
    elif given.attacks:
        attacks([int(k) for k in given.k.split(",")], 64, given.steps)
    else:
        memory(given.images, int(given.k), given.steps)


if __name__ == "__main__":
    main()
