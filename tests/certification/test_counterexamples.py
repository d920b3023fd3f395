"""What once broke a certificate, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import zeronorm as zn
from zeronorm.certification import (
    ABSTAIN,
    UNBOUNDED,
    certify_feature_partition,
    certify_l0_lipschitz,
    certify_truncated,
)
from zeronorm.certification.feature_partition import _Scores
from zeronorm.errors import ArgumentError
from zeronorm.kernels.truncated_products import _Sorted, truncated_products
from zeronorm.layers.truncation import TruncatedConv2d, TruncatedLinear
from zeronorm.models.classifier import Classifier

ROOT = Path(__file__).parents[2]
LARGEST = torch.finfo(torch.float32).max


def answers(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def test_a_first_stage_that_mixes_pixels_is_refused():
    """Proved of the network alone, 92 of 101 certified images were broken by one pixel."""
    inner = zn.models.load("l0-lipschitz-mnist")
    blurred = Classifier(inner.architecture, inner.arguments, nn.AvgPool2d(3, 1, 1), inner.network).eval()
    with pytest.raises(
        ArgumentError, match="nothing but normalisation before an l0_lipschitz network, got AvgPool2d"
    ):
        certify_l0_lipschitz(blurred, torch.rand(2, 1, 28, 28))


def test_offsets_that_float32_rounds():
    """Above 2^24 a change was lost in the sum, or grew: radii of up to 7 were too large."""
    model = zn.models.build("l0_lipschitz", image_size=4, classes=3, templates=2, units=1).eval()
    network, generator = model.network, torch.Generator().manual_seed(0)
    network.tables.random_(-60, 64, generator=generator)
    network.offsets.random_(-300, 300, generator=generator).add_(2**30)
    x = torch.rand(60, 1, 4, 4, generator=generator)
    plain = zn.models.build("l0_lipschitz", image_size=4, classes=3, templates=2, units=1).eval()
    plain.network.tables.copy_(network.tables)
    plain.network.offsets.copy_(network.offsets - 2**30)  # of every template alike: the same margins
    assert torch.equal(network.margins(x), plain.network.margins(x))
    certificate = certify_l0_lipschitz(model, x)
    assert (certificate.radius >= 1).any()
    for i in (certificate.radius >= 1).nonzero()[:, 0].tolist():
        for value in (0.0, 0.3, 1.0):
            changed = x[i].flatten().repeat(16, 1).fill_diagonal_(value).view(16, 1, 4, 4)
            assert (answers(model, changed) == certificate.prediction[i]).all()


@pytest.mark.parametrize("value", [1e38, LARGEST, -LARGEST])
def test_one_huge_pixel_does_not_make_votes_by_groups_undefined(value):
    """It made the logits NaN: 40 of 48 certified images of the shipped model were broken."""
    model = zn.models.load(ROOT / "models/cifar10-partition")
    x = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    certificate = certify_feature_partition(model, x)
    changed = x.clone()
    changed[:, :, 3, 5] = value
    assert torch.isfinite(model(changed)).all()
    kept = certificate.radius >= 1
    assert kept.any() and torch.equal(answers(model, changed)[kept], certificate.prediction[kept])


@pytest.mark.parametrize("votes", ["soft", "hard"])
def test_a_group_whose_scores_overflow_has_no_vote(votes):
    shape = {
        "in_channels": 1,
        "image_size": 4,
        "classes": 3,
        "widths": [4],
        "mirrored": False,
        "votes": votes,
    }
    model = zn.models.build("feature_partition", partition="strided", groups=4, **shape).double().eval()
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        model.network.rest[0].bias[0, 2] = 9.0  # all four for class 2
        weight = model.network.first[0].weight
        weight[0, 0], weight[0, 1] = 1e10, -1e10
    x[0, 0, 0, 0], x[0, 0, 1, 0] = 1e305, 1e305  # of group 0: inf - inf
    z = model(x)
    assert torch.isfinite(z).all() and int(z.argmax()) == 2
    if votes == "hard":
        assert z[0].round().tolist() == [0, 0, 3]
    else:
        assert z[0, 2] == 3 / 2


def test_another_order_of_sums_prefers_nobody_less_than_is_proved():
    """The same network with its hidden units in another order, alone and in batches."""
    generator = torch.Generator().manual_seed(0)
    model = zn.models.build(
        "feature_partition",
        in_channels=1,
        image_size=8,
        classes=3,
        widths=[200, 100],
        partition=(((2, 0), (0, 2)),),
    ).eval()
    network = model.network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
    x = torch.rand(9, 1, 8, 8, generator=generator).double()
    least = _Scores(network).least_preferences(x, 0)
    passes = [network.preferences(x, 0), torch.cat([network.preferences(part, 0) for part in x.split(2)])]
    order = torch.randperm(200, generator=generator)
    with torch.no_grad():
        network.first[0].weight.copy_(network.first[0].weight[..., order])
        network.first[0].bias.copy_(network.first[0].bias[..., order])
        network.place.copy_(network.place[..., order])
        network.rest[0].weight.copy_(network.rest[0].weight[:, order])
    passes.append(network.preferences(x, 0))
    assert not torch.equal(passes[0], passes[2])  # rounding shows
    for s in passes:
        assert (s >= least).all() and (s - least).max() < 1e-9


@pytest.mark.parametrize(("mode", "padding"), [("replicate", 1), ("reflect", 2), ("circular", 2)])
def test_a_pixel_that_stands_in_a_patch_several_times(mode, padding):
    """Counted once, 881 of 915 certified images of random models broke."""
    broken = certified = 0
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(
            TruncatedConv2d(1, 3, 3, 4, padding=padding, padding_mode=mode),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3 * (2 + 2 * padding) ** 2, 2),
        ).eval()
        x = torch.rand(20, 1, 4, 4)
        with torch.no_grad():
            model[-1].bias[0] += 9 * model(x).std()
        certificate = certify_truncated(model, x)
        for i in (certificate.radius >= 1).nonzero()[:, 0].tolist():
            certified += 1
            for value in (-1e6, 1e6):
                changed = x[i].flatten().repeat(16, 1).fill_diagonal_(value).view(16, 1, 4, 4)
                broken += int((answers(model, changed) != certificate.prediction[i]).any())
    assert broken == 0
    assert certified > 5


def test_huge_values_leave_a_truncated_layer_as_any_others_do():
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(7, 70, generator=generator), torch.rand(9, 70, generator=generator)
    w[0, :5] = 0
    for b in range(4):
        some = x.clone()
        some[:, [1, 33, 64][:b]] = torch.tensor([LARGEST, -LARGEST, 1e38])[:b]  # products overflow
        expected = _Sorted.sums(some, w, 3, 3)[0]
        found = truncated_products(some, w, 3, 3)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, expected)


def test_a_normalisation_that_overflows():
    model = zn.models.build(
        "mlp", image_size=4, widths=[12], classes=2, truncation=4, mean=[0.3], std=[0.1]
    ).eval()
    x = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.network[-1].bias[0] += 2.0
    certificate = certify_truncated(model, x)
    changed = x.clone()
    changed[:, 0, 1, 1] = LARGEST  # 3.4e39 behind the normalisation
    kept = certificate.radius >= 1
    assert kept.any() and torch.equal(answers(model, changed)[kept], certificate.prediction[kept])


def test_a_chain_with_a_subclass_or_a_shared_state_is_refused():
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x) - 1

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * (1 + self.calls)

    for part in (Doubled(12, 8), nn.Sequential(Counting(), nn.Linear(12, 8))):
        model = nn.Sequential(
            nn.Flatten(), TruncatedLinear(16, 12, 4), nn.ReLU(), part, nn.ReLU(), nn.Linear(8, 2)
        )
        with pytest.raises(ArgumentError, match="model: expected"):
            certify_truncated(model.eval(), torch.rand(2, 1, 4, 4))


def test_other_precisions():
    model = nn.Sequential(nn.Flatten(), TruncatedLinear(16, 12, 4), nn.ReLU(), nn.Linear(12, 2)).eval()
    x = torch.rand(20, 1, 4, 4)
    single, double = certify_truncated(model, x), certify_truncated(model.double(), x.double())
    assert (single.radius <= double.radius).all()
    with pytest.raises(
        ArgumentError, match=r"model: expected weights in float32 or all in float64, got torch.bfloat16"
    ):
        certify_truncated(model.bfloat16(), x.bfloat16())
    half = zn.models.build("l0_lipschitz", image_size=4, classes=3, templates=2).bfloat16().eval()
    half.network.tables.random_(-60, 64, generator=torch.Generator().manual_seed(0))
    certificate = certify_l0_lipschitz(half, x.bfloat16())
    kept = certificate.radius != ABSTAIN
    assert torch.equal(answers(half, x.bfloat16())[kept], certificate.prediction[kept])
    assert (certificate.radius[kept] < UNBOUNDED).all()
