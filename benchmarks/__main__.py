"""What each attack costs over the bare passes of the model it makes, and what it finds with them.

    python -m benchmarks                                   LeNet-300-100, small CNN, ResNet-20; one thread
    python -m benchmarks --device cuda --models preact_resnet18 --data cifar10 --images 512 --k 20

It is `zeronorm bench` on models trained for it.  MNIST and CIFAR-10 are looked for in $ZERONORM_DATA; without
them small models see scikit-learn's digits, and ResNets noise of CIFAR-10's shape, untrained, for the time alone.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

# before torch starts its threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console

import zeronorm as zn
from zeronorm.cli.bench import cost_table
from zeronorm.data import Dataset
from zeronorm.evaluation.cost import measure
from zeronorm.training import TrainingPlan, train

NOISE = "noise"


def trained(architecture: str, data: str) -> zn.models.Classifier:
    """A plainly trained model, made once: the cost of a search depends on how long examples survive it."""
    out = Path(".bench") / f"{architecture}-{data}"
    if not (out / "model.json").exists():
        print(f"training {architecture} on {data} (once, kept in {out})")
        limit = {"mnist": 12_000, "cifar10": 10_000}.get(data)
        epochs = {"mnist": 3, "cifar10": 3}.get(data, 30)
        train(TrainingPlan(data=data, model=architecture, out=out, limit=limit, epochs=epochs))
    return zn.models.load(out)


def noise(model: zn.models.Classifier, images: int) -> Dataset:
    """Noise in the shape of the model's inputs, labelled as the model answers."""
    side = model.arguments["image_size"]
    x = torch.rand(
        images, model.arguments["in_channels"], side, side, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        y = model(x).argmax(1)
    return Dataset(x, y, torch.arange(images), NOISE, "", ())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="lenet_300_100,small_cnn,resnet20")
    parser.add_argument("--data", help=f"a data set, or {NOISE}; default: what the model is for")
    parser.add_argument("--images", type=int, help="default: 256, for ResNets 64")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--attack", default="sparse_autoattack", help="one, or several with commas")
    parser.add_argument("--steps", type=int, help="default: 100")
    parser.add_argument("--queries", type=int, help="default: 200")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    attacks = options.attack.split(",")

    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    where = f"{options.precision}{', compiled' if options.compile else ''}, {options.threads} thread(s), "
    where += machine or platform.machine()
    for architecture in options.models.split(","):
        data = options.data or _default_data(architecture)
        images = options.images or (64 if "resnet" in architecture else 256)
        if data == NOISE:
            model = zn.models.build(architecture).eval()
            dataset = noise(model, images)
        else:
            model, dataset = trained(architecture, data), zn.data.load(data, "test", images)
        network = model.to(device)
        if options.compile:
            network = torch.compile(network, dynamic=True)  # type: ignore[assignment]
        costs = measure(
            network,
            dataset,
            zn.L0(options.k),
            attacks,
            steps=options.steps,
            queries=options.queries,
            rounds=options.rounds,
            precision=options.precision,
        )
        on = "noise, untrained: only the time means anything" if data == NOISE else data
        Console().print(
            cost_table(f"{architecture} on {on}\nn = {images}, k = {options.k}, {where}", costs), ""
        )
    print("overhead: time over that of the passes alone, less 1")
    print("right: share of all images still classified correctly, clean errors counted as not")


def _default_data(architecture: str) -> str:
    wanted, instead = ("cifar10", NOISE) if "resnet" in architecture else ("mnist", "digits")
    home = os.environ.get("ZERONORM_DATA")
    return wanted if home and (Path(home) / wanted).exists() else instead


if __name__ == "__main__":
    main()
