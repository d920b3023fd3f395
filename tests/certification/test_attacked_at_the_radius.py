"""Trained models attacked at their certified radius by what knows their inside, and a few pixels above it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from adaptive_attacks import away_from_the_nearest, by_groups, by_tables, by_windows
from torch import Tensor, nn

import zeronorm as zn
from zeronorm.certification import catalogue, worst_case_logits
from zeronorm.layers.truncation import TruncatedLinear
from zeronorm.models import Normalize


class Attacked(NamedTuple):
    model: Callable[[], Any]
    attack: Callable[[Any, Tensor, int, int], Tensor]
    above: int  # pixels more than the radius
    broken: float  # the share of images that are broken there, at least


def trained(method: str, model: str | None = None, **options: Any) -> Callable[[], Any]:
    def made() -> Any:
        with tempfile.TemporaryDirectory() as out:
            plan = zn.training.TrainingPlan(
                method=method, model=model or method, data="digits", out=Path(out) / "m", **options
            )
            return zn.training.train(plan).model.eval()

    return made


def truncated() -> nn.Module:
    """A network that learnt its own windows."""
    data = zn.data.load("digits", "train")
    torch.manual_seed(0)
    model = nn.Sequential(
        Normalize([0.3], [0.4], saturates=True),
        nn.Flatten(),
        TruncatedLinear(64, 40, 8, True),
        nn.ReLU(),
        nn.Linear(40, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(400):
        rows = torch.randint(len(data), (128,))
        leads = worst_case_logits(model, data.x[rows], data.y[rows], min(4, step // 60))
        optimizer.zero_grad()
        nn.functional.cross_entropy(leads, data.y[rows]).backward()
        optimizer.step()
    return model.eval()


def neighbours() -> nn.Module:
    data = zn.data.load("digits", "train")
    return zn.models.NearestNeighbour(data.x, data.y)


ATTACKED = {
    "l0_lipschitz": Attacked(
        trained("l0_lipschitz", budget=4, temperature=2.0, epochs=6, model_arguments={"templates": 4}),
        by_tables, 2, 0.95,
    ),
    "feature_partition": Attacked(
        trained(
            "feature_partition", budget=2, temperature=2.0, epochs=200, flip=False,
            model_arguments={"partition": [[[4, 0], [0, 4]]], "mirrored": False, "widths": [64]},
        ),
        by_groups, 2, 0.9,
    ),
    # every unit is granted its own worst changes: the radius falls short of what the network withstands
    "truncation_window": Attacked(truncated, by_windows, 4, 0.9),
    "nearest_neighbour": Attacked(neighbours, away_from_the_nearest, 3, 0.9),
}  # fmt: skip


def test_every_proof_is_attacked():
    assert set(ATTACKED) >= {
        row.name
        for row in catalogue.values()
        if row.kind == "deterministic" and not row.needs & {"threats", "seconds"}
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKED)
def test_none_is_broken_at_the_radius_and_most_are_a_few_pixels_above(name):
    of = ATTACKED[name]
    model = of.model()
    data = [zn.data.load("digits", part) for part in ("test", "train")]
    x = torch.cat([part.x for part in data])
    certificate = catalogue[name].prove(model, x, {})
    certified = (certificate.radius >= 1).nonzero()[:, 0].tolist()
    pairs = above = broken = 0
    for i in certified:
        radius, answer = int(certificate.radius[i]), int(certificate.prediction[i])
        for k in range(1, radius + 1):
            changed = of.attack(model, x[i], answer, k)
            assert int((changed != x[i]).any(0).sum()) <= k
            assert int(model(changed[None]).argmax()) == answer, (i, k)
            pairs += 1
        if above < 300:
            changed = of.attack(model, x[i], answer, radius + of.above)
            above += 1
            broken += int(model(changed[None]).argmax()) != answer
        if pairs >= 1000 and above >= 300:
            break
    print(f"{name}: {pairs} pairs, 0 broken; {broken} of {above} broken with {of.above} pixels more")
    assert pairs >= 1000
    assert broken >= of.broken * above
