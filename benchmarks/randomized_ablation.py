"""What sampling, encoding and counting add to the base classifier's passes in randomized ablation.

    python -m benchmarks.randomized_ablation
    python -m benchmarks.randomized_ablation --device cuda --model resnet20 --data cifar10 --retained 75
    python -m benchmarks.randomized_ablation --model runs/ablation --precision bfloat16

Both sides see the same batch sizes; times are processor times on a CPU, of several rounds the fastest.  Of an
architecture the weights are random: in float32 speed does not depend on them.  In bfloat16 votes whose logits are
close are cast again, which a trained model (a folder, on test images) needs less; the votes that differ from those in
float32 are counted, and the bare model stays in float32.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

# before torch starts its threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import zeronorm as zn

SHAPES = {"mnist": (1, 28), "cifar10": (3, 32), "imagenet": (3, 224)}


def fastest(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Seconds of the fastest of some rounds, after one to warm up."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = []
    for _ in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    return min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small_cnn")
    parser.add_argument("--data", default="mnist", choices=tuple(SHAPES), help="whose shape the inputs have")
    parser.add_argument("--retained", type=int, default=45)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--votes", type=int, default=512, help="for each image")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    channels, side = SHAPES[options.data]
    x = torch.rand(options.images, channels, side, side, generator=torch.Generator().manual_seed(0)).to(
        device
    )
    n, size = options.images * options.votes, options.batch_size
    trained = Path(options.model).is_dir()
    if trained:
        x = zn.data.load(options.data, "test", options.images).x.to(device)
    for null, encoded in (("multichannel", 2 * channels), ("mean", channels)):
        mean = [0.5] * channels if null == "mean" else None
        if trained:
            model = zn.models.load(options.model).to(device)
            if model.facts["ablation"]["null"] != null:
                continue
            mean = model.facts["ablation"]["mean"]
        else:
            model = zn.models.build(options.model, in_channels=encoded, image_size=side).to(device).eval()
        smoothed, exact = (
            zn.defenses.RandomizedAblation(model, options.retained, null, mean=mean, precision=precision)
            for precision in (options.precision, "float32")
        )
        batch = torch.rand(size, encoded, side, side, device=device)

        def bare(model: Callable[[torch.Tensor], torch.Tensor] = model, batch: torch.Tensor = batch) -> None:
            with torch.inference_mode():
                for _ in range(n // size):
                    model(batch)

        def voting(smoothed: zn.defenses.RandomizedAblation = smoothed) -> None:
            smoothed.vote_counts(x, options.votes, batch_size=size)

        alone, whole = fastest(bare, device, options.rounds), fastest(voting, device, options.rounds)
        print(
            f"{options.model}, {null}, {options.images} images of {channels}x{side}x{side}, k = {options.retained}: "
            f"{n / whole:,.0f} votes/s in {options.precision}, bare model {n / alone:,.0f} passes/s, overhead "
            f"{whole / alone - 1:+.1%}"
        )
        if options.precision != "float32":
            one, other = (each.vote_counts(x, options.votes, batch_size=size) for each in (smoothed, exact))
            print(f"  votes of other counts than in float32: {int((one - other).abs().sum()) // 2} of {n:,}")


if __name__ == "__main__":
    main()
