"""What the adversary may do."""

from __future__ import annotations

import json

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zeronorm import L0, L2, ArgumentError, Linf
from zeronorm.attacks import sparse_pgd, sparse_rs

SHAPES = [(1, 3, 3), (3, 2, 4), (2, 5), (7,)]


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    """A person's mistakes meet the library's own checks, not those that the tests add."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@st.composite
def cases(draw):
    """A threat model, clean inputs inside it, and candidates that may break any of its rules."""
    shape, unit = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(["pixel", "feature"]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    positions = L0(0, unit=unit).positions(torch.zeros(1, *shape))
    low = -torch.rand(shape, generator=generator, dtype=dtype) if draw(st.booleans()) else -0.1
    threat = L0(
        draw(st.one_of(st.none(), st.integers(0, 3))),
        unit=unit,
        low=low,
        high=1.1,
        linf=draw(st.sampled_from([None, 0.3])),
        allowed=torch.rand(positions, generator=generator) < 0.7 if draw(st.booleans()) else None,
    )
    x = torch.rand(6, *shape, generator=generator, dtype=dtype)
    few = torch.rand(x.shape, generator=generator) < draw(st.sampled_from([0.0, 0.1, 0.4]))
    size = draw(st.sampled_from([0.2, 1.0]))
    return threat, x, x + few * size * torch.randn(x.shape, generator=generator, dtype=dtype)


@given(cases())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_contains_by_plain_loops(case):
    threat, x, x_adv = case
    lows = torch.as_tensor(threat.low, dtype=x.dtype).expand(x[0].shape).flatten().tolist()
    high = float(torch.tensor(threat.high, dtype=x.dtype))
    pixels = threat.unit == "pixel" and x.dim() > 2
    per_channel = x[0, 0].numel() if pixels else x[0].numel()
    for i in range(len(x)):
        changed = set()
        inside = True
        for index, (before, after) in enumerate(zip(x[i].flatten(), x_adv[i].flatten(), strict=True)):
            inside &= lows[index] <= float(after) <= high
            if threat.linf is not None:
                inside &= bool(before - threat.linf <= after <= before + threat.linf)
            if before != after:
                changed.add(index % per_channel)
        if threat.k is not None:
            inside &= len(changed) <= threat.k
        if threat.allowed is not None:
            inside &= all(bool(threat.allowed[position]) for position in changed)
        assert threat.contains(x, x_adv)[i].item() == inside
        assert threat.distance(x, x_adv)[i].item() == len(changed)


@given(cases())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_grid_loses_nothing(case):
    threat, x, _ = case
    grid = threat.grid(x)
    assert grid.shape == (len(x), grid.shape[1], threat.positions(x))
    assert torch.equal(grid.reshape(x.shape), x)
    assert threat.grid(x).data_ptr() == x.data_ptr(), "a view"
    low, high = threat.bounds(x)
    assert low.shape == high.shape == x.shape and low.dtype == high.dtype == x.dtype
    assert threat.with_k(0).contains(x, x).all()


def test_what_a_position_is():
    image, sequence, flat = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 7), torch.zeros(2, 6)
    pixel, feature = L0(1), L0(1, unit="feature")
    assert [pixel.positions(v) for v in (image, sequence, flat)] == [20, 7, 6]
    assert [feature.positions(v) for v in (image, sequence, flat)] == [60, 21, 6]
    assert [tuple(pixel.grid(v).shape) for v in (image, sequence, flat)] == [(2, 3, 20), (2, 3, 7), (2, 1, 6)]
    assert [pixel.positions(v[:0]) for v in (image, sequence, flat)] == [20, 7, 6]


def test_nan_is_outside():
    x = torch.rand(2, 1, 2, 2)
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] = torch.nan
    assert L0(4).contains(x, x_adv).tolist() == [False, True]


def test_another_budget():
    threat = L0(3, unit="feature", low=-1.0, linf=0.5)
    assert threat.with_k(5) == L0(5, unit="feature", low=-1.0, linf=0.5)
    assert threat.with_k(None).k is None and threat.k == 3
    with pytest.raises(ArgumentError, match=r"^k: "):
        threat.with_k(-1)


@pytest.mark.parametrize(
    "threat",
    [
        L0(3),
        L0(None, unit="feature", low=torch.zeros(1, 2, 2), high=torch.full((1, 2, 2), 2.0)),
        L0(1, linf=0.25, allowed=torch.tensor([[True, False], [False, True]])),
        Linf(0.1),
        L2(1.5, low=-1.0, high=torch.tensor(2.0)),
    ],
    ids=str,
)
def test_describes_itself_in_plain_values(threat):
    described = threat.describe()
    assert json.loads(json.dumps(described)) == described
    assert {"low", "high"} <= set(described)


def test_a_description_tells_threat_models_apart():
    several = [
        L0(3),
        L0(3, unit="feature"),
        L0(3, low=-1.0),
        L0(3, linf=0.5),
        L0(3, allowed=torch.tensor([True, False])),
        L0(3, allowed=torch.tensor([False, True])),
    ]
    assert len({json.dumps(threat.describe()) for threat in several}) == len(several)
    assert L0(3).describe() == L0(4).describe(), "the budget apart: a run has several"


def test_a_feature_that_is_the_same_for_everyone_cannot_change():
    x = torch.tensor([[0.0, 3.0, 1.0], [2.0, 3.0, 5.0]])
    threat = L0(2, unit="feature", low=x.amin(0), high=x.amax(0))
    threat.check_inputs(x)
    assert threat.contains(x, torch.tensor([[2.0, 3.0, 5.0], [2.0, 3.1, 5.0]])).tolist() == [True, False]
    model = torch.nn.Linear(3, 2)
    for attack in (sparse_rs, sparse_pgd):
        x_adv = attack(
            model, x, torch.tensor([0, 0]), threat, **{"queries" if attack is sparse_rs else "steps": 9}
        )
        assert threat.contains(x, x_adv).all()


ERRORS = {
    "k below 0": (lambda: L0(-1), "k: expected an integer of at least 0, got -1"),
    "k a fraction": (lambda: L0(2.5), "k: expected an integer of at least 0, got 2.5"),
    "k true": (lambda: L0(True), "k: expected an integer of at least 0, got True"),
    "k a word": (lambda: L0("ten"), "k: expected an integer of at least 0, got 'ten'"),
    "unit": (lambda: L0(1, unit="channel"), "unit: expected one of pixel, feature, column, got 'channel'"),
    "empty box": (lambda: L0(1, low=1.0), r"high: expected more than low \(1\), got 1"),
    "box upside down": (lambda: L0(1, low=1.0, high=0.0), r"high: expected more than low \(1\), got 0"),
    "box upside down somewhere": (
        lambda: L0(1, low=torch.tensor([0.0, 2.0])),
        r"high: expected more than low \(0 to 2\), got 1 \(1 entries lie below their low\)",
    ),
    "box empty everywhere": (
        lambda: L0(1, low=torch.ones(2)),
        r"high: expected more than low \(1\), got 1$",
    ),
    "box of numpy": (
        lambda: L0(1, low=np.zeros(2)),
        "low: expected a number or a torch tensor, got ndarray",
    ),
    "box NaN": (lambda: L0(1, low=float("nan")), "low: expected a number .*, got nan"),
    "box infinite": (
        lambda: L0(1, high=float("inf")),
        "high: expected a finite number, got inf; of values without a bound, give one that no input passes",
    ),
    "channels": (lambda: L0(1, channels="middle"), "channels: expected one of first, last, got 'middle'"),
    "box tensor NaN": (
        lambda: L0(1, high=torch.tensor([1.0, torch.nan])),
        "high: expected finite bounds, got NaN or infinity",
    ),
    "box of two shapes": (lambda: L0(1, low=torch.zeros(2), high=torch.ones(3)), "low, high: expected"),
    "box a word": (lambda: L0(1, high="one"), "high: expected a number .*, got 'one'"),
    "cap 0": (lambda: L0(1, linf=0.0), r"linf: expected a number in \(0, inf\), got 0.0"),
    "cap NaN": (lambda: L0(1, linf=float("nan")), "linf: expected a number .*, got nan"),
    "mask of numbers": (lambda: L0(1, allowed=torch.ones(4)), "allowed: expected a boolean tensor"),
    "mask a list": (lambda: L0(1, allowed=[True]), "allowed: expected a boolean tensor"),
    "epsilon below 0": (lambda: Linf(-0.1), r"epsilon: expected a number in \[0, inf\), got -0.1"),
    "epsilon NaN": (lambda: L2(float("nan")), "epsilon: expected a number .*, got nan"),
    "box of a ball": (lambda: Linf(0.1, low=2.0), r"high: expected more than low \(2\), got 1"),
}


@pytest.mark.parametrize("mistake", ERRORS)
def test_errors(mistake):
    make, message = ERRORS[mistake]
    with pytest.raises(ArgumentError, match=f"^{message}"):
        make()


def test_inputs_outside():
    x = torch.rand(2, 3, 4, 4)
    for threat in (L0(1), Linf(0.1), L2(0.1)):
        threat.check_inputs(x)
        with pytest.raises(
            ArgumentError, match=r"^x: expected values in \[0, 1\], got \[.*, 1\.5\]; give the"
        ):
            threat.check_inputs(torch.cat([x, torch.full((1, 3, 4, 4), 1.5)]))
    with pytest.raises(ArgumentError, match=r"^k: expected between 0 and 16, the number of pixels .* got 17"):
        L0(17).check_inputs(x)
    with pytest.raises(
        ArgumentError, match=r"^k: expected between 0 and 48, the number of features .* got 49"
    ):
        L0(49, unit="feature").check_inputs(x)
    with pytest.raises(
        ArgumentError, match=r"^allowed: expected a mask of 16 pixels, of shape .* got shape \(48,\)"
    ):
        L0(1, allowed=torch.ones(48, dtype=torch.bool)).check_inputs(x)
    with pytest.raises(
        ArgumentError, match=r"^low, high: expected .* one example \(3, 4, 4\), got shapes \(5,\)"
    ):
        L0(1, low=torch.zeros(5)).check_inputs(x)


def test_rounding_outside_the_box_is_named_with_its_remedy():
    x = torch.rand(3, 1, 2, 2)
    x[1, 0, 0, 0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    with pytest.raises(
        ArgumentError, match=r"^x: expected values in \[0, 1\], got 1 outside by 1.2e-07 .* x.clamp\(0, 1\)$"
    ):
        L0(1).check_inputs(x)
    L0(1).check_inputs(x.clamp(0, 1))
    with pytest.raises(ArgumentError, match=r"^x: expected values in \[0, 1\], got \[.*, 1.00001...\]; give"):
        L0(1).check_inputs(x + 1e-5 * (x == x.max()))


def test_channels_last():
    x = torch.rand(2, 8, 6, 3)
    threat = L0(1, channels="last")
    assert threat.positions(x) == 48 and threat.grid(x).shape == (2, 3, 48)
    assert torch.equal(threat.grid(x), L0(1).grid(x.movedim(-1, 1)))
    assert torch.equal(threat.ungrid(threat.grid(x), x.shape[1:]), x)
    assert threat.grid(x).data_ptr() == x.data_ptr(), "a view: who writes there writes the inputs"
    changed = x.clone()
    changed[0, 2, 1] = 0.5
    assert threat.distance(x, changed).tolist() == [1, 0] and threat.contains(x, changed).all()
    assert L0(1, channels="first").distance(x, changed).tolist() == [3, 0], "of a 6 x 3 image of 8 channels"
    assert L0(3, "feature", channels="last").distance(x, changed).tolist() == [3, 0]
    assert threat.describe()["channels"] == "last" and "channels" not in L0(1).describe()


@pytest.mark.parametrize("shape", [(8, 6, 3), (28, 28, 1), (64, 64, 4), (100, 3), (9, 7, 8, 1)])
def test_channels_that_seem_to_be_last_are_refused(shape):
    x = torch.rand(2, *shape)
    with pytest.raises(ArgumentError, match=r"^channels: inputs of shape .* say channels='last', or 'first'"):
        L0(1).check_inputs(x)
    for threat in (L0(1, channels="last"), L0(1, channels="first"), L0(1, "feature")):
        threat.check_inputs(x)


@pytest.mark.parametrize(
    "shape", [(3, 8, 6), (1, 28, 28), (3, 5, 3), (64, 1, 1), (16, 4, 4), (2, 100), (100, 2)]
)
def test_channels_that_are_first_are_not(shape):
    L0(1).check_inputs(torch.rand(2, *shape))


def test_a_mask_has_the_shape_of_the_image():
    x = torch.rand(2, 3, 4, 6)
    for mask in (torch.ones(4, 6), torch.ones(24)):
        assert L0(1, allowed=mask.bool()).available(x) == 24
    with pytest.raises(ArgumentError, match=r"^allowed: .* of shape \(4, 6\) or flat, got shape \(6, 4\)$"):
        L0(1, allowed=torch.ones(6, 4, dtype=torch.bool)).check_inputs(x)
    with pytest.raises(
        ArgumentError, match=r"^allowed: .* of shape \(3, 4, 6\) or flat, got shape \(4, 6, 3\)$"
    ):
        L0(1, "feature", allowed=torch.ones(4, 6, 3, dtype=torch.bool)).check_inputs(x)


def test_frozen():
    with pytest.raises(AttributeError):
        L0(1).k = 2
    assert L0(1) == L0(1) != L0(2)


def test_equality_with_tensors():
    box = torch.zeros(2)
    assert L0(1, low=box) == L0(1, low=box)
    assert L0(1, low=box) == L0(1, low=box.clone())
    assert L0(1, low=box) != L0(1, low=box - 1)


def test_a_ball_within_the_box():
    threat = Linf(0.1)
    x = torch.tensor([[0.0, 0.55, 1.0]])
    low, high = threat.bounds(x)
    assert low.tolist()[0] == pytest.approx([0, 0.45, 0.9]) and high.tolist()[0] == pytest.approx(
        [0.1, 0.65, 1]
    )
    for x_adv, inside in (([0.1, 0.46, 0.95], True), ([0.0, 0.55, 0.89], False), ([-0.05, 0.55, 1.0], False)):
        assert threat.contains(x, torch.tensor([x_adv])).tolist() == [inside]
    assert threat.distance(x, low).item() == pytest.approx(0.1)
    assert threat.describe() == {"norm": "Linf", "low": 0.0, "high": 1.0}
    as_l0 = threat.as_l0(x)
    assert as_l0 == L0(3, "feature", linf=0.1)
    for one, other in zip(as_l0.bounds(x), threat.bounds(x), strict=True):
        assert torch.equal(one, other)
    assert Linf(0.0).as_l0(x) == L0(0, "feature") and torch.equal(Linf(0.0).bounds(x)[0], x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ulps", [1, 4])
def test_inputs_outside_by_rounding_are_told_by_how_much_and_what_to_do(dtype, ulps):
    """Also of values that were computed in float32 and are float64 now."""
    x = torch.full((2, 1, 2, 2), 0.5)
    for _ in range(ulps):
        x[1, 0, 0, 0] = torch.nextafter(x[1, 0, 0, 0].clamp(min=1.0), torch.tensor(2.0))
    with pytest.raises(ArgumentError) as caught:
        L0(1).check_inputs(x.to(dtype))
    excess = f"{ulps * 2.0**-23:.2g}"
    assert str(caught.value) == (
        f"x: expected values in [0, 1], got 1 outside by {excess} at most, which is rounding: clamp them first, "
        "x.clamp(0, 1)"
    )
    L0(1).check_inputs(x.to(dtype).clamp(0, 1))
