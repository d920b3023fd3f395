"""ℓ0-Lipschitz networks: the law they are named after, certificates attacked on tiny and on trained networks."""

from __future__ import annotations

import itertools
import os
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from l0_lipschitz_attack import greedy

import zeronorm as zn
from zeronorm.certification import ABSTAIN, UNBOUNDED, certify_l0_lipschitz
from zeronorm.errors import ArgumentError
from zeronorm.models.l0_lipschitz import STEP, L0Lipschitz


def network(seed: int, size=(2, 4), channels=1, classes=3, levels=(0.3, 0.7), **shape) -> L0Lipschitz:
    """Random tables that keep the law, and random offsets."""
    net = L0Lipschitz(
        channels, size, classes, list(levels), **({"patches": 2, "units": 2, "templates": 2} | shape)
    )
    generator = torch.Generator().manual_seed(seed)
    half = STEP // 2
    whole = torch.randint(
        -half,
        half + 1,
        (*net.tables.shape[:2], size[0] * size[1] // net.patches**2, net.codes),
        generator=generator,
    )
    net.tables.copy_((whole[..., 1:] - whole[..., :1]).flatten(2))
    net.offsets.copy_(torch.randint(-200, 200, net.offsets.shape, generator=generator) + whole[..., 0].sum(2))
    return net


def by_hand(net: L0Lipschitz, image: torch.Tensor) -> list[list[int]]:
    """h_yc - h_cy from the definition, one number at a time."""
    side = net.patches
    height, width = net.patch
    pairs = [(y, c) for y in range(net.classes) for c in range(net.classes) if y != c]
    base = len(net.thresholds) + 1

    def code(i: int, j: int) -> int:
        return sum(
            base**c * sum(float(image[c, i, j]) >= t for t in net.thresholds.tolist())
            for c in range(len(image))
        )

    case = {}
    for h, pair in enumerate(pairs):
        units = []
        for k in range(net.units):
            total = 0
            for s in range(side**2):
                sums = []
                for m in range(net.templates):
                    row = (h * net.units + k) * net.templates + m
                    z = int(net.offsets[s, row])
                    for i, j in itertools.product(range(height), range(width)):
                        q = code(s // side * height + i, s % side * width + j)
                        z += int(net.tables[s, row, (i * width + j) * (net.codes - 1) + q - 1]) if q else 0
                    sums.append(z)
                total += max(sums)
            units.append(total)
        case[pair] = max(units)
    return [case[y, c] - case[c, y] for y, c in pairs]


@pytest.mark.parametrize(("channels", "levels"), [(1, (0.3, 0.7)), (1, (0.5,)), (2, (0.5,))])
def test_the_network_is_its_definition(channels, levels):
    net = network(0, channels=channels, levels=levels)
    x = torch.rand(4, channels, 2, 4, generator=torch.Generator().manual_seed(1))
    x[0, 0, 0, 0] = levels[0]  # a threshold is reached
    assert net.margins(x).tolist() == [by_hand(net, image) for image in x]
    worst = net.margins(x).view(4, net.classes, -1).amin(2)
    assert torch.allclose(net(x), worst.float() / (2 * STEP))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_a_pixel_moves_a_margin_by_at_most_two(seed, data):
    net = network(seed, channels=data.draw(st.sampled_from([1, 2])))
    assert net.span() <= STEP
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, (1 if net.codes == 3 else 2), 2, 4, generator=generator)
    changed = x.clone()
    where = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True))
    changed.flatten(2)[:, :, where] = torch.randn(
        1, x.shape[1], len(where), generator=generator
    )  # outside the box too
    moved = (net.margins(x) - net.margins(changed)).abs().max()
    assert int(moved) <= 2 * net.span() * len(where)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_no_change_within_the_radius_breaks_it(seed):
    """Brute force over every set of pixels and every code; radii of a random network are small."""
    net = network(seed, classes=2)
    net.offsets.mul_(3)  # some far from the boundary
    x = torch.rand(3, 1, 2, 4, generator=torch.Generator().manual_seed(seed))
    certificate = certify_l0_lipschitz(net, x)
    for image, answer, radius in zip(
        x, certificate.prediction.tolist(), certificate.radius.tolist(), strict=True
    ):
        if radius == ABSTAIN:
            continue
        for where in itertools.combinations(range(8), min(radius, 3)):
            values = torch.tensor(list(itertools.product([0.0, 0.5, 1.0], repeat=len(where))))
            changed = image.expand(len(values), 1, 2, 4).clone()
            changed.flatten(1)[:, list(where)] = values
            assert (net(changed).argmax(1) == answer).all()


