"""Fig. 1, Fig. 2 (a-d) and Table 1 of Guo et al. 2018 on MNIST, and what an ℓ0 adversary says of the same networks.

    python reproductions/guo2018_sparse_dnns/reproduce.py --scale cpu --out runs/guo2018
    python reproductions/guo2018_sparse_dnns/reproduce.py --scale paper --device cuda --out runs/guo2018

Every part is a `zeronorm prune`, whose folder with models, rows and page is kept in OUT and resumed; Table 1 trains
without pruning.  Writes measured-SCALE.json beside itself after each part.  MNIST is looked for in
$ZERONORM_DATA or on the Hub.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

import zeronorm as zn
from zeronorm.cli.main import run
from zeronorm.cli.model import resolve_device
from zeronorm.evaluation.sparsity import measure
from zeronorm.report.sparsity import read_rows
from zeronorm.training import TrainingPlan, train

PAIR = (1, 7)
COMMON = {"rounds": 12, "share": 1 / 3, "batch-size": 64, "epsilon": 0.1}
# what is run of each network; the paper: 10 references, 50,000 iterations of 64, all of MNIST
SCALES: dict[str, dict[str, Any]] = {
    "cpu": {
        # references, epochs of each, and of each round of retraining
        "networks": {
            "binary": (3, 8, 2), "linear": (3, 8, 2), "lenet_300_100": (3, 30, 5), "lenet5_caffe": (1, 12, 2),
        },
        "sizes": {"train": 6000, "test": 2000}, "limit": 500,
        "linf": "fgsm,randomized_fgsm", "l2": "deepfool", "k": "4", "steps": 20, "queries": 50,
    },
    "paper": {
        "networks": {
            "binary": (10, 53, 53), "linear": (10, 53, 53), "lenet_300_100": (10, 53, 53), "lenet5_caffe": (10, 53, 53),
        },
        "sizes": {"train": None, "test": None}, "limit": 10_000,
        "linf": "fgsm,randomized_fgsm",
        "l2": "deepfool,carlini_wagner_l2", "k": "1,2,4,8", "steps": 1000, "queries": 1000,
    },
}  # fmt: skip
L1 = {"lenet_300_100": (0.0, 1e-5, 1e-4, 3e-4)}  # λ, which the paper does not give


def part_of_mnist(out: Path, digits: Sequence[int], sizes: dict[str, int | None]) -> str:
    """Some digits of MNIST, and the first so many of them, as a data set of its own."""
    for split, size in sizes.items():
        if (out / f"{split}.parquet").exists():
            continue
        mnist = zn.data.load("mnist", split, None if size is None else size * 10 // len(digits) + 500)
        images, labels = [], []
        for image, digit in zip(mnist.x, mnist.y.tolist(), strict=True):
            if digit in digits and (size is None or len(images) < size):
                png = io.BytesIO()
                Image.fromarray((image[0] * 255).round().byte().numpy()).save(png, "png")
                images.append({"bytes": png.getvalue(), "path": None})
                labels.append(digits.index(digit))
        out.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": images, "label": labels}), out / f"{split}.parquet")
    return f"parquet:{out}"


def swept(network: str, data: str, scale: dict[str, Any], out: Path, device: str) -> list[dict[str, Any]]:
    """The rows of a sweep; a linear network has no r∞ but that of FGS, which is optimal there."""
    words = [
        "prune",
        "--model",
        "linear" if network == "binary" else network,
        "--data",
        data,
        "--out",
        str(out),
    ]
    seeds, epochs, retrain = scale["networks"][network]
    words += ["--seeds", str(seeds), "--epochs", str(epochs), "--retrain-epochs", str(retrain)]
    words += ["--device", device, "--no-normalize"]
    for name, value in {
        **COMMON,
        **{k: v for k, v in scale.items() if k not in ("networks", "sizes")},
    }.items():
        words += [f"--{name}", str(value)]
    if status := run(words):
        raise SystemExit(status)
    return read_rows(out)


def activations(
    network: str, data: str, scale: dict[str, Any], out: Path, device: str
) -> list[dict[str, Any]]:
    """Table 1: trained with λ‖W‖₁, not pruned."""
    test, rows = zn.data.load(data, "test"), []
    seeds, epochs, _ = scale["networks"][network]
    for l1 in L1[network]:
        for seed in range(seeds):
            plan = TrainingPlan(
                model=network, data=data, l1=l1, seed=seed, epochs=epochs, batch_size=COMMON["batch-size"],
                normalize=False, device=device, out=out / f"l1-{l1:g}-{seed}",
                resume=True,
            )  # fmt: skip
            model = train(plan).model.to(resolve_device(device))
            row = measure(
                model, test, out / "unused", linf=("fgsm",), limit=scale["limit"], epsilon=COMMON["epsilon"]
            )
            rows.append({"l1": l1, "seed": seed, **row})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--only", choices=[*SCALES["cpu"]["networks"], "table1"], help="default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/guo2018"))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    scale = SCALES[options.scale]
    if options.device == "cpu":
        torch.set_num_threads(1)
    measured = Path(__file__).with_name(f"measured-{options.scale}.json")
    results = json.loads(measured.read_text()) if measured.exists() else {}
    for network in scale["networks"]:
        if options.only not in (None, network):
            continue
        digits = PAIR if network == "binary" else tuple(range(10))
        data = part_of_mnist(options.out / f"mnist-{len(digits)}", digits, scale["sizes"])
        results[network] = swept(network, data, scale, options.out / network, options.device)
        measured.write_text(json.dumps(results, indent=1) + "\n")
    if options.only in (None, "table1"):
        data = part_of_mnist(options.out / "mnist-10", tuple(range(10)), scale["sizes"])
        for network in L1:
            out = options.out / f"l1-{network}"
            results[f"table1 {network}"] = activations(network, data, scale, out, options.device)
            measured.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
