"""The closed form against all supports and corners, and the program for targets against one per support."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from brute_force import fewest_changes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from zeronorm import L0, ArgumentError
from zeronorm.theory import UNBREAKABLE, minimal_changes, minimal_epsilon

SHAPES = [(1, 3, 3), (2, 3, 3), (3, 3, 3), (2, 2, 2), (7,), (3, 4)]


def model_of(weight, bias):
    return lambda x: x.double().flatten(1) @ weight.double().flatten(1).T + bias.double()


@st.composite
def problems(draw, shapes=SHAPES, short=True):
    """A linear classifier, inputs and a threat model; with `short` numbers, which make exact ties common."""
    shape = draw(st.sampled_from(shapes))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    classes = draw(st.integers(2, 5))
    unit = draw(st.sampled_from(["pixel", "feature"]))
    box = draw(st.sampled_from(["unit", "wide", "tensors", "cap", "mask"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def numbers(low, high, *size):
        values = torch.rand(size, generator=generator, dtype=torch.float64) * (high - low) + low
        return ((values * 4).round() / 4 if short else values).to(dtype)

    weight, bias = numbers(-1, 1, classes, *shape), numbers(-3, 3, classes)
    low = high = None
    linf = allowed = None
    if box == "unit":
        low, high = 0.0, 1.0
    elif box == "tensors":
        low = numbers(-1, 0, *shape)
        high = low + 0.25 + numbers(0, 1, *shape)
    else:
        low, high = -2.0, 3.0
        linf = 0.5 if box == "cap" else None
        if box == "mask":
            positions = L0(0, unit=unit).positions(torch.zeros(1, *shape))
            allowed = torch.rand(positions, generator=generator) < 0.6
    threat = L0(None, unit=unit, low=low, high=high, linf=linf, allowed=allowed)
    low_, high_ = torch.as_tensor(low, dtype=dtype), torch.as_tensor(high, dtype=dtype)
    x = (low_ + (high_ - low_) * numbers(0, 1, 4, *shape)).clamp(low_, high_)
    y = model_of(weight, bias)(x).argmax(1)
    y[0] = (y[0] + 1) % classes  # one that is misclassified already
    return weight, bias, x, y, threat


def affordable(threat, x):
    """Up to how many positions all corners can be tried."""
    channels, positions = threat.grid(x).shape[1:]
    return next(n for n in range(positions, -1, -1) if 2 ** (channels * n) * positions**n < 60_000)


def check_attained(weight, bias, x, goal_reached, count, x_adv, threat):
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert threat.contains(x, x_adv).all()
    possible = count < UNBREAKABLE
    assert torch.equal(threat.distance(x, x_adv), count.where(possible, 0))
    assert torch.equal(goal_reached(model_of(weight, bias)(x_adv).argmax(1)), possible)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_no_smaller_support_flips(problem):
    weight, bias, x, y, threat = problem
    count, x_adv = minimal_changes(weight, bias, x, y, threat)
    check_attained(weight, bias, x, lambda prediction: prediction != y, count, x_adv, threat)
    tried = affordable(threat, x)
    for i in range(len(x)):
        found = fewest_changes(model_of(weight, bias), x[i], y[i], threat, tried)
        assert found == (count[i] if count[i] <= tried else None)


@given(problems(short=False))
@settings(max_examples=60, deadline=None)
def test_it_is_attained_with_any_numbers(problem):
    weight, bias, x, y, threat = problem
    count, x_adv = minimal_changes(weight, bias, x, y, threat)
    check_attained(weight, bias, x, lambda prediction: prediction != y, count, x_adv, threat)


@given(problems(), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_budget_bounds_the_count(problem, k):
    weight, bias, x, y, threat = problem
    assume(threat.allowed is None or int(threat.allowed.sum()) >= k)
    free, _ = minimal_changes(weight, bias, x, y, threat)
    count, x_adv = minimal_changes(weight, bias, x, y, threat.with_k(k))
    assert torch.equal(count, free.where(free <= k, UNBREAKABLE))
    assert torch.equal(x_adv[count == UNBREAKABLE], x[count == UNBREAKABLE])


def test_by_hand():
    # two classes, three pixels: z = (0, x0 + 2 x1 - 3 x2 + 1)
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, -3.0]])
    bias = torch.tensor([0.0, 1.0])
    x = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]])
    y = torch.tensor([1, 1, 1])  # leads of class 1: 4, 2 and -1/2
    count, x_adv = minimal_changes(weight, bias, x, y, L0(None))
    # -3 leaves 1, and -2 more leaves -1; -3 at once; wrong already
    assert count.tolist() == [2, 1, 0]
    assert x_adv.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]]


@pytest.mark.parametrize(("y", "expected"), [(1, 1), (0, UNBREAKABLE)])
def test_a_tie_flips_only_to_a_lower_class(y, expected):
    # the gap is 1 and the one pixel is worth 1: both logits end up equal
    sign = 1.0 if y == 1 else -1.0
    weight, bias = torch.tensor([[0.0], [sign]]), torch.tensor([0.0, 0.0])
    x, y = torch.tensor([[1.0]]), torch.tensor([y])
    assert model_of(weight, bias)(x).argmax(1) == y
    assert minimal_changes(weight, bias, x, y, L0(None))[0].item() == expected


def test_channels_of_a_pixel_count_once():
    weight = torch.zeros(2, 3, 1, 2)
    weight[1, :, 0, 0] = torch.tensor([1.0, -1.0, 1.0])  # which cancel where all channels move alike
    x, y = torch.full((1, 3, 1, 2), 0.5), torch.tensor([0])
    bias = torch.tensor([1.9, 0.0])  # half of each of three channels: 1.5 over a lead of 1.4
    assert minimal_changes(weight, bias, x, y, L0(None))[0].item() == 1
    assert minimal_changes(weight, bias, x, y, L0(None, unit="feature"))[0].item() == 3


def towards_by_enumeration(weight, bias, x, target, threat):
    """Least support on which a linear program leaves the target in front; how clear each verdict was."""
    low, high = (threat.grid(bound)[0].double().numpy() for bound in threat.bounds(x[None]))
    clean = threat.grid(x[None])[0].double().numpy()
    others = [j for j in range(len(weight)) if j != target]
    W = threat.grid(weight).double().numpy()
    difference = W[target] - W[others]
    gap = difference.reshape(len(others), -1) @ clean.ravel() + (bias[target] - bias[others]).double().numpy()
    allowed = threat.allowed_positions(x[None])
    free = [p for p in range(clean.shape[1]) if allowed is None or allowed[p]]
    clearest = np.inf
    for n in range(len(free) + 1):
        best = -np.inf
        for support in combinations(free, n):
            at = list(support)
            rows = difference[:, :, at].reshape(len(others), -1)
            bounds = list(zip((low - clean)[:, at].ravel(), (high - clean)[:, at].ravel(), strict=True))
            program = linprog(
                [0.0] * rows.shape[1] + [-1.0],
                A_ub=np.hstack([-rows, np.ones((len(others), 1))]),
                b_ub=gap,
                bounds=[*bounds, (None, None)],
            )
            best = max(best, -program.fun)
        clearest = min(clearest, abs(best))
        if best > 0:
            return n, clearest
    return UNBREAKABLE, clearest


@given(problems(shapes=[(1, 2, 2), (2, 2, 2), (5,)], short=False))
@settings(max_examples=15, deadline=None)
def test_no_smaller_support_reaches_a_target(problem):
    weight, bias, x, y, threat = problem
    x, y = x[:2], y[:2]
    target = (y + 1) % len(weight)
    count, x_adv = minimal_changes(weight, bias, x, y, threat, targeted=target)
    check_attained(weight, bias, x, lambda prediction: prediction == target, count, x_adv, threat)
    for i in range(len(x)):
        expected, clearest = towards_by_enumeration(weight, bias, x[i], int(target[i]), threat)
        assume(clearest > 1e-5)
        assert count[i] == expected


def test_of_two_classes_leaving_one_is_reaching_the_other():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(2, 1, 3, 3, generator=generator), torch.randn(2, generator=generator)
    x = torch.rand(6, 1, 3, 3, generator=generator)
    y = model_of(weight, bias)(x).argmax(1)
    free = minimal_changes(weight, bias, x, y, L0(None))
    aimed = minimal_changes(weight, bias, x, y, L0(None), targeted=1 - y)
    assert torch.equal(free[0], aimed[0])


@pytest.mark.parametrize("classes", [2, 4])
def test_an_empty_batch(classes):
    weight, bias, x = torch.ones(classes, 3), torch.zeros(classes), torch.zeros(0, 3)
    y = torch.zeros(0, dtype=torch.int64)
    for targeted in (None, y):
        count, x_adv = minimal_changes(weight, bias, x, y, L0(None), targeted=targeted)
        assert count.shape == (0,) and x_adv.shape == (0, 3)


def test_errors():
    x, y = torch.rand(2, 3), torch.tensor([0, 1])
    with pytest.raises(ArgumentError, match=r"weight, bias: expected shapes \(classes, 3\)"):
        minimal_changes(torch.ones(2, 4), torch.zeros(2), x, y, L0(None))
    with pytest.raises(ArgumentError, match="y: expected labels below 2"):
        minimal_changes(torch.ones(2, 3), torch.zeros(2), x, y + 1, L0(None))
    with pytest.raises(ArgumentError, match="k: expected between 0 and 3"):
        minimal_changes(torch.ones(2, 3), torch.zeros(2), x, y, L0(4))
    with pytest.raises(ArgumentError, match="x: expected values in"):
        minimal_changes(torch.ones(2, 3), torch.zeros(2), x + 1, y, L0(None))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 3.0)])
def test_the_smallest_epsilon_against_a_linear_program(shape, low, high):
    generator = torch.Generator().manual_seed(len(shape))
    weight = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    weight[2] = weight[0] * (weight[0] > 0.5)  # slopes of 0 on the way to a rival
    bias = torch.randn(3, generator=generator, dtype=torch.float64) * 2
    x = low + (high - low) * torch.rand(12, *shape, generator=generator, dtype=torch.float64).round(
        decimals=1
    )
    z = model_of(weight, bias)(x)
    y = z.argmax(1)
    y[0] = (y[0] + 1) % 3
    found = minimal_epsilon(weight, bias, x, y, low=low, high=high)
    assert found[0] == 0 and bool((found[1:] > 0).all())
    for i in range(1, 12):
        least = np.inf
        for rival in {0, 1, 2} - {int(y[i])}:
            d, n = (weight[rival] - weight[y[i]]).flatten().numpy(), x[i].numel()
            rows = np.vstack(
                [np.append(-d, 0.0)] + [np.hstack([s * np.eye(n), -np.ones((n, 1))]) for s in (1, -1)]
            )
            gap = float(z[i, rival] - z[i, y[i]])
            box = [(low - v, high - v) for v in x[i].flatten().tolist()] + [(0, None)]
            solved = linprog([0.0] * n + [1.0], rows, [gap] + [0.0] * (2 * n), bounds=box)
            least = min(least, solved.fun if solved.status == 0 else np.inf)
        assert found[i].item() == pytest.approx(least, abs=1e-7)