def test_radius_is_the_largest_that_the_margin_allows():
    net = network(4)
    x = torch.rand(50, 1, 2, 4, generator=torch.Generator().manual_seed(5))
    net.offsets[:, : 2 * net.units * net.templates] += 300  # the two pairs that class 0 leads
    certificate = certify_l0_lipschitz(net, x, batch_size=7)
    span = net.span()
    assert (certificate.radius > 0).any() and certificate.failure_probability == 0
    for margin, radius in zip(certificate.margin.tolist(), certificate.radius.tolist(), strict=True):
        if radius == ABSTAIN:
            assert margin <= 0
        else:
            assert Fraction(margin, 2 * span) > radius and Fraction(margin, 2 * span) <= radius + 1


def test_equal_margins_and_tables_without_span():
    net = L0Lipschitz(1, (2, 2), 2, [0.5], 1, 1, 1)
    x = torch.rand(2, 1, 2, 2)
    assert (certify_l0_lipschitz(net, x).radius == ABSTAIN).all()
    net.offsets[0, 1] = 5  # class 1 whatever the image
    assert certify_l0_lipschitz(net, x).radius.tolist() == [UNBOUNDED] * 2
    assert certify_l0_lipschitz(net, x).prediction.tolist() == [1, 1]


def test_the_span_is_measured_not_believed():
    net = network(1)
    before = certify_l0_lipschitz(net, torch.rand(20, 1, 2, 4))
    net.tables[0, 0, 0] = 127
    net.tables[0, 0, 1] = -128
    assert net.span() == 255
    after = certify_l0_lipschitz(net, torch.rand(20, 1, 2, 4))
    assert len(before) == len(after)


def test_blind_to_the_batch():
    net, x = network(2), torch.rand(9, 1, 2, 4)
    whole = certify_l0_lipschitz(net, x)
    for i in range(9):
        alone = certify_l0_lipschitz(net, x[i : i + 1])
        assert alone.radius[0] == whole.radius[i] and alone.margin[0] == whole.margin[i]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"patches": 3}, "patches: expected a divisor of 28 and 28, got 3"),
        ({"levels": [0.6, 0.2]}, "levels: expected thresholds in ascending order"),
        ({"levels": []}, "levels: expected thresholds in ascending order"),
        ({"levels": [0.0]}, "levels: expected a number in"),
        ({"units": 0}, "units: expected an integer of at least 1, got 0"),
    ],
)
def test_refusals(arguments, says):
    with pytest.raises(ArgumentError, match=says):
        zn.models.build("l0_lipschitz", **arguments)


def test_another_kind_of_model_is_refused():
    with pytest.raises(ArgumentError, match="model: expected an l0_lipschitz network, got"):
        certify_l0_lipschitz(zn.models.load("digits"), torch.rand(1, 1, 8, 8))


def test_saved_and_loaded(tmp_path):
    model = zn.models.build("l0_lipschitz", image_size=4, classes=3, templates=2)
    model.network.tables.random_(-60, 60, generator=torch.Generator().manual_seed(0))
    zn.models.save(model, tmp_path / "m")
    again = zn.models.load(tmp_path / "m")
    assert (
        torch.equal(again.network.tables, model.network.tables) and again.network.tables.dtype == torch.int8
    )
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(again(x), model(x))


def test_the_released_model():
    model = zn.models.load("l0-lipschitz-mnist")
    assert model.network.span() <= STEP and model.facts["certified"]["median_radius"] == 25
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(certify_l0_lipschitz(model, x).margin, certify_l0_lipschitz(model, x.double()).margin)


@pytest.mark.slow
@pytest.mark.skipif("ZERONORM_DATA" not in os.environ, reason="needs a copy of MNIST")
def test_the_released_model_on_all_of_mnist():
    """The figures of its sidecar, and none of 1,000 certificates broken by the attack that reads its tables."""
    model, test = zn.models.load("l0-lipschitz-mnist"), zn.data.load("mnist", "test")
    certificate = certify_l0_lipschitz(model, test.x)
    assert int(certificate.holds(test.y, 0).sum()) == model.facts["certified"]["correct"]
    assert int(certificate.holds(test.y, 25).sum()) > 5000 >= int(certificate.holds(test.y, 26).sum())
    certified = certificate.holds(test.y, 1).nonzero().flatten()[:1000].tolist()
    assert len(certified) == 1000
    for i in certified:
        assert not greedy(model.network, test.x[i], int(test.y[i]), int(certificate.radius[i]))
