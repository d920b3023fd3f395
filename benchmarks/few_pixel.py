"""Ordinary networks proved against few changed pixels: how many images are decided, and in what time.

    python -m benchmarks.few_pixel --networks ConvSmallPGD --k 1,2,3 --images 15 --seconds 30
    python -m benchmarks.few_pixel --networks models/mnist-standard,digits --k 1,2 --beside

One line for each network and budget, over the first images that it answers rightly: proved (of these at the root, in
one bound without a search), broken, unknown; processor seconds of an image, median and 90th percentile; regions
bounded.  With --beside, in the same run, what intervals alone and the convex hull of the ℓ0 ball prove in one bound.

The public networks are CoVerD's (Shapira, Wiesel, Shabelman & Drachsler-Cohen, CAV 2024), read from the folder
`fewpixel` of ZERONORM_DATA; others are whatever `zeronorm.models.load` takes, on the data they were trained on.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

import zeronorm as zn
from zeronorm.certification.bound_propagation import BROKEN, PROVED, UNKNOWN, prove_few_changes
from zeronorm.certification.bound_propagation.bounds import Bounds, Options, Plan
from zeronorm.certification.bound_propagation.region import whole
from zeronorm.certification.bound_propagation.search import Searcher
from zeronorm.certification.network_graph import read_network
from zeronorm.integrations import to_torch

# file, mean, std, data
PUBLIC = {
    "ConvSmallPGD": ("MNIST_ConvSmallPGD", [0.1307], [0.3081], "mnist"),
    "ConvSmall": ("MNIST_ConvSmall", [0.1307], [0.3081], "mnist"),
    "6x200_PGD": ("MNIST_6x200_PGD", [0.1307], [0.3081], "mnist"),
    "ConvMedPGD": ("MNIST_ConvMedPGD", [0.1307], [0.3081], "mnist"),
    "ConvBig": ("MNIST_ConvBig", [0.1307], [0.3081], "mnist"),
    "CIFAR_ConvSmallPGD": ("CIFAR_ConvSmallPGD", None, None, "cifar10"),
}


def network(name: str, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network and the first images that it answers rightly."""
    if name in PUBLIC:
        file, mean, std, data = PUBLIC[name]
        model = to_torch(Path(os.environ["ZERONORM_DATA"]) / "fewpixel" / f"{file}.onnx", mean=mean, std=std)
    else:
        model = zn.models.load(name)
        data = model.facts["data"]["name"]
    some = zn.data.load(data, "test", 4 * images)
    with torch.no_grad():
        right = (model(some.x).argmax(1) == some.y).nonzero()[:images, 0]
    return model, some.x[right], some.y[right]


def in_one_bound(
    model: nn.Module, x: Tensor, y: Tensor, k: int, options: Options, steps: int
) -> tuple[int, float]:
    """How many images a single bound proves, and its time for each."""
    searcher = Searcher(Plan(read_network(model, x)), options)
    proved, started = 0, time.process_time()
    for i in range(len(x)):
        region, rows = whole(x[i : i + 1], zn.L0(k)), searcher.rows(y[i : i + 1])
        if options.linear:
            _, margins, rounding = searcher.margins(region, rows, None, steps)
            least = margins.least
        else:
            bounds = Bounds(searcher.plan, region, options)
            low, high = bounds.low[-1][:, :, None], bounds.high[-1][:, :, None]
            least = (rows.clamp_min(0) @ low + rows.clamp_max(0) @ high)[..., 0]
            rounding = torch.zeros_like(least)
        proved += int(searcher.proved(least, rounding).all())
    return proved, (time.process_time() - started) / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", default="ConvSmallPGD,ConvSmall,6x200_PGD,models/mnist-standard")
    parser.add_argument("--k", default="1,2,3")
    parser.add_argument("--images", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--arithmetic", default="real", choices=["real", "deployed"])
    parser.add_argument("--beside", action="store_true", help="intervals and the convex hull too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.networks.split(","):
        model, x, y = network(name, asked.images)
        print(
            f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, {len(x)} images", flush=True
        )
        for k in map(int, asked.k.split(",")):
            found = prove_few_changes(
                model, x, y, zn.L0(k), seconds=asked.seconds, arithmetic=asked.arithmetic
            )
            count = {word: sum(one.verdict == word for one in found) for word in (PROVED, BROKEN, UNKNOWN)}
            root = sum(one.at_root for one in found)
            deployed = sum(one.deployed for one in found)
            seconds = sorted(one.seconds for one in found)
            print(
                f"  k={k}  proved {count[PROVED]:3} (root {root}, deployed {deployed})  broken {count[BROKEN]:3}  "
                f"unknown {count[UNKNOWN]:3}  CPU s {seconds[len(seconds) // 2]:.2f} median "
                f"{seconds[int(0.9 * (len(seconds) - 1))]:.2f} p90  "
                f"regions {sum(one.nodes for one in found)}",
                flush=True,
            )
            if asked.beside:
                for title, options in (
                    ("intervals", Options(depth=0, linear=False)),
                    ("hull", Options(depth=0)),
                ):
                    proved, each = in_one_bound(model, x, y, k, options, 0)
                    print(f"       {title}: {proved} in one bound, {each:.3f} CPU s", flush=True)


if __name__ == "__main__":
    main()
