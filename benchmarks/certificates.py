"""Certificates attacked at their radius: of images that are certified, how many does each attack break within it?

    python -m benchmarks.certificates --model l0-lipschitz-mnist --data mnist
    python -m benchmarks.certificates --model runs/partition --data cifar10 --attack guided_exchange,sparse_rs
    python -m benchmarks.certificates --model nearest-neighbour --data mnist --images 1000
    python -m benchmarks.certificates --model runs/ablation --data mnist --votes 200 --images 200

Every image is searched within exactly as many pixels as are proved of it, and within four more; images with radius 0
are left out.  Anything broken within the radius is an error of ours.  A smoothed classifier is attacked through votes
drawn anew for every input, and judged by ten times as many: broken is a confident answer of another class.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

# before torch starts its threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

import zeronorm as zn
from zeronorm.certification import ABSTAIN, Certificate, certify_nearest_neighbour
from zeronorm.certification.nearest_neighbour import class_distances
from zeronorm.evaluation.certificates import DETERMINISTIC

NEIGHBOUR = "nearest-neighbour"


class NearestNeighbour(torch.nn.Module):
    """Class by the nearest training image in quantised pixels."""

    differentiable = False

    def __init__(self, examples: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.examples, self.labels = examples, labels
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return -class_distances(x, self.examples, self.labels).to(x)


def subject(options: argparse.Namespace) -> tuple[Any, Callable[[Tensor], Certificate]]:
    """The classifier to attack, and what is proved of it."""
    if options.model == NEIGHBOUR:
        train = zn.data.load(options.data, "train", options.neighbours)
        return NearestNeighbour(train.x, train.y), partial(
            certify_nearest_neighbour, examples=train.x, labels=train.y
        )
    model = zn.models.load(options.model)
    if model.architecture in DETERMINISTIC:
        return model, partial(DETERMINISTIC[model.architecture], model)
    encoding = model.facts["ablation"]
    smoothed = zn.defenses.RandomizedAblation(
        model, encoding["retained"], encoding["null"], mean=encoding["mean"], votes=options.votes
    )
    return smoothed, partial(smoothed.certify, n0=options.votes, n=10 * options.votes)


def answers(model: Any, x: Tensor) -> Tensor:
    if isinstance(model, zn.defenses.RandomizedAblation):
        return model.predict(x, 10 * model.votes, seed=1)
    return torch.cat([model(part).argmax(1) for part in x.split(500)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="l0-lipschitz-mnist", help=f"a model, or {NEIGHBOUR}")
    parser.add_argument("--data", default="mnist")
    parser.add_argument(
        "--images", type=int, default=1000, help="certified ones, with a radius of at least 1"
    )
    parser.add_argument("--attack", default="sparse_rs,pointwise", help="with commas")
    parser.add_argument("--beyond", default="0,4", help="pixels more than are proved, with commas")
    parser.add_argument("--steps", type=int, default=20, help="of attacks that take steps")
    parser.add_argument("--queries", type=int, default=200, help="of attacks that take queries")
    parser.add_argument("--votes", type=int, default=200, help="of a smoothed classifier, for each query")
    parser.add_argument("--neighbours", type=int, default=5000, help="training images to be near to")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

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
        attack = zn.attacks.catalogue[name]
        cost = {option: getattr(options, option) for option in attack.cost}
        for beyond in map(int, options.beyond.split(",")):
            began, broken = time.process_time(), 0
            for k in radius[rows].unique().tolist():
                some = rows[radius[rows] == k]
                x, y, threat = data.x[some], data.y[some], zn.L0(min(k + beyond, x[0, 0].numel()))
                x_adv = attack.function(model, x, y, threat, ids=data.ids[some], **cost)
                assert bool(threat.contains(x, x_adv).all())
                with torch.no_grad():
                    found = answers(model, x_adv)
                broken += int(((found != y) & (found != ABSTAIN)).sum())
            spent = ", ".join(f"{value} {option}" for option, value in cost.items())
            print(
                f"  {name}, {spent}, radius + {beyond}: {broken} of {len(rows)} broken "
                f"({time.process_time() - began:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
