"""Certificates attacked at their radius: of images that are certified, how many does each attack break within it?

    python -m benchmarks.certificates --model l0-lipschitz-mnist --data mnist
    python -m benchmarks.certificates --model models/cifar10-partition --data cifar10 --attack by_groups,guided_exchange
    python -m benchmarks.certificates --model nearest-neighbour --data mnist
    python -m benchmarks.certificates --model runs/window --data mnist --attack guided_exchange --box-factor 100
    python -m benchmarks.certificates --model runs/ablation --data mnist --attack sparse_rs,guided_exchange --votes 64

Every image is searched within exactly as many pixels as are proved of it, and within four more; images with radius 0
are left out.  Anything broken within the radius is an error of ours.  `by_groups` is no attack of the catalogue: it
knows which pixels share a vote (tests/reference).

A smoothed classifier is attacked through votes drawn anew for every input; attacks that need gradients get those of the
mean answer to as many ablated images, the same for all inputs.  It is judged by ten times as many votes: broken is a
confident answer of another class.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# before torch starts its threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

import zeronorm as zn
from zeronorm.certification import ABSTAIN, Certificate
from zeronorm.certification.catalogue import get, made_for
from zeronorm.defenses.randomized_ablation import ablate, random_subsets
from zeronorm.seeding import Streams

sys.path.append(str(Path(__file__).parents[1] / "tests" / "reference"))
from feature_partition_attack import by_groups

NEIGHBOUR = "nearest-neighbour"
BY_GROUPS = "by_groups"


class MeanAnswer(torch.nn.Module):
    """The base classifier's mean probabilities over some ablated images, where the smoothed one counts votes."""

    def __init__(self, smoothed: zn.defenses.RandomizedAblation, pixels: int) -> None:
        super().__init__()
        self.smoothed = smoothed
        words = Streams(0, torch.zeros(1, dtype=torch.int64), "benchmark").bits(
            0, smoothed.votes * smoothed.retained
        )
        self.subsets = random_subsets(words.view(smoothed.votes, -1), pixels)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(())
        for subset in self.subsets:
            shown = ablate(x, subset.expand(len(x), -1), self.smoothed.null, self.smoothed.mean)
            total = total + self.smoothed.base_classifier(shown).softmax(1)
        return (total / len(self.subsets)).log()


def subject(options: argparse.Namespace) -> tuple[Any, Callable[[Tensor], Certificate]]:
    """The classifier to attack, and what is proved of it."""
    if options.model == NEIGHBOUR:
        train = zn.data.load(options.data, "train", options.neighbours)
        model: Any = zn.models.NearestNeighbour(train.x, train.y)
    else:
        model = zn.models.load(options.model)
    if "ablation" not in getattr(model, "facts", {}):
        row = get(made_for(model))
        return model, lambda x: row.prove(model, x, {})
    encoding = model.facts["ablation"]
    smoothed = zn.defenses.RandomizedAblation(
        model,
        encoding["retained"],
        encoding["null"],
        mean=encoding["mean"],
        votes=options.votes,
        precision=options.precision,
    )
    return smoothed, partial(smoothed.certify, n0=options.votes, n=10 * options.votes)


def answers(model: Any, x: Tensor) -> Tensor:
    if isinstance(model, zn.defenses.RandomizedAblation):
        return model.predict(x, 10 * model.votes, seed=1)
    return torch.cat([model(part).argmax(1) for part in x.split(500)])


def search(
    model: Any, name: str, x: Tensor, y: Tensor, threat: zn.L0, ids: Tensor, cost: dict[str, int]
) -> Tensor:
    """What the attack makes of the images."""
    if name == BY_GROUPS:
        assert threat.k is not None
        # pixels and corners are ranked in low precision; what they do to the answer is seen in float32
        with torch.autocast(x.device.type, torch.bfloat16):
            return torch.stack(
                [
                    by_groups(model, image, answer, threat.k)
                    for image, answer in zip(x, y.tolist(), strict=True)
                ]
            )
    attack = zn.attacks.catalogue[name]
    if isinstance(model, zn.defenses.RandomizedAblation) and attack.knowledge == "white":
        model = MeanAnswer(model, x.shape[2] * x.shape[3])
    return attack.function(model, x, y, threat, ids=ids, **cost)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="l0-lipschitz-mnist", help=f"a model, or {NEIGHBOUR}")
    parser.add_argument("--data", default="mnist")
    parser.add_argument(
        "--images", type=int, default=1000, help="certified ones, with a radius of at least 1"
    )
    parser.add_argument("--attack", default="sparse_rs,pointwise", help=f"with commas; {BY_GROUPS} too")
    parser.add_argument("--beyond", default="0,4", help="pixels more than are proved, with commas")
    parser.add_argument("--steps", type=int, default=20, help="of attacks that take steps")
    parser.add_argument("--queries", type=int, default=200, help="of attacks that take queries")
    parser.add_argument("--votes", type=int, default=200, help="of a smoothed classifier, for each query")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"), help="of votes")
    parser.add_argument(
        "--box-factor", type=float, default=1.0, help="new values in a box so many times as wide"
    )
    parser.add_argument("--neighbours", type=int, default=5000, help="training images to be near to")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    low, high = (1 - options.box_factor) / 2, (1 + options.box_factor) / 2
    model, prove = subject(options)
    data = zn.data.load(options.data, "test", 3 * options.images)
    parts = []
    for x, y in zip(data.x.split(250), data.y.split(250), strict=True):
        certificate = prove(x)
        parts.append(certificate.radius.where(certificate.prediction == y, ABSTAIN))
        if sum(int((part >= 1).sum()) for part in parts) >= options.images:
            break
    radius = torch.cat(parts)
    rows = (radius >= 1).nonzero()[: options.images, 0]
    print(
        f"{options.model} on {options.data}: {len(rows)} certified images, radii {int(radius[rows].min())} to "
        f"{int(radius[rows].max())}, median {int(radius[rows].median())}"
    )
    for name in options.attack.split(","):
        takes = () if name == BY_GROUPS else zn.attacks.catalogue[name].cost
        cost = {option: getattr(options, option) for option in takes}
        for beyond in map(int, options.beyond.split(",")):
            began, broken = time.process_time(), 0
            for k in radius[rows].unique().tolist():
                some = rows[radius[rows] == k]
                x, y = data.x[some], data.y[some]
                threat = zn.L0(min(k + beyond, x[0, 0].numel()), low=low, high=high)
                x_adv = search(model, name, x, y, threat, data.ids[some], cost)
                assert bool(threat.contains(x, x_adv).all())
                with torch.no_grad():
                    found = answers(model, x_adv)
                broken += int(((found != y) & (found != ABSTAIN)).sum())
            said = ", ".join([name, *(f"{value} {option}" for option, value in cost.items())])
            print(
                f"  {said}, radius + {beyond}: {broken} of {len(rows)} broken "
                f"({time.process_time() - began:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
